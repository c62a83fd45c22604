//! Keeps the records of rollouts on the entries of histories, before anything is done that they allow.

use super::ApplyError;
use crate::build::history::{build_entry, hash, next_number};
use crate::observe::snapshot::Snapshot;
use crate::observe::spec::sidecars;
use crate::rollout::{Decisions, Write, restore};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use perwatt_crds::names;
use perwatt_planner::world::WorkloadKey;
use perwatt_rollout::Record;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Histories by workload.
pub type Histories = BTreeMap<WorkloadKey, Vec<Arc<ControllerRevision>>>;

/// Entries as the API server answered, until the watch shows them: a rollout must not be decided on an older record.
#[derive(Default)]
pub struct Written(HashMap<(String, String), (Option<String>, Arc<ControllerRevision>)>);

/// Histories of all workloads.
#[must_use]
pub fn histories(entries: &[Arc<ControllerRevision>]) -> Histories {
    let mut histories = Histories::new();
    for entry in entries {
        let workload = entry.labels().get(names::LABEL_WORKLOAD);
        if let (Some(namespace), Some(name)) = (entry.namespace(), workload.cloned()) {
            let key = WorkloadKey { namespace, name };
            histories.entry(key).or_default().push(Arc::clone(entry));
        }
    }
    histories
}

impl Written {
    /// The entries, with what was written in the place of what the watch still shows.
    #[must_use]
    pub fn newest(&mut self, mut entries: Vec<Arc<ControllerRevision>>) -> Vec<Arc<ControllerRevision>> {
        if self.0.is_empty() {
            return entries;
        }
        let shown: HashMap<_, _> = entries
            .iter()
            .enumerate()
            .map(|(place, entry)| (name_of(entry), (place, entry.resource_version())))
            .collect();
        self.0.retain(|name, (base, _)| {
            let version = shown.get(name).and_then(|(_, version)| version.clone());
            version == *base
        });
        for (name, (_, written)) in &self.0 {
            match shown.get(name) {
                Some((place, _)) => entries[*place] = Arc::clone(written),
                None => entries.push(Arc::clone(written)),
            }
        }
        entries
    }

    /// Keeps what was decided. A rollout whose record could not be kept is taken out: its slots stay as they were.
    /// Returns whether all were kept.
    pub async fn keep(
        &mut self,
        client: &Client,
        snapshot: &Snapshot,
        histories: &Histories,
        runtime_image: &str,
        decisions: &mut Decisions,
    ) -> bool {
        let mut all = true;
        for write in std::mem::take(&mut decisions.writes) {
            let written = match &write.entry {
                Some(entry) => patch(client, entry, &write.record).await,
                None => create(client, snapshot, histories, runtime_image, &write).await,
            };
            match written {
                Ok(entry) => {
                    let base = write.entry.as_ref().and_then(|entry| entry.resource_version());
                    // Written twice in a row, the watch may show what was before the first.
                    let base = self
                        .0
                        .get(&name_of(&entry))
                        .map_or(base, |(first, _)| first.clone());
                    self.0.insert(name_of(&entry), (base, Arc::new(entry)));
                }
                Err(error) => {
                    all = false;
                    // What was written is no more: a workload that was deleted and made again has another history. Where
                    // somebody else wrote, the watch will show it.
                    if error.is_gone()
                        && let Some(entry) = &write.entry
                    {
                        self.0.remove(&name_of(entry));
                    }
                    tracing::warn!(workload = %write.key, %error, "how far a rollout came could not be kept, trying again");
                    self.fall_back(&write, decisions);
                }
            }
        }
        all
    }

    /// The rollout as it was kept last; without any, nothing is open.
    fn fall_back(&self, write: &Write, decisions: &mut Decisions) {
        let Some(rolling) = decisions.rollouts.get_mut(&write.key) else {
            return;
        };
        let is_own = write
            .entry
            .as_ref()
            .is_none_or(|entry| hash(entry) == rolling.candidate);
        if !is_own {
            return;
        }
        match write.entry.as_deref().and_then(restore::record) {
            Some(record) => rolling.record = record,
            None => rolling
                .record
                .cohorts
                .iter_mut()
                .for_each(|stage| stage.opened = None),
        }
    }
}

fn name_of(entry: &ControllerRevision) -> (String, String) {
    (entry.namespace().unwrap_or_default(), entry.name_any())
}

async fn patch(
    client: &Client,
    entry: &ControllerRevision,
    record: &Record,
) -> Result<ControllerRevision, ApplyError> {
    let api: Api<ControllerRevision> =
        Api::namespaced(client.clone(), &entry.namespace().unwrap_or_default());
    let text = as_text(record)?;
    // Refused where somebody else wrote in between.
    let body = json!({"metadata": {
        "resourceVersion": entry.resource_version(),
        "annotations": {names::ANNOTATION_ROLLOUT: text},
    }});
    let parameters = PatchParams {
        field_manager: Some(names::FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let patched = api
        .patch(&entry.name_any(), &parameters, &Patch::Merge(body))
        .await;
    patched.map_err(|source| failed("keep a rollout on", entry, source))
}

async fn create(
    client: &Client,
    snapshot: &Snapshot,
    histories: &Histories,
    runtime_image: &str,
    write: &Write,
) -> Result<ControllerRevision, ApplyError> {
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &write.key.namespace);
    let (Some(workload), Some(planned)) = (
        snapshot.workloads.get(&write.key),
        snapshot.world.workloads.get(&write.key),
    ) else {
        return Err(ApplyError::Stale {
            what: format!("workload {}", write.key),
        });
    };
    let sidecars = sidecars(&workload.spec, &snapshot.profiles);
    let number = next_number(histories.get(&write.key).map_or(&[][..], Vec::as_slice));
    let mut entry = build_entry(workload, &planned.revision, number, runtime_image, &sidecars);
    let text = as_text(&write.record)?;
    entry
        .annotations_mut()
        .insert(names::ANNOTATION_ROLLOUT.to_owned(), text);
    let parameters = PostParams {
        field_manager: Some(names::FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    let made = api.create(&parameters, &entry).await;
    made.map_err(|source| failed("create", &entry, source))
}

fn as_text(record: &Record) -> Result<String, ApplyError> {
    serde_json::to_string(record).map_err(|error| ApplyError::Api {
        action: "write down a rollout".to_owned(),
        source: kube::Error::SerdeError(error),
    })
}

fn failed(action: &str, entry: &ControllerRevision, source: kube::Error) -> ApplyError {
    ApplyError::Api {
        action: format!("{action} ControllerRevision {}", entry.name_any()),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, version: &str, text: &str) -> Arc<ControllerRevision> {
        let mut entry = ControllerRevision::default();
        entry.metadata.name = Some(name.to_owned());
        entry.metadata.namespace = Some("lines".to_owned());
        entry.metadata.resource_version = Some(version.to_owned());
        entry
            .annotations_mut()
            .insert(names::ANNOTATION_ROLLOUT.to_owned(), text.to_owned());
        Arc::new(entry)
    }

    fn texts(entries: &[Arc<ControllerRevision>]) -> Vec<&str> {
        let mut texts: Vec<_> = entries
            .iter()
            .filter_map(|entry| entry.annotations().get(names::ANNOTATION_ROLLOUT))
            .map(String::as_str)
            .collect();
        texts.sort_unstable();
        texts
    }

    #[test]
    fn what_was_written_counts_until_the_watch_shows_it_or_something_newer() {
        let mut written = Written::default();
        let remember = |written: &mut Written, base: Option<&str>, entry: Arc<ControllerRevision>| {
            written
                .0
                .insert(name_of(&entry), (base.map(str::to_owned), entry));
        };
        remember(&mut written, Some("1"), entry("a", "2", "a opened"));
        remember(&mut written, None, entry("b", "3", "b begun"));
        let before = || vec![entry("a", "1", "a closed"), entry("c", "1", "c")];
        assert_eq!(texts(&written.newest(before())), ["a opened", "b begun", "c"]);
        assert_eq!(
            texts(&written.newest(before())),
            ["a opened", "b begun", "c"],
            "as often as it is asked"
        );
        let shown = vec![entry("a", "4", "a of another"), entry("b", "3", "b begun")];
        assert_eq!(texts(&written.newest(shown)), ["a of another", "b begun"]);
        assert!(written.0.is_empty(), "and then it is forgotten");
    }
}
