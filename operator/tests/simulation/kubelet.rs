//! The nodes' side: scheduler, kubelets, garbage collector.

use crate::server::{Key, Server};
use crate::{NODES, RESOURCE, key};
use k8s_openapi::api::core::v1::Pod;
use perwatt_operator::observe::pod::{is_ready, node, requests};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Workload and slot.
pub type Served = (String, String);

/// The slots of workloads, as they exist now, that a pod serves.
pub fn served_by(server: &Server) -> BTreeSet<Served> {
    let serving = server.pods().map(|(_, pod)| pod).filter(|pod| is_serving(pod));
    serving.filter_map(|pod| slot(server, pod)).collect()
}

/// Ready, and not on its way out.
pub fn is_serving(pod: &Pod) -> bool {
    is_ready(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn slot(server: &Server, pod: &Pod) -> Option<Served> {
    let owner = pod.metadata.owner_references.as_ref()?.first()?;
    let workload = server.objects.get(&crate::disturb::workload_key(&owner.name))?;
    let annotations = pod.metadata.annotations.as_ref()?;
    let slot = annotations.get("perwatt.dev/slot")?;
    (workload["metadata"]["uid"] == owner.uid.as_str()).then(|| (owner.name.clone(), slot.clone()))
}

/// Whether a pod was planned on a device.
pub fn on_device(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key("perwatt.dev/profile"))
}

/// How many devices a pod requests.
pub fn device_requests(pod: &Pod) -> i64 {
    let requested = pod.spec.as_ref().map(requests).unwrap_or_default();
    requested.extended.get(RESOURCE).copied().unwrap_or_default()
}

/// Whether a pod holds what it requests.
pub fn holds(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Failed" | "Succeeded"))
}

/// One turn of them all; `chance` says whether what may go wrong or take longer does.
pub fn run(server: &mut Server, mut chance: impl FnMut() -> bool) {
    collect_garbage(server);
    let stopping = |(_, pod): &(&Key, &Pod)| pod.metadata.deletion_timestamp.is_some();
    for key in keys(server, stopping) {
        server.remove(&key);
    }
    for name in NODES {
        offer_devices(server, name);
    }
    for key in keys(server, |(_, pod)| holds(pod) && !is_ready(pod)) {
        if !chance() {
            start(server, &key, &mut chance);
        }
    }
    server.listed = server
        .pods()
        .filter(|(_, pod)| is_serving(pod))
        .map(|(key, _)| key.2.clone())
        .collect();
}

fn keys(server: &Server, which: impl Fn(&(&Key, &Pod)) -> bool) -> Vec<Key> {
    server.pods().filter(which).map(|(key, _)| key.clone()).collect()
}

/// What has an owner goes with it.
fn collect_garbage(server: &mut Server) {
    let uids: BTreeSet<_> = server
        .objects
        .values()
        .filter_map(|object| object["metadata"]["uid"].as_str())
        .collect();
    let is_orphan = |object: &Value| {
        let owner = object["metadata"]["ownerReferences"][0]["uid"].as_str();
        owner.is_some_and(|owner| !uids.contains(owner))
    };
    let orphans = server.objects.iter().filter(|(_, object)| is_orphan(object));
    let orphans: Vec<_> = orphans.map(|(key, _)| key.clone()).collect();
    for key in orphans {
        server.remove(&key);
    }
}

/// The kubelet offers devices that are healthy.
fn offer_devices(server: &mut Server, name: &str) {
    let inventory = &server.objects[&key("deviceinventories", "", name)];
    let healthy = inventory["status"]["devices"][0]["health"] == "Healthy";
    let offered = json!(if healthy { "1" } else { "0" });
    server.change(&key("nodes", "", name), |node| {
        node["status"]["allocatable"][RESOURCE] = offered;
    });
}

/// The scheduler binds a pod, and its kubelet starts it.
fn start(server: &mut Server, key: &Key, chance: &mut impl FnMut() -> bool) {
    let pod = &server.objects[key];
    let bound = pod["spec"]["nodeName"].as_str().map(str::to_owned);
    let pinned = server.pod(key).and_then(|pod| node(pod.spec.as_ref()?));
    let on = bound.clone().or(pinned).unwrap_or_default();
    let status = if bound.is_some() {
        if pod["status"]["phase"] == "Pending" && chance() {
            json!({"phase": "Failed", "reason": "UnexpectedAdmissionError"})
        } else {
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
        }
    } else if has_room(server, key, &on) {
        json!({"phase": "Pending"})
    } else {
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "Insufficient devices"}]})
    };
    let binds = status == json!({"phase": "Pending"});
    server.change(key, |pod| {
        pod["status"] = status;
        if binds {
            pod["spec"]["nodeName"] = json!(on);
        }
    });
}

fn has_room(server: &Server, key: &Key, on: &str) -> bool {
    let Some(node) = server.objects.get(&crate::key("nodes", "", on)) else {
        return false;
    };
    let offered: i64 = node["status"]["allocatable"][RESOURCE]
        .as_str()
        .unwrap_or("0")
        .parse()
        .unwrap_or_default();
    let bound = |pod: &&Pod| {
        holds(pod)
            && pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.node_name.as_deref() == Some(on))
    };
    let taken: i64 = server
        .pods()
        .map(|(_, pod)| pod)
        .filter(bound)
        .map(device_requests)
        .sum();
    let wanted = server.pod(key).map(device_requests).unwrap_or_default();
    node["spec"]["unschedulable"] != true && (wanted == 0 || taken + wanted <= offered)
}
