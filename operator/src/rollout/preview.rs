//! What a rollout would do, before it begins: which slots each cohort has, and what its verdict can tell, in what time.

use super::{pods_by_slot, slot_facts};
use crate::build::pair::refusal;
use crate::observe::snapshot::Snapshot;
use jiff::Timestamp;
use perwatt_crds::InferenceWorkloadSpec;
use perwatt_planner::slot_places;
use perwatt_planner::world::WorkloadKey;
use perwatt_rollout::{Cohort, FIRST_BLOCK, MIRROR_PER_MINUTE, Policy, SlotFacts, members};
use perwatt_verdict::Counts;
use perwatt_verdict::preview::{Plan, acceptance, sentence};
use perwatt_verdict::settings::{Metric, Settings};
use std::collections::BTreeSet;
use std::time::Duration;

/// From the opening of a cohort until its slots carry the new revision, where nothing has to be fetched first; and how
/// much later than its last turn a verdict is known.
const OPENING: Duration = Duration::from_secs(60);
/// What becomes of a cohort without slots that is not the last.
const EMPTY: &str = "it selects no slot: the rollout would wait there for a person";
/// Part of requests that fail where nothing is known of that.
const ERRORS: f64 = 0.001;

/// What is known of the revision that serves now.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    /// Requests a second of one slot.
    pub requests_per_second: Option<f64>,
    /// What was counted of it.
    pub counts: Counts,
}

/// What would become of a cohort.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// As the policy has it.
    pub cohort: Cohort,
    /// Its slots.
    pub slots: BTreeSet<String>,
    /// What can be told of each metric; or why nothing can.
    pub sentences: Vec<String>,
    /// The shortest and the longest time, once it is open, for a revision that is as good as the one before; nothing where
    /// that cannot be foreseen, or where a person decides whether it passes.
    pub time: Option<[Duration; 2]>,
}

/// The cohorts of a workload in the order in which they would get the revision, from its spec `before` to the one that
/// the snapshot has.
#[must_use]
pub fn forecast(
    snapshot: &Snapshot,
    key: &WorkloadKey,
    before: &InferenceWorkloadSpec,
    policy: &Policy,
    baseline: &Baseline,
    now: Timestamp,
) -> Vec<Forecast> {
    let pods = pods_by_slot(snapshot);
    let places = slot_places(&snapshot.world, now, [key]);
    let places = places.into_iter().flat_map(|(_, places)| places);
    let facts: Vec<_> = places
        .map(|place| slot_facts(snapshot, &place, pods.get(&(key, place.name.as_str()))))
        .collect();
    let mut sets = members(&policy.cohorts, &facts);
    let taken: BTreeSet<_> = sets.iter().flatten().cloned().collect();
    let names = facts.iter().map(|slot| slot.name.clone());
    sets.push(names.filter(|name| !taken.contains(name)).collect());
    let last = policy.cohorts.len().saturating_sub(1);
    let cohorts = policy.cohorts.iter().zip(sets).enumerate();
    cohorts
        .map(|(place, (cohort, slots))| {
            let (sentences, time) = match &policy.analysis {
                _ if slots.is_empty() && place < last => (vec![EMPTY.to_owned()], None),
                _ if slots.is_empty() => (Vec::new(), Some([Duration::ZERO; 2])),
                None => (Vec::new(), Some([cohort.bake, cohort.bake + OPENING])),
                Some(settings) => {
                    let of = facts.iter().filter(|slot| slots.contains(&slot.name));
                    let has_pod = |slot: &&SlotFacts| pods.contains_key(&(key, slot.name.as_str()));
                    let alone = refusals(snapshot, key, before, of.filter(has_pod));
                    let both = slots.len() - alone.len();
                    let (mut sentences, time) = match both {
                        0 => (Vec::new(), None),
                        both => tell(cohort, both, settings, baseline),
                    };
                    sentences.extend(describe(&alone, both));
                    (sentences, time)
                }
            };
            Forecast {
                cohort: cohort.clone(),
                slots,
                sentences,
                time,
            }
        })
        .collect()
}

/// Slots whose pods cannot carry both revisions, and why: nothing is compared there. What a slot without a pod will get is
/// not known.
fn refusals<'a>(
    snapshot: &Snapshot,
    key: &WorkloadKey,
    before: &InferenceWorkloadSpec,
    slots: impl Iterator<Item = &'a SlotFacts>,
) -> Vec<(&'a str, &'static str)> {
    let Some(workload) = snapshot.workloads.get(key) else {
        return Vec::new();
    };
    let refused = slots.filter_map(|slot| {
        let profile = slot.profile.as_ref().and_then(|name| snapshot.profiles.get(name));
        let why = refusal(&workload.spec, before, profile.map(AsRef::as_ref), true)?;
        Some((slot.name.as_str(), why))
    });
    refused.collect()
}

fn describe(alone: &[(&str, &str)], both: usize) -> Option<String> {
    let (slot, why) = alone.first()?;
    let more = match alone.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let then = match both {
        0 => "a person decides",
        _ => "the others decide",
    };
    Some(format!(
        "{slot}{more} cannot carry both revisions: {why}; nothing is compared there, {then}"
    ))
}

fn tell(
    cohort: &Cohort,
    slots: usize,
    settings: &Settings,
    baseline: &Baseline,
) -> (Vec<String>, Option<[Duration; 2]>) {
    let usable = |rate: &f64| rate.is_finite() && *rate > 0.0;
    let Some(each) = baseline.requests_per_second.filter(usable) else {
        let why = "how many requests there are is not known: give --rate, or spec.expectedRatePerMinute";
        return (vec![why.to_owned()], None);
    };
    #[allow(clippy::cast_precision_loss, reason = "a number of slots")]
    let units = slots as f64;
    let counts = &baseline.counts;
    let mut sentences = Vec::new();
    let mut slowest = Some(cohort.bake);
    for rule in &settings.rules {
        let plan = Plan {
            units: u32::try_from(slots).unwrap_or(u32::MAX),
            requests_per_second: each * units,
            mirrored_per_second: each.min(f64::from(MIRROR_PER_MINUTE) / 60.0) * units,
            first_block: FIRST_BLOCK,
            rate: part(rule.metric, counts),
            latency: counts.latency.clone(),
            incumbent_known: false,
            energy_spread: 0.1,
        };
        let unknown = matches!(rule.metric, Metric::LatencyQuantile(_)) && counts.latency.count() == 0;
        if unknown {
            sentences.push(format!(
                "{}: the latencies of the present revision are not known",
                rule.metric
            ));
            slowest = None;
            continue;
        }
        // Models that declare no confidence, applications without feedback, energy that nobody measures: not applicable
        // then, which is known once there is evidence.
        let told = sentence(*rule, cohort.deadline, &plan, settings);
        sentences.push(told.unwrap_or_else(|error| error.to_string()));
        let passes = acceptance(*rule, &plan, settings).ok().flatten();
        if is_always_judged(rule.metric) {
            slowest = slowest
                .zip(passes)
                .map(|(slowest, passes)| slowest.max(passes.time));
        }
    }
    if let Some(late) = slowest.filter(|slowest| *slowest > cohort.deadline) {
        sentences.push(format!(
            "evidence enough takes {} h, longer than the deadline of the cohort",
            late.as_secs().div_ceil(3_600)
        ));
        slowest = None;
    }
    (sentences, slowest.map(|slowest| [cohort.bake, slowest + OPENING]))
}

/// Whether every workload has it.
fn is_always_judged(metric: Metric) -> bool {
    matches!(
        metric,
        Metric::ErrorRate | Metric::LatencyQuantile(_) | Metric::FallbackRate | Metric::Disagreement
    )
}

/// Part of requests that count against a metric now.
fn part(metric: Metric, counts: &Counts) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "parts of counts")]
    let part = |some: u64, all: u64| (all > 0).then(|| some as f64 / all as f64);
    let requests = counts.requests();
    let known = match metric {
        Metric::ErrorRate => part(counts.failed, requests),
        Metric::FallbackRate => part(counts.fallbacks, requests),
        // Two revisions of one model never agree on all.
        Metric::Disagreement => Some(0.01),
        _ => None,
    };
    known.unwrap_or(ERRORS).max(ERRORS)
}
