#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::{Value, json};

/// A pod of the agent on `edge-x`, as the operator's store keeps it.
fn agent(namespace: &str, ready: Option<(&str, &str)>) -> Arc<Pod> {
    let conditions: Vec<Value> = ready
        .into_iter()
        .map(|(status, at)| json!({"type": "Ready", "status": status, "lastTransitionTime": at}))
        .collect();
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "agent-1", "namespace": namespace, "uid": "u1", "creationTimestamp": "2026-03-01T10:00:00Z",
            "labels": {"app.kubernetes.io/name": "perwatt-device-plugin", "app.kubernetes.io/part-of": "perwatt"},
        },
        "spec": {
            "containers": [],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["edge-x"]}]},
            ]}}},
        },
        "status": {"phase": "Running", "conditions": conditions},
    }))
    .unwrap();
    pod::trim(&mut pod);
    Arc::new(pod)
}

fn silent(pods: &[Arc<Pod>]) -> Option<String> {
    let silent = silent_since(pods, Some("perwatt-system"));
    silent.get("edge-x").map(ToString::to_string)
}

const EARLY: &str = "2026-03-01T11:00:00Z";
const LATE: &str = "2026-03-01T12:00:00Z";

#[test]
fn an_agent_is_silent_since_its_pod_was_ready_last() {
    assert_eq!(silent(&[agent("perwatt-system", Some(("True", EARLY)))]), None);
    let ended = agent("perwatt-system", Some(("False", EARLY)));
    assert_eq!(silent(&[ended]).as_deref(), Some(EARLY));
}

#[test]
fn a_pod_that_no_node_has_taken_yet_is_silent_since_it_was_made() {
    let waits = agent("perwatt-system", None);
    assert_eq!(silent(&[waits]).as_deref(), Some("2026-03-01T10:00:00Z"));
}

#[test]
fn of_several_pods_the_last_that_was_ready_counts_and_one_that_is_ready_ends_it() {
    let of = |status, at| agent("perwatt-system", Some((status, at)));
    let both = [of("False", LATE), of("False", EARLY)];
    assert_eq!(silent(&both).as_deref(), Some(LATE));
    assert_eq!(silent(&[of("False", LATE), of("True", EARLY)]), None);
    assert_eq!(silent(&[of("True", EARLY), of("False", LATE)]), None);
}

#[test]
fn only_the_operators_own_namespace_speaks_for_agents() {
    let elsewhere = agent("shop", Some(("False", EARLY)));
    assert_eq!(silent(std::slice::from_ref(&elsewhere)), None);
    assert_eq!(
        silent_since(&[elsewhere], None).len(),
        1,
        "where nobody says which"
    );
}

#[test]
fn a_node_without_a_pod_of_an_agent_is_believed() {
    assert_eq!(silent(&[]), None);
}

#[test]
fn a_node_is_ready_since_its_condition_changed() {
    let node: Node = serde_json::from_value(json!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": LATE},
    ]}}))
    .unwrap();
    assert_eq!(node_ready_since(&node), LATE.parse().ok());
}
