#![allow(clippy::unwrap_used)]

use super::*;
use crate::build::history::build_entry;
use crate::evidence::Evidence;
use crate::observe::snapshot::Objects;
use crate::report::rollout as told;
use perwatt_planner::plan;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const IMAGE: &str = "runtime:1";

fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn workload(model: char, rollout: &Value) -> Arc<InferenceWorkload> {
    let digest = model.to_string().repeat(64);
    object(json!({
        "metadata": {"name": "gate", "namespace": "lines", "uid": "u1"},
        "spec": {
            "model": {"image": format!("registry.example/gate@sha256:{digest}")},
            "variants": [{"name": "cpu", "deviceLess": "CPU", "artifact": {"path": "gate.onnx"}}],
            "placement": {"mode": "PerNode"},
            "rollout": rollout,
        },
    }))
}

fn cohorts() -> Value {
    json!({"cohorts": [{"name": "canary", "nodes": {"matchLabels": {"lab": "true"}}, "bake": "1m"}, {"name": "rest"}]})
}

/// Two nodes, of which `edge-a` is the canary; time, history, and what persons decided.
struct Site {
    workload: Arc<InferenceWorkload>,
    history: Vec<Arc<ControllerRevision>>,
    approvals: Vec<Arc<RolloutApproval>>,
    now: i64,
}

impl Site {
    /// Model `a` runs, without anything having been gated.
    fn new() -> Self {
        let mut site = Self {
            workload: workload('a', &cohorts()),
            history: Vec::new(),
            approvals: Vec::new(),
            now: 0,
        };
        let (snapshot, decisions) = site.decide();
        assert!(decisions.rollouts.is_empty(), "a first deployment needs no gates");
        let revision = snapshot.world.workloads[&key()].revision.clone();
        let entry = build_entry(&site.workload, &revision, 1, IMAGE, &[]);
        site.history.push(Arc::new(entry));
        site
    }

    fn snapshot(&self) -> Snapshot {
        let node = |name: &str, labels: Value| {
            object(json!({"metadata": {"name": name, "labels": labels}, "status": {
                "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "20"},
                "conditions": [{"type": "Ready", "status": "True"}]}}))
        };
        let objects = Objects {
            nodes: vec![node("edge-a", json!({"lab": "true"})), node("edge-b", json!({}))],
            workloads: vec![Arc::clone(&self.workload)],
            ..Objects::default()
        };
        Snapshot::of(objects, IMAGE, &Evidence::default())
    }

    fn decide(&self) -> (Snapshot, Decisions) {
        let snapshot = self.snapshot();
        let facts = Facts {
            histories: BTreeMap::from([(key(), self.history.clone())]),
            policies: Vec::new(),
            approvals: self.approvals.clone(),
        };
        let decisions = determine(&snapshot, &facts, &Seen::default(), at(self.now));
        (snapshot, decisions)
    }

    /// Decides, and keeps what was decided as the API server would.
    fn pass(&mut self) -> Decisions {
        let (snapshot, decisions) = self.decide();
        for write in &decisions.writes {
            let text = serde_json::to_string(&write.record).unwrap();
            let mut entry = match &write.entry {
                Some(entry) => ControllerRevision::clone(entry),
                None => {
                    let revision = &snapshot.world.workloads[&key()].revision;
                    let number = self.history.len() as i64 + 1;
                    build_entry(&self.workload, revision, number, IMAGE, &[])
                }
            };
            entry
                .annotations_mut()
                .insert(names::ANNOTATION_ROLLOUT.to_owned(), text);
            self.history.retain(|known| known.name_any() != entry.name_any());
            self.history.push(Arc::new(entry));
            self.history.sort_by_key(|entry| entry.revision);
        }
        decisions
    }

    fn approve(&mut self, revision: &str, decision: &str) {
        let time = at(self.now).to_string();
        self.approvals.push(object(json!({
            "metadata": {"name": decision.to_lowercase(), "namespace": "lines", "creationTimestamp": time},
            "spec": {"workload": "gate", "revision": revision, "decision": decision, "reason": "seen", "by": "ada"},
        })));
    }

    /// Revisions that the planner wants, by slot.
    fn planned(&self) -> BTreeMap<String, String> {
        let (mut snapshot, decisions) = self.decide();
        open(&mut snapshot, decisions);
        let planned = plan(&snapshot.world, at(self.now));
        let slots = planned.slots.into_iter();
        slots
            .map(|slot| (slot.slot, slot.target.unwrap().revision))
            .collect()
    }
}

fn key() -> WorkloadKey {
    WorkloadKey {
        namespace: "lines".into(),
        name: "gate".into(),
    }
}

fn revision_of(site: &Site) -> String {
    site.snapshot().world.workloads[&key()].revision.clone()
}

#[test]
fn another_spec_begins_a_rollout_that_opens_its_first_cohort_alone() {
    let mut site = Site::new();
    let old = revision_of(&site);
    site.workload = workload('b', &cohorts());
    let new = revision_of(&site);
    let decisions = site.pass();
    let rolling = &decisions.rollouts[&key()];
    assert_eq!(
        (rolling.record.incumbent.as_str(), rolling.candidate.as_str()),
        (old.as_str(), new.as_str())
    );
    let expected = [
        ("edge-a".to_owned(), new.clone()),
        ("edge-b".to_owned(), old.clone()),
    ];
    assert_eq!(site.planned(), BTreeMap::from(expected));
    assert!(site.pass().writes.is_empty(), "nothing is written twice");
    assert_eq!(site.history.len(), 2);
}

#[test]
fn an_abort_goes_back_and_a_retry_begins_anew() {
    let mut site = Site::new();
    let old = revision_of(&site);
    site.workload = workload('b', &cohorts());
    let new = revision_of(&site);
    let first = site.pass().rollouts[&key()].record.clone();
    site.now = 10;
    site.approve(&new, "Abort");
    let rejected = site.pass().rollouts[&key()].record.clone();
    assert_eq!(
        (rejected.state, rejected.why.as_str()),
        (State::Rejected, "a person went back: seen (ada)")
    );
    assert!(site.planned().values().all(|revision| *revision == old));
    let snapshot = site.snapshot();
    let ended = told::history(&key(), &BTreeMap::new(), Some((&new, &rejected)));
    assert_eq!(
        (ended[0].outcome.as_str(), ended[0].cohorts.as_str()),
        ("Rejected", "canary")
    );
    drop(snapshot);
    site.now = 20;
    site.approve(&new, "Retry");
    let again = site.pass().rollouts[&key()].record.clone();
    assert_eq!(again.state, State::Progressing);
    assert!(again.generation > rejected.generation && rejected.generation > first.generation);
    assert_eq!(site.planned()["edge-a"], new);
}

#[test]
fn a_spec_that_changes_twice_leaves_a_superseded_rollout_and_the_first_incumbent() {
    let mut site = Site::new();
    let old = revision_of(&site);
    site.workload = workload('b', &cohorts());
    site.pass();
    site.now = 10;
    site.workload = workload('c', &cohorts());
    let decisions = site.pass();
    assert_eq!(decisions.rollouts[&key()].record.incumbent, old);
    assert!(
        decisions
            .past
            .values()
            .any(|record| record.state == State::Superseded)
    );
    // And back to the one that never ended: it is judged from the start, against what was good.
    site.now = 20;
    site.workload = workload('b', &cohorts());
    let record = site.pass().rollouts[&key()].record.clone();
    assert_eq!(
        (record.state, record.incumbent, record.began),
        (State::Progressing, old, at(20))
    );
}

#[test]
fn going_back_to_what_was_good_needs_no_gates() {
    let mut site = Site::new();
    let old = revision_of(&site);
    site.workload = workload('b', &cohorts());
    site.pass();
    site.workload = workload('a', &cohorts());
    assert!(site.pass().rollouts.is_empty());
    assert!(site.planned().values().all(|revision| *revision == old));
}

#[test]
fn a_policy_that_is_missing_opens_nothing_and_is_named() {
    let mut site = Site::new();
    let old = revision_of(&site);
    site.workload = workload('b', &json!({"policyRef": "standard"}));
    let decisions = site.pass();
    let rolling = &decisions.rollouts[&key()];
    assert!(
        rolling.stuck && rolling.message.contains("RolloutPolicy standard"),
        "{}",
        rolling.message
    );
    assert!(site.planned().values().all(|revision| *revision == old));
    // Once it can be read, its cohorts count.
    site.workload = workload('b', &cohorts());
    site.now = 10;
    let rolling = site.pass().rollouts[&key()].clone();
    assert_eq!(
        (rolling.record.cohorts.len(), rolling.record.current()),
        (2, Some(0))
    );
}

#[test]
fn removed_gates_let_what_waited_go_on() {
    let mut site = Site::new();
    site.workload = workload('b', &cohorts());
    let new = revision_of(&site);
    site.pass();
    site.workload = workload('b', &Value::Null);
    site.pass();
    assert!(site.planned().values().all(|revision| *revision == new));
}
