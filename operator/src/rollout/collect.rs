//! Tells runtimes that carry two revisions who is to answer, and asks them what came of it.
//!
//! What is here is lost with the process, and found again: orders follow from the records of rollouts, and runtimes keep
//! the turns that they closed.

use super::key::ControlKey;
use crate::evidence::{AnswerError, host, read_answer};
use crate::observe::snapshot::Snapshot;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use perwatt_crds::names;
use perwatt_planner::world::{Role, WorkloadKey};
use perwatt_rollout::{Mode, Order, Record, order};
use perwatt_verdict::evidence::{Turn, Unit};
use perwatt_verdict::{Evidence, Judgement, Settings, SettingsError, Verdict, judge};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often it is looked whether there is something to say or to ask.
const TICK: Duration = Duration::from_secs(1);
/// How often a runtime that compares is asked for its turns: a turn takes four seconds at least.
const ASK: Duration = Duration::from_secs(2);
/// How often a runtime is asked whether it still does as it was told: its state may have been lost.
const CHECK: Duration = Duration::from_secs(30);
/// Pods for each second that such checks take, so that thousands of them stay cheap.
const CHECKS_PER_SECOND: usize = 20;
/// Pods that are spoken to at once.
const CONCURRENT: usize = 16;
/// Longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 2 * 1024 * 1024;
/// Turns in one answer of a runtime.
const PAGE: usize = 32;
/// Most pages that are read in one go.
const PAGES: usize = 8;

/// A rollout whose runtimes are spoken to.
#[derive(Clone, Debug)]
pub struct Task {
    key: WorkloadKey,
    candidate: String,
    incumbent: String,
    /// When the rollout began: one that is tried again starts without evidence.
    began: Timestamp,
    /// Place of the cohort that is open, and what is judged there.
    judged: Option<(usize, Settings)>,
    pods: Vec<TaskPod>,
}

/// A pod that carries both revisions.
#[derive(Clone, Debug)]
struct TaskPod {
    uid: String,
    address: String,
    slot: String,
    series: String,
    token: String,
    order: Order,
    /// It is of the cohort that is judged.
    counts: bool,
    /// It bridges a slot of that cohort.
    bridges: bool,
}

/// What is known of a runtime.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Of the command in force.
    generation: Option<u64>,
    /// Why its candidate does not work.
    failure: Option<String>,
    /// Number of the last turn that was read.
    cursor: u32,
    asked: Option<Instant>,
    checked: Option<Instant>,
    /// How often evidence was asked for, and how often none came.
    measuring: (u64, u64),
}

/// Workload and revision, and when the rollout began.
type RolloutKey = (WorkloadKey, String, Timestamp);

impl Task {
    fn rollout(&self) -> RolloutKey {
        (self.key.clone(), self.candidate.clone(), self.began)
    }
}

#[derive(Default)]
struct Inner {
    tasks: Vec<Task>,
    known: HashMap<String, Known>,
    evidence: HashMap<RolloutKey, Evidence>,
    judgements: HashMap<RolloutKey, (usize, Judgement)>,
}

/// What runtimes said.
#[derive(Clone, Default)]
pub struct Seen {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
}

impl Seen {
    // Nothing panics under this lock, so a poisoned lock holds whole data.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the candidate in a pod does not work.
    #[must_use]
    pub fn failure(&self, uid: &str) -> Option<String> {
        self.lock().known.get(uid)?.failure.clone()
    }

    /// What was concluded of the cohort that is open.
    #[must_use]
    pub fn judgement(&self, key: &WorkloadKey, candidate: &str, record: &Record) -> Option<Judgement> {
        let inner = self.lock();
        let rollout = (key.clone(), candidate.to_owned(), record.began);
        let (of, judgement) = inner.judgements.get(&rollout)?;
        (Some(*of) == record.current()).then(|| judgement.clone())
    }

    /// Whether every runtime of a rollout does as it was told.
    #[must_use]
    pub fn is_obeyed(&self, key: &WorkloadKey, candidate: &str) -> bool {
        let inner = self.lock();
        let mut tasks = inner.tasks.iter();
        tasks.all(|task| {
            let other = (&task.key, task.candidate.as_str()) != (key, candidate);
            other
                || task.pods.iter().all(|pod| {
                    inner.known.get(&pod.uid).and_then(|known| known.generation) >= Some(pod.order.generation)
                })
        })
    }

    /// What is to be said and asked from now on.
    pub fn set_tasks(&self, tasks: Vec<Task>) {
        let mut inner = self.lock();
        let alive: HashSet<_> = tasks
            .iter()
            .flat_map(|task| task.pods.iter().map(|pod| pod.uid.clone()))
            .collect();
        inner.known.retain(|uid, _| alive.contains(uid));
        let open: HashSet<_> = tasks.iter().map(Task::rollout).collect();
        inner.evidence.retain(|key, _| open.contains(key));
        inner.judgements.retain(|key, _| open.contains(key));
        let news = tasks.iter().flat_map(|task| &task.pods).any(|pod| {
            inner.known.get(&pod.uid).and_then(|known| known.generation) < Some(pod.order.generation)
        });
        inner.tasks = tasks;
        drop(inner);
        if news {
            self.wake.notify_one();
        }
    }
}

/// What the runtimes of every rollout are to be told and asked.
#[must_use]
pub fn build_tasks(snapshot: &Snapshot, key: &ControlKey, now: Timestamp) -> Vec<Task> {
    let carrying = snapshot.pods.iter().filter(|pod| {
        pod.annotations().contains_key(names::ANNOTATION_INCUMBENT)
            && pod.metadata.deletion_timestamp.is_none()
            && crate::observe::pod::is_running(pod)
    });
    let mut tasks: BTreeMap<(WorkloadKey, String), Task> = BTreeMap::new();
    for pod in carrying {
        let Some(found) = build_pod(snapshot, key, pod, now) else {
            continue;
        };
        let (workload, candidate, (incumbent, began), task_pod) = found;
        let rolling = snapshot
            .rollouts
            .get(&workload)
            .filter(|rolling| rolling.candidate == candidate);
        let judged = rolling.and_then(|rolling| {
            let settings = rolling.policy.as_ref()?.analysis.clone()?;
            Some((rolling.record.current()?, settings))
        });
        tasks
            .entry((workload.clone(), candidate.clone()))
            .or_insert_with(|| Task {
                key: workload,
                candidate,
                incumbent,
                began,
                judged,
                pods: Vec::new(),
            })
            .pods
            .push(task_pod);
    }
    tasks.into_values().collect()
}

fn build_pod(
    snapshot: &Snapshot,
    key: &ControlKey,
    pod: &Pod,
    now: Timestamp,
) -> Option<(WorkloadKey, String, (String, Timestamp), TaskPod)> {
    let label = |name: &str| pod.labels().get(name).cloned();
    let note = |name: &str| pod.annotations().get(name).cloned();
    let workload = WorkloadKey {
        namespace: pod.namespace()?,
        name: label(names::LABEL_WORKLOAD)?,
    };
    let candidate = label(names::LABEL_REVISION)?;
    let incumbent = note(names::ANNOTATION_INCUMBENT)?;
    let slot = note(names::ANNOTATION_SLOT)?;
    let rolling = snapshot.rollouts.get(&workload);
    let own = rolling.filter(|rolling| rolling.candidate == candidate);
    let record = match own {
        Some(rolling) => &rolling.record,
        // Of a revision that is not the present one any more: it goes on as its own rollout ended.
        None => snapshot
            .past_rollouts
            .get(&(workload.clone(), candidate.clone()))?,
    };
    let seed = key.seed(&workload.to_string(), &candidate, &slot);
    let order = order(record, &slot, seed, now);
    // A bridge serves for seconds, from another place: its few requests would be a series that never gets more.
    let is_bridge = label(names::LABEL_ROLE).as_deref() == Some(Role::Bridge.as_str());
    let is_judged =
        own.is_some_and(|rolling| Some(rolling.record.cohort_of(&slot)) == rolling.record.current());
    let series = match note(names::ANNOTATION_PROFILE) {
        Some(profile) => format!("{} on {profile}", label(names::LABEL_VARIANT)?),
        None => label(names::LABEL_VARIANT)?,
    };
    let task_pod = TaskPod {
        uid: pod.metadata.uid.clone()?,
        address: pod.status.as_ref()?.pod_ip.clone()?,
        token: key.token(&workload.namespace, &pod.name_any()),
        slot,
        series,
        order,
        counts: is_judged && !is_bridge,
        bridges: is_judged && is_bridge,
    };
    Some((workload, candidate, (incumbent, record.began), task_pod))
}

/// Speaks to runtimes for ever; `changed` is notified where something that rollouts are decided on is another.
pub async fn collect(client: reqwest::Client, seen: Seen, changed: Arc<Notify>) {
    loop {
        tokio::select! {
            () = seen.wake.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
        if round(&client, &seen).await {
            changed.notify_one();
        }
    }
}

async fn round(client: &reqwest::Client, seen: &Seen) -> bool {
    let (tasks, check) = {
        let inner = seen.lock();
        let pods = inner.tasks.iter().map(|task| task.pods.len()).sum::<usize>();
        (
            inner.tasks.clone(),
            CHECK.max(Duration::from_secs((pods / CHECKS_PER_SECOND) as u64)),
        )
    };
    let mut changed = false;
    for task in &tasks {
        let answers: Vec<_> = stream::iter(&task.pods)
            .map(|pod| async move {
                let known = seen.lock().known.get(&pod.uid).cloned().unwrap_or_default();
                (pod, speak(client, task, pod, known, check).await)
            })
            .buffer_unordered(CONCURRENT)
            .filter_map(|(pod, spoken)| std::future::ready(spoken.map(|spoken| (pod, spoken))))
            .collect()
            .await;
        changed |= note(seen, task, answers).await;
    }
    changed
}

/// What came of speaking to a runtime.
struct Spoken {
    known: Known,
    turns: Vec<Turn>,
    confidence_edges: Vec<f64>,
}

/// Tells a runtime what to do, where it does not do it, and asks it for its turns; nothing where neither is due.
async fn speak(
    client: &reqwest::Client,
    task: &Task,
    pod: &TaskPod,
    mut known: Known,
    check: Duration,
) -> Option<Spoken> {
    let is_due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| last.elapsed() >= every);
    let mut spoke = false;
    let base = format!("http://{}:{}", host(&pod.address), names::PORT_OBSERVE);
    if known.generation < Some(pod.order.generation) || is_due(known.checked, check) {
        spoke = true;
        if let Some(state) = command(client, &base, pod).await {
            known.generation = Some(state.generation);
            known.checked = Some(Instant::now());
            known.failure = state
                .candidate
                .filter(|candidate| candidate.state == "Failed")
                .map(|candidate| candidate.reason.chars().take(300).collect());
        }
    }
    let mut turns = Vec::new();
    let mut confidence_edges = Vec::new();
    if pod.counts && task.judged.is_some() && known.failure.is_none() && is_due(known.asked, ASK) {
        spoke = true;
        known.asked = Some(Instant::now());
        for _ in 0..PAGES {
            known.measuring.0 += 1;
            let Some(comparison) = ask(client, &base, known.cursor).await else {
                known.measuring.1 += 1;
                break;
            };
            if (&comparison.incumbent, &comparison.candidate) != (&task.incumbent, &task.candidate) {
                break;
            }
            confidence_edges = comparison.confidence_edges;
            let page = comparison.turns.len();
            if let Some(last) = comparison.turns.last() {
                known.cursor = last.number;
            }
            turns.extend(comparison.turns);
            if page < PAGE {
                break;
            }
        }
    }
    spoke.then_some(Spoken {
        known,
        turns,
        confidence_edges,
    })
}

/// Keeps what runtimes said, and judges anew where there is more evidence.
async fn note(seen: &Seen, task: &Task, answers: Vec<(&TaskPod, Spoken)>) -> bool {
    let rollout = task.rollout();
    let mut changed = false;
    let evidence = {
        let mut inner = seen.lock();
        let inner = &mut *inner;
        let evidence = inner
            .evidence
            .entry(rollout.clone())
            .or_insert_with(|| Evidence::new(&task.candidate, &task.incumbent));
        let mut more = false;
        for (pod, spoken) in answers {
            let before = inner
                .known
                .insert(pod.uid.clone(), spoken.known.clone())
                .unwrap_or_default();
            changed |= before.failure != spoken.known.failure || before.generation != spoken.known.generation;
            more |= before.measuring != spoken.known.measuring;
            if pod.counts && task.judged.is_some() {
                add(evidence, pod, spoken);
            }
        }
        more.then(|| evidence.clone())
    };
    let (Some(evidence), Some((cohort, settings))) = (evidence, task.judged.clone()) else {
        return changed;
    };
    let pods = task.pods.clone();
    let judged = tokio::task::spawn_blocking(move || conclude(evidence, &pods, &settings));
    let Ok(Ok(judgement)) = judged.await else {
        return changed;
    };
    let mut inner = seen.lock();
    let before = inner.judgements.insert(rollout, (cohort, judgement.clone()));
    changed | (before != Some((cohort, judgement)))
}

/// A cohort passes by the way in which its slots are served now: nobody waits for more of another way, which a slot has
/// left. What was seen there still speaks against the revision, and is waited for again where a slot returns to it.
fn conclude(
    mut evidence: Evidence,
    pods: &[TaskPod],
    settings: &Settings,
) -> Result<Judgement, SettingsError> {
    let judged: HashSet<_> = pods
        .iter()
        .filter(|pod| pod.counts || pod.bridges)
        .map(|pod| pod.slot.as_str())
        .collect();
    evidence.units.retain(|name, _| judged.contains(slot_of(name)));
    let all = judge(&evidence, settings)?;
    let units = evidence.units.len();
    let now = served_now(evidence, pods);
    if all.verdict == Verdict::Fail || now.units.len() == units {
        return Ok(all);
    }
    let now = judge(&now, settings)?;
    // It has a larger share of the chance of an error: only what all evidence shows is enough to go back.
    Ok(match now.verdict {
        Verdict::Fail => all,
        Verdict::Pass | Verdict::Inconclusive => now,
    })
}

/// The evidence of the way in which slots are served now; all of a slot that a bridge alone serves.
fn served_now(mut evidence: Evidence, pods: &[TaskPod]) -> Evidence {
    let counts = pods.iter().filter(|pod| pod.counts);
    let served: HashMap<_, _> = counts
        .map(|pod| (pod.slot.as_str(), pod.series.as_str()))
        .collect();
    evidence.units.retain(|name, unit| {
        let series = served.get(slot_of(name));
        series.is_none_or(|series| *series == unit.series)
    });
    evidence
}

/// Between the slot and what tells units of one slot apart.
const UNIT_SEPARATOR: &str = " as ";

fn slot_of(unit: &str) -> &str {
    unit.split_once(UNIT_SEPARATOR).map_or(unit, |(slot, _)| slot)
}

fn add(evidence: &mut Evidence, pod: &TaskPod, spoken: Spoken) {
    let unit = Unit {
        series: pod.series.clone(),
        turns: spoken.turns,
        confidence_edges: spoken.confidence_edges,
        ..Unit::default()
    };
    // A slot that is served in another way is another unit: it is compared among others.
    let fits = |known: &Unit| known.series == unit.series;
    let name = match evidence.units.get(&pod.slot) {
        Some(known) if !fits(known) => format!("{}{UNIT_SEPARATOR}{}", pod.slot, pod.series),
        _ => pod.slot.clone(),
    };
    let known = evidence.units.entry(name).or_insert_with(|| Unit {
        series: unit.series.clone(),
        confidence_edges: unit.confidence_edges.clone(),
        ..Unit::default()
    });
    if known.turns.is_empty() {
        known.confidence_edges.clone_from(&unit.confidence_edges);
    }
    let (asked, failed) = spoken.known.measuring;
    known.measuring.asked = known.measuring.asked.max(asked);
    known.measuring.failed = known.measuring.failed.max(failed);
    if unit.turns.is_empty() {
        return;
    }
    if let Err(error) = known.merge(&unit) {
        tracing::warn!(slot = %pod.slot, %error, "evidence of a slot contradicts what it said before");
        known.measuring.asked += 1;
        known.measuring.failed += 1;
    }
}

/// What a runtime answers about its revisions.
#[derive(Debug, Deserialize)]
struct State {
    candidate: Option<CandidateState>,
    generation: u64,
}

#[derive(Debug, Deserialize)]
struct CandidateState {
    state: String,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    comparison: Option<Comparison>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Comparison {
    incumbent: String,
    candidate: String,
    #[serde(default)]
    turns: Vec<Turn>,
    #[serde(default)]
    confidence_edges: Vec<f64>,
}

/// Tells a runtime its order where it has an older one; gives what is then in force.
async fn command(client: &reqwest::Client, base: &str, pod: &TaskPod) -> Option<State> {
    let url = format!("{base}/rollout");
    let state: State = read(&url, client.get(&url)).await?;
    let failed = state
        .candidate
        .as_ref()
        .is_some_and(|candidate| candidate.state == "Failed");
    if state.generation >= pod.order.generation || (failed && pod.order.mode != Mode::Incumbent) {
        return Some(state);
    }
    let order = client.put(&url).bearer_auth(&pod.token).json(&pod.order);
    read(&url, order).await
}

async fn ask(client: &reqwest::Client, base: &str, after: u32) -> Option<Comparison> {
    let url = format!("{base}/evidence?after={after}");
    let answer: Answer = read(&url, client.get(&url)).await?;
    answer.comparison
}

async fn read<T: for<'a> Deserialize<'a>>(url: &str, request: reqwest::RequestBuilder) -> Option<T> {
    let body = match read_answer(request, ANSWER_LIMIT).await {
        Ok(body) => body,
        Err(error @ AnswerError::Late) => {
            tracing::debug!(%url, %error, "a runtime with two revisions");
            return None;
        }
        Err(error) => {
            tracing::warn!(%url, %error, "a runtime with two revisions does not do as it is told");
            return None;
        }
    };
    serde_json::from_slice(&body)
        .inspect_err(
            |error| tracing::warn!(%url, %error, "a runtime with two revisions cannot be understood"),
        )
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use perwatt_verdict::{Arm, Limit, Metric, Rule};

    fn pod(slot: &str, series: &str, counts: bool) -> TaskPod {
        TaskPod {
            uid: format!("{slot} {series}"),
            address: "10.0.0.1".to_owned(),
            slot: slot.to_owned(),
            series: series.to_owned(),
            token: String::new(),
            order: Order {
                mode: Mode::Compare,
                seed: 1,
                block_seconds: 2,
                mirror_per_minute: 0,
                generation: 1,
            },
            counts,
            bridges: !counts,
        }
    }

    /// Turns with so many requests of each revision, of which the new one fails some.
    fn seen(turns: u32, requests: u64, failed: u64) -> Spoken {
        let counts = |failed: u64| perwatt_verdict::Counts {
            milliseconds: 1_800,
            answered: requests - failed,
            failed,
            ..perwatt_verdict::Counts::default()
        };
        let turn = |number: u32| Turn {
            epoch: "e".to_owned(),
            epoch_unix_seconds: 1,
            number,
            // A coin, as far as anybody can tell.
            first: match (number * number / 3) % 2 {
                0 => Arm::Canary,
                _ => Arm::Incumbent,
            },
            canary: counts(failed),
            incumbent: counts(0),
            mirrored: perwatt_verdict::evidence::Mirrored::default(),
        };
        Spoken {
            known: Known::default(),
            turns: (1..=turns).map(turn).collect(),
            confidence_edges: Vec::new(),
        }
    }

    fn settings() -> Settings {
        let rule = Rule {
            metric: Metric::ErrorRate,
            limit: Limit::IncreaseMillionths(100_000),
        };
        Settings {
            rules: vec![rule],
            ..Settings::default()
        }
    }

    #[test]
    fn a_cohort_passes_by_the_way_in_which_its_slots_are_served_now() {
        let (cpu, npu) = (pod("a", "cpu", true), pod("a", "npu on chip", true));
        let mut evidence = Evidence::new("new", "old");
        add(&mut evidence, &cpu, seen(2, 50, 0));
        add(&mut evidence, &npu, seen(40, 50, 0));
        assert_eq!(evidence.units.len(), 2);
        let verdict = |pods: &[TaskPod]| conclude(evidence.clone(), pods, &settings()).unwrap().verdict;
        assert_eq!(verdict(std::slice::from_ref(&npu)), Verdict::Pass);
        assert_eq!(verdict(&[cpu]), Verdict::Inconclusive, "there is little of it");
        let bridge = pod("a", "cpu", false);
        assert_eq!(
            verdict(std::slice::from_ref(&bridge)),
            Verdict::Inconclusive,
            "it is not over"
        );
        assert_eq!(verdict(&[bridge, npu]), Verdict::Pass);
        assert_eq!(verdict(&[]), Verdict::Inconclusive);
    }

    #[test]
    fn what_failed_elsewhere_counts_though_the_slot_has_left() {
        let (cpu, npu) = (pod("a", "cpu", true), pod("a", "npu on chip", true));
        let mut evidence = Evidence::new("new", "old");
        add(&mut evidence, &npu, seen(40, 50, 25));
        add(&mut evidence, &cpu, seen(40, 50, 0));
        let judged = conclude(evidence, &[cpu], &settings()).unwrap();
        assert_eq!(judged.verdict, Verdict::Fail, "{}", judged.sentence);
    }
}
