/* A management library of one made GPU, for tests. It tells what the file named by
 * PERWATT_FAKE_NVML (compiled in as CONTROL) holds, one "key value" a line; a key that is
 * missing is not supported, and "lost 1" loses the GPU. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10, LOST = 15 };

static int get(const char *key, unsigned long long *value) {
  char name[64];
  unsigned long long number;
  FILE *file = fopen(CONTROL, "r");
  int found = 0;
  if (!file) return 0;
  while (fscanf(file, "%63s %llu", name, &number) == 2)
    if (!strcmp(name, key)) { *value = number; found = 1; }
  fclose(file);
  return found;
}

static int tell(const char *key, unsigned long long *value) {
  unsigned long long flag = 0;
  if (get("hang", &flag)) while (get("hang", &flag) && flag) usleep(10000);
  if (get("lost", &flag) && flag) return LOST;
  return get(key, value) ? SUCCESS : NOT_SUPPORTED;
}

static int tell32(const char *key, unsigned int *value) {
  unsigned long long wide = 0;
  int code = tell(key, &wide);
  *value = (unsigned int)wide;
  return code;
}

static int text(char *to, unsigned int length, const char *from) {
  snprintf(to, length, "%s", from);
  return SUCCESS;
}

typedef void *gpu;
static int the_gpu, the_set;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error"; }
int nvmlSystemGetDriverVersion(char *to, unsigned int length) { return text(to, length, "535.104.05"); }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 1; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, gpu *device) {
  *device = &the_gpu;
  return index == 0 ? SUCCESS : INVALID;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, gpu *device) {
  *device = &the_gpu;
  return strcmp(uuid, "GPU-made-by-a-test") ? NOT_FOUND : SUCCESS;
}
int nvmlDeviceGetUUID(gpu device, char *to, unsigned int length) { (void)device; return text(to, length, "GPU-made-by-a-test"); }
int nvmlDeviceGetName(gpu device, char *to, unsigned int length) { (void)device; return text(to, length, "Test GPU"); }
int nvmlDeviceGetVbiosVersion(gpu device, char *to, unsigned int length) { (void)device; return text(to, length, "96.00.61.00.01"); }
int nvmlDeviceGetMinorNumber(gpu device, unsigned int *minor) { (void)device; *minor = 3; return SUCCESS; }

struct pci { char legacy[16]; unsigned int domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(gpu device, struct pci *pci) {
  (void)device;
  memset(pci, 0, sizeof *pci);
  strcpy(pci->legacy, "0000:01:00.0");
  strcpy(pci->bus_id, "00000000:01:00.0");
  return SUCCESS;
}
int nvmlDeviceGetTemperature(gpu device, int sensor, unsigned int *degrees) { (void)device; (void)sensor; return tell32("temperature", degrees); }
int nvmlDeviceGetTemperatureThreshold(gpu device, int kind, unsigned int *degrees) { (void)device; (void)kind; return tell32("shutdown", degrees); }
int nvmlDeviceGetPowerUsage(gpu device, unsigned int *milliwatts) { (void)device; return tell32("power", milliwatts); }
int nvmlDeviceGetTotalEnergyConsumption(gpu device, unsigned long long *millijoules) { (void)device; return tell("energy", millijoules); }
struct rates { unsigned int gpu, memory; };
int nvmlDeviceGetUtilizationRates(gpu device, struct rates *rates) { (void)device; rates->memory = 0; return tell32("utilisation", &rates->gpu); }
int nvmlDeviceGetClockInfo(gpu device, int clock, unsigned int *megahertz) { (void)device; (void)clock; return tell32("clock", megahertz); }
int nvmlDeviceGetMaxClockInfo(gpu device, int clock, unsigned int *megahertz) { (void)device; (void)clock; return tell32("limit", megahertz); }
int nvmlDeviceGetCurrentClocksThrottleReasons(gpu device, unsigned long long *reasons) { (void)device; return tell("throttle", reasons); }
struct memory { unsigned int version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(gpu device, struct memory *memory) {
  (void)device;
  memory->total = 1ull << 34;
  return tell("used", &memory->used);
}
int nvmlDeviceGetTotalEccErrors(gpu device, int kind, int counter, unsigned long long *count) { (void)device; (void)kind; (void)counter; return tell("ecc", count); }
int nvmlDeviceGetRetiredPagesPendingStatus(gpu device, unsigned int *pending) { (void)device; return tell32("pending", pending); }

struct event { gpu device; unsigned long long type, data; unsigned int gi, ci; };
int nvmlEventSetCreate(void **set) { *set = &the_set; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(gpu device, unsigned long long types, void *set) { (void)device; (void)types; (void)set; return SUCCESS; }
int nvmlEventSetWait_v2(void *set, struct event *event, unsigned int millis) {
  static unsigned long long told;
  unsigned long long xid = 0;
  (void)set; (void)millis;
  if (!get("xid", &xid) || xid == told) return TIMEOUT;
  told = xid;
  memset(event, 0, sizeof *event);
  event->device = &the_gpu;
  event->type = 8; /* nvmlEventTypeXidCriticalError */
  event->data = xid;
  return SUCCESS;
}
