#![allow(clippy::unwrap_used)]

use super::*;
use perwatt_crds::names;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// A node with a chip, and a workload for it.
fn objects() -> Objects {
    Objects {
        profiles: vec![object(json!({
            "metadata": {"name": "chip"},
            "spec": {
                "class": "ASIC",
                "discovery": {"emulated": {"count": 1}},
                "lifecycle": {"supportedUntil": "2032-02-29"},
            },
        }))],
        nodes: vec![object(json!({"metadata": {"name": "edge-x"}}))],
        inventories: vec![object(json!({
            "metadata": {"name": "edge-x"},
            "spec": {},
            "status": {"devices": [{
                "id": "chip-0",
                "profile": "chip",
                "class": "ASIC",
                "health": "Unhealthy",
                "reasons": [
                    {"dimension": "thermal", "message": "it is hot"},
                    {"dimension": "firmware", "message": "4.18.1 is blocked"},
                ],
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]},
        }))],
        workloads: vec![object(json!({
            "metadata": {"name": "gate", "namespace": "lines"},
            "spec": {
                "model": {"image": "registry.example/gate@sha256:0"},
                "variants": [],
                "runtime": {"priorityClassName": "swift"},
            },
        }))],
        ..Objects::default()
    }
}

fn class(policy: &str) -> Arc<PriorityClass> {
    object(json!({"metadata": {"name": "swift"}, "value": 7, "preemptionPolicy": policy}))
}

fn world(objects: Objects) -> World {
    Snapshot::of(objects, "runtime", &Evidence::default()).world
}

#[test]
fn the_last_day_of_support_counts_to_its_end() {
    let end = world(objects()).profiles["chip"].supported_until;
    assert_eq!(end, "2032-03-01T00:00:00Z".parse().ok());
}

#[test]
fn what_the_agent_found_of_the_firmware_is_told_apart_from_the_rest() {
    let device = &world(objects()).nodes["edge-x"].devices[0];
    assert_eq!(device.firmware_refused.as_deref(), Some("4.18.1 is blocked"));
    assert_eq!(
        device.health_message,
        "thermal: it is hot; firmware: 4.18.1 is blocked"
    );
}

#[test]
fn a_workload_has_the_priority_of_its_class_or_none_and_the_reason() {
    let with = |policy| Objects {
        priority_classes: vec![class(policy)],
        ..objects()
    };
    let gate = |objects| world(objects).workloads.into_values().next().unwrap();
    let calm = gate(with("Never"));
    assert_eq!((calm.priority, calm.priority_refused), (7, None));
    let pushy = gate(with("PreemptLowerPriority"));
    assert_eq!(pushy.priority, 0);
    assert!(pushy.priority_refused.unwrap().contains("`swift`"));
}

#[test]
fn an_agent_has_its_grace_anew_when_its_node_is_ready_again() {
    let silent_since = |node_ready: &str| {
        let condition = json!([{"type": "Ready", "status": "True", "lastTransitionTime": node_ready}]);
        let node = json!({"metadata": {"name": "edge-x"}, "status": {"conditions": condition}});
        let agent = json!({
            "metadata": {"name": "agent", "namespace": "perwatt-system", "uid": "u1",
                "labels": {"app.kubernetes.io/name": "perwatt-device-plugin"}},
            "spec": {"nodeName": "edge-x", "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-02T00:00:00Z"}]},
        });
        let world = world(Objects {
            nodes: vec![object(node)],
            pods: vec![object(agent)],
            agent_namespace: Some("perwatt-system".into()),
            ..objects()
        });
        world.nodes["edge-x"].agent_silent_since.unwrap().to_string()
    };
    assert_eq!(silent_since("2026-01-01T00:00:00Z"), "2026-01-02T00:00:00Z");
    assert_eq!(silent_since("2026-01-03T00:00:00Z"), "2026-01-03T00:00:00Z");
}

#[test]
fn of_two_pods_of_a_slot_each_has_the_report_of_its_own_device() {
    let device = |id: &str, pod: &str, active: &str, reason: &str| {
        json!({"id": id, "profile": "chip", "class": "ASIC", "health": "Healthy", "lastTransitionTime": "2026-01-01T00:00:00Z",
            "pod": {"namespace": "lines", "name": pod}, "runtime": {"namespace": "lines", "workload": "gate",
            "slot": "replica-0", "revision": "r1", "activeVariant": active, "degraded": !reason.is_empty(),
            "reason": reason, "since": "2026-01-01T00:00:00Z"}})
    };
    let pod = |name: &str| {
        object::<Pod>(json!({
            "metadata": {"name": name, "namespace": "lines", "uid": name,
                "labels": {names::LABEL_REVISION: "r1", names::LABEL_VARIANT: "npu", names::LABEL_ROLE: "serving",
                    names::LABEL_ATTEMPT: "0"},
                "annotations": {names::ANNOTATION_SLOT: "replica-0", names::ANNOTATION_PROFILE: "chip"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "InferenceWorkload", "name": "gate", "uid": "w1",
                    "controller": true}]},
            "spec": {"nodeName": "edge-x", "containers": []},
        }))
    };
    let mut objects = objects();
    let mut gate = (*objects.workloads[0]).clone();
    gate.metadata.uid = Some("w1".into());
    objects.workloads = vec![Arc::new(gate)];
    objects.pods = vec![pod("gate-old"), pod("gate-new"), pod("gate-unnamed")];
    objects.inventories = vec![object(
        json!({"metadata": {"name": "edge-x"}, "spec": {}, "status": {"devices": [
            device("chip-0", "gate-old", "cpu", "LoadFailed"), device("chip-1", "gate-new", "npu", ""),
        ]}}),
    )];
    let pods = world(objects).pods;
    let active = |place: usize| pods[place].owned.as_ref().unwrap().active.clone().unwrap();
    assert_eq!(
        (active(0).name.as_str(), active(0).reason.as_str()),
        ("cpu", "LoadFailed")
    );
    assert_eq!(active(0).since, "2026-01-01T00:00:00Z".parse().ok());
    assert_eq!((active(1).name.as_str(), active(1).reason.as_str()), ("npu", ""));
    assert_eq!(
        active(2).name,
        "npu",
        "which device it holds is not known: one of its slot's"
    );
}
