//! What a watch sees of the fleet's pods.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use perwatt_crds::names;
use tokio::task::JoinHandle;

use super::NAMESPACE;
use super::nodes::is_dark;
use crate::bench::failed;
use crate::product::Result;

/// How often is looked whether something came about; moments are those of the watch.
const LOOK: Duration = Duration::from_millis(20);

/// What happened to pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that were not there before.
    pub made: usize,
    /// Pods that are gone.
    pub gone: usize,
    /// Changes of pods that were there.
    pub changed: usize,
}

/// One pod that is there.
struct Facts {
    dark: bool,
    bound: bool,
    ready: bool,
    version: Option<String>,
}

#[derive(Default)]
struct Seen {
    pods: HashMap<String, Facts>,
    /// Uids that a new list has named so far.
    listed: HashSet<String>,
    dark: Counts,
    elsewhere: Counts,
    changed_at: Option<Instant>,
}

impl Seen {
    fn event(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.apply(&pod);
            }
            Event::InitDone => {
                let known = self.pods.keys();
                let gone: Vec<_> = known.filter(|uid| !self.listed.contains(*uid)).cloned().collect();
                gone.iter().for_each(|uid| self.remove(uid));
            }
            Event::Apply(pod) => self.apply(&pod),
            Event::Delete(pod) => self.remove(&pod.uid().unwrap_or_default()),
        }
    }

    fn apply(&mut self, pod: &Pod) {
        let facts = facts(pod);
        let counts = if facts.dark {
            &mut self.dark
        } else {
            &mut self.elsewhere
        };
        let version = facts.version.clone();
        match self.pods.insert(pod.uid().unwrap_or_default(), facts) {
            None => counts.made += 1,
            Some(before) if before.version != version => counts.changed += 1,
            Some(_) => return,
        }
        self.changed_at = Some(Instant::now());
    }

    fn remove(&mut self, uid: &str) {
        if let Some(facts) = self.pods.remove(uid) {
            let counts = if facts.dark {
                &mut self.dark
            } else {
                &mut self.elsewhere
            };
            counts.gone += 1;
            self.changed_at = Some(Instant::now());
        }
    }
}

/// In mode PerNode the slot is the node, also of a pod that is not bound yet.
fn facts(pod: &Pod) -> Facts {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let slot = pod.annotations().get(names::ANNOTATION_SLOT).map(String::as_str);
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True");
    Facts {
        dark: node.or(slot).is_some_and(is_dark),
        bound: node.is_some(),
        ready,
        version: pod.resource_version(),
    }
}

/// A watch of all pods of the fleet's namespace.
pub struct Pods {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pods {
    /// Starts to watch.
    pub fn watch(client: Client) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let kept = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
            let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                // What fails is tried again by the watcher.
                if let Ok(event) = event {
                    lock(&kept).event(event);
                }
            }
        });
        Self { seen, task }
    }

    /// Counts from nothing; what is there is known already.
    pub fn count_anew(&self) {
        let mut seen = lock(&self.seen);
        (seen.dark, seen.elsewhere) = (Counts::default(), Counts::default());
    }

    /// What happened on the dark site, and elsewhere.
    pub fn counts(&self) -> (Counts, Counts) {
        let seen = lock(&self.seen);
        (seen.dark, seen.elsewhere)
    }

    /// Waits until there are `count` pods and all of them are bound; gives when the watch saw the last.
    ///
    /// # Errors
    /// When it does not come about in time.
    pub async fn until_bound(&self, count: usize, patience: Duration) -> Result<Instant> {
        self.until("bound", count, patience, |pod| pod.bound).await
    }

    /// Waits until there are `count` pods and all of them are ready; gives when the watch saw the last.
    ///
    /// # Errors
    /// When it does not come about in time.
    pub async fn until_ready(&self, count: usize, patience: Duration) -> Result<Instant> {
        self.until("ready", count, patience, |pod| pod.ready).await
    }

    async fn until(
        &self,
        what: &str,
        count: usize,
        patience: Duration,
        is: fn(&Facts) -> bool,
    ) -> Result<Instant> {
        let began = Instant::now();
        loop {
            let (there, reached, at) = {
                let seen = lock(&self.seen);
                let reached = seen.pods.values().filter(|pod| is(pod)).count();
                (seen.pods.len(), reached, seen.changed_at)
            };
            if there == count && reached == count {
                return Ok(at.unwrap_or(began));
            }
            if began.elapsed() > patience {
                let seen = format!("{reached} of {there} are after {} s", patience.as_secs());
                return Err(failed(format!("{count} pods are {what}"), seen));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, node: &str, version: &str) -> Pod {
        let pod = json!({
            "metadata": {"uid": uid, "resourceVersion": version}, "spec": {"nodeName": node, "containers": []},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_new_list_of_the_same_pods_is_no_change_and_what_it_lacks_is_gone() {
        let mut seen = Seen::default();
        seen.event(Event::Apply(pod("a", "fleet-00000", "1")));
        seen.event(Event::Apply(pod("b", "fleet-00001", "1")));
        seen.event(Event::Apply(pod("b", "fleet-00001", "2")));
        seen.event(Event::Init);
        seen.event(Event::InitApply(pod("b", "fleet-00001", "2")));
        seen.event(Event::InitDone);
        let (made, gone, changed) = (1, 1, 0);
        assert_eq!(seen.dark, Counts { made, gone, changed });
        let (made, gone, changed) = (1, 0, 1);
        assert_eq!(seen.elsewhere, Counts { made, gone, changed });
    }
}
