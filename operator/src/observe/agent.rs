//! Since when the agents of nodes are silent, by the pods of the agent's DaemonSet.
//!
//! An agent writes its inventory on transitions and has no heartbeat: that its pod is ready is what says that the
//! inventory holds. Where a node has no pod of an agent at all, no object tells since when, and none is needed: the
//! kubelet counts the devices of an agent that went away as unhealthy, so that there is nothing to place on. An agent
//! that was installed in another way has no pod either, and is believed.

use super::pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use perwatt_crds::names;
use std::collections::BTreeMap;
use std::sync::Arc;

/// For each node that has pods of the agent the last time at which one was ready; nothing while one is.
///
/// Only pods in `namespace` speak for an agent, or in any where none is given: in others anybody may label pods.
#[must_use]
pub fn silent_since(pods: &[Arc<Pod>], namespace: Option<&str>) -> BTreeMap<String, Timestamp> {
    let is_agent = |pod: &&Arc<Pod>| {
        let name = pod.labels().get(names::LABEL_NAME);
        let has_place = namespace.is_none() || pod.metadata.namespace.as_deref() == namespace;
        has_place && name.is_some_and(|name| name == names::AGENT)
    };
    let mut silent = BTreeMap::<String, Option<Timestamp>>::new();
    for agent in pods.iter().filter(is_agent) {
        let Some(node) = agent.spec.as_ref().and_then(pod::node) else {
            continue;
        };
        let since = not_ready_since(agent);
        let entry = silent.entry(node).or_insert(since);
        *entry = entry.zip(since).map(|(one, other)| one.max(other));
    }
    let silent = silent.into_iter();
    silent.filter_map(|(node, since)| Some((node, since?))).collect()
}

/// Since when a pod is not ready; nothing while it is.
fn not_ready_since(agent: &Pod) -> Option<Timestamp> {
    if pod::is_ready(agent) {
        return None;
    }
    let conditions = agent
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    let changed = ready.and_then(|condition| condition.last_transition_time.as_ref());
    Some(changed.map_or_else(|| pod::created(agent), |time| time.0))
}

/// Since when a node has been ready. Its agent has its whole grace from then on: of a node that was not heard the
/// node controller calls all pods not ready, and its kubelet takes a moment to say otherwise.
#[must_use]
pub fn node_ready_since(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests;
