//! The one table of the agent's timings and limits. `docs/agent.md` explains them to users.

use std::time::Duration;

/// Group that may open a device node where its profile names none.
pub const DEVICE_GROUP: u32 = 44_210;

/// Port of metrics and health.
pub const PORT: u16 = 9101;

/// How long a control file or probe may hold what cannot be understood before that counts:
/// longer than a plain write is seen half done.
pub const GARBAGE_SETTLES: Duration = Duration::from_millis(200);

/// How long a device must be better before it is shown as better.
pub const RECOVERY_STABLE: Duration = Duration::from_secs(1);

/// Good probes, one after the other, that a device needs to be shown as better.
pub const RECOVERY_PROBES: u32 = 2;

/// A device that was lost to the kubelet more often than this, within this time, is flapping: it
/// must then be better for as long as the last says.
pub const FLAPPING: (usize, Duration, Duration) = (10, Duration::from_secs(60), Duration::from_secs(10));

/// How long an `Unknown` device stays what it was to the kubelet.
pub const UNKNOWN_GRACE: Duration = Duration::from_secs(10);

/// How often a device is probed when nothing tells of a change.
pub const POLL: Duration = Duration::from_secs(5);

/// How often the folders of the machine's buses are looked at: a hint of the kernel is faster.
pub const HOTPLUG_POLL: Duration = Duration::from_secs(2);

/// How long after a hint the machine's devices are read: one that comes is many hints, and its
/// driver needs a moment.
pub const HOTPLUG_SETTLES: Duration = Duration::from_millis(200);

/// How often they are all read although nothing seems to have changed.
pub const HOTPLUG_FULL: Duration = Duration::from_secs(60);

/// How long a starting agent waits for the first reading of the machine's devices.
pub const FIRST_LOOK: Duration = Duration::from_secs(5);

/// How often a device that tells its power or counts its energy is read.
pub const SAMPLE: Duration = Duration::from_secs(1);

/// How long a real device that told its temperature may stop telling it, awake, before that counts.
pub const SENSOR_EXPIRES: Duration = Duration::from_secs(60);

/// How long an error of the bus that the hardware could not mend, or a burst of those it could,
/// makes a device Degraded.
pub const BUS_ERRORS_COUNT_FOR: Duration = Duration::from_secs(600);

/// Errors that the hardware mended, and the time in which so many are a burst.
pub const CORRECTABLE_BURST: (u64, Duration) = (100, Duration::from_secs(60));

/// How long a link may be narrower, and slower, than both ends can do before that counts: it is
/// trained anew now and then, and saves power while nothing is sent.
pub const LINK_SETTLES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// How often a vendor's probe is run, how long it may take, and when its last answer is too old.
pub const VENDOR_PROBE: (Duration, Duration, Duration) = (
    Duration::from_secs(30),
    Duration::from_secs(10),
    Duration::from_secs(90),
);

/// The most that is read of what a vendor's probe prints, in bytes.
pub const VENDOR_OUTPUT_BYTES: u64 = 4096;

/// How often figures that change with every sample are sent to the runtimes of a device.
pub const FIGURES_PACE: Duration = Duration::from_secs(1);

/// How long a device's connections outlive its socket, so that the last word reaches runtimes.
pub const LAST_WORD: Duration = Duration::from_millis(200);

/// How often the kubelet is asked which pods hold which devices, and how long it may take.
pub const POD_RESOURCES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Pods whose energy on one device is remembered, as many as may share it; the one that is gone longest
/// is forgotten first.
pub const PODS_REMEMBERED: usize = 64;

/// How long NVIDIA's library is waited for: less than a probe may take.
pub const NVML_DEADLINE: Duration = Duration::from_secs(1);

/// How long a probe may take before the device counts as unmonitored.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// How long the last report of a runtime outlives its connection.
pub const REPORT_GRACE: Duration = Duration::from_secs(3);

/// The same after a start of the agent: runtimes need a moment to come back.
pub const REPORT_GRACE_AT_START: Duration = Duration::from_secs(15);

/// Connections that one device's socket keeps open at a time; a pod needs one.
pub const SOCKET_CONNECTIONS: usize = 16;

/// How often the kubelet's socket and our own are looked at when nothing tells of a change.
pub const KUBELET_POLL: Duration = Duration::from_secs(1);

/// How long a call of `Register` may take: the kubelet dials back within it.
pub const REGISTER_DEADLINE: Duration = Duration::from_secs(15);

/// How long a registered plugin waits for the kubelet to watch it before it registers again.
pub const WATCH_DEADLINE: Duration = Duration::from_secs(10);

/// First and longest pause between tries, for the kubelet and for the API server.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Changes of a node's devices within this time become one write of the inventory.
pub const INVENTORY_COALESCE: Duration = Duration::from_millis(100);

/// Writes of the inventory that may follow each other at once, and the time between further
/// ones: neither a flapping device nor a chattering runtime floods the API server.
pub const INVENTORY_PACE: (u32, Duration) = (20, Duration::from_secs(3));

/// How long servers may take to end their streams when the agent ends.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// How long a starting agent waits for the one before it to let go of the node.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The longest content of a control file, in bytes.
pub const CONTROL_FILE_BYTES: u64 = 256;

/// Degrees Celsius from which a device is warm, near throttling, throttling, too hot, where its
/// profile does not say.
pub const TEMPERATURE_BANDS: [i32; 4] = [60, 85, 95, 105];

/// Degrees Celsius that a device must cool below the edge of its band to leave it.
pub const TEMPERATURE_MARGIN: i32 = 3;
