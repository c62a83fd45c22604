//! Status of an `InferenceWorkload`: what serves, where, how well, and what is wrong.

use crate::performance::MeasuredFigure;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What serves, where, how well, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceWorkloadStatus {
    /// The generation of the workload that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Slots wanted.
    #[serde(default)]
    pub replicas: i32,
    /// Slots that are served.
    #[serde(default)]
    pub ready_slots: i32,
    /// Slots served by another variant than their planned best.
    #[serde(default)]
    pub degraded_slots: i32,
    /// Slots on nodes that are silent; they are left alone and tolerated.
    #[serde(default)]
    pub offline_slots: i32,
    /// Selector of the workload's pods, for the scale subresource.
    #[schemars(length(max = 512))]
    #[serde(default)]
    pub selector: String,
    /// The revision that the slots are to run: a hash of what runs.
    #[schemars(length(max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The same in few words, for the columns of `kubectl get`.
    #[serde(default)]
    pub summary: WorkloadSummary,
    /// How far the present revision came through its cohorts; left out where it needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// The rollouts that ended, the newest first, the last ten.
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<RolloutEnd>,
    /// Ready, Reconciling, Stalled, Degraded, RolloutComplete.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What its runtimes found of latency and energy, in bands of a tenth: what the planner knows of them.
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["variant", "profile"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<MeasuredFigure>,
    /// Since when the move breaker has held slots where they are; left out while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves_held_since: Option<Time>,
    /// Slots that are not served by their planned best, the first 20.
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["slot"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<SlotProblem>,
}

/// A workload in few words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSummary {
    /// Slots that are served and slots wanted, as `1/1`.
    #[serde(default)]
    pub ready: String,
    /// The variants that answer now: `npu`, or `npu 3, cpu 1`.
    #[serde(default)]
    pub serving: String,
    /// The profiles of the devices: `hailo-8`, or `-` on a CPU.
    #[serde(default)]
    pub device: String,
    /// The nodes, the first few.
    #[serde(default)]
    pub node: String,
    /// Latency of an inference, 95th percentile, in two digits.
    #[serde(default, rename = "latencyP95")]
    pub latency_p95: String,
    /// Energy per inference in two digits, with the source of the figure.
    #[serde(default)]
    pub energy: String,
    /// What the slots are expected to draw together, with the source of the figure; `-` where none is known.
    #[serde(default)]
    pub watts: String,
    /// What is wrong in one word, or Ready.
    #[serde(default)]
    pub status: String,
    /// Where a rollout is and what it waits for: `canary 1/3 Comparing`; left out where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rollout: String,
}

/// A slot that is not served by its planned best, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotProblem {
    /// The slot: a node's name, or `replica-0`.
    #[schemars(length(max = 253))]
    pub slot: String,
    /// The node that serves the slot now, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The variant that serves the slot now, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Why, in one word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What happened, to what, what was tried, what to do.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// How far a revision came through its cohorts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// The new revision.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// The revision that it replaces, or goes back to.
    #[schemars(length(max = 63))]
    pub incumbent: String,
    /// What it waits for: Opening, Baking, Comparing, AwaitingApproval, Paused, DeadlineExceeded, PolicyInvalid; or how it
    /// ended: Complete, Rejected.
    #[schemars(length(max = 64))]
    pub state: String,
    /// The same in a sentence.
    #[schemars(length(max = 1024))]
    #[serde(default)]
    pub message: String,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Time>,
    /// Whether every runtime does as it was told.
    #[serde(default)]
    pub obeyed: bool,
    /// The cohorts, in their order.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cohorts: Vec<CohortStatus>,
    /// What is known so far of each metric of the cohort that is open.
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub analysis: Vec<AnalysisStatus>,
}

/// A cohort of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CohortStatus {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Slots in it.
    pub slots: u32,
    /// Slots that carry the new revision.
    pub updated: u32,
    /// Slots that cannot be reached.
    #[serde(default)]
    pub offline: u32,
    /// When its slots were opened to the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Time>,
    /// When all of them that could be reached carried it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baking: Option<Time>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Time>,
    /// Pass or Fail; left out while there is none, and where a person let it pass.
    #[schemars(length(max = 16))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What it was based on.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What is known so far of a metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisStatus {
    /// The metric.
    #[schemars(length(max = 64))]
    pub metric: String,
    /// What is compared among itself, such as `npu on hailo-8`.
    #[schemars(length(max = 253))]
    pub series: String,
    /// Pass, Fail, Inconclusive or NotApplicable.
    #[schemars(length(max = 16))]
    pub outcome: String,
    /// Turns, or windows, that it is based on.
    pub turns: u64,
    /// Requests of both revisions.
    pub requests: u64,
    /// The values, their difference with its interval, and what is still needed.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// A rollout that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutEnd {
    /// The revision.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// The revision before.
    #[schemars(length(max = 63))]
    pub incumbent: String,
    /// Complete, Rejected or Superseded.
    #[schemars(length(max = 16))]
    pub outcome: String,
    /// When it began.
    pub began: Time,
    /// When it ended.
    pub ended: Time,
    /// The cohorts that it reached, with their verdicts: `canary Pass, rest Fail`.
    #[schemars(length(max = 1024))]
    #[serde(default)]
    pub cohorts: String,
    /// Why it ended, in a sentence.
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
