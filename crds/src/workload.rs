//! `InferenceWorkload`: a model, the ways to run it, and where it must be served.

use crate::performance::Performance;
use crate::profile::{DeviceClass, NodeLabels, Precision};
use crate::rollout::Rollout;
use crate::schema;
use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::Duration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::workload_status::{
    AnalysisStatus, CohortStatus, InferenceWorkloadStatus, RolloutEnd, RolloutStatus, SlotProblem,
    WorkloadSummary,
};

/// A model, its variants (together the fallback chain), and where it must be served.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "perwatt.dev",
    version = "v1alpha1",
    kind = "InferenceWorkload",
    plural = "inferenceworkloads",
    shortname = "iw",
    category = "perwatt",
    namespaced,
    status = "InferenceWorkloadStatus",
    derive = "PartialEq",
    doc = "A model, the ways to run it (variants, together its fallback chain), and where it must be served.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 48").message("metadata.name names a Service and pods: use at most 48 lower-case letters, digits and '-', a letter first"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.summary.ready", description = "Slots that are served / slots wanted"),
    printcolumn(name = "Serving", type_ = "string", json_path = ".status.summary.serving", description = "The variant that answers now, and on how many slots"),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.summary.device", description = "The profile of the device it runs on"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.summary.node", description = "Where it runs"),
    printcolumn(name = "Degraded", type_ = "integer", json_path = ".status.degradedSlots", description = "Slots served by another variant than their planned best"),
    printcolumn(name = "P95", type_ = "string", json_path = ".status.summary.latencyP95", description = "Latency of an inference inside the runtime, 95th percentile"),
    printcolumn(name = "Energy", type_ = "string", json_path = ".status.summary.energy", description = "Energy per inference, with the source of the figure"),
    printcolumn(name = "Watts", type_ = "string", json_path = ".status.summary.watts", description = "What the slots are expected to draw together, with the source of the figure"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.summary.status", description = "What is wrong, or Ready"),
    printcolumn(name = "Rollout", type_ = "string", json_path = ".status.summary.rollout", description = "Where a new revision is on its way through the cohorts"),
    printcolumn(name = "Revision", type_ = "string", json_path = ".status.revision", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || self.placement.mode == 'Replicas'").message("replicas belongs to placement.mode Replicas; modes PerNode and PerSite serve on every chosen node or site: remove replicas"),
    validation = Rule::new("self.placement.locality == 'Any' || !self.variants.exists(v, has(v.remote))").message("placement.locality Node and Site keep data where it is: remove the variants with remote, or set locality: Any")
)]
pub struct InferenceWorkloadSpec {
    /// The image that holds the model.
    pub model: ModelImage,
    /// The ways to run the model, best first: together the fallback chain.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub variants: Vec<Variant>,
    /// How many slots mode Replicas serves; 1 where it is left out.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Requests a minute that a slot is expected to answer: what turns energy per inference into watts. Left out, the
    /// order of variants decides. Changing it restarts nothing.
    #[schemars(range(min = 0, max = 60_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_rate_per_minute: Option<u32>,
    /// Where the model must be served.
    #[serde(default)]
    pub placement: Placement,
    /// When a variant may stand in for a better one, and when the better one returns.
    #[serde(default)]
    pub fallback: Fallback,
    /// How clients reach the model. The Service has the name of the workload, ports 8080 (REST) and 8081 (gRPC).
    #[serde(default)]
    pub service: ServiceOptions,
    /// The pods that serve.
    #[serde(default)]
    pub runtime: RuntimeOptions,
    /// How a new revision reaches the slots: cohort by cohort, on evidence. Left out, it replaces the old one on all of
    /// them at once. Changing it restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// The image that holds `model.yaml` and the files of every variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.image.matches('^[^@ ]+@sha256:[0-9a-f]{64}$')").message("image must be pinned by digest, as NAME@sha256:…: `kubectl perwatt model pack` prints it"))]
pub struct ModelImage {
    /// Reference of the image by digest: `registry.example/models/speech-gate@sha256:…`.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Secrets with which the kubelet pulls the image.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<LocalObjectReference>,
}

/// One way to run the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.device) ? 1 : 0) + (has(self.deviceLess) ? 1 : 0) + (has(self.remote) ? 1 : 0) == 1").message("a variant has either device (which devices it needs) or deviceLess (CPU or Emulated), or remote (a server elsewhere): give exactly one"),
    validation = Rule::new("has(self.artifact) != has(self.remote)").message("a variant has an artifact (a file of the model image), unless it is remote: the server there has the model")
)]
pub struct Variant {
    /// Name of the variant, unique in the workload; replies, metrics and columns show it.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The devices that the variant can run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSelector>,
    /// Set where the variant needs no device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_less: Option<DeviceLess>,
    /// A server elsewhere that answers in place of this node: data leaves the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
    /// The file of the model image that the variant runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// Quality of the variant, where it differs from what `model.yaml` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Latency and energy of the variant, where they are known before it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance: Option<Performance>,
    /// The number format that the variant computes in, where known: it runs on no device whose profile lists others only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Memory of the device that the variant takes, where known: it runs on no device whose profile has less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// Which devices a variant can run on: profiles by name, or any of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.profiles) != has(self.class)").message("device has either profiles (by name, best first) or class: give exactly one"))]
pub struct DeviceSelector {
    /// Names of HardwareProfiles, best first.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 50)), extend("x-kubernetes-list-type" = "set"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// Any device of this class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<DeviceClass>,
}

/// How a variant runs without a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeviceLess {
    /// On the node's processor.
    #[serde(rename = "CPU")]
    Cpu,
    /// On the node's processor, by a simulator of a chip.
    Emulated,
}

/// A server of the Open Inference Protocol elsewhere, such as another site's runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.endpoint.matches('^(http|https|grpc|grpcs)://[^/?#@ ]+(/[A-Za-z0-9._~/-]*)?$')").message("endpoint is http://HOST:PORT, https://HOST, grpc://HOST:PORT or grpcs://HOST:PORT, without a password"))]
pub struct Remote {
    /// Where it listens.
    #[schemars(length(min = 1, max = 512))]
    pub endpoint: String,
    /// The model's name there; the name in `model.yaml` where it is left out.
    #[schemars(length(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// A file of the model image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.path.startsWith('/') && !self.path.contains('..')").message("artifact.path is relative to the model image's root, without '..'"))]
pub struct Artifact {
    /// Path of the file, relative to the root of the model image.
    #[schemars(length(min = 1, max = 256))]
    pub path: String,
}

/// Quality of a variant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// Accuracy on the model's own test, in thousandths.
    #[schemars(range(min = 0, max = 1000))]
    pub accuracy_permille: u16,
}

/// Where the model must be served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// What a slot is: a replica, wherever it fits (Replicas), each chosen node (PerNode), or each site that has a chosen
    /// node (PerSite).
    #[serde(default)]
    pub mode: PlacementMode,
    /// Nodes that may serve; all nodes where it is left out.
    #[serde(default)]
    pub nodes: NodeLabels,
    /// What makes one way to serve a slot better than another: fewest watts (Energy), least latency (Latency), most
    /// accuracy (Quality), or the order of variants (Order). Ties, and missing figures, fall to the order of variants.
    #[serde(default)]
    pub objective: Objective,
    /// The latency that a variant must keep. A variant whose latency is not known counts as quick enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyTarget>,
    /// How far the data of requests may travel. Node and Site forbid remote variants.
    #[serde(default)]
    pub locality: Locality,
    /// What to do where a slot cannot move without a moment in which nothing serves it: keep
    /// what serves and wait (Hold), or move all the same (Allow).
    #[serde(default)]
    pub on_gap: OnGap,
    /// How long a replica on a silent node is left alone before it is served elsewhere.
    #[serde(default = "default_autonomy")]
    #[schemars(schema_with = "schema::duration")]
    pub autonomy: Duration,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            mode: PlacementMode::default(),
            nodes: NodeLabels::default(),
            objective: Objective::default(),
            latency: None,
            locality: Locality::default(),
            on_gap: OnGap::default(),
            autonomy: default_autonomy(),
        }
    }
}

fn default_autonomy() -> Duration {
    Duration::from(std::time::Duration::from_secs(24 * 60 * 60))
}

/// What a slot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlacementMode {
    /// `replicas` slots, on any chosen nodes.
    #[default]
    Replicas,
    /// One slot on each chosen node.
    PerNode,
    /// One slot on each site that has a chosen node, on any of its chosen nodes.
    PerSite,
}

/// What makes one way to serve a slot better than another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Objective {
    /// Fewest expected watts.
    #[default]
    Energy,
    /// Least latency.
    Latency,
    /// Most accuracy.
    Quality,
    /// The order in which the variants are listed.
    Order,
}

impl Objective {
    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Energy => "Energy",
            Self::Latency => "Latency",
            Self::Quality => "Quality",
            Self::Order => "Order",
        }
    }
}

/// The latency that a variant must keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LatencyTarget {
    /// Latency of an inference, 99th percentile, such as 10ms.
    #[schemars(schema_with = "schema::duration")]
    pub p99: Duration,
}

/// How far the data of requests may travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Locality {
    /// Not off the node.
    Node,
    /// Not off the site.
    Site,
    /// Anywhere.
    #[default]
    Any,
}

/// What to do where a move cannot be bridged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnGap {
    /// Keep what serves, and wait.
    #[default]
    Hold,
    /// Move, with a moment in which nothing serves.
    Allow,
}

/// When a variant may stand in for a better one, and when the better one returns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Variants with a lower accuracy than this never serve. A variant that declares none counts as good enough.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_accuracy_permille: Option<u16>,
    /// When a better variant is trusted again.
    #[serde(default)]
    pub recovery: Recovery,
}

/// When a better variant is trusted again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// How long a device must have been healthy before a slot returns to it.
    #[serde(default = "default_stable_for")]
    #[schemars(schema_with = "schema::duration")]
    pub stable_for: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            stable_for: default_stable_for(),
        }
    }
}

fn default_stable_for() -> Duration {
    Duration::from(std::time::Duration::from_secs(60))
}

/// How clients reach the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceOptions {
    /// Which pods a client's node may reach.
    #[serde(default)]
    pub traffic: Traffic,
}

/// Which pods a client's node may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Traffic {
    /// The pod on the client's node where there is one, else any.
    #[default]
    PreferLocal,
    /// The pod on the client's node alone.
    Local,
    /// Any pod.
    Cluster,
}

/// The pods that serve.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeOptions {
    /// CPU and memory of the runtime container. Default: requests of 50m and 64Mi, a limit of 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources_schema")]
    pub resources: Option<ResourceRequirements>,
    /// RuntimeClass of the pods.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// PriorityClass of the pods, and of the workload among others: one with `preemptionPolicy: Never`, such as
    /// perwatt-low, perwatt-normal and perwatt-high of the chart. Default: perwatt-normal, where that exists.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// CPU and memory alone: devices come from the variant, and resource claims are not supported.
pub(crate) fn resources_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let amounts = serde_json::json!({
        "type": "object",
        "maxProperties": 3,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$",
        },
        "x-kubernetes-validations": [{
            "rule": "self.all(k, k in ['cpu', 'memory', 'ephemeral-storage'])",
            "message": "runtime.resources takes cpu, memory and ephemeral-storage; a device is asked for by a variant",
        }],
    });
    schemars::json_schema!({
        "type": "object",
        "nullable": true,
        "properties": {"requests": amounts, "limits": amounts},
    })
}

impl InferenceWorkload {
    /// How many slots mode Replicas serves.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.spec
            .replicas
            .map_or(1, |count| u32::try_from(count).unwrap_or(0))
    }
}
