//! Rollouts: a new revision goes through its cohorts. [`determine`] decides (with `perwatt_rollout`, and without any
//! I/O), `apply::records` keeps what was decided, [`collect`] tells runtimes and asks them what came of it.

pub mod collect;
pub mod key;
pub mod policy;
pub mod preview;
pub mod restore;

use crate::build::history;
use crate::observe::snapshot::Snapshot;
use crate::observe::spec::build_earlier;
use collect::Seen;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use perwatt_crds::rollout::Decision as Wanted;
use perwatt_crds::{InferenceWorkload, RolloutApproval, RolloutPolicy, names};
use perwatt_planner::world::{Earlier, WorkloadKey};
use perwatt_planner::{SlotPlace, slot_places};
use perwatt_rollout::{
    Carry, Decided, Decision, Policy, Record, Sight, SlotFacts, SlotSeen, State, Waits, advance, members,
};
use perwatt_verdict::Judgement;
use policy::build_policy;
use restore::{Past, record};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What rollouts are decided on, beside the snapshot.
#[derive(Default)]
pub struct Facts {
    /// The histories of workloads.
    pub histories: BTreeMap<WorkloadKey, Vec<Arc<ControllerRevision>>>,
    /// The policies that workloads share.
    pub policies: Vec<Arc<RolloutPolicy>>,
    /// What persons decided.
    pub approvals: Vec<Arc<RolloutApproval>>,
}

/// The rollout of a workload's present revision.
#[derive(Clone, Debug)]
pub struct Rolling {
    /// The present revision.
    pub candidate: String,
    /// As it is to be kept.
    pub record: Record,
    /// What is judged.
    pub policy: Option<Policy>,
    /// What slots run that are not open.
    pub earlier: Option<Arc<Past>>,
    /// Every slot.
    pub slots: Vec<SlotSeen>,
    /// What it waits for.
    pub waits: Waits,
    /// The same for a person.
    pub message: String,
    /// When something may change though nothing happens.
    pub wake_at: Option<Timestamp>,
    /// The policy cannot be used: no further cohort is opened.
    pub stuck: bool,
    /// What was concluded so far of the cohort that is open.
    pub judgement: Option<Judgement>,
    /// Whether every runtime does as it was told.
    pub obeyed: bool,
}

/// A record to be kept on an entry of a workload's history.
#[derive(Clone, Debug)]
pub struct Write {
    /// The workload.
    pub key: WorkloadKey,
    /// The entry, where there is one yet.
    pub entry: Option<Arc<ControllerRevision>>,
    /// The record.
    pub record: Record,
}

/// What was decided.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    /// The rollouts.
    pub rollouts: BTreeMap<WorkloadKey, Rolling>,
    /// The rollouts of revisions that are not the present ones, as they ended.
    pub past: BTreeMap<(WorkloadKey, String), Record>,
    /// What is to be kept before anything is done.
    pub writes: Vec<Write>,
}

/// Decides what every rollout does next.
#[must_use]
pub fn determine(snapshot: &Snapshot, facts: &Facts, seen: &Seen, now: Timestamp) -> Decisions {
    let mut decisions = Decisions::default();
    let mut begun = Vec::new();
    for (key, workload) in &snapshot.workloads {
        let Some(planned) = snapshot
            .world
            .workloads
            .get(key)
            .filter(|planned| !planned.deleting)
        else {
            continue;
        };
        let history = facts.histories.get(key).map_or(&[][..], Vec::as_slice);
        let case = Case {
            key,
            workload,
            history,
            candidate: &planned.revision,
        };
        for (entry, record, is_news) in case.past(now) {
            if is_news {
                decisions.writes.push(Write {
                    key: key.clone(),
                    entry: Some(Arc::clone(entry)),
                    record: record.clone(),
                });
            }
            decisions
                .past
                .insert((key.clone(), history::hash(entry).to_owned()), record);
        }
        begun.extend(case.find(facts, now));
    }
    if begun.is_empty() {
        return decisions;
    }
    let places = slot_places(&snapshot.world, now, begun.iter().map(|found| found.key));
    let pods = pods_by_slot(snapshot);
    for (found, (_, places)) in begun.into_iter().zip(places) {
        let key = found.key.clone();
        let (rolling, write) = found.advance(snapshot, facts, seen, (&places, &pods), now);
        decisions.writes.extend(write);
        decisions.rollouts.insert(key, rolling);
    }
    decisions
}

/// A workload and its history.
#[derive(Clone, Copy)]
struct Case<'a> {
    key: &'a WorkloadKey,
    workload: &'a Arc<InferenceWorkload>,
    history: &'a [Arc<ControllerRevision>],
    candidate: &'a str,
}

/// A rollout that there is, or that begins.
struct Found<'a> {
    key: &'a WorkloadKey,
    candidate: String,
    entry: Option<Arc<ControllerRevision>>,
    /// As it is kept; none where it begins.
    kept: Option<Record>,
    /// The same, or what became of it where the gates were removed.
    record: Option<Record>,
    earlier: Option<Arc<Past>>,
    policy: Result<Policy, String>,
}

impl<'a> Case<'a> {
    /// The rollouts of revisions that are not the present one any more, as they ended, and whether they end just now.
    fn past(self, now: Timestamp) -> impl Iterator<Item = (&'a Arc<ControllerRevision>, Record, bool)> {
        let others = self
            .history
            .iter()
            .filter(move |entry| history::hash(entry) != self.candidate);
        others.filter_map(move |entry| {
            let record = record(entry)?;
            match record.state {
                State::Progressing => {
                    let record = record.to(State::Superseded, now, "the spec changed before it ended");
                    Some((entry, record, true))
                }
                _ => Some((entry, record, false)),
            }
        })
    }

    fn find(self, facts: &Facts, now: Timestamp) -> Option<Found<'a>> {
        let entry = self
            .history
            .iter()
            .find(|entry| history::hash(entry) == self.candidate);
        let kept = entry.and_then(|entry| record(entry));
        // What ran without gates before is good.
        if entry.is_some() && kept.is_none() {
            return None;
        }
        let is_over = kept
            .as_ref()
            .is_some_and(|record| record.state == State::Complete);
        let found = |record, earlier, policy| Found {
            key: self.key,
            candidate: self.candidate.to_owned(),
            entry: entry.cloned(),
            kept: kept.clone(),
            record,
            earlier,
            policy,
        };
        let Some(policy) = self.policy(facts) else {
            let record = kept.clone()?;
            // The gates were removed: what waited before them goes on.
            let record = match is_over {
                true => record,
                false => record.to(State::Complete, now, "spec.rollout was removed"),
            };
            return Some(found(Some(record), None, Err(String::new())));
        };
        let running = kept.as_ref().filter(|record| record.state == State::Progressing);
        let incumbent = running.map(|record| record.incumbent.as_str());
        let earlier = match is_over {
            true => None,
            false => Some(self.incumbent(incumbent)?),
        };
        Some(found(kept.clone(), earlier, policy))
    }

    /// The policy that the workload wants, or what is wrong with it; nothing where it wants none.
    fn policy(self, facts: &Facts) -> Option<Result<Policy, String>> {
        let rollout = self.workload.spec.rollout.as_ref()?;
        let own = rollout.own();
        let name = rollout.policy_ref.clone().unwrap_or_default();
        let shared = || {
            let mut policies = facts.policies.iter();
            let found = policies.find(|policy| {
                policy.namespace().as_deref() == Some(&self.key.namespace) && policy.name_any() == name
            });
            found.map(|policy| policy.spec.clone())
        };
        let Some(spec) = own.or_else(shared) else {
            return Some(Err(format!(
                "there is no RolloutPolicy {name} in namespace {}: apply it, or change spec.rollout.policyRef",
                self.key.namespace
            )));
        };
        Some(build_policy(&spec))
    }

    /// What ran before: the revision that is named, or the newest that is good.
    fn incumbent(self, named: Option<&str>) -> Option<Arc<Past>> {
        let is_good = |entry: &&Arc<ControllerRevision>| {
            let hash = history::hash(entry);
            match named {
                Some(named) => hash == named,
                None => {
                    hash != self.candidate
                        && record(entry).is_none_or(|record| record.state == State::Complete)
                }
            }
        };
        let newest = self
            .history
            .iter()
            .filter(is_good)
            .max_by_key(|entry| entry.revision);
        let past = newest.and_then(|entry| Past::restore(entry, self.workload));
        if past.is_none() && named.is_some() {
            return self.incumbent(None);
        }
        past.map(Arc::new)
    }
}

/// The pods of a slot, by workload and slot.
type PodsBySlot<'a> = HashMap<(&'a WorkloadKey, &'a str), Vec<&'a Arc<Pod>>>;

fn pods_by_slot(snapshot: &Snapshot) -> PodsBySlot<'_> {
    let mut by_slot = PodsBySlot::new();
    let objects: HashMap<_, _> = snapshot
        .pods
        .iter()
        .map(|pod| (pod.metadata.uid.as_deref(), pod))
        .collect();
    for pod in &snapshot.world.pods {
        if let (Some(owned), Some(object)) = (&pod.owned, objects.get(&Some(pod.uid.as_str()))) {
            by_slot
                .entry((&owned.workload, owned.slot.as_str()))
                .or_default()
                .push(object);
        }
    }
    by_slot
}

impl Found<'_> {
    fn advance(
        self,
        snapshot: &Snapshot,
        facts: &Facts,
        seen: &Seen,
        (places, pods): (&[SlotPlace], &PodsBySlot<'_>),
        now: Timestamp,
    ) -> (Rolling, Option<Write>) {
        let record = self.begin_or_go_on(snapshot, (places, pods), now);
        let slots: Vec<_> = places
            .iter()
            .map(|place| self.see(place, pods.get(&(self.key, place.name.as_str())), seen))
            .collect();
        let decisions = self.decisions(facts);
        let judgement = seen.judgement(self.key, &self.candidate, &record);
        let obeyed = seen.is_obeyed(self.key, &self.candidate);
        let (record, waits, message, wake_at, stuck) = match &self.policy {
            Err(error) if record.state == State::Progressing => {
                (record, Waits::Person, error.clone(), None, true)
            }
            Err(_) => (record, Waits::Nothing, String::new(), None, false),
            Ok(policy) => {
                let sight = Sight {
                    now,
                    slots: &slots,
                    judgement: judgement.as_ref(),
                    decisions: &decisions,
                };
                let step = advance(&record, policy, &sight);
                (step.record, step.waits, step.message, step.wake_at, false)
            }
        };
        let write = (self.kept.as_ref() != Some(&record)).then(|| Write {
            key: self.key.clone(),
            entry: self.entry.clone(),
            record: record.clone(),
        });
        if self.kept.as_ref().map(|kept| kept.state) != Some(record.state) {
            tracing::info!(workload = %self.key, revision = %self.candidate, state = ?record.state, "{}", record.why);
        }
        let rolling = Rolling {
            candidate: self.candidate,
            record,
            policy: self.policy.ok(),
            earlier: self.earlier,
            slots,
            waits,
            message,
            wake_at,
            stuck,
            judgement,
            obeyed,
        };
        (rolling, write)
    }

    /// The record as it is kept; a new one where the rollout begins, or begins again after another spec.
    fn begin_or_go_on(
        &self,
        snapshot: &Snapshot,
        (places, pods): (&[SlotPlace], &PodsBySlot<'_>),
        now: Timestamp,
    ) -> Record {
        let kept = self.record.clone();
        let cohorts = self.policy.as_ref().map_or(&[][..], |policy| &policy.cohorts);
        // Until a cohort is open, another policy means other cohorts.
        let is_other = |record: &Record| {
            let names = record.cohorts.iter().map(|stage| &stage.name);
            record.cohorts.iter().all(|stage| stage.opened.is_none())
                && !cohorts.is_empty()
                && !names.eq(cohorts.iter().map(|cohort| &cohort.name))
        };
        let goes_on = |record: &Record| {
            record.state != State::Superseded && !(record.state == State::Progressing && is_other(record))
        };
        if let Some(record) = kept.clone().filter(goes_on) {
            return record;
        }
        let facts: Vec<_> = places
            .iter()
            .map(|place| slot_facts(snapshot, place, pods.get(&(self.key, place.name.as_str()))))
            .collect();
        let names: Vec<_> = cohorts.iter().map(|cohort| cohort.name.as_str()).collect();
        // Without a policy that can be read nothing is opened: all slots wait in one cohort.
        let names = if names.is_empty() { vec!["all"] } else { names };
        let incumbent = self.earlier.as_ref().map_or("", |past| past.revision.as_str());
        let begun = Record::begin(incumbent, &names, members(cohorts, &facts), now);
        Record {
            generation: kept.map_or(0, |record| record.generation) + 1,
            ..begun
        }
    }

    /// What the pod that serves a slot carries of the new revision.
    fn see(&self, place: &SlotPlace, pods: Option<&Vec<&Arc<Pod>>>, seen: &Seen) -> SlotSeen {
        let carrying = pods.into_iter().flatten().find(|pod| {
            pod.labels().get(names::LABEL_REVISION) == Some(&self.candidate)
                && crate::observe::pod::is_ready(pod)
                && pod.metadata.deletion_timestamp.is_none()
        });
        let carries = carrying.map_or(Carry::Nothing, |pod| {
            if !pod.annotations().contains_key(names::ANNOTATION_INCUMBENT) {
                return Carry::Alone;
            }
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            seen.failure(uid).map_or(Carry::Both, Carry::Failed)
        });
        let any = pods
            .into_iter()
            .flatten()
            .filter(|pod| pod.labels().get(names::LABEL_REVISION) == Some(&self.candidate));
        SlotSeen {
            name: place.name.clone(),
            offline: place.offline,
            carries,
            restarts: any.map(|pod| restarts(pod)).max().unwrap_or(0),
        }
    }

    /// What persons decided about this revision.
    fn decisions(&self, facts: &Facts) -> Vec<Decided> {
        let about = facts.approvals.iter().filter(|approval| {
            approval.namespace().as_deref() == Some(&self.key.namespace)
                && approval.spec.workload == self.key.name
                && approval.spec.revision == self.candidate
        });
        about
            .map(|approval| {
                let spec = &approval.spec;
                let at = approval.metadata.creation_timestamp.as_ref();
                let by = spec.by.as_ref().map(|by| format!(" ({by})")).unwrap_or_default();
                Decided {
                    at: at.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
                    decision: match spec.decision {
                        Wanted::Approve => Decision::Approve,
                        Wanted::Pause => Decision::Pause,
                        Wanted::Resume => Decision::Resume,
                        Wanted::Abort => Decision::Abort,
                        Wanted::Retry => Decision::Retry,
                        Wanted::Promote => Decision::Promote,
                    },
                    cohort: spec.cohort.clone(),
                    why: format!("{}{by}", spec.reason.as_deref().unwrap_or_default())
                        .trim()
                        .to_owned(),
                }
            })
            .collect()
    }
}

fn slot_facts(snapshot: &Snapshot, place: &SlotPlace, pods: Option<&Vec<&Arc<Pod>>>) -> SlotFacts {
    let node = place
        .node
        .as_ref()
        .and_then(|name| snapshot.world.nodes.get(name));
    let site = place.site.as_ref().and_then(|name| snapshot.sites.get(name));
    let mut annotations = pods.into_iter().flatten().map(|pod| pod.annotations());
    SlotFacts {
        name: place.name.clone(),
        node: node.map(|node| node.labels.clone()).unwrap_or_default(),
        site: site.map(|site| site.labels().clone()).unwrap_or_default(),
        profile: annotations.find_map(|annotations| annotations.get(names::ANNOTATION_PROFILE).cloned()),
    }
}

/// How often the runtime of a pod was started again.
fn restarts(pod: &Pod) -> u32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let runtime = statuses.filter(|status| status.name == names::CONTAINER_RUNTIME);
    runtime
        .map(|status| u32::try_from(status.restart_count).unwrap_or(0))
        .max()
        .unwrap_or(0)
}

/// Tells the planner which slots are open to the present revision.
pub fn open(snapshot: &mut Snapshot, decisions: Decisions) {
    let rollouts = decisions.rollouts;
    snapshot.past_rollouts = decisions.past;
    for (key, rolling) in &rollouts {
        let Some(past) = &rolling.earlier else { continue };
        if rolling.record.state == State::Complete {
            continue;
        }
        let workload = build_earlier(past, &snapshot.profiles, &snapshot.priorities);
        let Some(planned) = snapshot.world.workloads.get_mut(key) else {
            continue;
        };
        // A pod that carries both has the memory of both.
        planned.requests.memory_bytes += workload.requests.memory_bytes;
        let slots = rolling.slots.iter().map(|slot| slot.name.clone());
        planned.earlier = Some(Box::new(Earlier {
            open: slots.filter(|slot| rolling.record.is_open(slot)).collect(),
            workload,
        }));
    }
    snapshot.rollouts = rollouts;
}

#[cfg(test)]
mod tests;
