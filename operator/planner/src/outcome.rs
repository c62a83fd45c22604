//! What the planner decides: assignments, changes, and a reason for each.

use crate::cost::Expected;
use crate::unavailable::Unavailable;
use crate::world::{PodState, Role, WorkloadKey};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// What should be, and the next steps towards it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Every slot of every workload, in order of workload and slot.
    pub slots: Vec<SlotPlan>,
    /// What to do now. They may be carried out in any order: each is safe on its own.
    pub changes: Vec<Change>,
    /// When to plan again even if nothing happens, such as the end of a back-off.
    pub wake_at: Option<Timestamp>,
    /// Every site, by name; none where no site is declared.
    pub sites: Vec<SitePlan>,
    /// How many moves there were, and whether more are held.
    pub breaker: BreakerState,
    /// Names of the nodes on which slots wait for a device to be well: others leave it to them.
    pub wished: BTreeSet<String>,
}

/// The moves that were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerState {
    /// Moves in the window, those of this plan among them.
    pub moves: usize,
    /// How many there may be.
    pub limit: usize,
    /// Slots that this plan holds where they are.
    pub held: usize,
    /// When the next move may begin; none while nothing is held, or a person must let it.
    pub until: Option<Timestamp>,
    /// Since when moves have been held, as the world tells; none where a person let them go on since.
    pub held_since: Option<Timestamp>,
    /// Moves go on when a person lets them.
    pub waits_for_person: bool,
}

/// One site: what it is planned to draw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SitePlan {
    /// Its name.
    pub name: String,
    /// Its nodes.
    pub nodes: usize,
    /// What its devices and inference on its CPUs draw as things are, in milliwatts.
    pub planned_milliwatts: u64,
    /// What that rests on.
    pub source: DrawSource,
    /// What it may draw.
    pub budget_milliwatts: Option<u64>,
    /// What exceeds a budget, for a person: the site, or the first of its nodes; none while none does.
    pub exceeded: Option<Reason>,
    /// Nodes that this site and another select, for a person; none where there are none.
    pub claimed_twice: Option<Reason>,
}

/// What a sum of power rests on: the weakest of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrawSource {
    /// Fresh measurements.
    #[default]
    Measured,
    /// Rates and energies of workloads.
    Modelled,
    /// Nameplates.
    Nameplate,
}

impl DrawSource {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Modelled => "modelled",
            Self::Nameplate => "nameplate",
        }
    }
}

/// What serves a slot: node, profile, variant, revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The node.
    pub node: String,
    /// The variant.
    pub variant: String,
    /// The profile of the device; none for a device-less variant.
    pub profile: Option<String>,
    /// The revision.
    pub revision: String,
}

/// One slot: what it should be served by, what serves it, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotPlan {
    /// The workload.
    pub workload: WorkloadKey,
    /// The slot, readable: a node's name, or `replica-0`.
    pub slot: String,
    /// Its number, in mode Replicas; the names of other slots tell their order.
    pub ordinal: usize,
    /// What should serve it, given what may be used now.
    pub target: Option<Assignment>,
    /// The variant that would serve it if every device were healthy.
    pub best_variant: Option<String>,
    /// The pod that serves it now.
    pub serving: Option<ServingPod>,
    /// Why `target` is not the planned best; none while it is.
    pub degraded: Option<Reason>,
    /// Why nothing serves it, or why a change waits; none while all is well.
    pub problem: Option<Reason>,
    /// Its node is silent: it is left alone.
    pub offline: bool,
    /// Pods are to change.
    pub changing: bool,
    /// What is known of serving it by `target`.
    pub expected: Option<Expected>,
    /// Every variant on every kind of place, best first, and what ruled it out.
    pub candidates: Vec<Candidate>,
}

/// The pod that serves a slot.
#[derive(Clone, Debug, PartialEq)]
pub struct ServingPod {
    /// Name of the pod, in the workload's namespace.
    pub name: String,
    /// What it was planned for.
    pub assignment: Assignment,
    /// Serving or bridge.
    pub role: Role,
    /// How it is doing: ready, or the best that there is.
    pub state: PodState,
}

/// One way to serve a slot, considered.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The variant.
    pub variant: String,
    /// The profile, for a variant that needs a device.
    pub profile: Option<String>,
    /// The node, where the reason is the node's own; none where it speaks of all nodes.
    pub node: Option<String>,
    /// What ruled it out; none for the one chosen and for those merely behind it.
    pub rejected: Option<Reason>,
    /// Whether it is the target.
    pub chosen: bool,
    /// What is known of its latency and energy.
    pub expected: Expected,
    /// Something that a reader should know, such as that its support ends soon.
    pub note: Option<String>,
}

/// Why, in one word for machines and one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The word.
    pub code: ReasonCode,
    /// What happened, to what, and what to do.
    pub message: String,
}

/// Reasons, as conditions, events and `explain` show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ReasonCode {
    /// No node matches `placement.nodes`.
    NoNodeMatches,
    /// A variant names a profile that does not exist.
    ProfileNotFound,
    /// No node offers the profile's devices.
    NoSuchDevice,
    /// All devices of the profile are held by other pods.
    DeviceBusy,
    /// The device may not be used.
    DeviceUnhealthy,
    /// The agent of the node is silent: how its devices are, nobody knows.
    AgentSilent,
    /// The device is well, and the slot's runtime could not run the variant there.
    ModelUnavailable,
    /// The device is healthy again, not yet for long enough.
    DeviceRecovering,
    /// The node lacks CPU, memory or pod places.
    NodeFull,
    /// The node is cordoned.
    NodeCordoned,
    /// The node has a taint that our pods do not tolerate.
    NodeTainted,
    /// The node is not ready, or silent.
    NodeNotReady,
    /// The variant's accuracy is below the workload's minimum.
    BelowMinimumAccuracy,
    /// Nothing may serve the slot.
    NoFeasibleVariant,
    /// The pod of the slot starts.
    PodStarting,
    /// The kubelet or the scheduler cannot start the pod.
    PodCannotStart,
    /// The pod failed and waits for its next attempt.
    BackOff,
    /// A move would leave a moment in which nothing serves.
    CannotBridge,
    /// The runtime serves from another variant than the pod's first.
    RuntimeFallback,
    /// The slot is on its way to its planned best; another variant serves until then.
    Moving,
    /// Its latency misses `placement.latency`.
    LatencyTargetMissed,
    /// It sends data further than `placement.locality` allows.
    LocalityForbids,
    /// The device does not compute in the variant's number format.
    PrecisionNotSupported,
    /// The device has less memory than the variant takes.
    DeviceMemoryTooSmall,
    /// The maker's support of the device has ended.
    SupportEnded,
    /// The device's firmware or driver is not one that may be used.
    FirmwareRefused,
    /// The device is near its throttling.
    ThermalHeadroom,
    /// The node would draw more than its site lets it.
    NodePowerBudget,
    /// The site would draw more than it may.
    SitePowerBudget,
    /// More is drawn than may be, and nothing cheaper may serve.
    PowerBudgetExceeded,
    /// It is better, by too little for a move.
    GainTooSmall,
    /// A workload of higher priority gets the device.
    YieldsToPriority,
    /// Its PriorityClass preempts, or does not exist.
    PriorityClassRefused,
    /// Two sites select one node.
    NodeClaimedTwice,
    /// Too many slots moved lately: this one is held where it is.
    MoveBreakerOpen,
}

impl ReasonCode {
    /// The word as conditions and events write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoNodeMatches => "NoNodeMatches",
            Self::ProfileNotFound => "ProfileNotFound",
            Self::NoSuchDevice => "NoSuchDevice",
            Self::DeviceBusy => "DeviceBusy",
            Self::DeviceUnhealthy => "DeviceUnhealthy",
            Self::AgentSilent => "AgentSilent",
            Self::ModelUnavailable => "ModelUnavailable",
            Self::DeviceRecovering => "DeviceRecovering",
            Self::NodeFull => "NodeFull",
            Self::NodeCordoned => "NodeCordoned",
            Self::NodeTainted => "NodeTainted",
            Self::NodeNotReady => "NodeNotReady",
            Self::BelowMinimumAccuracy => "BelowMinimumAccuracy",
            Self::NoFeasibleVariant => "NoFeasibleVariant",
            Self::PodStarting => "PodStarting",
            Self::PodCannotStart => "PodCannotStart",
            Self::BackOff => "BackOff",
            Self::CannotBridge => "CannotBridge",
            Self::RuntimeFallback => "RuntimeFallback",
            Self::Moving => "Moving",
            Self::LatencyTargetMissed => "LatencyTargetMissed",
            Self::LocalityForbids => "LocalityForbids",
            Self::PrecisionNotSupported => "PrecisionNotSupported",
            Self::DeviceMemoryTooSmall => "DeviceMemoryTooSmall",
            Self::SupportEnded => "SupportEnded",
            Self::FirmwareRefused => "FirmwareRefused",
            Self::ThermalHeadroom => "ThermalHeadroom",
            Self::NodePowerBudget => "NodePowerBudget",
            Self::SitePowerBudget => "SitePowerBudget",
            Self::PowerBudgetExceeded => "PowerBudgetExceeded",
            Self::GainTooSmall => "GainTooSmall",
            Self::YieldsToPriority => "YieldsToPriority",
            Self::PriorityClassRefused => "PriorityClassRefused",
            Self::NodeClaimedTwice => "NodeClaimedTwice",
            Self::MoveBreakerOpen => "MoveBreakerOpen",
        }
    }
}

impl ReasonCode {
    /// What would change it, for a person; empty where nothing is wrong or time alone mends it.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NoNodeMatches => "label a node, or change placement.nodes",
            Self::ProfileNotFound => "create the HardwareProfile, or name another",
            Self::NoSuchDevice => "a node with such a device among placement.nodes",
            Self::DeviceBusy => "another device, a lower rate of neighbours, or a higher priority",
            Self::DeviceUnhealthy => "a healthy device",
            Self::NodeFull => "more free CPU, memory or pod places",
            Self::NodeCordoned => "uncordon the node",
            Self::NodeTainted => "remove the taint",
            Self::NodeNotReady => "a node that is ready",
            Self::BelowMinimumAccuracy => "a better artifact, or a lower fallback.minimumAccuracyPermille",
            Self::LatencyTargetMissed => "a quicker artifact or device, or a higher placement.latency.p99",
            Self::LocalityForbids => "placement.locality Any",
            Self::PrecisionNotSupported => "an artifact in a format that the device computes in",
            Self::DeviceMemoryTooSmall => "a smaller artifact, or a device with more memory",
            Self::SupportEnded => "a device that is still supported",
            Self::FirmwareRefused => "another firmware or driver",
            Self::AgentSilent => "a device-plugin pod that is ready on the node",
            Self::ModelUnavailable => "a model that runs there: the log of its runtime says why it does not",
            Self::ThermalHeadroom => "a cooler device",
            Self::NodePowerBudget => "a higher nodeMilliwatts of its EdgeSite, or less on the node",
            Self::SitePowerBudget | Self::PowerBudgetExceeded => {
                "a higher siteMilliwatts of its EdgeSite, or less on the site"
            }
            Self::GainTooSmall => "a larger difference in figures",
            Self::YieldsToPriority => "another device, or a higher priority",
            Self::PriorityClassRefused => "another runtime.priorityClassName",
            Self::NodeClaimedTwice => "other spec.nodes of one of the sites",
            Self::CannotBridge => "free CPU or memory on the node, or placement.onGap Allow",
            Self::PodCannotStart => "what the kubelet says of the pod",
            Self::NoFeasibleVariant => "any of what rules the candidates out",
            Self::DeviceRecovering
            | Self::PodStarting
            | Self::BackOff
            | Self::RuntimeFallback
            | Self::Moving
            | Self::MoveBreakerOpen => "",
        }
    }
}

/// One step towards the plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Make a pod. Its name is a function of slot, revision, variant, role and attempt, so that
    /// a repeated create is refused by the API server, not doubled.
    Create(PodPlan),
    /// Delete a pod.
    Delete(PodDelete),
}

/// A pod to make.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    /// The workload that it serves, in whose namespace it is made.
    pub workload: WorkloadKey,
    /// The slot that it serves.
    pub slot: String,
    /// Name of the pod.
    pub name: String,
    /// What it runs and where.
    pub assignment: Assignment,
    /// Serving or bridge.
    pub role: Role,
    /// How many pods of the same slot, revision and variant went before it.
    pub attempt: u32,
    /// The variants that may stand in inside the pod after the planned one: device-less, in order.
    pub stand_ins: Vec<String>,
    /// Why the pod is not the slot's planned best.
    pub degraded: Option<Reason>,
    /// It moves its slot from where that is served: it is marked, so that the move breaker can count it.
    pub moved: bool,
    /// Where the slot's model could not be run: it is written on the pod.
    pub unavailable: Vec<Unavailable>,
    /// Why this variant and node, and what ruled out the better ones: one sentence each.
    pub decision: String,
}

/// A pod to delete.
#[derive(Clone, Debug, PartialEq)]
pub struct PodDelete {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: the delete is refused where the name is another pod's by now.
    pub uid: String,
    /// The pod that serves the slot from then on. Where it is set, a live read must show it
    /// ready before the delete; where it is not, the pod serves nothing (or may be given up), and
    /// must not have changed since it was seen: it may be ready by now.
    pub survivor: Option<String>,
    /// Why, for the event.
    pub why: String,
}
