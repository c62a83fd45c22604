//! What the planner knows: an immutable snapshot of the cluster, in the planner's own terms.
//!
//! The operator fills it in one place (`operator/src/snapshot`). Nothing here is a Kubernetes
//! object: only what a decision needs, parsed.

use crate::unavailable::Unavailable;
use jiff::Timestamp;
use perwatt_crds::inventory::{DeviceHealth, TemperatureBand};
use perwatt_crds::performance::FigureSource;
use perwatt_crds::profile::{DeviceClass, NodeLabels, Power, Precision};
use perwatt_crds::workload::{Locality, Objective, OnGap, PlacementMode};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The cluster as it was seen last.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Profile>,
    /// Workloads by namespace and name.
    pub workloads: BTreeMap<WorkloadKey, Workload>,
    /// Every pod that is not gone: ours, and foreign ones for what they request.
    pub pods: Vec<Pod>,
    /// Sites by name, as declared. Nodes that none selects are in the site that their zone label names.
    pub sites: BTreeMap<String, Site>,
    /// When moves are held.
    pub breaker: Breaker,
    /// How long the agent of a node may be silent before nothing new is placed on its devices.
    pub agent_grace: Duration,
}

/// A declared site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The nodes that it selects; none where it has those whose zone label is its name.
    pub nodes: Option<NodeLabels>,
    /// What its nodes may draw together, in milliwatts.
    pub site_milliwatts: Option<u64>,
    /// What each of its nodes may draw, in milliwatts.
    pub node_milliwatts: Option<u64>,
}

/// When moves are held: past so many in a window, whatever their reasons. A slot that nothing
/// serves is never held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Moves in a window.
    pub moves: u32,
    /// Moves in a window for each hundred slots; in small clusters at least [`crate::BREAKER_FLOOR`] moves.
    pub percent: u32,
    /// How far back moves are counted.
    pub window: Duration,
    /// A person let moves go on: those before are not counted.
    pub reset_at: Option<Timestamp>,
    /// Once moves were held they are, until a person lets them go on; else they go on as the window passes.
    pub waits_for_person: bool,
    /// Since when moves have been held, as the statuses of workloads tell.
    pub opened_at: Option<Timestamp>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            moves: 100,
            percent: 20,
            window: Duration::from_secs(600),
            reset_at: None,
            waits_for_person: false,
            opened_at: None,
        }
    }
}

/// Namespace and name of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for WorkloadKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// Amounts that a node offers or a pod requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Pods: what a node may hold; 1 for a pod.
    pub pods: i64,
    /// Extended resources by name, such as `perwatt.dev/hailo-8`.
    pub extended: BTreeMap<String, i64>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether its kubelet is heard.
    pub liveness: Liveness,
    /// Cordoned: keeps its pods, gets no new ones.
    pub unschedulable: bool,
    /// Keys of NoSchedule and NoExecute taints which our pods do not tolerate.
    pub foreign_taints: Vec<String>,
    /// What the kubelet offers to pods; devices that it was told are unhealthy are left out.
    pub allocatable: Resources,
    /// The devices that the node's agent reports.
    pub devices: Vec<Device>,
    /// Since when no pod of its agent has been ready on it; none while one is, and where no pod of an agent is known.
    pub agent_silent_since: Option<Timestamp>,
}

/// Whether a node's kubelet is heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Liveness {
    /// Ready.
    #[default]
    Ready,
    /// Heard, and says that it is not ready.
    NotReady,
    /// Not heard since.
    Silent {
        /// When it was lost.
        since: Timestamp,
    },
}

/// A device, as the node's agent reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its id on the node.
    pub id: String,
    /// Name of its profile.
    pub profile: String,
    /// Whether it may be used.
    pub health: DeviceHealth,
    /// Why it is not healthy, for a person; empty while it is.
    pub health_message: String,
    /// Since when.
    pub health_since: Timestamp,
    /// The workload and slot whose runtime says that it holds the device.
    pub held_by: Option<(WorkloadKey, String)>,
    /// How hot it is, where that is known: near its throttling it gets nothing new.
    pub temperature: Option<TemperatureBand>,
    /// Since when it has been throttling without a break.
    pub throttling_since: Option<Timestamp>,
    /// Why its firmware or driver is not one that may be used, for a person; it gets nothing new.
    pub firmware_refused: Option<String>,
    /// What it was measured to draw.
    pub draw: Option<Draw>,
}

/// A measured draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Milliwatts.
    pub milliwatts: u32,
    /// When.
    pub at: Timestamp,
}

/// A hardware profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What kind of silicon it is.
    pub class: DeviceClass,
    /// The extended resource that a pod requests.
    pub resource: String,
    /// Another plugin registers it: there is no inventory, the kubelet's word is all there is.
    pub external: bool,
    /// CPU and memory of the vendor's server that runs beside the runtime; nothing where there is none.
    pub beside: Resources,
    /// Nameplate power.
    pub power: Power,
    /// Number formats that it computes in; empty where nobody says.
    pub precisions: Vec<Precision>,
    /// Memory for models, where known.
    pub memory_bytes: Option<i64>,
    /// When its maker's support ends: afterwards it gets nothing new.
    pub supported_until: Option<Timestamp>,
}

/// A workload, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// When it was made: older workloads choose first.
    pub created: Timestamp,
    /// Deleted and waiting for its children to go: nothing new is made for it.
    pub deleting: bool,
    /// Hash of what runs.
    pub revision: String,
    /// What a slot is.
    pub mode: PlacementMode,
    /// Slots in mode Replicas.
    pub replicas: u32,
    /// Nodes that may serve.
    pub nodes: NodeLabels,
    /// Higher ones choose first.
    pub priority: i32,
    /// Why its PriorityClass must not be used, for a person: nothing new is made for it.
    pub priority_refused: Option<String>,
    /// What makes one way better than another.
    pub objective: Objective,
    /// Requests a minute that a slot is expected to answer.
    pub expected_rate_per_minute: Option<u32>,
    /// The latency that a variant must keep, 99th percentile.
    pub latency_p99: Option<Duration>,
    /// How far data may travel.
    pub locality: Locality,
    /// What its runtimes found.
    pub found: Vec<Found>,
    /// What to do where a move cannot be bridged.
    pub on_gap: OnGap,
    /// How long a replica on a silent node is left alone.
    pub autonomy: Duration,
    /// Variants with a lower accuracy never serve.
    pub minimum_accuracy_permille: Option<u16>,
    /// How long a device must have been healthy before a served slot returns to it.
    pub stable_for: Duration,
    /// Ways to run the model, best first.
    pub variants: Vec<Variant>,
    /// CPU and memory that a pod requests.
    pub requests: Resources,
    /// What the slots run that a rollout has not reached.
    pub earlier: Option<Box<Earlier>>,
}

/// What a workload ran before its present revision, and still runs on the slots that are not open to that.
#[derive(Clone, Debug, PartialEq)]
pub struct Earlier {
    /// The workload as it was; where it is served, and how many slots it has, is as it is now.
    pub workload: Workload,
    /// Names of the slots that are open to the present revision.
    pub open: BTreeSet<String>,
}

impl Workload {
    /// What a slot is to run: the present revision, or the earlier one where it is not open to that.
    #[must_use]
    pub fn of_slot(&self, slot: &str) -> &Self {
        match &self.earlier {
            Some(earlier) if !earlier.open.contains(slot) => &earlier.workload,
            _ => self,
        }
    }

    /// What was found of a variant on a profile, or on none.
    #[must_use]
    pub fn found(&self, variant: &str, profile: Option<&str>) -> Option<&Found> {
        self.found
            .iter()
            .find(|found| found.variant == variant && found.profile.as_deref() == profile)
    }
}

/// What runtimes found of a variant on a profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The variant.
    pub variant: String,
    /// The profile; none for a variant without a device.
    pub profile: Option<String>,
    /// Energy of an inference, in microjoules.
    pub microjoules: Option<u64>,
    /// Latency of an inference, 99th percentile, in microseconds.
    pub p99_microseconds: Option<u64>,
    /// Where the power comes from.
    pub source: FigureSource,
    /// Whether the device is emulated.
    pub emulated: bool,
}

/// What a variant costs, as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Latency of an inference, 99th percentile.
    pub p99: Option<Duration>,
    /// Energy of an inference, in microjoules.
    pub microjoules: Option<u64>,
    /// Where the figures come from.
    pub source: FigureSource,
}

/// One way to run a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// What it needs.
    pub needs: Needs,
    /// Its accuracy, where declared.
    pub accuracy_permille: Option<u16>,
    /// What it costs, where declared.
    pub performance: Option<Declared>,
    /// The number format that it computes in, where declared.
    pub precision: Option<Precision>,
    /// The memory of a device that it takes, where declared.
    pub memory_bytes: Option<i64>,
    /// A server elsewhere answers: data leaves the node.
    pub remote: bool,
}

/// What a variant needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// A device of one of these profiles, best first.
    Profiles(Vec<String>),
    /// Any device of this class.
    Class(DeviceClass),
    /// No device.
    Nothing,
}

/// A pod that is not gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The node that it is bound to, or pinned to by our own affinity.
    pub node: Option<String>,
    /// Neither succeeded nor failed: it still counts against the node.
    pub holds_resources: bool,
    /// What it requests.
    pub requests: Resources,
    /// Set where it is one of ours.
    pub owned: Option<OwnedPod>,
}

/// What we know of a pod of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedPod {
    /// The workload that it serves.
    pub workload: WorkloadKey,
    /// The slot that it serves, readable.
    pub slot: String,
    /// The revision that it runs.
    pub revision: String,
    /// The variant that it was planned for.
    pub variant: String,
    /// The profile of the device that it was planned on.
    pub profile: Option<String>,
    /// Serving, or bridging a move.
    pub role: Role,
    /// How many pods of the same slot, revision and variant went before it.
    pub attempt: u32,
    /// How it is doing.
    pub state: PodState,
    /// When it was made.
    pub created: Timestamp,
    /// What its runtime says answers now.
    pub active: Option<ActiveVariant>,
    /// It was made to move its slot from where that was served.
    pub moved: bool,
    /// Where its slot's model could not be run, as known when it was made.
    pub unavailable: Vec<Unavailable>,
}

/// Why a pod of ours exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It is the slot's own.
    Serving,
    /// It serves while the slot's own pods change places on a device.
    Bridge,
}

impl Role {
    /// The value of the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Bridge => "bridge",
        }
    }
}

/// How a pod of ours is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Not ready yet; the reason is the kubelet's or the scheduler's where it gave one.
    Starting {
        /// Such as `ErrImagePull` or `Unschedulable`; empty while all is well.
        reason: String,
        /// What the kubelet or scheduler says.
        message: String,
    },
    /// Ready: its start-up inference passed and it receives requests.
    Ready,
    /// It will never run again.
    Failed {
        /// Such as `UnexpectedAdmissionError`.
        reason: String,
        /// What the kubelet says.
        message: String,
        /// When.
        at: Timestamp,
    },
    /// Being deleted.
    Terminating,
}

/// What a runtime says answers now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveVariant {
    /// The variant.
    pub name: String,
    /// Why it is another than the pod's first; empty when it is not.
    pub reason: String,
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
}
