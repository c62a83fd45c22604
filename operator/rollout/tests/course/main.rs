//! Rollouts from their beginning to their end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test says where")]

mod purity;

use jiff::Timestamp;
use perwatt_rollout::{
    Carry, Cohort, Decided, Decision, Mode, OnInconclusive, Policy, Record, Selector, Sight, SlotFacts,
    SlotSeen, State, Waits, advance, members, order,
};
use perwatt_verdict::{Judgement, Settings, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn cohort(name: &str) -> Cohort {
    Cohort {
        name: name.to_owned(),
        selector: Selector::default(),
        bake: Duration::from_secs(60),
        deadline: Duration::from_secs(3600),
        manual: false,
    }
}

fn judgement(verdict: Verdict, sentence: &str) -> Judgement {
    Judgement {
        verdict,
        findings: Vec::new(),
        measuring: Vec::new(),
        sentence: sentence.to_owned(),
    }
}

/// Four slots, the first of which is the canary.
struct Story {
    policy: Policy,
    record: Record,
    now: i64,
    slots: Vec<SlotSeen>,
    judgement: Option<Judgement>,
    decisions: Vec<Decided>,
    said: String,
    waits: Waits,
}

impl Story {
    fn begin() -> Self {
        let policy = Policy {
            cohorts: vec![cohort("canary"), cohort("rest")],
            analysis: Some(Settings::default()),
            on_inconclusive: OnInconclusive::Hold,
        };
        let seen = |number: u32| SlotSeen {
            name: format!("edge-{number}"),
            ..SlotSeen::default()
        };
        let canary = BTreeSet::from(["edge-0".to_owned()]);
        Self {
            policy,
            record: Record::begin("aa", &["canary", "rest"], vec![canary], at(0)),
            now: 0,
            slots: (0..4).map(seen).collect(),
            judgement: None,
            decisions: Vec::new(),
            said: String::new(),
            waits: Waits::Nothing,
        }
    }

    /// Time passes, and every slot that is open carries both revisions.
    fn pass(&mut self, seconds: i64) -> &mut Self {
        self.now += seconds;
        self.look();
        for slot in &mut self.slots {
            let open = self.record.is_open(&slot.name);
            if !slot.offline && !matches!(slot.carries, Carry::Alone | Carry::Failed(_)) {
                slot.carries = if open { Carry::Both } else { Carry::Nothing };
            }
        }
        self.look()
    }

    fn look(&mut self) -> &mut Self {
        let sight = Sight {
            now: at(self.now),
            slots: &self.slots,
            judgement: self.judgement.as_ref(),
            decisions: &self.decisions,
        };
        let step = advance(&self.record, &self.policy, &sight);
        // What is judged is always about the cohort that is open.
        let sight = Sight {
            judgement: sight
                .judgement
                .filter(|_| step.record.current() == self.record.current()),
            ..sight
        };
        let again = advance(&step.record, &self.policy, &sight);
        assert_eq!(again.record, step.record, "a second look changes nothing");
        assert!(step.record.generation >= self.record.generation);
        let kept = serde_json::to_string(&step.record).unwrap();
        self.record = serde_json::from_str(&kept).unwrap();
        assert_eq!(self.record, step.record, "it survives being kept");
        (self.said, self.waits) = (step.message, step.waits);
        self
    }

    fn judge(&mut self, verdict: Verdict) -> &mut Self {
        self.judgement = Some(judgement(verdict, "as found"));
        self
    }

    fn decide(&mut self, decision: Decision, cohort: Option<&str>) -> &mut Self {
        self.decisions.push(Decided {
            at: at(self.now),
            decision,
            cohort: cohort.map(str::to_owned),
            why: "because".to_owned(),
        });
        self
    }

    fn open(&self) -> Vec<&str> {
        let slots = self.slots.iter().map(|slot| slot.name.as_str());
        slots.filter(|slot| self.record.is_open(slot)).collect()
    }

    fn mode(&self, slot: &str) -> Mode {
        order(&self.record, slot, 7, at(self.now)).mode
    }

    fn expect(&self, state: State, waits: Waits, open: usize) {
        assert_eq!(
            (self.record.state, self.waits, self.open().len()),
            (state, waits, open),
            "{}",
            self.said
        );
    }
}

#[test]
fn a_good_revision_goes_through_its_cohorts_and_is_never_widened_without_a_verdict() {
    let mut story = Story::begin();
    story.pass(1).expect(State::Progressing, Waits::Bake, 1);
    assert_eq!(story.mode("edge-0"), Mode::Compare);
    assert_eq!(story.mode("edge-1"), Mode::Incumbent);
    story
        .judge(Verdict::Inconclusive)
        .pass(30)
        .expect(State::Progressing, Waits::Bake, 1);
    story.pass(60).expect(State::Progressing, Waits::Evidence, 1);
    story.judge(Verdict::Pass).pass(1);
    assert_eq!(story.record.cohorts[0].verdict, Some(Verdict::Pass));
    assert_eq!(story.mode("edge-0"), Mode::Candidate);
    story.judgement = None;
    story.pass(1).expect(State::Progressing, Waits::Bake, 4);
    assert_eq!(story.mode("edge-3"), Mode::Compare);
    story
        .judge(Verdict::Pass)
        .pass(61)
        .expect(State::Complete, Waits::Nothing, 4);
    assert_eq!(story.mode("edge-3"), Mode::Candidate);
}

#[test]
fn a_verdict_on_one_cohort_is_none_on_the_next() {
    let mut story = Story::begin();
    story
        .policy
        .cohorts
        .iter_mut()
        .for_each(|cohort| cohort.bake = Duration::ZERO);
    for slot in &mut story.slots {
        slot.carries = Carry::Both;
    }
    story.look();
    story.judge(Verdict::Pass).look();
    story.expect(State::Progressing, Waits::Evidence, 4);
}

#[test]
fn a_verdict_of_pass_waits_for_the_bake() {
    let mut story = Story::begin();
    story
        .judge(Verdict::Pass)
        .pass(1)
        .expect(State::Progressing, Waits::Bake, 1);
    story.pass(58).expect(State::Progressing, Waits::Bake, 1);
}

#[test]
fn a_failure_goes_back_at_once_and_stays_until_a_person_retries() {
    let mut story = Story::begin();
    story.pass(1);
    let before = order(&story.record, "edge-0", 7, at(story.now));
    story
        .judge(Verdict::Fail)
        .look()
        .expect(State::Rejected, Waits::Nothing, 0);
    assert_eq!(story.record.why, "as found");
    let after = order(&story.record, "edge-0", 7, at(story.now));
    assert_eq!(after.mode, Mode::Incumbent);
    assert!(after.generation > before.generation);
    story
        .judge(Verdict::Pass)
        .pass(9999)
        .expect(State::Rejected, Waits::Nothing, 0);
    story.judgement = None;
    story
        .decide(Decision::Retry, None)
        .pass(1)
        .expect(State::Progressing, Waits::Bake, 1);
    assert!(order(&story.record, "edge-0", 7, at(story.now)).generation > after.generation);
}

#[test]
fn generations_of_orders_rise_as_blocks_grow() {
    let mut story = Story::begin();
    story.pass(1);
    let mut last = order(&story.record, "edge-0", 7, at(0));
    for seconds in 1..5_000 {
        let next = order(&story.record, "edge-0", 7, at(seconds));
        assert!(
            next.generation > last.generation || next == last,
            "{next:?} after {last:?}"
        );
        last = next;
    }
    assert!(last.block_seconds >= 16);
}

#[test]
fn a_person_approves_pauses_resumes_promotes_and_aborts() {
    let mut story = Story::begin();
    story.policy.cohorts[1].manual = true;
    story.pass(1);
    story
        .judge(Verdict::Pass)
        .pass(61)
        .expect(State::Progressing, Waits::Approval, 1);
    story
        .decide(Decision::Approve, Some("canary"))
        .look()
        .expect(State::Progressing, Waits::Approval, 1);
    story
        .decide(Decision::Pause, None)
        .look()
        .expect(State::Progressing, Waits::Pause, 1);
    story
        .decide(Decision::Approve, Some("rest"))
        .look()
        .expect(State::Progressing, Waits::Pause, 1);
    story.judgement = None;
    story.pass(1);
    story
        .decide(Decision::Resume, None)
        .pass(1)
        .expect(State::Progressing, Waits::Bake, 4);
    story
        .decide(Decision::Promote, None)
        .look()
        .expect(State::Complete, Waits::Nothing, 4);
    assert!(
        story.record.cohorts[1]
            .sentence
            .contains("without a verdict: because")
    );

    let mut story = Story::begin();
    story
        .pass(1)
        .decide(Decision::Abort, None)
        .look()
        .expect(State::Rejected, Waits::Nothing, 0);
    assert_eq!(story.record.why, "a person went back: because");
}

#[test]
fn a_promotion_of_one_cohort_is_none_of_the_next() {
    let mut story = Story::begin();
    story.pass(10).decide(Decision::Promote, Some("canary")).pass(5);
    story.expect(State::Progressing, Waits::Bake, 4);
}

#[test]
fn a_deadline_without_a_verdict_holds_or_goes_back_as_the_policy_says() {
    for (policy, state, waits) in [
        (OnInconclusive::Hold, State::Progressing, Waits::Person),
        (OnInconclusive::Rollback, State::Rejected, Waits::Nothing),
    ] {
        let mut story = Story::begin();
        story.policy.on_inconclusive = policy;
        story.pass(1).judge(Verdict::Inconclusive).pass(3600);
        assert_eq!((story.record.state, story.waits), (state, waits));
    }
    let mut story = Story::begin();
    story
        .pass(1)
        .judge(Verdict::Inconclusive)
        .pass(3600)
        .judge(Verdict::Pass)
        .look();
    assert!(
        story.record.cohorts[0].closed.is_some(),
        "it held, and evidence came"
    );
}

#[test]
fn offline_slots_are_not_waited_for() {
    let mut story = Story::begin();
    story.slots[2].offline = true;
    story.pass(1).judge(Verdict::Pass).pass(61);
    story.pass(62).expect(State::Complete, Waits::Nothing, 4);
}

#[test]
fn a_cohort_whose_slots_do_not_start_is_waited_for_with_a_name() {
    let mut story = Story::begin();
    story.now = 1;
    story.look().expect(State::Progressing, Waits::Slots, 1);
    assert_eq!(
        story.said,
        "cohort canary: 1 of 1 slots do not carry it yet, such as edge-0"
    );
}

#[test]
fn a_revision_that_crashes_or_does_not_load_is_rejected() {
    let mut story = Story::begin();
    story.pass(1);
    story.slots[0].restarts = 2;
    story.look().expect(State::Progressing, Waits::Bake, 1);
    story.slots[0].restarts = 3;
    story.look().expect(State::Rejected, Waits::Nothing, 0);
    assert_eq!(story.record.why, "its runtime was restarted 3 times on edge-0");

    let mut story = Story::begin();
    story.pass(1);
    story.slots[0].carries = Carry::Failed("no such file".into());
    story.look().expect(State::Rejected, Waits::Nothing, 0);
    assert!(story.record.why.contains("no such file"), "{}", story.record.why);
}

#[test]
fn one_device_on_which_it_does_not_load_rejects_it_once_it_has_baked() {
    let mut story = Story::begin();
    story.record.cohorts[0].members.insert("edge-1".into());
    story.pass(1);
    story.slots[1].carries = Carry::Failed("device lost".into());
    story
        .judge(Verdict::Pass)
        .pass(1)
        .expect(State::Progressing, Waits::Bake, 2);
    story.pass(61).expect(State::Rejected, Waits::Nothing, 0);
    assert_eq!(story.record.why, "it cannot be loaded on edge-1: device lost");
}

#[test]
fn slots_that_cannot_carry_both_wait_for_a_person() {
    let mut story = Story::begin();
    story.pass(1);
    story.slots[0].carries = Carry::Alone;
    story.pass(61).expect(State::Progressing, Waits::Evidence, 1);
    assert!(story.said.contains("a person must decide"), "{}", story.said);
    story.slots[0].carries = Carry::Nothing;
    story.look();
    assert!(
        story.said.contains("edge-0 does not carry it now"),
        "{}",
        story.said
    );
}

#[test]
fn a_cohort_that_selects_nothing_is_not_passed_by_silence() {
    let mut story = Story::begin();
    story.record.cohorts[0].members = BTreeSet::from(["gone".to_owned()]);
    story
        .judge(Verdict::Pass)
        .pass(999)
        .expect(State::Progressing, Waits::Person, 0);
    assert!(story.said.contains("selects no slot"), "{}", story.said);
}

#[test]
fn a_cohort_that_was_taken_out_of_the_policy_waits_for_a_person() {
    let mut story = Story::begin();
    story.pass(1);
    story.policy.cohorts.remove(0);
    story
        .judge(Verdict::Pass)
        .pass(999)
        .expect(State::Progressing, Waits::Person, 1);
    story
        .decide(Decision::Promote, None)
        .pass(1)
        .expect(State::Progressing, Waits::Bake, 4);
}

#[test]
fn without_analysis_cohorts_pass_by_time() {
    let mut story = Story::begin();
    story.policy.analysis = None;
    story
        .pass(1)
        .judge(Verdict::Fail)
        .pass(59)
        .expect(State::Progressing, Waits::Bake, 1);
    story.pass(2).pass(61).expect(State::Complete, Waits::Nothing, 4);
}

#[test]
fn cohorts_are_chosen_by_labels_profiles_and_shares_each_from_what_is_left() {
    let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let slots: Vec<_> = (0..20)
        .map(|number| SlotFacts {
            name: format!("edge-{number}"),
            node: labels("zone", if number < 4 { "lab" } else { "field" }),
            site: labels("region", if number % 2 == 0 { "eu" } else { "us" }),
            profile: (number == 19).then(|| "hailo-8".to_owned()),
        })
        .collect();
    let with = |selector| Cohort {
        selector,
        ..cohort("x")
    };
    let cohorts = [
        with(Selector {
            nodes: Some(labels("zone", "lab")),
            sites: Some(labels("region", "eu")),
            ..Selector::default()
        }),
        with(Selector {
            profiles: Some(vec!["hailo-8".into()]),
            ..Selector::default()
        }),
        with(Selector {
            share_permille: Some(101),
            ..Selector::default()
        }),
        cohort("rest"),
    ];
    let found = members(&cohorts, &slots);
    assert_eq!(
        found[0],
        BTreeSet::from(["edge-0".to_owned(), "edge-2".to_owned()])
    );
    assert_eq!(found[1], BTreeSet::from(["edge-19".to_owned()]));
    assert_eq!(found[2].len(), 3, "a share is rounded up");
    assert_eq!(found.len(), 3, "the last cohort has the others");
    let mut shuffled = slots.clone();
    shuffled.reverse();
    assert_eq!(members(&cohorts, &shuffled), found);
}
