//! The pod that serves a slot: pinned to its node by affinity, so that the scheduler still
//! accounts for the device, under restricted Pod Security, with the model as an image volume.

use super::pair;
use super::sidecar::{self, build_sidecar};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, HTTPGetAction,
    ImageVolumeSource, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
    PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecurityContext, Toleration,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use perwatt_crds::workload::{PlacementMode, Variant};
use perwatt_crds::{HardwareProfile, InferenceWorkload, InferenceWorkloadSpec, names, schema};
use perwatt_planner::outcome::PodPlan;
use perwatt_planner::slot_hash;
use serde_json::json;
use std::collections::BTreeMap;

/// Most that a runtime's evidence may take on the node's disk; it needs a few kilobytes.
const STATE_LIMIT: &str = "32Mi";

/// The runtime's user and group: no name on the node, no rights.
const USER: i64 = 65532;

/// What a pod carries beside its own revision.
#[derive(Clone, Copy, Debug)]
pub struct Incumbent<'a> {
    /// The revision.
    pub revision: &'a str,
    /// What it runs.
    pub spec: &'a InferenceWorkloadSpec,
    /// SHA-256 of the token that commands the runtime.
    pub token_digest: &'a str,
}

/// The pod of a plan. `profile` is that of the planned device, `priority_class` the class that
/// its workload has.
#[must_use]
pub fn build_pod(
    plan: &PodPlan,
    workload: &InferenceWorkload,
    profile: Option<&HardwareProfile>,
    priority_class: Option<&str>,
    image: &str,
    incumbent: Option<Incumbent<'_>>,
) -> Pod {
    let spec = &workload.spec;
    let mut pod = Pod {
        metadata: ObjectMeta {
            name: Some(plan.name.clone()),
            namespace: Some(plan.workload.namespace.clone()),
            labels: Some(labels(plan)),
            annotations: Some(annotations(plan)),
            owner_references: super::owner(workload).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            affinity: Some(pin(&plan.assignment.node)),
            automount_service_account_token: Some(false),
            containers: vec![container(plan, spec, profile, image)],
            init_containers: profile.and_then(build_sidecar).map(|sidecar| vec![sidecar]),
            enable_service_links: Some(false),
            image_pull_secrets: (!spec.model.pull_secrets.is_empty())
                .then(|| spec.model.pull_secrets.clone()),
            priority_class_name: priority_class.map(str::to_owned),
            runtime_class_name: spec.runtime.runtime_class_name.clone(),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".into(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            termination_grace_period_seconds: Some(30),
            tolerations: Some(tolerations(spec.placement.mode)),
            volumes: Some(volumes(spec)),
            ..PodSpec::default()
        }),
        ..Pod::default()
    };
    if let Some(incumbent) = incumbent {
        pair::carry(&mut pod, plan, spec, profile, incumbent);
    }
    pod
}

pub(super) fn volumes(spec: &InferenceWorkloadSpec) -> Vec<Volume> {
    vec![
        Volume {
            name: "model".into(),
            image: Some(ImageVolumeSource {
                reference: Some(spec.model.image.clone()),
                pull_policy: Some("IfNotPresent".into()),
            }),
            ..Volume::default()
        },
        // It lives as long as the pod: a container that restarts goes on counting where it was.
        Volume {
            name: "state".into(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: None,
                size_limit: Some(Quantity(STATE_LIMIT.into())),
            }),
            ..Volume::default()
        },
    ]
}

fn labels(plan: &PodPlan) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "perwatt-runtime"),
        ("app.kubernetes.io/managed-by", names::MANAGED_BY),
        (names::LABEL_WORKLOAD, &plan.workload.name),
        (names::LABEL_SLOT, &slot_hash(&plan.slot)),
        (names::LABEL_REVISION, &plan.assignment.revision),
        (names::LABEL_VARIANT, &plan.assignment.variant),
        (names::LABEL_ROLE, plan.role.as_str()),
        (names::LABEL_TRAFFIC, "true"),
        (names::LABEL_ATTEMPT, &plan.attempt.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

fn annotations(plan: &PodPlan) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([
        (names::ANNOTATION_SLOT.to_owned(), plan.slot.clone()),
        (names::ANNOTATION_DECISION.to_owned(), plan.decision.clone()),
    ]);
    if let Some(profile) = &plan.assignment.profile {
        annotations.insert(names::ANNOTATION_PROFILE.to_owned(), profile.clone());
    }
    if plan.moved {
        annotations.insert(names::ANNOTATION_MOVE.to_owned(), "true".to_owned());
    }
    if !plan.unavailable.is_empty() {
        let known = json!(plan.unavailable).to_string();
        annotations.insert(names::ANNOTATION_UNAVAILABLE.to_owned(), known);
    }
    if let Some(reason) = &plan.degraded {
        annotations.insert(
            names::ANNOTATION_DEGRADED.to_owned(),
            format!("{}: {}", reason.code.as_str(), reason.message),
        );
    }
    annotations
}

/// Pins a pod to a node and still lets the scheduler account for it.
fn pin(node: &str) -> Affinity {
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm {
        match_fields: Some(vec![field]),
        match_expressions: None,
    };
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: vec![term],
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// The planner, not the taint manager, decides when a slot moves. Pods that belong to a node or site
/// stay under pressure as well: there is nowhere else for them.
fn tolerations(mode: PlacementMode) -> Vec<Toleration> {
    let tolerate = |key: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{key}")),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    let mut tolerations = vec![
        tolerate("not-ready", "NoExecute"),
        tolerate("unreachable", "NoExecute"),
    ];
    if mode != PlacementMode::Replicas {
        let pressures = ["memory-pressure", "disk-pressure", "pid-pressure"];
        tolerations.extend(pressures.iter().map(|key| tolerate(key, "NoSchedule")));
    }
    tolerations
}

/// Adds one device to what a container requests.
pub(super) fn add_device(resources: &mut ResourceRequirements, profile: &HardwareProfile) {
    for amounts in [&mut resources.requests, &mut resources.limits] {
        amounts
            .get_or_insert_default()
            .insert(profile.resource_name(), Quantity("1".into()));
    }
}

/// What restricted Pod Security asks of every container.
pub(super) fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            add: None,
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// Where a container finds the model.
pub(super) fn model_mount() -> VolumeMount {
    VolumeMount {
        name: "model".into(),
        mount_path: names::MODEL_DIR.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

fn container(
    plan: &PodPlan,
    spec: &InferenceWorkloadSpec,
    profile: Option<&HardwareProfile>,
    image: &str,
) -> Container {
    let mut resources = resources(spec);
    // A sidecar requests the device itself: two containers that ask would get two.
    if let Some(profile) = profile.filter(|profile| profile.sidecar().is_none()) {
        add_device(&mut resources, profile);
    }
    Container {
        name: names::CONTAINER_RUNTIME.into(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".into()),
        env: Some(vec![
            variable(
                names::RUNTIME_CONFIG_ENV,
                runtime_config(plan, spec, profile).to_string(),
            ),
            variable(names::STATE_DIR_ENV, names::STATE_DIR.into()),
        ]),
        ports: Some(vec![
            port("rest", names::PORT_REST),
            port("grpc", names::PORT_GRPC),
            port("observe", names::PORT_OBSERVE),
        ]),
        resources: Some(resources),
        security_context: Some(restricted()),
        // A model may take a minute to load; once up, only the process itself is watched, so
        // that no probe wakes a sleeping chip.
        startup_probe: Some(probe("/startupz", 1, 120)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![
            model_mount(),
            VolumeMount {
                name: "state".into(),
                mount_path: names::STATE_DIR.into(),
                ..VolumeMount::default()
            },
        ]),
        ..Container::default()
    }
}

pub(super) fn variable(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: Some(value),
        ..EnvVar::default()
    }
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(names::PORT_OBSERVE),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// CPU and memory of the runtime container: the workload's, or our defaults.
#[must_use]
pub fn resources(spec: &InferenceWorkloadSpec) -> ResourceRequirements {
    spec.runtime.resources.clone().unwrap_or_else(default_resources)
}

/// What a server of one small model needs.
#[must_use]
pub fn default_resources() -> ResourceRequirements {
    let amount = |pairs: &[(&str, &str)]| {
        Some(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())))
                .collect(),
        )
    };
    ResourceRequirements {
        requests: amount(&[("cpu", "50m"), ("memory", "64Mi")]),
        limits: amount(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

/// The configuration of the runtime: the chain that it may use inside this pod.
pub(super) fn runtime_config(
    plan: &PodPlan,
    spec: &InferenceWorkloadSpec,
    profile: Option<&HardwareProfile>,
) -> serde_json::Value {
    let names = std::iter::once(&plan.assignment.variant).chain(&plan.stand_ins);
    let degraded = plan
        .degraded
        .as_ref()
        .map(|reason| json!({"reason": reason.code.as_str(), "message": reason.message}));
    json!({
        "workload": plan.workload.name,
        "namespace": plan.workload.namespace,
        "slot": plan.slot,
        "node": plan.assignment.node,
        "revision": plan.assignment.revision,
        "variants": runtime_chain(names, &plan.assignment.variant, spec, profile),
        "degraded": degraded,
        "locality": spec.placement.locality,
        "minimumAccuracyPermille": spec.fallback.minimum_accuracy_permille,
        "recoveryStableForMilliseconds": schema::to_std(&spec.fallback.recovery.stable_for).as_millis() as u64,
    })
}

/// The variants of these names; the one that is `on_device` has the device.
pub(super) fn runtime_chain<'a>(
    names: impl Iterator<Item = &'a String>,
    on_device: &str,
    spec: &InferenceWorkloadSpec,
    profile: Option<&HardwareProfile>,
) -> Vec<serde_json::Value> {
    names
        .filter_map(|name| spec.variants.iter().find(|variant| &variant.name == name))
        .map(|variant| runtime_variant(variant, variant.name == on_device, profile))
        .collect()
}

fn runtime_variant(
    variant: &Variant,
    on_device: bool,
    profile: Option<&HardwareProfile>,
) -> serde_json::Value {
    let mut entry = json!({
        "name": variant.name,
        "accuracyPermille": variant.quality.as_ref().map(|quality| quality.accuracy_permille),
    });
    let mut set = |field: &str, value| {
        if let Some(entry) = entry.as_object_mut() {
            entry.insert(field.to_owned(), value);
        }
    };
    if let Some(artifact) = &variant.artifact {
        set("artifact", json!(artifact.path));
    }
    if let Some(remote) = &variant.remote {
        set(
            "remote",
            json!({"endpoint": remote.endpoint, "model": remote.model}),
        );
    }
    if on_device {
        match profile.and_then(HardwareProfile::sidecar) {
            Some(sidecar) => set("remote", sidecar::runtime_remote(sidecar)),
            None => set(
                "profile",
                json!(profile.and_then(|profile| profile.metadata.name.as_ref())),
            ),
        }
    }
    entry
}
