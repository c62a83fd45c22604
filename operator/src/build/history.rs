//! The history of a workload: a ControllerRevision for each revision that its slots were to run.
//!
//! Its content never changes; its number does, where a workload returns to it: the highest number is the current
//! one, as with a DaemonSet's.

use super::labels;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use perwatt_crds::profile::Sidecar;
use perwatt_crds::{InferenceWorkload, names};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many revisions are kept beside those that still run.
pub const KEPT: usize = 10;

/// What the history lacks, or has too much of.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The current revision is not there yet; it gets this number.
    Add(i64),
    /// The current revision was there before; it gets this number, the highest.
    Renumber {
        /// Its name.
        name: String,
        /// The number.
        number: i64,
    },
    /// An old one goes.
    Remove {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

/// The steps that bring a workload's history up to its current revision. `running` are the revisions of its pods.
#[must_use]
pub fn determine_steps(
    history: &[Arc<ControllerRevision>],
    current: &str,
    running: &BTreeSet<&str>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let next = next_number(history);
    match history.iter().find(|entry| hash(entry) == current) {
        None => steps.push(Step::Add(next)),
        Some(entry) if entry.revision < next - 1 => steps.push(Step::Renumber {
            name: entry.name_any(),
            number: next,
        }),
        Some(_) => {}
    }
    let mut old: Vec<_> = history
        .iter()
        .filter(|entry| hash(entry) != current && !running.contains(hash(entry)))
        .collect();
    old.sort_by_key(|entry| (std::cmp::Reverse(entry.revision), entry.name_any()));
    // The current one is among those that are kept.
    steps.extend(old.into_iter().skip(KEPT - 1).map(|entry| Step::Remove {
        name: entry.name_any(),
        uid: entry.uid().unwrap_or_default(),
    }));
    steps
}

/// The number after the highest.
#[must_use]
pub fn next_number(history: &[Arc<ControllerRevision>]) -> i64 {
    let highest = history.iter().map(|entry| entry.revision).max();
    highest.unwrap_or(0).saturating_add(1)
}

/// The revision that an entry holds; empty where it is none of ours.
#[must_use]
pub fn hash(entry: &ControllerRevision) -> &str {
    let labels = entry.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(names::LABEL_REVISION))
        .map_or("", String::as_str)
}

/// The entry of a workload's current revision.
#[must_use]
pub fn build_entry(
    workload: &InferenceWorkload,
    revision: &str,
    number: i64,
    runtime_image: &str,
    sidecars: &[(&str, &Sidecar)],
) -> ControllerRevision {
    let name = workload.name_any();
    let mut labels = labels(&name);
    labels.insert(names::LABEL_REVISION.to_owned(), revision.to_owned());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{revision}")),
            namespace: workload.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: super::owner(workload).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(content(workload, runtime_image, sidecars))),
        revision: number,
    }
}

/// What runs: the parts of the spec that the revision's hash covers, enough to run it again.
fn content(workload: &InferenceWorkload, runtime_image: &str, sidecars: &[(&str, &Sidecar)]) -> Value {
    let spec = &workload.spec;
    let sidecars: serde_json::Map<_, _> = sidecars
        .iter()
        .map(|(profile, sidecar)| ((*profile).to_owned(), json!(sidecar)))
        .collect();
    json!({
        "spec": {"model": spec.model, "variants": spec.variants, "runtime": spec.runtime},
        "runtimeImage": runtime_image,
        "sidecars": sidecars,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(hash: &str, revision: i64) -> Arc<ControllerRevision> {
        let mut labels = labels("w");
        labels.insert(names::LABEL_REVISION.to_owned(), hash.to_owned());
        Arc::new(ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("w-{hash}")),
                uid: Some(format!("uid-{hash}")),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            data: None,
            revision,
        })
    }

    fn steps(history: &[Arc<ControllerRevision>], current: &str, running: &[&str]) -> Vec<Step> {
        determine_steps(history, current, &running.iter().copied().collect())
    }

    #[test]
    fn a_new_revision_is_added_and_one_that_returns_becomes_the_highest() {
        assert_eq!(steps(&[], "a", &[]), [Step::Add(1)]);
        let history = [entry("a", 1), entry("b", 2)];
        assert_eq!(steps(&history, "c", &[]), [Step::Add(3)]);
        assert_eq!(steps(&history, "b", &[]), []);
        let back = Step::Renumber {
            name: "w-a".into(),
            number: 3,
        };
        assert_eq!(steps(&history, "a", &[]), [back]);
    }

    #[test]
    fn ten_are_kept_and_what_runs_is_never_removed() {
        let history: Vec<_> = (1..=12).map(|n| entry(&format!("r{n}"), n)).collect();
        let gone = |n: i64| Step::Remove {
            name: format!("w-r{n}"),
            uid: format!("uid-r{n}"),
        };
        assert_eq!(steps(&history, "r12", &[]), [gone(2), gone(1)]);
        assert_eq!(steps(&history, "r12", &["r1"]), [gone(2)]);
        assert_eq!(steps(&history[..10], "r10", &[]), []);
    }
}
