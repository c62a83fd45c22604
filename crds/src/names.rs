//! Names that the parts of Perwatt agree on: labels, annotations, ports, the field manager.

/// API group of the custom resources, and the domain of our labels.
pub const GROUP: &str = "perwatt.dev";

/// Field manager of every object that the operator applies.
pub const FIELD_MANAGER: &str = "perwatt-operator";

/// Pod label: name of the InferenceWorkload.
pub const LABEL_WORKLOAD: &str = "perwatt.dev/workload";
/// Pod label: hash of the slot; the readable slot is [`ANNOTATION_SLOT`].
pub const LABEL_SLOT: &str = "perwatt.dev/slot";
/// Pod label: the revision that the pod runs.
pub const LABEL_REVISION: &str = "perwatt.dev/revision";
/// Pod label: the variant that was planned for the pod (the active one is status).
pub const LABEL_VARIANT: &str = "perwatt.dev/variant";
/// Pod label: `serving` or `bridge`.
pub const LABEL_ROLE: &str = "perwatt.dev/role";
/// Pod label: `"true"` on pods that the workload's Service may send requests to.
pub const LABEL_TRAFFIC: &str = "perwatt.dev/traffic";
/// Pod label: how many pods of the same name were tried before.
pub const LABEL_ATTEMPT: &str = "perwatt.dev/attempt";

/// Pod annotation: the slot for a person to read, such as `replica-0` or a node's name.
pub const ANNOTATION_SLOT: &str = "perwatt.dev/slot";
/// Pod annotation: the profile of the device that the pod was planned on.
pub const ANNOTATION_PROFILE: &str = "perwatt.dev/profile";
/// Pod annotation: why this variant and node were chosen, and what ruled out the better ones.
pub const ANNOTATION_DECISION: &str = "perwatt.dev/decision";
/// Pod annotation: the runtime's configuration, as the operator gave it.
pub const ANNOTATION_DEGRADED: &str = "perwatt.dev/degraded";
/// Pod annotation: `"true"` on a pod that was made to move its slot from where it was served; the move breaker counts them.
pub const ANNOTATION_MOVE: &str = "perwatt.dev/move";

/// Pod annotation: where the slot's model could not be run although the device was well, as JSON.
pub const ANNOTATION_UNAVAILABLE: &str = "perwatt.dev/unavailable";
/// Pod annotation: the revision that the pod carries beside its own, to be compared with it or to go back to.
pub const ANNOTATION_INCUMBENT: &str = "perwatt.dev/incumbent";
/// Annotation of a ControllerRevision: how far its rollout came, as JSON.
pub const ANNOTATION_ROLLOUT: &str = "perwatt.dev/rollout";

/// PriorityClass of the chart for workloads that give way to all others.
pub const PRIORITY_CLASS_LOW: &str = "perwatt-low";
/// PriorityClass of the chart that a workload has where it names none.
pub const PRIORITY_CLASS_NORMAL: &str = "perwatt-normal";
/// PriorityClass of the chart for workloads that others give way to.
pub const PRIORITY_CLASS_HIGH: &str = "perwatt-high";

/// Prefix of the node annotation that takes a device out of use; the device's id follows it, and the value says why.
pub const ANNOTATION_DRAIN: &str = "drain.perwatt.dev/";

/// Pod label of the chart: which program it is.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// [`LABEL_NAME`] of the node agents.
pub const AGENT: &str = "perwatt-device-plugin";

/// `app.kubernetes.io/managed-by` on everything that the operator makes.
pub const MANAGED_BY: &str = "perwatt-operator";

/// Port of the runtime's Open Inference Protocol REST endpoint.
pub const PORT_REST: i32 = 8080;
/// Port of the runtime's Open Inference Protocol gRPC endpoint.
pub const PORT_GRPC: i32 = 8081;
/// Port of the runtime's metrics, health and evidence.
pub const PORT_OBSERVE: i32 = 9090;

/// Name of the container that runs the model.
pub const CONTAINER_RUNTIME: &str = "runtime";
/// The container of a vendor's server beside the runtime.
pub const CONTAINER_SIDECAR: &str = "sidecar";
/// Where a pod finds the model image.
pub const MODEL_DIR: &str = "/model";
/// Where a pod that carries two revisions finds the model of the new one.
pub const CANDIDATE_DIR: &str = "/candidate";
/// Environment variable with the SHA-256 of the token that commands a runtime.
pub const CONTROL_TOKEN_ENV: &str = "PERWATT_CONTROL_TOKEN_SHA256";
/// Where a runtime keeps its evidence over restarts of its container.
pub const STATE_DIR: &str = "/var/lib/perwatt";
/// Environment variable that names that folder.
pub const STATE_DIR_ENV: &str = "PERWATT_STATE_DIR";
/// Environment variable that holds the runtime's configuration.
pub const RUNTIME_CONFIG_ENV: &str = "PERWATT_CONFIG";
