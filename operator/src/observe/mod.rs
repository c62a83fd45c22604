//! Reading the cluster: the only place that watches. Every watch feeds one store; any change
//! wakes the planning loop, which takes a snapshot of all stores at once.

pub mod agent;
pub mod assumed;
pub mod pod;
pub mod priority;
pub mod snapshot;
pub mod spec;

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Client, Resource, ResourceExt};
use perwatt_crds::{
    DeviceInventory, EdgeSite, HardwareProfile, InferenceWorkload, RolloutApproval, RolloutPolicy, names,
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::Notify;

/// What was seen of the cluster, one store a kind.
#[derive(Clone)]
pub struct Stores {
    /// All nodes.
    pub nodes: Store<Node>,
    /// All pods, trimmed to what planning needs: foreign ones hold resources too.
    pub pods: Store<Pod>,
    /// The services that we made.
    pub services: Store<Service>,
    /// The disruption budgets that we made.
    pub budgets: Store<PodDisruptionBudget>,
    /// The revisions that we made.
    pub revisions: Store<ControllerRevision>,
    /// All workloads.
    pub workloads: Store<InferenceWorkload>,
    /// All profiles.
    pub profiles: Store<HardwareProfile>,
    /// All inventories.
    pub inventories: Store<DeviceInventory>,
    /// All sites.
    pub sites: Store<EdgeSite>,
    /// All PriorityClasses.
    pub priority_classes: Store<PriorityClass>,
    /// All rollout policies.
    pub policies: Store<RolloutPolicy>,
    /// What persons decided about rollouts.
    pub approvals: Store<RolloutApproval>,
}

/// The watches could not be started or have ended.
#[derive(Debug, thiserror::Error)]
#[error("the watch of {kind} ended before its first list")]
pub struct WatchEnded {
    kind: &'static str,
}

impl Stores {
    /// Starts every watch; `changed` is notified at each change of a store.
    #[must_use]
    pub fn start(client: &Client, changed: &Arc<Notify>) -> Self {
        let ours = || {
            let label = format!("app.kubernetes.io/managed-by={}", names::MANAGED_BY);
            watcher::Config::default().labels(&label)
        };
        let every = watcher::Config::default;
        Self {
            nodes: watch(Api::all(client.clone()), every(), changed, trim_node),
            pods: watch(Api::all(client.clone()), every(), changed, pod::trim),
            services: watch(Api::all(client.clone()), ours(), changed, |_| ()),
            budgets: watch(Api::all(client.clone()), ours(), changed, |_| ()),
            revisions: watch(Api::all(client.clone()), ours(), changed, |_| ()),
            workloads: watch(Api::all(client.clone()), every(), changed, |_| ()),
            profiles: watch(Api::all(client.clone()), every(), changed, |_| ()),
            inventories: watch(Api::all(client.clone()), every(), changed, |_| ()),
            sites: watch(Api::all(client.clone()), every(), changed, |_| ()),
            priority_classes: watch(Api::all(client.clone()), every(), changed, |_| ()),
            policies: watch(Api::all(client.clone()), every(), changed, |_| ()),
            approvals: watch(Api::all(client.clone()), every(), changed, |_| ()),
        }
    }

    /// Waits until every store holds its first list: planning on less would move what it cannot see.
    ///
    /// # Errors
    /// When a watch ended.
    pub async fn wait_until_ready(&self) -> Result<(), WatchEnded> {
        let ended = |kind| move |_| WatchEnded { kind };
        self.nodes.wait_until_ready().await.map_err(ended("nodes"))?;
        self.pods.wait_until_ready().await.map_err(ended("pods"))?;
        self.services
            .wait_until_ready()
            .await
            .map_err(ended("services"))?;
        self.budgets
            .wait_until_ready()
            .await
            .map_err(ended("poddisruptionbudgets"))?;
        self.revisions
            .wait_until_ready()
            .await
            .map_err(ended("controllerrevisions"))?;
        self.workloads
            .wait_until_ready()
            .await
            .map_err(ended("inferenceworkloads"))?;
        self.profiles
            .wait_until_ready()
            .await
            .map_err(ended("hardwareprofiles"))?;
        self.inventories
            .wait_until_ready()
            .await
            .map_err(ended("deviceinventories"))?;
        self.sites.wait_until_ready().await.map_err(ended("edgesites"))?;
        self.priority_classes
            .wait_until_ready()
            .await
            .map_err(ended("priorityclasses"))?;
        self.policies
            .wait_until_ready()
            .await
            .map_err(ended("rolloutpolicies"))?;
        self.approvals
            .wait_until_ready()
            .await
            .map_err(ended("rolloutapprovals"))
    }
}

/// Watches one kind into a store for the life of the process, with back-off on errors.
fn watch<K>(api: Api<K>, config: watcher::Config, changed: &Arc<Notify>, trim: fn(&mut K)) -> Store<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let (store, writer) = reflector::store();
    let changed = Arc::clone(changed);
    let stream = patient(watcher(api, config), DefaultBackoff::default())
        .modify(move |object| {
            object.managed_fields_mut().clear();
            trim(object);
        })
        .reflect(writer);
    tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        let mut said = None;
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(_) => {
                    if said.take().is_some() {
                        tracing::info!(kind = %K::kind(&()), "the watch works again");
                    }
                    changed.notify_one();
                }
                Err(error) => say_once(&K::kind(&()), &error, &mut said),
            }
        }
    });
    store
}

/// Pauses before each further try. The library's own adapter starts anew with every try, because
/// a watch says `Init` before it fails again.
fn patient<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    backoff: impl Backoff + 'static,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send {
    let start = (Box::pin(events), backoff, false);
    futures::stream::unfold(start, |(mut events, mut backoff, failed)| async move {
        if failed && let Some(pause) = backoff.next() {
            tokio::time::sleep(pause).await;
        }
        let event = events.next().await?;
        if !matches!(event, Err(_) | Ok(Event::Init)) {
            backoff.reset();
        }
        let failed = event.is_err();
        Some((event, (events, backoff, failed)))
    })
}

/// An API server that is away for hours is one line a cause, not one a try.
fn say_once(kind: &str, error: &watcher::Error, said: &mut Option<String>) {
    let text = error.to_string();
    if said.as_ref() != Some(&text) {
        tracing::warn!(
            kind,
            error = text,
            "watch failed, trying again with growing pauses"
        );
        *said = Some(text);
    }
}

/// Images, versions and addresses of nodes are the bulk of them, and no decision needs them; of conditions it is `Ready`.
fn trim_node(node: &mut Node) {
    node.annotations_mut().clear();
    if let Some(status) = &mut node.status {
        status.images = None;
        status.addresses = None;
        status.capacity = None;
        status.node_info = None;
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| condition.type_ == "Ready");
        }
        status.volumes_in_use = None;
        status.volumes_attached = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Duration;

    /// Notes the pauses it was asked for and when it was told to start anew; pauses for no time.
    #[derive(Clone, Default)]
    struct Noting(Arc<Mutex<Vec<&'static str>>>);

    impl Iterator for Noting {
        type Item = Duration;
        fn next(&mut self) -> Option<Duration> {
            self.0.lock().unwrap().push("pause");
            Some(Duration::ZERO)
        }
    }

    impl Backoff for Noting {
        fn reset(&mut self) {
            self.0.lock().unwrap().push("reset");
        }
    }

    #[tokio::test]
    async fn lists_that_fail_never_start_the_pauses_anew_and_a_success_does() {
        let fails = || Err(watcher::Error::NoResourceVersion);
        let events = vec![
            Ok(Event::Init),
            fails(),
            Ok(Event::Init),
            fails(),
            Ok(Event::Init),
            Ok(Event::InitDone),
            fails(),
            Ok(Event::<Pod>::Init),
        ];
        let noted = Noting::default();
        let seen = patient(futures::stream::iter(events), noted.clone())
            .count()
            .await;
        assert_eq!(seen, 8);
        assert_eq!(*noted.0.lock().unwrap(), ["pause", "pause", "reset", "pause"]);
    }
}
