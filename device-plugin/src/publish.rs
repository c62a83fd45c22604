//! Writes the node's DeviceInventory, on transitions alone.

use crate::backoff::Backoff;
use crate::constants::{INVENTORY_COALESCE, INVENTORY_PACE};
use crate::inventory::{build_status, say_the_same};
use crate::known::{Known, NodeFacts};
use crate::metrics::{Metrics, Outcome};
use crate::quiet::Quiet;
use crate::state::{Node, Shared};
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use perwatt_crds::{DeviceInventory, DeviceInventoryStatus};
use serde_json::json;
use std::pin::pin;
use tokio::sync::watch;

/// Field manager of the inventory.
const FIELD_MANAGER: &str = "perwatt-device-plugin";

/// Writes the inventory of one node.
pub struct Publisher {
    api: Api<DeviceInventory>,
    known: watch::Receiver<Option<Known>>,
    shared: Shared,
    metrics: Metrics,
}

/// What the API server says now, as far as the watch has told.
type Live = Option<DeviceInventory>;

impl Publisher {
    /// For the node that `known` speaks of.
    #[must_use]
    pub fn new(
        client: Client,
        known: watch::Receiver<Option<Known>>,
        shared: Shared,
        metrics: Metrics,
    ) -> Self {
        Self {
            api: Api::all(client),
            known,
            shared,
            metrics,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self, node_name: String) {
        // Nobody may write before the first read: the times of transitions come from there.
        let (sender, live) = watch::channel(None);
        let (api, name) = (self.api.clone(), node_name.clone());
        let reading = async move {
            let mut events = pin!(watcher::watch_object(api, &name).default_backoff());
            while let Some(event) = events.next().await {
                if let Ok(object) = event {
                    sender.send_replace(Some(object));
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = self.write_all(live) => {}
        }
    }

    async fn write_all(&mut self, mut live: watch::Receiver<Option<Live>>) {
        let mut node = self.shared.subscribe();
        let mut backoff = Backoff::default();
        let mut quiet = Quiet::default();
        if live.wait_for(Option::is_some).await.is_err() {
            return;
        }
        if let Some(status) = live.borrow().clone().flatten().and_then(|object| object.status) {
            adopt_times(&self.shared, &status);
        }
        loop {
            let facts = self
                .known
                .borrow_and_update()
                .as_ref()
                .map(|known| known.node.clone());
            let picture = node.borrow_and_update().clone();
            let seen = live.borrow_and_update().clone().flatten();
            let wrote = match facts {
                Some(facts) => self.write(&facts, &picture, seen).await,
                None => Ok(false),
            };
            match wrote {
                Ok(wrote) => {
                    backoff.reset();
                    if quiet.clear() {
                        tracing::info!("the inventory is written again");
                    }
                    if wrote {
                        self.metrics.wrote_inventory(Outcome::Success);
                        tokio::time::sleep(INVENTORY_PACE).await;
                    }
                    tokio::select! {
                        changed = node.changed() => if changed.is_err() { return },
                        changed = self.known.changed() => if changed.is_err() { return },
                        changed = live.changed() => if changed.is_err() { return },
                    }
                    tokio::time::sleep(INVENTORY_COALESCE).await;
                }
                Err(error) => {
                    self.metrics.wrote_inventory(Outcome::Failure);
                    if quiet.is_news(&error.to_string()) {
                        tracing::warn!(%error, "cannot write the DeviceInventory: trying on; the kubelet is told all the same");
                    }
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Writes what differs; tells whether anything did.
    async fn write(&self, facts: &NodeFacts, node: &Node, seen: Live) -> Result<bool, kube::Error> {
        let mut wrote = false;
        let object = match seen {
            Some(object) if is_owned_by(&object, facts) => object,
            _ => {
                wrote = true;
                self.api
                    .patch(&facts.name, &apply(), &Patch::Apply(build_object(facts)))
                    .await?
            }
        };
        let status = build_status(node);
        if object
            .status
            .as_ref()
            .is_some_and(|before| say_the_same(before, &status))
        {
            return Ok(wrote);
        }
        self.api
            .patch_status(
                &facts.name,
                &apply(),
                &Patch::Apply(build_status_object(facts, &status)),
            )
            .await?;
        Ok(true)
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn is_owned_by(object: &DeviceInventory, facts: &NodeFacts) -> bool {
    let Some(uid) = &facts.uid else { return true };
    let owners = object.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| owner.uid == *uid)
}

fn build_object(facts: &NodeFacts) -> serde_json::Value {
    let owners: Vec<_> = facts
        .uid
        .iter()
        .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": facts.name, "uid": uid}))
        .collect();
    json!({
        "apiVersion": "perwatt.dev/v1alpha1",
        "kind": "DeviceInventory",
        "metadata": {
            "name": facts.name,
            "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
            "ownerReferences": owners,
        },
        "spec": {},
    })
}

fn build_status_object(facts: &NodeFacts, status: &DeviceInventoryStatus) -> serde_json::Value {
    json!({
        "apiVersion": "perwatt.dev/v1alpha1",
        "kind": "DeviceInventory",
        "metadata": {"name": facts.name},
        "status": status,
    })
}

/// An agent that starts without a checkpoint takes over since when its devices are what they are.
fn adopt_times(shared: &Shared, live: &DeviceInventoryStatus) {
    shared.update(|node| {
        for device in node.devices.values_mut().filter(|device| device.since_start) {
            let before = live.devices.iter().find(|status| status.id == device.found.id);
            if let Some(before) = before.filter(|before| before.health == device.view.health) {
                device.since = before.last_transition_time.0;
            }
            device.since_start = false;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::paths::Paths;
    use jiff::Timestamp;
    use std::path::Path;

    #[test]
    fn times_are_taken_over_where_the_health_is_the_same() {
        let shared = Shared::default();
        let mut before = fixtures::node(&Paths::below(Path::new("/nowhere")));
        let live = build_status(&before);
        let device = before.devices.get_mut("chip-0").unwrap();
        (device.since, device.since_start) = (Timestamp::MAX, true);
        shared.update(|node| *node = before.clone());
        adopt_times(&shared, &live);
        assert_eq!(shared.now().devices["chip-0"].since, Timestamp::UNIX_EPOCH);

        before.devices.get_mut("chip-0").unwrap().view.health =
            perwatt_crds::inventory::DeviceHealth::Unhealthy;
        shared.update(|node| *node = before);
        adopt_times(&shared, &live);
        assert_eq!(shared.now().devices["chip-0"].since, Timestamp::MAX);
    }
}
