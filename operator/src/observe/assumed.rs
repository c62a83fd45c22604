//! Pods that were written and that no watch has shown yet: a pass plans on what is no older than what was written last.
//!
//! What kube-scheduler's assumed pods and kube-controller-manager's expectations are for. The API server holds all
//! that is here: a process that starts, or that does not know what became of a write, lists its pods.

use super::pod::trim;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use perwatt_crds::names;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How long the watch may take to show what was written; then the pods are listed.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pods of one answer to a list.
const PAGE: u32 = 500;

/// What was written and not seen.
#[derive(Debug)]
enum Written {
    /// A pod was made.
    Made(Arc<Pod>),
    /// A pod was deleted, and stops.
    Stopping(Arc<Pod>),
    /// A pod was deleted, and is no more.
    Gone,
}

#[derive(Debug)]
struct Entry {
    written: Written,
    /// The watch has shown the pod, as it was before.
    seen: bool,
    at: Timestamp,
}

impl Entry {
    fn is_shown(&self, pod: Option<&Pod>) -> bool {
        match &self.written {
            Written::Made(_) => pod.is_some(),
            Written::Stopping(_) => pod.map_or(self.seen, is_stopping),
            Written::Gone => pod.is_none(),
        }
    }
}

/// Pods of ours whose last write no watch has shown yet, by uid: at most as many as a plan changes.
#[derive(Debug, Default)]
pub struct Assumed {
    entries: HashMap<String, Entry>,
    /// They are all that was written.
    complete: bool,
}

impl Assumed {
    /// The pods as they are after all that was written, given those that the watch shows; lists ours where that is not known.
    ///
    /// # Errors
    /// When they cannot be listed: nothing may be planned then.
    pub async fn newest(
        &mut self,
        client: &Client,
        shown: Vec<Arc<Pod>>,
        now: Timestamp,
    ) -> Result<Vec<Arc<Pod>>, kube::Error> {
        let mut pods = self.overlay(shown.clone());
        let overdue = |entry: &Entry| since(entry.at, now) >= PATIENCE;
        if !self.complete || self.entries.values().any(overdue) {
            self.compare(&list(client).await?, &shown, now);
            pods = self.overlay(shown);
        }
        Ok(pods)
    }

    /// How soon the watch must have shown all that was written; none where it has.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Option<Duration> {
        let waits = self.entries.values();
        waits
            .map(|entry| PATIENCE.saturating_sub(since(entry.at, now)))
            .min()
    }

    /// A pod was made; `pod` is the API server's answer.
    pub fn note_made(&mut self, pod: Pod, now: Timestamp) {
        let entry = |pod| (Written::Made(pod), false);
        self.note(pod.uid().unwrap_or_default(), entry(trimmed(pod)), now);
    }

    /// A pod was deleted; `pod` is the API server's answer, none where the pod is no more.
    pub fn note_deleted(&mut self, uid: &str, pod: Option<Pod>, now: Timestamp) {
        // What has no entry is as the watch showed it.
        let seen = self.entries.get(uid).is_none_or(|entry| entry.seen);
        let stopping = pod.filter(is_stopping).map(|pod| Written::Stopping(trimmed(pod)));
        self.note(uid.to_owned(), (stopping.unwrap_or(Written::Gone), seen), now);
    }

    /// It is not known whether something was written.
    pub fn note_unknown(&mut self) {
        self.complete = false;
    }

    fn note(&mut self, uid: String, (written, seen): (Written, bool), at: Timestamp) {
        self.entries.insert(uid, Entry { written, seen, at });
    }

    /// Forgets what the watch shows, and adds the rest to it.
    fn overlay(&mut self, shown: Vec<Arc<Pod>>) -> Vec<Arc<Pod>> {
        if self.entries.is_empty() {
            return shown;
        }
        let by_uid = by_uid(&shown);
        self.entries.retain(|uid, entry| {
            let pod = by_uid.get(uid.as_str()).copied();
            entry.seen |= pod.is_some();
            !entry.is_shown(pod)
        });
        let is_older = |pod: &Arc<Pod>| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            self.entries.contains_key(uid)
        };
        let newer = self.entries.values().filter_map(|entry| match &entry.written {
            Written::Made(pod) | Written::Stopping(pod) => Some(Arc::clone(pod)),
            Written::Gone => None,
        });
        let mut pods: Vec<_> = shown.into_iter().filter(|pod| !is_older(pod)).collect();
        pods.extend(newer);
        pods
    }

    /// Starts anew from a list of our pods: what the watch does not show of it was written.
    fn compare(&mut self, listed: &[Arc<Pod>], shown: &[Arc<Pod>], now: Timestamp) {
        self.entries.clear();
        self.complete = true;
        let shown_by_uid = by_uid(shown);
        for pod in listed {
            let uid = pod.uid().unwrap_or_default();
            let was = shown_by_uid.get(uid.as_str()).copied();
            let written = match (is_stopping(pod), was) {
                (true, was) if !was.is_some_and(is_stopping) => Written::Stopping(Arc::clone(pod)),
                (false, None) => Written::Made(Arc::clone(pod)),
                _ => continue,
            };
            self.note(uid, (written, was.is_some()), now);
        }
        let listed: HashSet<_> = by_uid(listed).into_keys().collect();
        let ours = shown
            .iter()
            .filter(|pod| pod.labels().contains_key(names::LABEL_WORKLOAD));
        for uid in ours.filter_map(|pod| pod.uid()) {
            if !listed.contains(uid.as_str()) {
                self.note(uid, (Written::Gone, true), now);
            }
        }
    }
}

/// Our pods as the API server has them now, trimmed page by page.
async fn list(client: &Client) -> Result<Vec<Arc<Pod>>, kube::Error> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut parameters = ListParams::default().labels(names::LABEL_WORKLOAD).limit(PAGE);
    let mut pods = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        pods.extend(page.items.into_iter().map(trimmed));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(pods),
        }
    }
}

fn trimmed(mut pod: Pod) -> Arc<Pod> {
    pod.managed_fields_mut().clear();
    trim(&mut pod);
    Arc::new(pod)
}

fn by_uid(pods: &[Arc<Pod>]) -> HashMap<&str, &Pod> {
    pods.iter()
        .filter_map(|pod| Some((pod.metadata.uid.as_deref()?, pod.as_ref())))
        .collect()
}

fn is_stopping(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn since(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
