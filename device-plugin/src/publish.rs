//! Writes the node's DeviceInventory, on transitions alone.

use crate::backoff::Backoff;
use crate::constants::{INVENTORY_COALESCE, INVENTORY_PACE};
use crate::inventory::{build_status, say_the_same};
use crate::known::{Known, NodeFacts};
use crate::metrics::{Metrics, Outcome};
use crate::pace::Pace;
use crate::quiet::{Quiet, root_cause};
use crate::state::{Node, Shared};
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use perwatt_crds::{DeviceInventory, DeviceInventoryStatus};
use serde_json::json;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
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
        // Nobody writes before the first read: the times of transitions come from there.
        let first = self.read(&node_name).await;
        if let Some(status) = first.as_ref().and_then(|object| object.status.as_ref()) {
            adopt_times(&self.shared, status);
        }
        let live = Arc::new(watch::Sender::new(first));
        let watching = watch_live(self.api.clone(), node_name, live.clone());
        tokio::select! {
            () = watching => {}
            () = self.write_all(&live) => {}
        }
    }

    async fn read(&self, node_name: &str) -> Live {
        let mut trouble = Trouble::new("read");
        loop {
            match self.api.get_opt(node_name).await {
                Ok(object) => return object,
                Err(error) => tokio::time::sleep(trouble.pause(&error)).await,
            }
        }
    }

    async fn write_all(&mut self, live: &watch::Sender<Live>) {
        let mut seen = live.subscribe();
        let mut node = self.shared.subscribe();
        let mut trouble = Trouble::new("write");
        let mut pace = Pace::new(INVENTORY_PACE.0, INVENTORY_PACE.1);
        loop {
            let facts = self
                .known
                .borrow_and_update()
                .as_ref()
                .map(|known| known.node.clone());
            let picture = node.borrow_and_update().clone();
            let before = seen.borrow_and_update().clone();
            let wrote = match &facts {
                Some(facts) => self.write(facts, &picture, before).await,
                None => Ok(None),
            };
            match wrote {
                Ok(wrote) => {
                    trouble.ends();
                    if wrote.is_some() {
                        live.send_replace(wrote);
                        self.metrics.wrote_inventory(Outcome::Success);
                        tokio::time::sleep(pace.spend(Instant::now())).await;
                    }
                    tokio::select! {
                        changed = node.changed() => if changed.is_err() { return },
                        changed = self.known.changed() => if changed.is_err() { return },
                        changed = seen.changed() => if changed.is_err() { return },
                    }
                    tokio::time::sleep(INVENTORY_COALESCE).await;
                }
                Err(error) => {
                    self.metrics.wrote_inventory(Outcome::Failure);
                    tokio::time::sleep(trouble.pause(&error)).await;
                }
            }
        }
    }

    /// Writes what differs from `before`; what the API server then says, or nothing where
    /// nothing differs.
    async fn write(&self, facts: &NodeFacts, node: &Node, before: Live) -> Result<Live, kube::Error> {
        let (object, made) = match before {
            Some(object) if is_owned_by(&object, facts) => (object, false),
            _ => {
                let patch = Patch::Apply(build_object(facts));
                (self.api.patch(&facts.name, &apply(), &patch).await?, true)
            }
        };
        let status = build_status(node);
        if object
            .status
            .as_ref()
            .is_some_and(|before| say_the_same(before, &status))
        {
            return Ok(made.then_some(object));
        }
        let patch = Patch::Apply(build_status_object(facts, &status));
        match self.api.patch_status(&facts.name, &apply(), &patch).await {
            // Deleted a moment ago, and the watch has not told yet.
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {
                self.api
                    .patch(&facts.name, &apply(), &Patch::Apply(build_object(facts)))
                    .await?;
                self.api
                    .patch_status(&facts.name, &apply(), &patch)
                    .await
                    .map(Some)
            }
            written => written.map(Some),
        }
    }
}

/// Tells what others do to the inventory, so that it is made again when somebody deletes it.
/// Without the right to watch it, only the agent's own changes are seen.
async fn watch_live(api: Api<DeviceInventory>, name: String, sender: Arc<watch::Sender<Live>>) {
    let mut quiet = Quiet::default();
    let mut events = pin!(watcher::watch_object(api, &name).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(object) => drop(sender.send_replace(object)),
            Err(error) if quiet.is_news(&error.to_string()) => {
                tracing::warn!(error = %root_cause(&error), "cannot watch the DeviceInventory: it is still written");
            }
            Err(_) => {}
        }
    }
    std::future::pending().await
}

/// Tries that fail: told once, and paused between.
struct Trouble {
    verb: &'static str,
    backoff: Backoff,
    quiet: Quiet,
}

impl Trouble {
    fn new(verb: &'static str) -> Self {
        Self {
            verb,
            backoff: Backoff::default(),
            quiet: Quiet::default(),
        }
    }

    fn pause(&mut self, error: &kube::Error) -> Duration {
        let text = root_cause(error);
        if self.quiet.is_news(&text) {
            tracing::warn!(
                "cannot {} the DeviceInventory: {text}; trying on, the kubelet is told all the same",
                self.verb
            );
        }
        self.backoff.pause()
    }

    fn ends(&mut self) {
        self.backoff.reset();
        if self.quiet.clear() {
            tracing::info!("the DeviceInventory is written again");
        }
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
        let mut adopted = false;
        for device in node.devices.values_mut().filter(|device| device.since_start) {
            let before = live.devices.iter().find(|status| status.id == device.found.id);
            if let Some(before) = before.filter(|before| before.health == device.view.health) {
                device.since = before.last_transition_time.0;
                adopted = true;
            }
            device.since_start = false;
        }
        adopted
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
        shared.replace(before.clone());
        adopt_times(&shared, &live);
        assert_eq!(shared.now().devices["chip-0"].since, Timestamp::UNIX_EPOCH);

        before.devices.get_mut("chip-0").unwrap().view.health =
            perwatt_crds::inventory::DeviceHealth::Unhealthy;
        shared.replace(before);
        adopt_times(&shared, &live);
        assert_eq!(shared.now().devices["chip-0"].since, Timestamp::MAX);
    }
}
