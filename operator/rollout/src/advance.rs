//! One step of a rollout.

use crate::cohort::{Cohort, OnInconclusive, Policy};
use crate::record::{Record, Stage, State};
use jiff::Timestamp;
use perwatt_verdict::{Judgement, Verdict};
use std::time::Duration;

/// Restarts of a runtime that carries the new revision after which that is rejected.
const RESTARTS: u32 = 3;
/// Of a cohort that a person took away under way.
const NOT_IN_POLICY: &str =
    " is not in the policy any more: put it back, or let it pass with `kubectl perwatt rollout promote`";
/// Slots that a sentence names.
const NAMED: usize = 3;

/// What is seen of a rollout.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// The time.
    pub now: Timestamp,
    /// Every slot of the workload.
    pub slots: &'a [SlotSeen],
    /// What was concluded of the evidence of the cohort that is open.
    pub judgement: Option<&'a Judgement>,
    /// What persons decided about this revision, in any order.
    pub decisions: &'a [Decided],
}

/// A slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSeen {
    /// Its name.
    pub name: String,
    /// Nothing can be changed there now.
    pub offline: bool,
    /// What its pod carries.
    pub carries: Carry,
    /// How often its runtime was restarted since it carries the new revision.
    pub restarts: u32,
}

/// What the pod that serves a slot carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Carry {
    /// Not the new revision, or it is not ready.
    #[default]
    Nothing,
    /// The new revision alone: it cannot be compared in the pod.
    Alone,
    /// Both.
    Both,
    /// Both, but the new one could not be loaded.
    Failed(String),
}

/// What a person decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// When.
    pub at: Timestamp,
    /// What.
    pub decision: Decision,
    /// About which cohort, if one.
    pub cohort: Option<String>,
    /// Why, and who, as they say.
    pub why: String,
}

/// What can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let the revision into a cohort.
    Approve,
    /// Open no further cohort.
    Pause,
    /// Go on.
    Resume,
    /// Go back.
    Abort,
    /// Try again after a rejection.
    Retry,
    /// Let a cohort pass without a verdict.
    Promote,
}

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is to be kept.
    pub record: Record,
    /// What it waits for.
    pub waits: Waits,
    /// The same for a person.
    pub message: String,
    /// When something may change though nothing happens.
    pub wake_at: Option<Timestamp>,
}

/// What a rollout waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: it is over.
    Nothing,
    /// Slots that do not carry the revision yet.
    Slots,
    /// The time that the cohort bakes.
    Bake,
    /// Evidence.
    Evidence,
    /// A person's approval.
    Approval,
    /// The end of a pause.
    Pause,
    /// More evidence than the deadline gave, or a person.
    Person,
}

impl Waits {
    /// One word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "Complete",
            Self::Slots => "Opening",
            Self::Bake => "Baking",
            Self::Evidence => "Comparing",
            Self::Approval => "AwaitingApproval",
            Self::Pause => "Paused",
            Self::Person => "DeadlineExceeded",
        }
    }
}

/// Takes as many steps as can be taken now.
#[must_use]
pub fn advance(record: &Record, policy: &Policy, sight: &Sight<'_>) -> Step {
    let judged = record.current();
    let mut record = record.clone();
    loop {
        // What was concluded is about the cohort that was open, not about one that is opened now.
        let sight = Sight {
            judgement: sight.judgement.filter(|_| record.current() == judged),
            ..sight.clone()
        };
        let step = advance_once(&record, policy, &sight);
        if step.record == record {
            return step;
        }
        record = step.record;
    }
}

fn advance_once(record: &Record, policy: &Policy, sight: &Sight<'_>) -> Step {
    let over = |record: Record, message: String| Step {
        record,
        waits: Waits::Nothing,
        message,
        wake_at: None,
    };
    match record.state {
        State::Superseded | State::Complete => return over(record.clone(), String::new()),
        State::Rejected => {
            let retry = latest(sight, Decision::Retry, None, record.since);
            return match retry {
                Some(_) => over(record.again(sight.now), String::new()),
                None => over(record.clone(), record.why.clone()),
            };
        }
        State::Progressing => {}
    }
    if let Some(decided) = latest(sight, Decision::Abort, None, record.began) {
        let why = format!("a person went back{}", reason(&decided.why));
        return over(record.to(State::Rejected, sight.now, &why), why);
    }
    match record.current() {
        Some(place) => Course {
            record,
            policy,
            sight,
            place,
        }
        .within(),
        None => open_next(record, policy, sight),
    }
}

/// Opens the first cohort that is not, where nothing holds it.
fn open_next(record: &Record, policy: &Policy, sight: &Sight<'_>) -> Step {
    let Some(place) = record.cohorts.iter().position(|stage| stage.opened.is_none()) else {
        let record = record.to(State::Complete, sight.now, "");
        return Step {
            record,
            waits: Waits::Nothing,
            message: String::new(),
            wake_at: None,
        };
    };
    let stage = &record.cohorts[place];
    let wait = |waits, message| Step {
        record: record.clone(),
        waits,
        message,
        wake_at: None,
    };
    if let Some(paused) = pause(sight) {
        let message = format!("paused before cohort {}{}", stage.name, reason(&paused.why));
        return wait(Waits::Pause, message);
    }
    let Some(cohort) = named(policy, stage) else {
        return wait(Waits::Person, format!("cohort {}{NOT_IN_POLICY}", stage.name));
    };
    let approved = latest(sight, Decision::Approve, Some(&stage.name), record.began);
    let promoted = latest(sight, Decision::Promote, Some(&stage.name), record.began);
    if cohort.manual && approved.or(promoted).is_none() {
        let message = format!("cohort {} waits for a person's approval", stage.name);
        return wait(Waits::Approval, message);
    }
    let mut record = record.clone();
    record.generation += 1;
    record.cohorts[place].opened = Some(sight.now);
    Step {
        record,
        waits: Waits::Slots,
        message: String::new(),
        wake_at: None,
    }
}

/// The cohort of a stage, as the policy is now.
fn named<'a>(policy: &'a Policy, stage: &Stage) -> Option<&'a Cohort> {
    policy.cohorts.iter().find(|cohort| cohort.name == stage.name)
}

/// A cohort that is open.
struct Course<'a> {
    record: &'a Record,
    policy: &'a Policy,
    sight: &'a Sight<'a>,
    place: usize,
}

impl Course<'_> {
    fn stage(&self) -> &Stage {
        &self.record.cohorts[self.place]
    }

    /// The slots of the cohort that can be reached.
    fn reachable(&self) -> impl Iterator<Item = &SlotSeen> {
        let own = |slot: &&SlotSeen| self.record.cohort_of(&slot.name) == self.place;
        self.sight.slots.iter().filter(own).filter(|slot| !slot.offline)
    }

    fn is_empty(&self) -> bool {
        let mut slots = self.sight.slots.iter();
        !slots.any(|slot| self.record.cohort_of(&slot.name) == self.place)
    }

    fn wait(&self, waits: Waits, message: String, wake_at: Option<Timestamp>) -> Step {
        Step {
            record: self.record.clone(),
            waits,
            message: format!("cohort {}: {message}", self.stage().name),
            wake_at,
        }
    }

    fn with(&self, change: impl FnOnce(&mut Stage)) -> Step {
        let mut record = self.record.clone();
        change(&mut record.cohorts[self.place]);
        Step {
            record,
            waits: Waits::Slots,
            message: String::new(),
            wake_at: None,
        }
    }

    fn reject(&self, why: &str) -> Step {
        let mut record = self.record.to(State::Rejected, self.sight.now, why);
        let stage = &mut record.cohorts[self.place];
        stage.closed = Some(self.sight.now);
        stage.verdict = Some(Verdict::Fail);
        why.clone_into(&mut stage.sentence);
        Step {
            record,
            waits: Waits::Nothing,
            message: why.to_owned(),
            wake_at: None,
        }
    }

    fn close(&self, verdict: Option<Verdict>, sentence: &str) -> Step {
        let now = self.sight.now;
        let mut step = self.with(|stage| {
            stage.closed = Some(now);
            stage.verdict = verdict;
            sentence.clone_into(&mut stage.sentence);
        });
        step.record.generation += 1;
        step
    }

    fn within(&self) -> Step {
        if let Some(why) = self.incident() {
            return self.reject(&why);
        }
        let judgement = self.sight.judgement.filter(|_| self.policy.analysis.is_some());
        if let Some(judgement) = judgement.filter(|judgement| judgement.verdict == Verdict::Fail) {
            return self.reject(&judgement.sentence);
        }
        let opened = self.stage().opened.unwrap_or(self.sight.now);
        let name = Some(self.stage().name.as_str());
        let promoted = latest(self.sight, Decision::Promote, name, opened);
        if let Some(decided) = promoted {
            let sentence = format!("a person let it pass without a verdict{}", reason(&decided.why));
            return self.close(None, &sentence);
        }
        let Some(cohort) = named(self.policy, self.stage()) else {
            return self.wait(Waits::Person, format!("it{NOT_IN_POLICY}"), None);
        };
        let deadline = after(opened, cohort.deadline);
        let late = deadline <= self.sight.now;
        if self.is_empty() {
            return match self.place + 1 == self.record.cohorts.len() {
                true => self.close(None, "all slots are in other cohorts"),
                false => self.wait(
                    Waits::Person,
                    "it selects no slot: change its selector, or let it pass with `kubectl perwatt rollout promote`".into(),
                    None,
                ),
            };
        }
        let missing: Vec<_> = self
            .reachable()
            .filter(|slot| slot.carries == Carry::Nothing)
            .collect();
        let Some(baking) = self.stage().baking else {
            if missing.is_empty() {
                let now = self.sight.now;
                return self.with(|stage| stage.baking = Some(now));
            }
            let message = format!(
                "{} of {} slots do not carry it yet, such as {}",
                missing.len(),
                self.reachable().count(),
                missing[0].name
            );
            return if late {
                self.give_up(&message)
            } else {
                self.wait(Waits::Slots, message, Some(deadline))
            };
        };
        let baked = after(baking, cohort.bake);
        let failed: Vec<_> = self
            .reachable()
            .filter_map(|slot| match &slot.carries {
                Carry::Failed(why) => Some((slot, why)),
                _ => None,
            })
            .collect();
        if baked > self.sight.now {
            let so_far = judgement.map_or(String::new(), |judgement| format!("; {}", judgement.sentence));
            let message = format!("bakes until {baked:.0}{so_far}");
            return self.wait(Waits::Bake, message, Some(baked.min(deadline)));
        }
        if let Some((slot, why)) = failed.first() {
            return self.reject(&format!("it cannot be loaded on {}: {why}", slot.name));
        }
        if self.policy.analysis.is_none() {
            return self.close(None, "it baked; nothing is judged");
        }
        match judgement {
            Some(judgement) if judgement.verdict == Verdict::Pass => {
                self.close(Some(Verdict::Pass), &judgement.sentence)
            }
            _ => {
                let message = self.not_yet();
                if late {
                    self.give_up(&message)
                } else {
                    self.wait(Waits::Evidence, message, Some(deadline))
                }
            }
        }
    }

    /// What no statistics are needed for.
    fn incident(&self) -> Option<String> {
        let carries = || self.reachable().filter(|slot| slot.carries != Carry::Nothing);
        let crashing: Vec<_> = carries().filter(|slot| slot.restarts >= RESTARTS).collect();
        if let Some(first) = crashing.first() {
            let names: Vec<_> = crashing
                .iter()
                .take(NAMED)
                .map(|slot| slot.name.as_str())
                .collect();
            return Some(format!(
                "its runtime was restarted {} times on {}",
                first.restarts,
                names.join(", ")
            ));
        }
        // One that fails on a single device may have met that device's own fault: that is asked when it has baked.
        let mut failed = carries().filter_map(|slot| match &slot.carries {
            Carry::Failed(why) => Some((slot, why)),
            _ => None,
        });
        let (slot, why) = failed.next()?;
        let all = carries().all(|slot| matches!(slot.carries, Carry::Failed(_)));
        all.then(|| {
            format!(
                "it cannot be loaded, neither on {} nor elsewhere: {why}",
                slot.name
            )
        })
    }

    /// Why there is no verdict.
    fn not_yet(&self) -> String {
        let slots = self.reachable().count();
        let any = |wanted: &Carry| self.reachable().find(|slot| slot.carries == *wanted);
        match (self.sight.judgement, any(&Carry::Nothing)) {
            _ if slots == 0 => "it has no slot that can be reached: nothing can be compared".to_owned(),
            (Some(judgement), _) if any(&Carry::Both).is_some() => judgement.sentence.clone(),
            (None, _) if any(&Carry::Both).is_some() => "there is no evidence yet".to_owned(),
            (_, Some(slot)) => format!("{} does not carry it now", slot.name),
            _ => "no slot carries both revisions, so that nothing can be compared: a person must decide"
                .to_owned(),
        }
    }

    fn give_up(&self, why: &str) -> Step {
        match self.policy.on_inconclusive {
            OnInconclusive::Rollback => self.reject(&format!("its deadline passed without a verdict: {why}")),
            OnInconclusive::Hold => self.wait(
                Waits::Person,
                format!("the deadline passed, and it goes on waiting: {why}"),
                None,
            ),
        }
    }
}

/// The newest decision of a kind since some time: creation times have whole seconds.
fn latest<'a>(
    sight: &Sight<'a>,
    decision: Decision,
    cohort: Option<&str>,
    since: Timestamp,
) -> Option<&'a Decided> {
    let about = |decided: &&Decided| {
        decided.decision == decision
            && decided.at.as_second() >= since.as_second()
            && (cohort.is_none() || decided.cohort.is_none() || decided.cohort.as_deref() == cohort)
    };
    sight
        .decisions
        .iter()
        .filter(about)
        .max_by_key(|decided| decided.at)
}

/// The pause that holds, if one does.
fn pause<'a>(sight: &Sight<'a>) -> Option<&'a Decided> {
    let relevant = |decided: &&Decided| matches!(decided.decision, Decision::Pause | Decision::Resume);
    let newest = sight
        .decisions
        .iter()
        .filter(relevant)
        .max_by_key(|decided| (decided.at, decided.decision == Decision::Resume));
    newest.filter(|decided| decided.decision == Decision::Pause)
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

fn reason(why: &str) -> String {
    if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    }
}
