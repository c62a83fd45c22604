//! The operator of a simulation, and the cluster that it finds.

use crate::bug::Bug;
use crate::disturb::{inventory, put_workload};
use crate::server::{Server, Shared, connect};
use crate::views::Views;
use crate::{NODES, RESOURCE, WORKLOADS, key};
use perwatt_operator::evidence::Evidence;
use perwatt_operator::metrics::Metrics;
use perwatt_operator::pass::Pass;
use perwatt_operator::rollout::collect::Seen;
use perwatt_operator::rollout::key::ControlKey;
use perwatt_operator::settings::Settings;
use serde_json::json;
use std::time::Duration;

fn settings() -> Settings {
    Settings {
        runtime_image: "registry.example/runtime:1".into(),
        listen: ([127, 0, 0, 1], 0).into(),
        namespace: "perwatt-system".into(),
        identity: "simulated".into(),
        evidence_interval: Duration::from_secs(10),
        move_limit: 100,
        move_percent: 20,
        move_window: Duration::from_secs(600),
        move_reset: None,
        agent_grace: Duration::from_secs(120),
        move_manual: false,
    }
}

/// A process that has just begun to lead.
pub fn start_operator(server: &Shared, views: &Views) -> Pass {
    Pass::new(
        connect(server),
        settings(),
        views.stores(),
        Evidence::default(),
        Metrics::default(),
        (ControlKey::new([7; 32]), Seen::default()),
    )
}

/// Two nodes with a device each, and two workloads of one replica.
pub fn start_cluster(bug: Option<Bug>) -> Server {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut server = Server::default();
    server.now = now;
    server.bug = bug;
    for name in NODES {
        server.put(
            key("nodes", "", name),
            json!({"metadata": {"name": name}, "spec": {}, "status": {
            "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110", RESOURCE: "1"},
            "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        server.put(
            key("deviceinventories", "", name),
            inventory(name, true, &now.to_string()),
        );
    }
    server.put(
        key("hardwareprofiles", "", "asic"),
        json!({
        "apiVersion": "perwatt.dev/v1alpha1", "kind": "HardwareProfile", "metadata": {"name": "asic"},
        "spec": {"class": "ASIC", "capabilities": {"precisions": ["float32"]}}}),
    );
    for name in WORKLOADS {
        put_workload(&mut server, name, 1, 0);
    }
    server
}
