//! What users, devices and processes do, between passes and in the middle of one.

use crate::kubelet::{is_serving, served_by};
use crate::server::{Key, Server};
use crate::{NODES, WORKLOADS, key};
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug)]
pub enum Disturbance {
    /// A device is healthy or not.
    Health(usize, bool),
    /// A node is cordoned or not.
    Cordon(usize, bool),
    /// A pod's process dies for good.
    Kill(usize),
    /// A pod's process starts anew.
    Restart(usize),
    /// A user wants so many replicas.
    Scale(usize, u8),
    /// A user wants another model.
    Revise(usize, u8),
    /// A user deletes a workload, or makes it anew.
    Toggle(usize),
    /// Somebody deletes what the operator made: a pod, a service, a disruption budget or a revision.
    Uproot(usize),
}

impl Disturbance {
    pub fn draw(random: &mut fastrand::Rng) -> Option<Self> {
        let which = random.usize(..2);
        match random.u8(..32) {
            0..=2 => Some(Self::Health(which, random.bool())),
            3 => Some(Self::Cordon(which, random.bool())),
            4 => Some(Self::Kill(random.usize(..64))),
            5 => Some(Self::Restart(random.usize(..64))),
            6 => Some(Self::Scale(which, random.u8(1..3))),
            7 => Some(Self::Revise(which, random.u8(..3))),
            8 if random.bool() => Some(Self::Toggle(which)),
            9 => Some(Self::Uproot(random.usize(..64))),
            _ => None,
        }
    }

    /// Whether it may come between the read of a survivor and the delete that rests on it: no program can tell
    /// whether the survivor died a moment after it was read.
    pub fn spares_pods(&self) -> bool {
        !matches!(self, Self::Kill(_) | Self::Restart(_) | Self::Uproot(_))
    }

    pub fn strike(self, server: &mut Server) {
        match self {
            Self::Health(node, healthy) => {
                let at = server.now.to_string();
                let inventory = inventory(NODES[node], healthy, &at);
                server.put(key("deviceinventories", "", NODES[node]), inventory);
            }
            Self::Cordon(node, cordoned) => server.change(&key("nodes", "", NODES[node]), |node| {
                node["spec"] = json!({"unschedulable": cordoned});
            }),
            Self::Kill(place) => end(server, place, &json!({"phase": "Failed", "reason": "Error"})),
            Self::Restart(place) => end(server, place, &json!({"phase": "Running"})),
            Self::Scale(workload, replicas) => edit(server, WORKLOADS[workload], |spec| {
                spec["replicas"] = json!(replicas);
            }),
            Self::Revise(workload, model) => edit(server, WORKLOADS[workload], |spec| {
                spec["model"]["image"] = json!(image(model));
            }),
            Self::Toggle(workload) => {
                let name = WORKLOADS[workload];
                if server.remove(&workload_key(name)).is_none() {
                    put_workload(server, name, 1, 0);
                }
                server.served.retain(|(workload, _)| workload != name);
            }
            Self::Uproot(place) => uproot(server, place),
        }
    }
}

pub fn workload_key(name: &str) -> Key {
    key("inferenceworkloads", "default", name)
}

/// The image of a model.
pub fn image(model: u8) -> String {
    format!("registry.example/gate@sha256:{}", model.to_string().repeat(64))
}

/// Makes a workload anew.
pub fn put_workload(server: &mut Server, name: &str, replicas: u8, model: u8) {
    let spec = json!({"model": {"image": image(model)}, "replicas": replicas,
        "fallback": {"recovery": {"stableFor": "5s"}}, "variants": [
            {"name": "npu", "device": {"profiles": ["asic"]}, "artifact": {"path": "a.onnx"}},
            {"name": "cpu", "deviceLess": "CPU", "artifact": {"path": "a.onnx"}}]});
    server.wanted.insert(name.into(), spec.clone());
    server.put(
        workload_key(name),
        json!({"apiVersion": "perwatt.dev/v1alpha1", "kind": "InferenceWorkload",
            "metadata": {"name": name, "namespace": "default", "generation": 1}, "spec": spec}),
    );
}

/// A user's edit of a workload, where it is there.
pub fn edit(server: &mut Server, name: &str, change: impl FnOnce(&mut Value)) {
    let Some(spec) = server.wanted.get_mut(name) else {
        return;
    };
    let before = spec.clone();
    change(spec);
    let spec = spec.clone();
    if spec != before {
        server.change(&workload_key(name), |workload| {
            let generation = workload["metadata"]["generation"].as_u64().unwrap_or_default();
            workload["metadata"]["generation"] = json!(generation + 1);
            workload["spec"] = spec;
        });
    }
}

pub fn inventory(node: &str, healthy: bool, at: &str) -> Value {
    let health = if healthy { "Healthy" } else { "Unhealthy" };
    json!({"metadata": {"name": node}, "spec": {}, "status": {"devices": [
        {"id": "d0", "profile": "asic", "class": "ASIC", "health": health, "lastTransitionTime": at}]}})
}

/// One of the pods that run gets this status.
fn end(server: &mut Server, place: usize, status: &Value) {
    let running = server.pods().filter(|(_, pod)| is_serving(pod));
    let running: Vec<Key> = running.map(|(key, _)| key.clone()).collect();
    if let Some(chosen) = chosen(&running, place) {
        server.change(chosen, |pod| pod["status"] = status.clone());
        owe_what_is_left(server);
    }
}

fn uproot(server: &mut Server, place: usize) {
    let ours = server
        .objects
        .iter()
        .filter(|(_, object)| object["metadata"]["ownerReferences"].is_array());
    let ours: Vec<Key> = ours.map(|(key, _)| key.clone()).collect();
    if let Some(chosen) = chosen(&ours, place) {
        server.delete(chosen, &Value::Null);
        owe_what_is_left(server);
    }
}

fn chosen(keys: &[Key], place: usize) -> Option<&Key> {
    keys.get(place.checked_rem(keys.len())?)
}

/// A slot is owed nothing more where no pod that serves it is left.
fn owe_what_is_left(server: &mut Server) {
    let left = served_by(server);
    server.served.retain(|slot| left.contains(slot));
}
