//! One step of a rollout.

use crate::policy::{Approval, Cohort, OnInconclusive, Policy, PolicyError};
use crate::record::{CohortRecord, Ending, Record};
use jiff::Timestamp;
use perwatt_verdict::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A slot as it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Whether its node can be reached. One that cannot keeps serving what it has, and counts nowhere.
    pub online: bool,
    /// What it serves.
    pub state: SlotState,
    /// Whether it serves at all.
    pub available: bool,
}

/// What a slot serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotState {
    /// The incumbent.
    Old,
    /// It is changing from one to the other.
    Changing,
    /// The new revision.
    New,
}

/// What a person said of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// When.
    pub at: Timestamp,
    /// Which cohort is meant; all of them where none is named.
    pub cohort: Option<usize>,
    /// What.
    pub decision: Decision,
    /// Why.
    pub reason: String,
}

/// What a person may decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// The cohort that is named may begin, once those before it are through.
    Approve,
    /// Nothing more gets the revision until somebody says `Resume`.
    Pause,
    /// It goes on.
    Resume,
    /// Everything returns to the incumbent.
    Abort,
    /// The cohort counts as judged good, without a verdict.
    SkipAnalysis,
}

/// All that a step looks at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Slots, by name.
    pub slots: &'a BTreeMap<String, Slot>,
    /// The verdict on each cohort that has one, over all evidence so far.
    pub verdicts: &'a BTreeMap<usize, (Verdict, String)>,
    /// What people said, in any order.
    pub words: &'a [Word],
    /// The time.
    pub now: Timestamp,
}

/// Where a cohort stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The cohorts before it are not through, or nothing may change now.
    Waiting,
    /// Those before it are through, and it waits for a person.
    AwaitingApproval,
    /// Its slots get the revision.
    Replacing,
    /// It runs the revision, at least until then.
    Baking {
        /// The end of the bake.
        until: Timestamp,
    },
    /// It baked, and waits for a verdict.
    Judging,
    /// It is through.
    Done,
    /// It returns to the incumbent, or has.
    RolledBack,
}

/// A cohort, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CohortView {
    /// Where it stands.
    pub phase: Phase,
    /// Slots that can be reached.
    pub reachable: usize,
    /// Of them, those that serve the revision.
    pub updated: usize,
    /// Slots that cannot be reached.
    pub offline: usize,
}

/// What a step ends in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What to keep.
    pub record: Record,
    /// Slots that may now change to the new revision.
    pub advance: Vec<String>,
    /// Slots that must return to the incumbent.
    pub retreat: Vec<String>,
    /// Each cohort.
    pub cohorts: Vec<CohortView>,
    /// Why nothing more changes though slots are left; nothing where that is not so.
    pub held: Option<String>,
}

/// The next step of a rollout. Taken again with what it returned and nothing else changed, it returns the same.
///
/// # Errors
/// Where the policy cannot be kept to, or has other cohorts than the record.
pub fn step(policy: &Policy, record: &Record, seen: Seen<'_>) -> Result<Step, PolicyError> {
    policy.check()?;
    if record.cohorts.len() != policy.cohorts.len() {
        return Err(PolicyError::Cohorts(record.cohorts.len()));
    }
    let mut record = record.clone();
    if record.ending.is_none() {
        record.ending = abort(&seen);
    }
    let held = hold(policy, seen);
    let mut advance = Vec::new();
    // A cohort that has nobody to change opens the next at once.
    for _ in 0..=policy.cohorts.len() {
        let before = record.clone();
        judge(policy, &mut record, seen, held.is_some());
        if record.rolls_back() {
            advance.clear();
            break;
        }
        if held.is_none() {
            advance = widen(policy, &mut record, seen);
        }
        if record == before {
            break;
        }
    }
    let retreat = if record.rolls_back() {
        to_retreat(&record, seen)
    } else {
        Vec::new()
    };
    let cohorts = (0..policy.cohorts.len())
        .map(|place| view(policy, &record, seen, place))
        .collect();
    Ok(Step {
        record,
        advance,
        retreat,
        cohorts,
        held,
    })
}

fn abort(seen: &Seen<'_>) -> Option<Ending> {
    let word = seen
        .words
        .iter()
        .filter(|word| word.decision == Decision::Abort)
        .min_by_key(|word| word.at)?;
    Some(Ending::Aborted {
        reason: word.reason.clone(),
    })
}

/// Why nothing may change.
fn hold(policy: &Policy, seen: Seen<'_>) -> Option<String> {
    let pauses = seen
        .words
        .iter()
        .filter(|word| matches!(word.decision, Decision::Pause | Decision::Resume));
    // Of two words at one moment the pause counts.
    let last = pauses.max_by_key(|word| (word.at, word.decision == Decision::Pause));
    if let Some(word) = last.filter(|word| word.decision == Decision::Pause) {
        return Some(format!("paused: {}", word.reason));
    }
    policy
        .frozen(seen.now)
        .map(|until| format!("frozen until {until}"))
}

/// Members of a cohort that can be reached.
fn reachable<'a>(
    record: &'a Record,
    seen: Seen<'a>,
    cohort: usize,
) -> impl Iterator<Item = (&'a String, &'a Slot)> {
    let members = record.members.iter().filter(move |(_, place)| **place == cohort);
    members
        .filter_map(move |(name, _)| seen.slots.get_key_value(name))
        .filter(|(_, slot)| slot.online)
}

/// Whether nobody of a cohort can be reached, and whether all who can serve the revision. Where nobody can be reached
/// there is nothing to show, and nobody to be late.
fn is_dark_or_complete(record: &Record, seen: Seen<'_>, place: usize) -> [bool; 2] {
    let mut members = reachable(record, seen, place).peekable();
    let dark = members.peek().is_none();
    [
        dark,
        !dark && members.all(|(_, slot)| slot.state == SlotState::New && slot.available),
    ]
}

/// Notes which cohorts are complete, passed, or rejected.
fn judge(policy: &Policy, record: &mut Record, seen: Seen<'_>, held: bool) {
    for (place, cohort) in policy.cohorts.iter().enumerate() {
        let [dark, complete] = is_dark_or_complete(record, seen, place);
        let Some(own) = record.cohorts.get_mut(place) else {
            return;
        };
        if own.opened.is_none() {
            return;
        }
        // Its bake does not begin anew for what comes to it later.
        if own.complete.is_none() && complete {
            own.complete = Some(seen.now);
        }
        let late = !held && !dark && is_late(cohort, own, seen, place);
        let late = late && policy.on_inconclusive == OnInconclusive::Rollback;
        let slow = || late.then(|| format!("cohort {:?} had not passed by its deadline", cohort.name));
        if let Some(reason) = failure(seen, place).or_else(slow) {
            record.ending = Some(Ending::Rejected {
                cohort: place,
                reason,
            });
            return;
        }
        if own.passed.is_none() && passes(cohort, own, seen, place) {
            own.passed = Some(seen.now);
        }
    }
    let through = (0..policy.cohorts.len()).all(|place| is_through(record, place));
    if through && record.ending.is_none() {
        record.ending = Some(Ending::Complete);
    }
}

/// Why a cohort rejects the revision. That it did well before does not shield it from what is shown now; that a person
/// skipped its analysis does.
fn failure(seen: Seen<'_>, place: usize) -> Option<String> {
    match seen.verdicts.get(&place) {
        Some((Verdict::Fail, reason)) if !said(seen, place, Decision::SkipAnalysis) => Some(reason.clone()),
        _ => None,
    }
}

fn is_late(cohort: &Cohort, own: &CohortRecord, seen: Seen<'_>, place: usize) -> bool {
    let end = own
        .opened
        .zip(cohort.deadline)
        .and_then(|(opened, deadline)| opened.saturating_add(deadline).ok());
    let open = own.passed.is_none() && !passes(cohort, own, seen, place);
    open && end.is_some_and(|end| seen.now >= end)
}

fn passes(cohort: &Cohort, own: &CohortRecord, seen: Seen<'_>, place: usize) -> bool {
    if said(seen, place, Decision::SkipAnalysis) {
        return true;
    }
    let baked = own
        .complete
        .and_then(|complete| complete.saturating_add(cohort.bake).ok());
    let passed = matches!(seen.verdicts.get(&place), Some((Verdict::Pass, _)));
    passed && baked.is_some_and(|until| seen.now >= until)
}

fn said(seen: Seen<'_>, place: usize, decision: Decision) -> bool {
    let meant = |word: &&Word| word.decision == decision && word.cohort.is_none_or(|cohort| cohort == place);
    // An approval of everything at once would be none of what comes later.
    let named = |word: &&Word| decision != Decision::Approve || word.cohort == Some(place);
    seen.words.iter().filter(meant).any(|word| named(&word))
}

/// Whether the next cohort may begin.
fn is_through(record: &Record, place: usize) -> bool {
    let Some(own) = record.cohorts.get(place) else {
        return false;
    };
    // With nobody in it there is nothing to wait for.
    own.passed.is_some() || (own.opened.is_some() && is_empty(record, place))
}

fn is_empty(record: &Record, place: usize) -> bool {
    !record.members.values().any(|member| *member == place)
}

/// Whether a cohort may begin, as far as people are asked.
fn is_approved(cohort: &Cohort, record: &Record, seen: Seen<'_>, place: usize) -> bool {
    cohort.approval == Approval::Automatic || is_empty(record, place) || said(seen, place, Decision::Approve)
}

/// Opens cohorts in their order, and lets as many of their slots change as may.
fn widen(policy: &Policy, record: &mut Record, seen: Seen<'_>) -> Vec<String> {
    let changing = seen
        .slots
        .values()
        .filter(|slot| slot.online && slot.state == SlotState::Changing)
        .count();
    let mut left = (policy.max_concurrent as usize).saturating_sub(changing);
    let mut advance = Vec::new();
    for (place, cohort) in policy.cohorts.iter().enumerate() {
        let approved = is_approved(cohort, record, seen, place);
        let Some(own) = record.cohorts.get_mut(place) else {
            break;
        };
        if own.opened.is_none() && !approved {
            break;
        }
        own.opened.get_or_insert(seen.now);
        let chosen = to_advance(cohort, record, seen, place, left);
        left -= chosen.len();
        advance.extend(chosen);
        if !is_through(record, place) {
            break;
        }
    }
    advance
}

/// Slots that do not serve anyway first: the new revision may be their cure, and takes nothing from anybody.
fn to_advance(cohort: &Cohort, record: &Record, seen: Seen<'_>, place: usize, left: usize) -> Vec<String> {
    let all = reachable(record, seen, place).count();
    let out = reachable(record, seen, place)
        .filter(|(_, slot)| !slot.available || slot.state == SlotState::Changing);
    let room = cohort.max_unavailable.of(all).saturating_sub(out.count());
    let old = |available| {
        let old = reachable(record, seen, place).filter(|(_, slot)| slot.state == SlotState::Old);
        old.filter(move |(_, slot)| slot.available == available)
            .map(|(name, _)| name.clone())
    };
    old(false).chain(old(true).take(room)).take(left).collect()
}

/// All slots that have the revision, whether or not they can be reached: those that cannot return when they can.
fn to_retreat(record: &Record, seen: Seen<'_>) -> Vec<String> {
    let members = record
        .members
        .keys()
        .filter_map(|name| seen.slots.get_key_value(name));
    let there = members.filter(|(_, slot)| slot.state != SlotState::Old);
    there.map(|(name, _)| name.clone()).collect()
}

fn view(policy: &Policy, record: &Record, seen: Seen<'_>, place: usize) -> CohortView {
    let members = record.members.iter().filter(|(_, cohort)| **cohort == place);
    let known = members.filter_map(|(name, _)| seen.slots.get(name));
    let offline = known.filter(|slot| !slot.online).count();
    let updated =
        reachable(record, seen, place).filter(|(_, slot)| slot.state == SlotState::New && slot.available);
    CohortView {
        phase: phase(policy, record, seen, place),
        reachable: reachable(record, seen, place).count(),
        updated: updated.count(),
        offline,
    }
}

fn phase(policy: &Policy, record: &Record, seen: Seen<'_>, place: usize) -> Phase {
    let (Some(cohort), Some(own)) = (policy.cohorts.get(place), record.cohorts.get(place)) else {
        return Phase::Waiting;
    };
    match (own.opened, own.complete, own.passed) {
        (None, ..) => {
            let next = (0..place).all(|before| is_through(record, before));
            let asked = next && record.ending.is_none() && !is_approved(cohort, record, seen, place);
            if asked {
                Phase::AwaitingApproval
            } else {
                Phase::Waiting
            }
        }
        _ if record.rolls_back() => Phase::RolledBack,
        _ if is_through(record, place) => Phase::Done,
        (_, None, _) => Phase::Replacing,
        (_, Some(complete), _) => match complete.saturating_add(cohort.bake) {
            Ok(until) if seen.now < until => Phase::Baking { until },
            _ => Phase::Judging,
        },
    }
}
