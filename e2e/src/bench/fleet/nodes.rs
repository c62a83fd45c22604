//! The fleet's nodes, in sites, and their inventories.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use perwatt_crds::DeviceInventory;
use serde_json::{Value, json};

use super::{Fleet, NAMESPACE, RESOURCE};
use crate::bench::failed;
use crate::cluster::Cluster;
use crate::product::Result;

/// How many sites there are; nodes are of one after the other.
pub const SITES: usize = 10;
/// Label with a node's site.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The site that goes dark.
pub const DARK_SITE: &str = "site-0";
/// Writes in flight at once.
const WRITES: usize = 32;
/// Thousands of nodes on a small machine take a while.
const PATIENCE: Duration = Duration::from_secs(900);

/// How many nodes [`DARK_SITE`] has.
pub fn dark(size: usize) -> usize {
    (0..size).filter(|place| site(*place) == DARK_SITE).count()
}

/// Name of the node at a place.
fn name(place: usize) -> String {
    format!("fleet-{place:05}")
}

/// Whether a node of this name is of [`DARK_SITE`].
pub fn is_dark(node: &str) -> bool {
    let place = node.strip_prefix("fleet-").and_then(|place| place.parse().ok());
    place.is_some_and(|place| site(place) == DARK_SITE)
}

fn site(place: usize) -> String {
    format!("site-{}", place % SITES)
}

/// Makes all nodes, and what their agents would have said of their devices.
pub async fn create(fleet: &Fleet) -> Result<()> {
    let nodes: Api<Node> = Api::all(fleet.cluster.client()?);
    let user = format!("system:serviceaccount:{NAMESPACE}:inventories");
    let writer = fleet.cluster.client_as(&user)?;
    let (nodes, writer) = (&nodes, &writer);
    stream::iter(0..fleet.size)
        .map(|place| async move { create_one(nodes, writer, place).await })
        .buffer_unordered(WRITES)
        .try_collect::<()>()
        .await
}

async fn create_one(nodes: &Api<Node>, writer: &Client, place: usize) -> Result<()> {
    let made = nodes.create(&PostParams::default(), &parse(node(place))?).await?;
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": made.name_any(), "uid": made.uid()});
    let inventory = json!({
        "apiVersion": "perwatt.dev/v1alpha1", "kind": "DeviceInventory",
        "metadata": {"name": made.name_any(), "ownerReferences": [owner]}, "spec": {},
    });
    let inventories: Api<DeviceInventory> = Api::all(writer.clone());
    inventories
        .create(&PostParams::default(), &parse(inventory)?)
        .await?;
    let status = Patch::Merge(json!({"status": {"devices": [device()]}}));
    inventories
        .patch_status(&made.name_any(), &PatchParams::default(), &status)
        .await?;
    Ok(())
}

fn parse<K: serde::de::DeserializeOwned>(object: Value) -> Result<K> {
    serde_json::from_value(object).map_err(|error| failed("an object of the fleet", error))
}

/// A node that says that it is ready: kwok need not write each once more before it renews their leases.
fn node(place: usize) -> Value {
    let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "110", RESOURCE: "1"});
    let now = Timestamp::now().to_string();
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name(place), "labels": {
            "kubernetes.io/hostname": name(place), "kubernetes.io/os": "linux", ZONE: site(place),
        }},
        "status": {
            "phase": "Running", "conditions": [ready], "capacity": resources, "allocatable": resources,
        },
    })
}

fn device() -> Value {
    json!({
        "id": "fleet-asic-0", "profile": "fleet-asic", "class": "ASIC", "emulated": true,
        "health": "Healthy", "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// Ready, and nothing keeps pods away.
pub fn is_usable(node: &Node) -> bool {
    let tainted = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    ready(node) == Some("True") && tainted.is_none_or(Vec::is_empty)
}

/// Silent for so long that the node controller says so, by condition and by taints.
pub fn is_lost(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let unreachable = taints.filter(|taint| taint.key == "node.kubernetes.io/unreachable");
    ready(node) == Some("Unknown") && unreachable.count() == 2
}

fn ready(node: &Node) -> Option<&str> {
    let mut conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready")?;
    Some(&ready.status)
}

/// Waits until so many of the nodes with these labels are as `wanted` says.
pub async fn until_all(
    cluster: &Cluster,
    labels: &str,
    count: usize,
    wanted: fn(&Node) -> bool,
) -> Result<()> {
    let api: Api<Node> = Api::all(cluster.client()?);
    let mut events = pin!(watcher(api, watcher::Config::default().labels(labels)).default_backoff());
    let mut reached = HashSet::new();
    let all = async {
        while let Some(event) = events.next().await {
            // What fails is tried again by the watcher.
            match event {
                Ok(Event::Apply(node) | Event::InitApply(node)) if wanted(&node) => {
                    reached.insert(node.name_any());
                }
                Ok(Event::Apply(node) | Event::InitApply(node) | Event::Delete(node)) => {
                    reached.remove(&node.name_any());
                }
                Ok(Event::Init | Event::InitDone) | Err(_) => {}
            }
            if reached.len() == count {
                return;
            }
        }
    };
    let waited = tokio::time::timeout(PATIENCE, all).await;
    waited.map_err(|_| {
        let what = format!(
            "{} of {count} nodes ({labels}) are as they should be",
            reached.len()
        );
        failed(what, format!("not so after {} s", PATIENCE.as_secs()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_fleet_goes_dark() {
        assert_eq!(dark(5_000), 500);
        assert!(is_dark(&name(120)) && !is_dark(&name(121)) && !is_dark("other-00000"));
    }

    #[test]
    fn a_node_is_lost_once_both_taints_say_so() {
        let lost = |taints: Value| {
            let node = json!({
                "spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
            });
            is_lost(&serde_json::from_value(node).expect("a node"))
        };
        let taint = |effect: &str| json!({"key": "node.kubernetes.io/unreachable", "effect": effect});
        assert!(!lost(json!([taint("NoSchedule")])));
        assert!(lost(json!([taint("NoSchedule"), taint("NoExecute")])));
    }
}
