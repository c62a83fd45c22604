//! How a new revision reaches the slots of a workload: `RolloutPolicy`, and what persons decide: `RolloutApproval`.

use crate::profile::NodeLabels;
use crate::schema;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a new revision reaches the slots of a workload. Without it a new revision replaces the old one on all slots at
/// once, never leaving a gap, and nothing is judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.policyRef) != has(self.cohorts)").message("rollout has either policyRef (a RolloutPolicy of this namespace) or cohorts: give exactly one"),
    validation = Rule::new("!has(self.policyRef) || (!has(self.analysis) && !has(self.onInconclusive) && !has(self.acceptEmulatedEnergy))").message("what is judged stands in the RolloutPolicy that policyRef names: leave analysis, onInconclusive and acceptEmulatedEnergy out here")
)]
pub struct Rollout {
    /// Name of a RolloutPolicy of the same namespace, which many workloads can share.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<String>,
    /// The cohorts, in the order in which they get a new revision. The last one has no selector: it takes all other slots.
    #[schemars(schema_with = "cohorts_schema")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cohorts: Vec<Cohort>,
    /// What is compared, and how much worse the new revision may be. Left out: errors, p95, measured energy, confidence
    /// and agreement, with the limits that docs/verdicts.md gives. An empty list judges nothing: cohorts then pass by time.
    #[schemars(schema_with = "analysis_schema")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Vec<Analysis>>,
    /// What to do where a cohort's deadline passes without a verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_inconclusive: Option<OnInconclusive>,
    /// Whether energy of emulated devices is judged, as on a machine for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_emulated_energy: Option<bool>,
}

/// A way for new revisions that many workloads of a namespace share.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "perwatt.dev",
    version = "v1alpha1",
    kind = "RolloutPolicy",
    plural = "rolloutpolicies",
    category = "perwatt",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    doc = "A way for new revisions that many workloads of a namespace share: spec.rollout.policyRef of an InferenceWorkload names it.",
    printcolumn(
        name = "Cohorts",
        type_ = "string",
        json_path = ".spec.cohorts[*].name",
        description = "In their order"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RolloutPolicySpec {
    /// The cohorts, in the order in which they get a new revision. The last one has no selector: it takes all other slots.
    #[schemars(schema_with = "cohorts_schema")]
    pub cohorts: Vec<Cohort>,
    /// What is compared, and how much worse the new revision may be. Left out: errors, p95, measured energy, confidence
    /// and agreement, with the limits that docs/verdicts.md gives. An empty list judges nothing: cohorts then pass by time.
    #[schemars(schema_with = "analysis_schema")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Vec<Analysis>>,
    /// What to do where a cohort's deadline passes without a verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_inconclusive: Option<OnInconclusive>,
    /// Whether energy of emulated devices is judged, as on a machine for tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_emulated_energy: Option<bool>,
}

/// Slots that get a revision together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cohort {
    /// Its name.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Slots on sites whose EdgeSite has these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<NodeLabels>,
    /// Slots on nodes with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeLabels>,
    /// Slots that a device of one of these profiles serves when the rollout begins.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 50)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// At most this part of all slots, such as `10%`, rounded up: drawn by the slot's name among those that fit.
    #[schemars(length(max = 8), regex(pattern = r"^[0-9]{1,3}(\.[0-9])?%$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// The shortest time for which the cohort runs the revision, once all its slots that can be reached carry it.
    #[serde(default = "default_bake")]
    #[schemars(schema_with = "schema::duration")]
    pub bake: Duration,
    /// When a cohort has waited too long for a verdict, counted from its opening; then `onInconclusive` holds.
    #[serde(default = "default_deadline")]
    #[schemars(schema_with = "schema::duration")]
    pub deadline: Duration,
    /// Whether a person must let the revision into the cohort, by a RolloutApproval.
    #[serde(default)]
    pub approval: Approval,
}

fn default_bake() -> Duration {
    Duration::from(std::time::Duration::from_secs(10 * 60))
}

fn default_deadline() -> Duration {
    Duration::from(std::time::Duration::from_secs(24 * 60 * 60))
}

/// Who lets a revision into a cohort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Approval {
    /// The verdict on the cohort before.
    #[default]
    Automatic,
    /// A person, after that.
    Manual,
}

/// What to do where a cohort's deadline passes without a verdict. A revision is never widened without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnInconclusive {
    /// Wait for more evidence, or for a person.
    #[default]
    Hold,
    /// Go back to the revision before.
    Rollback,
}

/// What is compared, and how much worse the new revision may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.maxIncrease) != has(self.maximum)").message("a metric has either maxIncrease (over the revision before) or maximum: give exactly one"),
    validation = Rule::new("(self.metric in ['ConfidenceShift', 'Disagreement']) == has(self.maximum)").message("ConfidenceShift and Disagreement take maximum, all other metrics maxIncrease")
)]
pub struct Analysis {
    /// The metric.
    pub metric: Metric,
    /// By how much it may be above that of the revision before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_increase: Option<Increase>,
    /// What it may be at most: a number for ConfidenceShift (`0.2`), a part of inputs for Disagreement (`1%`).
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]{1,3}(\.[0-9]{1,4})?%?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<String>,
}

/// By how much a metric may be higher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.absolute) != has(self.relative)").message("maxIncrease is either absolute or relative: give exactly one"))]
pub struct Increase {
    /// In the metric's unit: points of percent for rates (`0.5%`), a time for latency (`5ms`), a number a day for restarts.
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]{1,6}(\.[0-9]{1,4})?(%|us|ms|s)?$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute: Option<String>,
    /// As a part of that of the revision before, such as `10%`.
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]{1,4}(\.[0-9])?%$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<String>,
}

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Metric {
    /// Requests without an answer.
    ErrorRate,
    /// Median latency.
    LatencyP50,
    /// 95th percentile of latency.
    LatencyP95,
    /// 99th percentile of latency.
    LatencyP99,
    /// Energy per inference, where both sides are measured.
    EnergyPerInference,
    /// Population stability index of the confidence of answers.
    ConfidenceShift,
    /// Mirrored inputs that got another answer.
    Disagreement,
    /// Answers that told of something that was not there, as applications say.
    FalseAlarmRate,
    /// Answers that did not tell of something that was there, as applications say.
    MissRate,
    /// Requests that another variant than the planned best answered.
    FallbackRate,
}

/// What a person decides about a rollout. It never changes; the newest of contradicting ones holds.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "perwatt.dev",
    version = "v1alpha1",
    kind = "RolloutApproval",
    plural = "rolloutapprovals",
    category = "perwatt",
    namespaced,
    derive = "PartialEq",
    doc = "What a person decides about the rollout of one revision of a workload. It never changes; the newest of contradicting ones holds. `kubectl perwatt rollout` makes them.",
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workload"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".spec.revision"),
    printcolumn(name = "Cohort", type_ = "string", json_path = ".spec.cohort"),
    printcolumn(name = "Decision", type_ = "string", json_path = ".spec.decision"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.by"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("a decision never changes: make another RolloutApproval"),
    validation = Rule::new("self.decision != 'Approve' || has(self.cohort)").message("Approve lets a revision into a cohort: name it")
)]
pub struct RolloutApprovalSpec {
    /// The InferenceWorkload, in the same namespace.
    #[schemars(length(min = 1, max = 48))]
    pub workload: String,
    /// The revision that it is about, as `kubectl get iw -o wide` shows it.
    #[schemars(length(min = 1, max = 63))]
    pub revision: String,
    /// The cohort, where the decision is about one.
    #[schemars(length(min = 1, max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<String>,
    /// What is decided.
    pub decision: Decision,
    /// Why, for those who read it later.
    #[schemars(length(max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Who decided, as they say; who made the object is in the audit log.
    #[schemars(length(max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Decision {
    /// Let the revision into the cohort.
    Approve,
    /// Open no further cohort.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Go back to the revision before, everywhere.
    Abort,
    /// Try a rejected revision again, from its first cohort.
    Retry,
    /// Let the cohort pass (the one that is open, where none is named) without a verdict.
    Promote,
}

impl Rollout {
    /// The policy that stands in the workload itself; nothing where it names one.
    #[must_use]
    pub fn own(&self) -> Option<RolloutPolicySpec> {
        self.policy_ref.is_none().then(|| RolloutPolicySpec {
            cohorts: self.cohorts.clone(),
            analysis: self.analysis.clone(),
            on_inconclusive: self.on_inconclusive,
            accept_emulated_energy: self.accept_emulated_energy,
        })
    }
}

fn cohorts_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = generator.subschema_for::<Cohort>();
    let selects = |cohort: &str| {
        format!("has({cohort}.sites) || has({cohort}.nodes) || has({cohort}.profiles) || has({cohort}.share)")
    };
    schemars::json_schema!({
        "type": "array",
        "items": item,
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "x-kubernetes-validations": [{
            "rule": format!("!({})", selects("self[size(self) - 1]")),
            "message": "the last cohort takes all slots that no other has: leave its sites, nodes, profiles and share out",
        }, {
            "rule": format!("self.filter(c, !({})).size() == 1", selects("c")),
            "message": "only the last cohort has no selector: give the others sites, nodes, profiles or share",
        }],
    })
}

fn analysis_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = generator.subschema_for::<Analysis>();
    schemars::json_schema!({
        "type": "array",
        "nullable": true,
        "items": item,
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["metric"],
    })
}
