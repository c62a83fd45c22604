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
    /// Ready, Reconciling, Stalled, Degraded.
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
