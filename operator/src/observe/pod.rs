//! Pods as the planner sees them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, ResourceRequirements};
use kube::ResourceExt;
use perwatt_crds::{InferenceWorkload, names, quantity};
use perwatt_planner::unavailable::Unavailable;
use perwatt_planner::world::{OwnedPod, PodState, Resources, Role, WorkloadKey};

/// Waiting reasons that are a container's ordinary start.
const ORDINARY_WAITING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Drops what no decision needs: thousands of pods lie in memory.
pub fn trim(pod: &mut Pod) {
    let ours = pod.labels().contains_key(names::LABEL_WORKLOAD);
    if !ours {
        pod.annotations_mut().clear();
        pod.labels_mut()
            .retain(|label, value| label == names::LABEL_NAME && value == names::AGENT);
    }
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        spec.tolerations = None;
        spec.security_context = None;
        if spec.node_name.is_some() {
            spec.affinity = None;
        }
        for container in spec
            .containers
            .iter_mut()
            .chain(spec.init_containers.iter_mut().flatten())
        {
            *container = Container {
                name: std::mem::take(&mut container.name),
                resources: container.resources.take(),
                restart_policy: container.restart_policy.take(),
                ..Container::default()
            };
        }
    }
    if let Some(status) = &mut pod.status {
        status.host_ips = None;
        status.pod_ips = None;
        for container in status
            .container_statuses
            .iter_mut()
            .chain(status.init_container_statuses.iter_mut())
            .flatten()
        {
            *container = ContainerStatus {
                name: std::mem::take(&mut container.name),
                ready: container.ready,
                restart_count: container.restart_count,
                state: container.state.take(),
                last_state: container.last_state.take(),
                ..ContainerStatus::default()
            };
        }
    }
}

/// What a pod requests, as the scheduler counts it: containers and sidecars together, or the
/// largest start-up container where that is more, and the overhead of its runtime class.
#[must_use]
pub fn requests(spec: &PodSpec) -> Resources {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let starting = spec.init_containers.iter().flatten();
    let mut running = Resources {
        pods: 1,
        ..Resources::default()
    };
    for container in spec.containers.iter().chain(starting.clone().filter(is_sidecar)) {
        add(&mut running, &container_requests(container.resources.as_ref()));
    }
    for container in starting.filter(|container| !is_sidecar(container)) {
        raise(&mut running, &container_requests(container.resources.as_ref()));
    }
    for (name, amount) in spec.overhead.iter().flatten() {
        add(&mut running, &single(name, amount));
    }
    running
}

/// The node that a pod is bound to, or that our own affinity pins it to.
#[must_use]
pub fn node(spec: &PodSpec) -> Option<String> {
    let pinned = || {
        let required = spec
            .affinity
            .as_ref()?
            .node_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()?;
        let field = required
            .node_selector_terms
            .first()?
            .match_fields
            .as_ref()?
            .first()?;
        field.values.as_ref()?.first().cloned()
    };
    spec.node_name.clone().or_else(pinned)
}

/// What we know of a pod of ours; nothing where it is no pod of `workload` as it exists now.
#[must_use]
pub fn owned(pod: &Pod, workload: &InferenceWorkload) -> Option<OwnedPod> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))?;
    if Some(&owner.uid) != workload.metadata.uid.as_ref() {
        return None;
    }
    let label = |key: &str| pod.labels().get(key).cloned();
    Some(OwnedPod {
        workload: WorkloadKey {
            namespace: pod.namespace()?,
            name: owner.name.clone(),
        },
        slot: pod.annotations().get(names::ANNOTATION_SLOT)?.clone(),
        revision: label(names::LABEL_REVISION)?,
        variant: label(names::LABEL_VARIANT)?,
        profile: pod.annotations().get(names::ANNOTATION_PROFILE).cloned(),
        role: match label(names::LABEL_ROLE)?.as_str() {
            "bridge" => Role::Bridge,
            _ => Role::Serving,
        },
        attempt: label(names::LABEL_ATTEMPT)?.parse().ok()?,
        state: state(pod),
        created: created(pod),
        active: None,
        moved: pod
            .annotations()
            .get(names::ANNOTATION_MOVE)
            .is_some_and(|moved| moved == "true"),
        unavailable: unavailable(pod),
    })
}

/// Where its slot's model could not be run, as known when the pod was made. What cannot be read is forgotten: the model
/// is tried there once more.
fn unavailable(pod: &Pod) -> Vec<Unavailable> {
    let known = pod.annotations().get(names::ANNOTATION_UNAVAILABLE);
    known
        .and_then(|known| serde_json::from_str(known).ok())
        .unwrap_or_default()
}

/// When the pod was made.
#[must_use]
pub fn created(pod: &Pod) -> Timestamp {
    pod.metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// How a pod is doing.
#[must_use]
pub fn state(pod: &Pod) -> PodState {
    if pod.metadata.deletion_timestamp.is_some() {
        return PodState::Terminating;
    }
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or_default();
    if phase == "Failed" || phase == "Succeeded" {
        return failed(pod, phase);
    }
    if is_ready(pod) {
        return PodState::Ready;
    }
    let (reason, message) = starting(pod).unwrap_or_default();
    PodState::Starting { reason, message }
}

/// Whether the runtime of a pod runs, ready or not.
#[must_use]
pub fn is_running(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|status| status.phase.as_deref() == Some("Running") && status.pod_ip.is_some())
}

/// Whether the kubelet says that the pod is ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn failed(pod: &Pod, phase: &str) -> PodState {
    let status = pod.status.clone().unwrap_or_default();
    let transitions = status
        .conditions
        .iter()
        .flatten()
        .filter_map(|condition| condition.last_transition_time.as_ref());
    let at = transitions
        .map(|time| time.0)
        .max()
        .or(status.start_time.map(|time| time.0));
    let (container_reason, container_message) = terminated(&status.container_statuses.unwrap_or_default());
    PodState::Failed {
        reason: status
            .reason
            .or(container_reason)
            .unwrap_or_else(|| phase.to_owned()),
        message: status.message.or(container_message).unwrap_or_default(),
        at: at.unwrap_or_else(|| created(pod)),
    }
}

/// Reason and message of the first container that ended.
fn terminated(containers: &[ContainerStatus]) -> (Option<String>, Option<String>) {
    let ended = containers
        .iter()
        .find_map(|container| container.state.as_ref()?.terminated.as_ref());
    (
        ended.and_then(|state| state.reason.clone()),
        ended.and_then(|state| state.message.clone()),
    )
}

/// Why a pod cannot start, where the kubelet or the scheduler says so.
fn starting(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(status.container_statuses.iter())
        .flatten();
    for container in containers {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else {
            continue;
        };
        let reason = waiting.reason.clone().unwrap_or_default();
        if reason.is_empty() || ORDINARY_WAITING.contains(&reason.as_str()) {
            continue;
        }
        // What the program last said is worth more than "back-off restarting failed container".
        let said = container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref()?.message.clone());
        let message = said
            .filter(|text| !text.trim().is_empty())
            .or(waiting.message.clone())
            .unwrap_or_default();
        return Some((reason, message.trim().to_owned()));
    }
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some((
        unscheduled
            .reason
            .clone()
            .unwrap_or_else(|| "Unschedulable".to_owned()),
        unscheduled.message.clone().unwrap_or_default(),
    ))
}

/// Requests of a container; an amount that is only limited is requested too.
fn container_requests(resources: Option<&ResourceRequirements>) -> Resources {
    let mut total = Resources::default();
    let Some(resources) = resources else { return total };
    let requests = resources.requests.clone().unwrap_or_default();
    for (name, amount) in &requests {
        add(&mut total, &single(name, amount));
    }
    for (name, amount) in resources.limits.iter().flatten() {
        if !requests.contains_key(name) {
            add(&mut total, &single(name, amount));
        }
    }
    total
}

/// One amount of one resource.
#[must_use]
pub fn single(name: &str, amount: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Resources {
    let mut resources = Resources::default();
    match name {
        "cpu" => resources.cpu_millis = quantity::milli(amount).unwrap_or(0),
        "memory" => resources.memory_bytes = quantity::units(amount).unwrap_or(0),
        "pods" => resources.pods = quantity::units(amount).unwrap_or(0),
        name if name.contains('/') => {
            resources
                .extended
                .insert(name.to_owned(), quantity::units(amount).unwrap_or(0));
        }
        _ => {}
    }
    resources
}

/// Adds `more` to `total`.
pub fn add(total: &mut Resources, more: &Resources) {
    total.cpu_millis = total.cpu_millis.saturating_add(more.cpu_millis);
    total.memory_bytes = total.memory_bytes.saturating_add(more.memory_bytes);
    total.pods = total.pods.saturating_add(more.pods);
    for (name, amount) in &more.extended {
        let entry = total.extended.entry(name.clone()).or_default();
        *entry = entry.saturating_add(*amount);
    }
}

/// Raises `total` to `other` where that is more.
fn raise(total: &mut Resources, other: &Resources) {
    total.cpu_millis = total.cpu_millis.max(other.cpu_millis);
    total.memory_bytes = total.memory_bytes.max(other.memory_bytes);
    for (name, amount) in &other.extended {
        let entry = total.extended.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A pod of ours with everything that a kubelet says.
    fn running() -> Pod {
        let pod = json!({
            "metadata": {
                "name": "gate-1", "namespace": "audio", "uid": "u1", "creationTimestamp": "2026-03-01T10:00:00Z",
                "labels": {names::LABEL_WORKLOAD: "gate"}, "annotations": {names::ANNOTATION_SLOT: "edge-x"},
            },
            "spec": {
                "nodeName": "edge-x", "tolerations": [{"operator": "Exists"}], "securityContext": {"runAsUser": 7},
                "containers": [{"name": "runtime", "image": "i", "resources": {"requests": {"cpu": "30m"}}}],
            },
            "status": {
                "phase": "Running", "podIP": "10.1.1.1", "podIPs": [{"ip": "10.1.1.1"}],
                "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [{
                    "name": "runtime", "image": "i", "imageID": "sha256:11", "containerID": "containerd://22", "ready": false,
                    "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                    "lastState": {"terminated": {"exitCode": 1, "message": "no model"}},
                }],
            },
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn what_is_dropped_changes_no_decision() {
        let (whole, mut trimmed) = (running(), running());
        trim(&mut trimmed);
        let spec = |pod: &Pod| pod.spec.clone().expect("a spec");
        assert_eq!(state(&trimmed), state(&whole));
        assert_eq!(requests(&spec(&trimmed)), requests(&spec(&whole)));
        assert_eq!(node(&spec(&trimmed)).as_deref(), Some("edge-x"));
        assert_eq!(trimmed.metadata, whole.metadata);
        assert_eq!(
            trimmed.status.expect("a status").pod_ip.as_deref(),
            Some("10.1.1.1")
        );
    }

    #[test]
    fn what_a_pod_knows_of_its_model_is_read_and_garbage_is_nothing() {
        let known = |text: &str| {
            let mut pod = running();
            pod.annotations_mut()
                .insert(names::ANNOTATION_UNAVAILABLE.to_owned(), text.to_owned());
            unavailable(&pod)
        };
        let text = r#"[{"variant":"npu","profile":"chip","node":"edge-x","device":"chip-0","reason":"LoadFailed",
            "since":"2026-03-01T10:00:00Z","until":"2026-03-01T10:11:00Z","times":1}]"#;
        let read = known(text);
        assert_eq!((read[0].device.as_deref(), read[0].times), (Some("chip-0"), 1));
        let written = serde_json::to_value(&read).expect("JSON");
        assert_eq!(
            written,
            serde_json::from_str::<serde_json::Value>(text).expect("JSON")
        );
        assert_eq!(known("[{"), []);
        assert_eq!(known(r#"[{"variant": "npu"}]"#), []);
    }

    #[test]
    fn a_pod_that_is_not_bound_keeps_the_node_that_it_is_pinned_to() {
        let mut pod = running();
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["edge-y"]}]});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
        if let Some(spec) = &mut pod.spec {
            spec.node_name = None;
            spec.affinity = serde_json::from_value(affinity).expect("an affinity");
        }
        trim(&mut pod);
        assert_eq!(pod.spec.as_ref().and_then(node).as_deref(), Some("edge-y"));
    }
}
