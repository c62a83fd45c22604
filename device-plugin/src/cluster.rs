//! Watches the API server: the node's own labels, and every HardwareProfile.

use crate::backoff::Backoff;
use crate::known::{Known, NodeFacts, read_drained};
use crate::metrics::Metrics;
use crate::quiet::{Quiet, root_cause};
use crate::readiness::Readiness;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::watcher as watch_all;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use perwatt_crds::{HardwareProfile, HardwareProfileSpec};
use std::collections::BTreeMap;
use std::pin::pin;
use tokio::sync::mpsc;

/// What `/readyz` says while nothing was heard from the API server.
const SUBJECT: &str = "api server";

/// Tells `sender` what the API server knows, whenever it changes.
#[derive(Debug)]
pub struct Watch {
    /// Name of the own node.
    pub node_name: String,
    /// Who is told.
    pub sender: mpsc::Sender<Known>,
    /// Whether the API server answers.
    pub metrics: Metrics,
    /// Where it is said that it does not.
    pub readiness: Readiness,
}

impl Watch {
    /// Runs until the receiver is gone. While the API server is away it waits, and what was
    /// told last stays true.
    pub async fn run(self, client: Client) {
        let fields = watcher::Config::default().fields(&format!("metadata.name={}", self.node_name));
        let nodes = watch_all(Api::<PartialObjectMeta<Node>>::all(client.clone()), fields);
        let mut nodes = pin!(patient(nodes));
        // Decoded one by one: a profile that this version cannot read must not hide the others.
        let kind = ApiResource::erase::<HardwareProfile>(&());
        let profiles = watch_all(
            Api::<DynamicObject>::all_with(client, &kind),
            watcher::Config::default(),
        );
        let mut profiles = pin!(patient(profiles));
        let mut seen = Seen::default();
        let mut quiet = Quiet::default();
        loop {
            let error = tokio::select! {
                event = next(&mut nodes) => seen.node_event(event),
                event = next(&mut profiles) => seen.profile_event(event),
            };
            match error {
                Some(error) => self.tell_trouble(&error, &mut quiet),
                None if seen.failing == 0 => self.tell_recovery(&mut quiet),
                None => {}
            }
            if let Some(known) = seen.known(&self.node_name)
                && self.sender.send(known).await.is_err()
            {
                return;
            }
        }
    }

    fn tell_trouble(&self, error: &watcher::Error, quiet: &mut Quiet) {
        // Every watch ends so after a while without news; the next listing mends it.
        if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            return;
        }
        self.metrics.api_watch(false);
        let text = format!("cannot watch the API server: {}", root_cause(error));
        if quiet.is_news(&text) {
            tracing::warn!("{text}; devices stay served as they are");
        }
        // With a checkpoint the node is served all the same, and the subject is ready already.
        self.readiness.amend(SUBJECT, text);
    }

    fn tell_recovery(&self, quiet: &mut Quiet) {
        self.metrics.api_watch(true);
        if quiet.clear() {
            tracing::info!("the API server answers again");
        }
    }
}

/// Says in `/readyz` that nothing is known yet.
pub fn wait_for_api_server(readiness: &Readiness) {
    readiness.waits(
        SUBJECT,
        "nothing heard yet of the node and the hardware profiles, and no checkpoint",
    );
}

/// Something is known: from the API server or from the checkpoint.
pub fn is_known(readiness: &Readiness) {
    readiness.ready(SUBJECT);
}

/// Pauses before each further try. The library's own back-off starts anew with every try,
/// because a watch says `Init` before it fails again.
fn patient<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let start = (Box::pin(events), Backoff::default(), false);
    futures::stream::unfold(start, |(mut events, mut backoff, failed)| async move {
        if failed {
            tokio::time::sleep(backoff.pause()).await;
        }
        let event = events.next().await?;
        if !matches!(event, Err(_) | Ok(Event::Init)) {
            backoff.reset();
        }
        let failed = event.is_err();
        Some((event, (events, backoff, failed)))
    })
}

/// The watch streams of kube do not end.
async fn next<S: Stream + Unpin>(stream: &mut S) -> S::Item {
    match stream.next().await {
        Some(item) => item,
        None => std::future::pending().await,
    }
}

/// What the watches have told so far.
#[derive(Debug, Default)]
struct Seen {
    node: Option<NodeFacts>,
    profiles: BTreeMap<String, HardwareProfileSpec>,
    /// Collected during a first or repeated listing, which replaces what was there.
    listing: Option<BTreeMap<String, HardwareProfileSpec>>,
    listed: bool,
    failing: u8,
    unreadable: BTreeMap<String, String>,
}

const NODES: u8 = 1;
const PROFILES: u8 = 2;

impl Seen {
    fn node_event(
        &mut self,
        event: watcher::Result<Event<PartialObjectMeta<Node>>>,
    ) -> Option<watcher::Error> {
        match event {
            Ok(Event::Apply(node) | Event::InitApply(node)) => {
                let (labels, drained) = (node.labels().clone(), read_drained(node.annotations()));
                self.node = Some(NodeFacts {
                    name: node.name_any(),
                    uid: node.uid(),
                    labels,
                    drained,
                });
            }
            // A node that is gone comes back with its kubelet; its devices stay what they are.
            Ok(Event::Delete(_) | Event::Init | Event::InitDone) => {}
            Err(error) => {
                self.failing |= NODES;
                return Some(error);
            }
        }
        self.failing &= !NODES;
        None
    }

    fn profile_event(&mut self, event: watcher::Result<Event<DynamicObject>>) -> Option<watcher::Error> {
        match event {
            Ok(Event::Init) => self.listing = Some(BTreeMap::new()),
            Ok(Event::InitApply(object)) => {
                if let Some(spec) = self.read(&object) {
                    self.listing
                        .get_or_insert_default()
                        .insert(object.name_any(), spec);
                }
            }
            Ok(Event::InitDone) => {
                self.profiles = self.listing.take().unwrap_or_default();
                self.listed = true;
            }
            Ok(Event::Apply(object)) => {
                if let Some(spec) = self.read(&object) {
                    self.profiles.insert(object.name_any(), spec);
                }
            }
            Ok(Event::Delete(object)) => {
                self.profiles.remove(&object.name_any());
            }
            Err(error) => {
                self.failing |= PROFILES;
                return Some(error);
            }
        }
        self.failing &= !PROFILES;
        None
    }

    /// The spec of a profile; where it cannot be read, the last one that could.
    fn read(&mut self, object: &DynamicObject) -> Option<HardwareProfileSpec> {
        let name = object.name_any();
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        match serde_json::from_value(spec) {
            Ok(spec) => {
                self.unreadable.remove(&name);
                Some(spec)
            }
            Err(error) => {
                let text = error.to_string();
                if self.unreadable.insert(name.clone(), text.clone()) != Some(text) {
                    tracing::warn!(profile = %name, %error, "this version of the agent cannot read the profile: left as it was");
                }
                self.profiles.get(&name).cloned()
            }
        }
    }

    /// Both watches have told something whole.
    fn known(&self, node_name: &str) -> Option<Known> {
        let node = self.node.clone().filter(|node| node.name == node_name)?;
        (self.listed && self.listing.is_none()).then(|| Known {
            node,
            profiles: self.profiles.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, spec: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "perwatt.dev/v1alpha1", "kind": "HardwareProfile",
            "metadata": {"name": name}, "spec": spec,
        }))
        .unwrap()
    }

    fn chip() -> DynamicObject {
        object(
            "chip",
            json!({"class": "ASIC", "discovery": {"emulated": {"count": 1}}}),
        )
    }

    fn node() -> PartialObjectMeta<Node> {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {
                "name": "edge-a", "uid": "u", "labels": {"a": "b"},
                "annotations": {"drain.perwatt.dev/chip-0": "a fan", "other.example/chip-1": ""},
            },
        }))
        .unwrap()
    }

    #[test]
    fn nothing_is_told_before_both_are_whole() {
        let mut seen = Seen::default();
        seen.profile_event(Ok(Event::Init));
        seen.profile_event(Ok(Event::InitApply(chip())));
        seen.node_event(Ok(Event::InitApply(node())));
        assert_eq!(seen.known("edge-a"), None);
        seen.profile_event(Ok(Event::InitDone));
        let known = seen.known("edge-a").unwrap();
        assert_eq!(known.profiles.len(), 1);
        assert_eq!(known.node.labels["a"], "b");
        let drained: Vec<_> = known.node.drained.iter().collect();
        assert_eq!(drained, [(&"chip-0".to_owned(), &"a fan".to_owned())]);
        assert_eq!(seen.known("edge-b"), None);
    }

    #[test]
    fn a_profile_that_cannot_be_read_hides_no_other_and_stays_as_it_was() {
        let mut seen = Seen::default();
        seen.node_event(Ok(Event::Apply(node())));
        seen.profile_event(Ok(Event::Init));
        seen.profile_event(Ok(Event::InitApply(object("odd", json!({"class": "Quantum"})))));
        seen.profile_event(Ok(Event::InitApply(chip())));
        seen.profile_event(Ok(Event::InitDone));
        assert_eq!(seen.known("edge-a").unwrap().profiles.len(), 1);
        seen.profile_event(Ok(Event::Apply(object("chip", json!({"class": 7})))));
        assert_eq!(seen.known("edge-a").unwrap().profiles.len(), 1);
        seen.profile_event(Ok(Event::Delete(chip())));
        assert!(seen.known("edge-a").unwrap().profiles.is_empty());
    }

    #[tokio::test]
    async fn a_watch_that_fails_again_and_again_is_tried_ever_less_often() {
        let failing = futures::stream::iter((0..).map(|n| match n % 2 {
            0 => Ok(Event::<Node>::Init),
            _ => Err(watcher::Error::NoResourceVersion),
        }));
        let start = std::time::Instant::now();
        pin!(patient(failing)).take(10).collect::<Vec<_>>().await;
        // Five failures: four pauses of which each is twice the one before, less a quarter.
        let least = crate::constants::BACKOFF.0 * (1 + 2 + 4 + 8) * 3 / 4;
        assert!(start.elapsed() >= least, "{:?}", start.elapsed());
    }

    #[test]
    fn a_new_listing_replaces_the_old_one() {
        let mut seen = Seen::default();
        seen.node_event(Ok(Event::Apply(node())));
        seen.profile_event(Ok(Event::Init));
        seen.profile_event(Ok(Event::InitApply(chip())));
        seen.profile_event(Ok(Event::InitDone));
        seen.profile_event(Ok(Event::Init));
        assert_eq!(seen.known("edge-a"), None);
        seen.profile_event(Ok(Event::InitDone));
        assert!(seen.known("edge-a").unwrap().profiles.is_empty());
    }
}
