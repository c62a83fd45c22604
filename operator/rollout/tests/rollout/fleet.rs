//! A fleet whose slots do what a step allows.

use jiff::{SignedDuration, Timestamp};
use perwatt_rollout::{
    Approval, Cohort, Decision, Limit, OnInconclusive, Phase, Policy, Record, Seen, Slot, SlotState, Step,
    Word, step,
};
use perwatt_verdict::Verdict;
use std::collections::BTreeMap;

/// Slots, verdicts and words that change, and a clock.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub policy: Policy,
    pub record: Record,
    pub slots: BTreeMap<String, Slot>,
    pub verdicts: BTreeMap<usize, (Verdict, String)>,
    pub words: Vec<Word>,
    pub now: Timestamp,
}

pub fn cohort(name: &str, minutes: i64) -> Cohort {
    Cohort {
        name: name.into(),
        bake: SignedDuration::from_mins(minutes),
        deadline: None,
        max_unavailable: Limit::Count(1),
        approval: Approval::Automatic,
    }
}

impl Fleet {
    /// Three cohorts of so many slots each.
    pub fn new(sizes: [usize; 3]) -> Self {
        let mut slots = BTreeMap::new();
        let mut members = BTreeMap::new();
        for (place, size) in sizes.into_iter().enumerate() {
            for number in 0..size {
                let slot = Slot {
                    online: true,
                    state: SlotState::Old,
                    available: true,
                };
                slots.insert(format!("{place}-{number}"), slot);
                members.insert(format!("{place}-{number}"), place);
            }
        }
        let policy = Policy {
            cohorts: vec![cohort("canary", 30), cohort("early", 60), cohort("rest", 0)],
            max_concurrent: 10,
            on_inconclusive: OnInconclusive::Hold,
            freezes: Vec::new(),
        };
        Self {
            policy,
            record: Record::begin("b", members, 3),
            slots,
            verdicts: BTreeMap::new(),
            words: Vec::new(),
            now: "2026-03-01T08:00:00Z".parse().unwrap(),
        }
    }

    pub fn step(&mut self) -> Step {
        let seen = Seen {
            slots: &self.slots,
            verdicts: &self.verdicts,
            words: &self.words,
            now: self.now,
        };
        let taken = step(&self.policy, &self.record, seen).unwrap();
        self.record = taken.record.clone();
        taken
    }

    /// Takes a step, and what it allows happens.
    pub fn settle(&mut self) -> Step {
        for _ in 0..100 {
            let taken = self.step();
            for name in &taken.advance {
                self.slots.get_mut(name).unwrap().state = SlotState::New;
            }
            for name in &taken.retreat {
                self.slots.get_mut(name).unwrap().state = SlotState::Old;
            }
            if taken.advance.is_empty() && taken.retreat.is_empty() {
                return taken;
            }
        }
        panic!("it never comes to rest");
    }

    pub fn pass_minutes(&mut self, minutes: i64) {
        self.now = self.now.checked_add(SignedDuration::from_mins(minutes)).unwrap();
    }

    pub fn say(&mut self, decision: Decision, cohort: Option<usize>) {
        let reason = "so says the owner".to_owned();
        self.words.push(Word {
            at: self.now,
            cohort,
            decision,
            reason,
        });
    }

    pub fn judge(&mut self, cohort: usize, verdict: Verdict) {
        self.verdicts
            .insert(cohort, (verdict, format!("{verdict:?} in cohort {cohort}")));
    }

    pub fn phases(&mut self) -> Vec<Phase> {
        self.settle().cohorts.into_iter().map(|view| view.phase).collect()
    }
}
