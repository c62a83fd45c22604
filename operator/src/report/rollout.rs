//! What a rollout does and found, as a workload's status tells it.

use super::events::Told;
use super::workload::Facts;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use perwatt_crds::conditions::{ConditionType, condition, cut};
use perwatt_crds::workload::{AnalysisStatus, CohortStatus, RolloutEnd, RolloutStatus};
use perwatt_planner::world::WorkloadKey;
use perwatt_rollout::{Carry, Record, State};
use perwatt_verdict::Judgement;
use std::collections::BTreeMap;

/// Findings that a status lists.
const FINDINGS: usize = 32;
/// Rollouts that a status remembers.
const HISTORY: usize = 10;
/// Figures of a comparison change with every turn: they are written when so many more turns are in than were told.
const MORE_TURNS: u64 = 4;

/// The rollout of the present revision.
#[must_use]
pub fn compute(facts: &Facts<'_>) -> Option<RolloutStatus> {
    let rolling = facts.rolling?;
    let record = &rolling.record;
    let state = match record.state {
        State::Progressing if rolling.stuck => "PolicyInvalid",
        State::Progressing => rolling.waits.as_str(),
        State::Complete => "Complete",
        State::Rejected => "Rejected",
        State::Superseded => "Superseded",
    };
    let message = if rolling.message.is_empty() {
        &record.why
    } else {
        &rolling.message
    };
    let analysis = rolling.judgement.as_ref().map(analysis).unwrap_or_default();
    let previous = facts
        .workload
        .status
        .as_ref()
        .and_then(|status| status.rollout.as_ref());
    let mut status = RolloutStatus {
        revision: rolling.candidate.clone(),
        incumbent: record.incumbent.clone(),
        state: state.to_owned(),
        message: cut(message),
        began: Some(whole(record.began)),
        obeyed: rolling.obeyed,
        cohorts: (0..record.cohorts.len())
            .map(|place| cohort(facts, place))
            .collect(),
        analysis,
    };
    if let Some(previous) = previous.filter(|previous| is_little_news(previous, &status)) {
        status.analysis.clone_from(&previous.analysis);
        status.message.clone_from(&previous.message);
    }
    Some(status)
}

/// Whether nothing but figures changed, and those by little: statuses are not written with every turn.
fn is_little_news(previous: &RolloutStatus, next: &RolloutStatus) -> bool {
    let outcomes = |status: &RolloutStatus| -> Vec<_> {
        let analysis = status.analysis.iter();
        analysis
            .map(|finding| {
                (
                    finding.metric.clone(),
                    finding.series.clone(),
                    finding.outcome.clone(),
                )
            })
            .collect()
    };
    let turns = |status: &RolloutStatus| {
        status
            .analysis
            .iter()
            .map(|finding| finding.turns)
            .max()
            .unwrap_or(0)
    };
    (&previous.revision, &previous.state, &previous.cohorts) == (&next.revision, &next.state, &next.cohorts)
        && previous.began == next.began
        && outcomes(previous) == outcomes(next)
        && turns(next) < turns(previous) + MORE_TURNS
        && turns(next) >= turns(previous)
        && !next.analysis.is_empty()
}

fn cohort(facts: &Facts<'_>, place: usize) -> CohortStatus {
    let Some(rolling) = facts.rolling else {
        return CohortStatus::default();
    };
    let stage = &rolling.record.cohorts[place];
    let own = || {
        rolling
            .slots
            .iter()
            .filter(|slot| rolling.record.cohort_of(&slot.name) == place)
    };
    let count = |slots: usize| u32::try_from(slots).unwrap_or(u32::MAX);
    CohortStatus {
        name: stage.name.clone(),
        slots: count(own().count()),
        updated: count(own().filter(|slot| slot.carries != Carry::Nothing).count()),
        offline: count(own().filter(|slot| slot.offline).count()),
        opened: stage.opened.map(whole),
        baking: stage.baking.map(whole),
        closed: stage.closed.map(whole),
        verdict: stage.verdict.map(|verdict| format!("{verdict:?}")),
        message: cut(&stage.sentence),
    }
}

fn analysis(judgement: &Judgement) -> Vec<AnalysisStatus> {
    let findings = judgement.findings.iter().take(FINDINGS);
    findings
        .map(|finding| AnalysisStatus {
            metric: finding.metric.to_string(),
            series: finding.series.clone(),
            outcome: format!("{:?}", finding.outcome),
            turns: finding.samples.turns,
            requests: finding.samples.canary.saturating_add(finding.samples.incumbent),
            message: cut(&finding.sentence),
        })
        .collect()
}

/// A time as the API server keeps it, in whole seconds: what is computed must be what was read.
fn whole(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// The rollout in a few words: `canary 1/3 Comparing`.
#[must_use]
pub fn summary(status: Option<&RolloutStatus>) -> String {
    let Some(status) = status else {
        return String::new();
    };
    let current = status.cohorts.iter().find(|cohort| cohort.closed.is_none());
    match (status.state.as_str(), current) {
        ("Complete" | "Rejected", _) | (_, None) => status.state.clone(),
        (state, Some(cohort)) => format!("{} {}/{} {state}", cohort.name, cohort.updated, cohort.slots),
    }
}

/// What the rollout adds to the conditions.
#[must_use]
pub fn conditions(status: Option<&RolloutStatus>, generation: Option<i64>) -> Vec<Condition> {
    let Some(status) = status else { return Vec::new() };
    let complete = status.state == "Complete";
    let message = if complete {
        format!(
            "revision {} passed all {} cohorts",
            status.revision,
            status.cohorts.len()
        )
    } else {
        format!("revision {}: {}", status.revision, status.message)
    };
    let mut conditions = vec![condition(
        ConditionType::RolloutComplete,
        complete,
        &status.state,
        &message,
        generation,
    )];
    let stalled = match status.state.as_str() {
        "Rejected" => Some((
            "RevisionRejected",
            format!(
                "revision {} was rejected, and {} serves: {}; change the spec, or try it again with `kubectl perwatt rollout retry`",
                status.revision, status.incumbent, status.message
            ),
        )),
        "PolicyInvalid" => Some((
            "RolloutPolicyInvalid",
            format!("spec.rollout: {}", status.message),
        )),
        _ => None,
    };
    if let Some((reason, message)) = stalled {
        conditions.push(condition(
            ConditionType::Stalled,
            true,
            reason,
            &message,
            generation,
        ));
    }
    conditions
}

/// The rollouts of a workload that ended.
#[must_use]
pub fn history(
    key: &WorkloadKey,
    rollouts: &BTreeMap<(WorkloadKey, String), Record>,
    present: Option<(&str, &Record)>,
) -> Vec<RolloutEnd> {
    let past = rollouts.iter().filter(|((of, _), _)| of == key);
    let past = past.map(|((_, revision), record)| (revision.as_str(), record));
    let mut ended: Vec<_> = past
        .chain(present)
        .filter(|(_, record)| record.state != State::Progressing)
        .collect();
    ended.sort_by_key(|(revision, record)| (std::cmp::Reverse(record.since), *revision));
    ended
        .into_iter()
        .take(HISTORY)
        .map(|(revision, record)| end(revision, record))
        .collect()
}

fn end(revision: &str, record: &Record) -> RolloutEnd {
    let reached = record.cohorts.iter().filter(|stage| stage.opened.is_some());
    let cohorts: Vec<_> = reached
        .map(|stage| match stage.verdict {
            Some(verdict) => format!("{} {verdict:?}", stage.name),
            None => stage.name.clone(),
        })
        .collect();
    RolloutEnd {
        revision: revision.to_owned(),
        incumbent: record.incumbent.clone(),
        outcome: format!("{:?}", record.state),
        began: whole(record.began),
        ended: whole(record.since),
        cohorts: cut(&cohorts.join(", ")),
        message: cut(&record.why),
    }
}

/// Told apart in events: what changed from one status to the next.
#[must_use]
pub fn told(previous: Option<&RolloutStatus>, next: Option<&RolloutStatus>) -> Vec<Told> {
    let Some(next) = next else { return Vec::new() };
    let same = |status: &&RolloutStatus| status.revision == next.revision && status.began == next.began;
    let previous = previous.filter(same);
    let mut told = Vec::new();
    let mut tell = |warning, reason, note: &str| told.push(Told::new(warning, reason, note));
    let revision = &next.revision;
    if previous.is_none() {
        let names: Vec<_> = next.cohorts.iter().map(|cohort| cohort.name.as_str()).collect();
        let note = format!(
            "revision {revision} replaces {} in cohorts {}",
            next.incumbent,
            names.join(", ")
        );
        tell(false, "RolloutBegan", &note);
    }
    for (place, cohort) in next.cohorts.iter().enumerate() {
        let before = previous.and_then(|previous| previous.cohorts.get(place));
        let was_open = before.is_some_and(|before| before.opened.is_some());
        let was_closed = before.is_some_and(|before| before.closed.is_some());
        if cohort.opened.is_some() && !was_open {
            let note = format!(
                "cohort {} gets revision {revision}: {} slots",
                cohort.name, cohort.slots
            );
            tell(false, "CohortOpened", &note);
        }
        if cohort.closed.is_some() && !was_closed && cohort.verdict.as_deref() != Some("Fail") {
            let note = format!("cohort {}: {}", cohort.name, cohort.message);
            tell(false, "CohortPassed", &note);
        }
    }
    let state = next.state.as_str();
    if previous.map(|previous| previous.state.as_str()) != Some(state) {
        let note = format!("revision {revision}: {}", next.message);
        match state {
            "Complete" => tell(
                false,
                "RolloutComplete",
                &format!("revision {revision} passed all cohorts"),
            ),
            "Rejected" => tell(
                true,
                "RolloutRejected",
                &format!("{note}; {} serves", next.incumbent),
            ),
            "AwaitingApproval" => tell(false, "RolloutAwaitsApproval", &note),
            "Paused" => tell(false, "RolloutPaused", &note),
            "DeadlineExceeded" => tell(true, "RolloutUndecided", &note),
            "PolicyInvalid" => tell(true, "RolloutPolicyInvalid", &note),
            _ => {}
        }
    }
    told
}
