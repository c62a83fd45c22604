//! The nodes' side: kubelets that start pods or refuse them, and processes that die.

use crate::server::Server;
use crate::{RESOURCE, key};
use k8s_openapi::api::core::v1::Pod;
use perwatt_operator::observe::pod::{is_ready, node, requests};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The slots that a pod is ready for.
pub fn ready(server: &Server) -> BTreeSet<String> {
    server
        .pods()
        .iter()
        .filter(|pod| is_ready(pod))
        .map(slot)
        .collect()
}

/// The slot that a pod is for.
pub fn slot(pod: &Pod) -> String {
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.get("perwatt.dev/slot").cloned().unwrap_or_default()
}

/// A process dies; gives its slot.
pub fn kill_pod(server: &mut Server, random: &mut fastrand::Rng) -> Option<String> {
    let pods: Vec<_> = server
        .objects
        .keys()
        .filter(|key| key.0 == "pods")
        .cloned()
        .collect();
    let chosen = random.choice(pods)?;
    let mut object = server.objects[&chosen].clone();
    object["status"] = json!({"phase": "Failed", "reason": "Error"});
    let killed = server.put(chosen, object);
    Some(slot(&serde_json::from_value(killed).unwrap()))
}

/// Whether a pod was planned on a device.
pub fn on_device(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .iter()
        .flatten()
        .any(|(name, _)| name == "perwatt.dev/profile")
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

/// Binds and starts pods; refuses those whose device another has.
pub fn run_kubelets(server: &mut Server) {
    let mut held = BTreeMap::<String, i64>::new();
    let mut pods = server.pods();
    pods.retain(holds);
    pods.sort_by_key(|pod| pod.status.is_none());
    for pod in pods {
        let spec = pod.spec.as_ref().unwrap();
        let on = node(spec).unwrap_or_default();
        let taken = held.entry(on.clone()).or_default();
        let fits = *taken + device_requests(&pod) <= 1;
        let status = if fits {
            *taken += device_requests(&pod);
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
        } else {
            json!({"phase": "Failed", "reason": "UnexpectedAdmissionError"})
        };
        let key = key("pods", "default", pod.metadata.name.as_deref().unwrap());
        let mut object = server.objects[&key].clone();
        if object["status"] != status {
            object["status"] = status;
            object["spec"]["nodeName"] = json!(on);
            server.put(key, object);
        }
    }
}
