#![allow(clippy::unwrap_used)]

use super::*;
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
