//! What must hold after every pass, and what must be there in the end.

use crate::disturb::workload_key;
use crate::kubelet::{device_requests, holds, is_serving, on_device, served_by};
use crate::schedule::Outcome;
use crate::server::Server;
use crate::{NODES, WORKLOADS, key};
use k8s_openapi::api::core::v1::Pod;
use perwatt_operator::observe::pod::node;
use serde_json::Value;

/// What must hold after every pass.
pub fn invariants(server: &Server) -> Outcome {
    if let Some((workload, slot)) = server.served.difference(&served_by(server)).next() {
        return Err(format!(
            "a gap: no pod of {slot} of {workload} serves, and no fault took the last"
        ));
    }
    for (_, pod) in server.pods() {
        if pod.metadata.owner_references.as_ref().is_none_or(Vec::is_empty) {
            return Err("a pod has no owner".into());
        }
        if on_device(pod) && device_requests(pod) == 0 {
            return Err("a pod is planned on a device that it does not request".into());
        }
    }
    for name in NODES {
        let here = |pod: &&Pod| holds(pod) && pod.spec.as_ref().and_then(node).as_deref() == Some(name);
        let pods = server.pods().map(|(_, pod)| pod).filter(here);
        let booked: Vec<_> = pods.filter(|pod| device_requests(pod) > 0).collect();
        if booked.len() > 1 {
            let of = |pod: &&Pod| (pod.metadata.name.clone().unwrap_or_default(), is_serving(pod));
            let pods: Vec<_> = booked.iter().map(of).collect();
            return Err(format!(
                "the device of {name} is booked twice (pod, serving): {pods:?}"
            ));
        }
    }
    for (name, wanted) in &server.wanted {
        let there = server.objects.get(&workload_key(name));
        if there.is_some_and(|workload| workload["spec"] != *wanted) {
            return Err(format!("somebody else than its user wrote the spec of {name}"));
        }
    }
    Ok(())
}

/// What must be there when all faults have ended.
pub fn desired(server: &Server) -> Outcome {
    for name in WORKLOADS {
        served_as_wanted(server, name)?;
        reported(server, name)?;
    }
    let pods = server.pods().map(|(_, pod)| pod);
    let on: Vec<_> = pods
        .filter(|pod| on_device(pod))
        .filter_map(|pod| node(pod.spec.as_ref()?))
        .collect();
    if on != [NODES[0]] {
        return Err(format!(
            "one slot is wanted on the healthy device, they are on {on:?}"
        ));
    }
    Ok(())
}

fn served_as_wanted(server: &Server, name: &str) -> Outcome {
    let workload = &server.objects[&workload_key(name)];
    let label = |pod: &Pod| pod.metadata.labels.clone()?.get("perwatt.dev/workload").cloned();
    let pods = server.pods().map(|(_, pod)| pod);
    let pods: Vec<_> = pods.filter(|pod| label(pod).as_deref() == Some(name)).collect();
    let serving = pods.iter().filter(|pod| is_serving(pod)).count();
    let wanted = workload["spec"]["replicas"].as_u64().unwrap_or_default();
    if serving as u64 != wanted || pods.len() != serving {
        return Err(format!(
            "{wanted} slots of {name} are to be served by one pod each, {serving} of {} pods serve",
            pods.len()
        ));
    }
    let slots = served_by(server);
    let slots = slots.iter().filter(|(workload, _)| workload == name).count();
    if slots as u64 != wanted {
        return Err(format!("{wanted} slots of {name} are wanted, {slots} are served"));
    }
    let model = workload["spec"]["model"]["image"].as_str();
    if pods.iter().any(|pod| mounted(pod) != model) {
        return Err(format!("a pod of {name} runs another model than {model:?}"));
    }
    Ok(())
}

fn mounted(pod: &Pod) -> Option<&str> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let image = volumes.iter().find_map(|volume| volume.image.as_ref())?;
    image.reference.as_deref()
}

fn reported(server: &Server, name: &str) -> Outcome {
    let workload = &server.objects[&workload_key(name)];
    let (generation, status) = (&workload["metadata"]["generation"], &workload["status"]);
    let replicas = &workload["spec"]["replicas"];
    if &status["observedGeneration"] != generation || &status["readySlots"] != replicas {
        return Err(format!(
            "generation {generation} and {replicas} ready slots of {name} are wanted in the status {status}"
        ));
    }
    let has = |plural| server.objects.contains_key(&key(plural, "default", name));
    if !has("services") {
        return Err(format!("there is no service of {name}"));
    }
    if has("poddisruptionbudgets") != (replicas.as_u64() > Some(1)) {
        return Err(format!("{name} has a disruption budget, or none, and should not"));
    }
    let revision = |(key, entry): (&crate::Key, &Value)| {
        key.0 == "controllerrevisions" && entry["metadata"]["labels"]["perwatt.dev/workload"] == name
    };
    if !server.objects.iter().any(revision) {
        return Err(format!("there is no revision of {name}"));
    }
    Ok(())
}
