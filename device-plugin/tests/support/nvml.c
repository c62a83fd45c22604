/* A management library of two made GPUs, for tests. It tells what the file CONTROL (set when it is
 * compiled) holds, one "key value" a line, or "N.key value" for GPU N alone; the last line counts. A
 * key that is missing is not supported. "lost 1" loses a GPU, "gone 1" keeps it from being listed,
 * "hang 1" lets every call of it wait. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10, LOST = 15 };

typedef struct gpu { int index; const char *bus_id; unsigned long long xid; } *gpu;
static struct gpu gpus[] = {{0, "0000:01:00.0", 0}, {1, "0000:02:00.0", 0}};
enum { GPUS = sizeof gpus / sizeof *gpus };
static int the_set;

static int get(gpu device, const char *key, unsigned long long *value) {
  char name[64], own[64];
  unsigned long long number;
  FILE *file = fopen(CONTROL, "r");
  int found = 0;
  if (!file) return 0;
  snprintf(own, sizeof own, "%d.%s", device->index, key);
  while (fscanf(file, "%63s %llu", name, &number) == 2)
    if (!strcmp(name, key) || !strcmp(name, own)) { *value = number; found = 1; }
  fclose(file);
  return found;
}

static int is(gpu device, const char *key) {
  unsigned long long flag = 0;
  return get(device, key, &flag) && flag;
}

static int tell(gpu device, const char *key, unsigned long long *value) {
  while (is(device, "hang")) usleep(10000);
  if (is(device, "lost")) return LOST;
  return get(device, key, value) ? SUCCESS : NOT_SUPPORTED;
}

static int tell32(gpu device, const char *key, unsigned int *value) {
  unsigned long long wide = 0;
  int code = tell(device, key, &wide);
  *value = (unsigned int)wide;
  return code;
}

static int text(char *to, unsigned int length, const char *from) {
  snprintf(to, length, "%s", from);
  return SUCCESS;
}

/* As the real one does: no handle is given of a GPU that is lost. */
static int hand(gpu of, gpu *device) {
  *device = of;
  return is(of, "gone") ? NOT_FOUND : is(of, "lost") ? LOST : SUCCESS;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error"; }
int nvmlSystemGetDriverVersion(char *to, unsigned int length) { return text(to, length, "535.104.05"); }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = GPUS; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, gpu *device) { return index < GPUS ? hand(&gpus[index], device) : INVALID; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, gpu *device) {
  for (int index = 0; index < GPUS; index++)
    if (!strcmp(bus_id, gpus[index].bus_id)) return hand(&gpus[index], device);
  return NOT_FOUND;
}
int nvmlDeviceGetVbiosVersion(gpu device, char *to, unsigned int length) { (void)device; return text(to, length, "96.00.61.00.01"); }

struct pci { char legacy[16]; unsigned int domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(gpu device, struct pci *pci) {
  memset(pci, 0, sizeof *pci);
  strcpy(pci->legacy, device->bus_id);
  snprintf(pci->bus_id, sizeof pci->bus_id, "0000%s", device->bus_id);
  return is(device, "lost") ? LOST : SUCCESS;
}
int nvmlDeviceGetTemperature(gpu device, int sensor, unsigned int *degrees) { (void)sensor; return tell32(device, "temperature", degrees); }
int nvmlDeviceGetTemperatureThreshold(gpu device, int kind, unsigned int *degrees) { (void)kind; return tell32(device, "shutdown", degrees); }
int nvmlDeviceGetPowerUsage(gpu device, unsigned int *milliwatts) { return tell32(device, "power", milliwatts); }
int nvmlDeviceGetTotalEnergyConsumption(gpu device, unsigned long long *millijoules) { return tell(device, "energy", millijoules); }
struct rates { unsigned int gpu, memory; };
int nvmlDeviceGetUtilizationRates(gpu device, struct rates *rates) { rates->memory = 0; return tell32(device, "utilisation", &rates->gpu); }
int nvmlDeviceGetClockInfo(gpu device, int clock, unsigned int *megahertz) { (void)clock; return tell32(device, "clock", megahertz); }
int nvmlDeviceGetMaxClockInfo(gpu device, int clock, unsigned int *megahertz) { (void)clock; return tell32(device, "limit", megahertz); }
int nvmlDeviceGetCurrentClocksThrottleReasons(gpu device, unsigned long long *reasons) { return tell(device, "throttle", reasons); }
struct memory { unsigned int version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(gpu device, struct memory *memory) {
  memory->total = 1ull << 34;
  return tell(device, "used", &memory->used);
}
int nvmlDeviceGetTotalEccErrors(gpu device, int kind, int counter, unsigned long long *count) { (void)kind; (void)counter; return tell(device, "ecc", count); }
int nvmlDeviceGetRetiredPagesPendingStatus(gpu device, unsigned int *pending) { return tell32(device, "pending", pending); }

struct event { gpu device; unsigned long long type, data; unsigned int gi, ci; };
int nvmlEventSetCreate(void **set) { *set = &the_set; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(gpu device, unsigned long long types, void *set) { (void)device; (void)types; (void)set; return SUCCESS; }
int nvmlEventSetWait_v2(void *set, struct event *event, unsigned int millis) {
  (void)set; (void)millis;
  for (gpu device = gpus; device < gpus + GPUS; device++) {
    unsigned long long xid = 0;
    if (!get(device, "xid", &xid) || xid == device->xid) continue;
    device->xid = xid;
    memset(event, 0, sizeof *event);
    event->device = device;
    event->type = 8; /* nvmlEventTypeXidCriticalError */
    event->data = xid;
    return SUCCESS;
  }
  return TIMEOUT;
}
