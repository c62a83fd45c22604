//! Rollouts as a fleet owner tells them.

use crate::fleet::Fleet;
use jiff::SignedDuration;
use perwatt_rollout::{
    Approval, Decision, Ending, Limit, OnInconclusive, Phase, SlotState, Span, join, snapshot,
};
use perwatt_verdict::Verdict;
use std::collections::BTreeMap;

#[test]
fn a_good_revision_goes_cohort_by_cohort_after_bake_and_verdict() {
    let mut fleet = Fleet::new([2, 3, 4]);
    let first = fleet.step();
    assert_eq!(
        first.advance,
        ["0-0"],
        "one at a time, and of the first cohort only"
    );
    let until = fleet.now.checked_add(SignedDuration::from_mins(30)).unwrap();
    assert_eq!(
        fleet.phases(),
        [Phase::Baking { until }, Phase::Waiting, Phase::Waiting]
    );
    fleet.judge(0, Verdict::Pass);
    assert_eq!(
        fleet.phases()[1],
        Phase::Waiting,
        "a verdict does not shorten the bake"
    );
    fleet.verdicts.clear();
    fleet.pass_minutes(31);
    assert_eq!(fleet.phases()[0], Phase::Judging, "time alone passes nothing");
    fleet.judge(0, Verdict::Pass);
    assert!(matches!(
        fleet.phases()[..],
        [Phase::Done, Phase::Baking { .. }, Phase::Waiting]
    ));
    fleet.judge(1, Verdict::Pass);
    fleet.judge(2, Verdict::Pass);
    fleet.pass_minutes(61);
    assert_eq!(fleet.phases(), [Phase::Done, Phase::Done, Phase::Done]);
    assert_eq!(fleet.record.ending, Some(Ending::Complete));
    assert!(fleet.slots.values().all(|slot| slot.state == SlotState::New));
}

#[test]
fn a_revision_that_fails_returns_everywhere_and_never_comes_back() {
    let mut fleet = Fleet::new([2, 3, 4]);
    fleet.settle();
    fleet.judge(0, Verdict::Fail);
    assert_eq!(fleet.phases()[0], Phase::RolledBack);
    assert!(fleet.slots.values().all(|slot| slot.state == SlotState::Old));
    let rejected = Ending::Rejected {
        cohort: 0,
        reason: "Fail in cohort 0".into(),
    };
    assert_eq!(fleet.record.ending, Some(rejected));
    fleet.judge(0, Verdict::Pass);
    fleet.say(Decision::SkipAnalysis, None);
    assert!(fleet.step().advance.is_empty());
}

#[test]
fn evidence_that_comes_late_rejects_what_went_on_already() {
    let mut fleet = Fleet::new([1, 2, 2]);
    fleet.settle();
    fleet.judge(0, Verdict::Pass);
    fleet.pass_minutes(30);
    fleet.settle();
    assert_eq!(fleet.slots["1-0"].state, SlotState::New);
    fleet.judge(0, Verdict::Fail);
    fleet.settle();
    assert!(fleet.slots.values().all(|slot| slot.state == SlotState::Old));
}

#[test]
fn without_a_verdict_it_holds_or_goes_back_at_the_deadline_as_the_policy_says() {
    for (policy, ends) in [(OnInconclusive::Hold, false), (OnInconclusive::Rollback, true)] {
        let mut fleet = Fleet::new([1, 1, 1]);
        fleet.policy.on_inconclusive = policy;
        fleet.policy.cohorts[0].deadline = Some(SignedDuration::from_mins(90));
        fleet.settle();
        fleet.judge(0, Verdict::Inconclusive);
        fleet.pass_minutes(89);
        assert_eq!(fleet.phases()[0], Phase::Judging);
        fleet.pass_minutes(1);
        fleet.settle();
        assert_eq!(fleet.record.rolls_back(), ends);
        assert_eq!(fleet.slots["1-0"].state, SlotState::Old, "it is never promoted");
    }
}

#[test]
fn a_revision_that_never_starts_is_late_and_a_dark_site_is_not() {
    let mut fleet = Fleet::new([1, 1, 1]);
    fleet.policy.on_inconclusive = OnInconclusive::Rollback;
    fleet.policy.cohorts[0].deadline = Some(SignedDuration::from_mins(90));
    let mut dark = fleet.clone();
    fleet.step();
    let slot = fleet.slots.get_mut("0-0").unwrap();
    (slot.state, slot.available) = (SlotState::New, false);
    dark.slots.get_mut("0-0").unwrap().online = false;
    for fleet in [&mut fleet, &mut dark] {
        fleet.step();
        fleet.pass_minutes(100);
        fleet.settle();
    }
    assert!(fleet.record.rolls_back());
    assert!(!dark.record.rolls_back());
    assert_eq!(dark.phases()[0], Phase::Replacing, "its bake has not begun");
}

#[test]
fn a_manual_cohort_waits_for_its_own_approval() {
    let mut fleet = Fleet::new([1, 1, 1]);
    fleet.policy.cohorts[1].approval = Approval::Manual;
    fleet.settle();
    fleet.say(Decision::Approve, None);
    fleet.say(Decision::Approve, Some(2));
    fleet.judge(0, Verdict::Pass);
    fleet.pass_minutes(30);
    assert_eq!(
        fleet.phases()[..2],
        [Phase::Done, Phase::AwaitingApproval],
        "others' approvals are none of it"
    );
    fleet.say(Decision::Approve, Some(1));
    assert!(matches!(fleet.phases()[1], Phase::Baking { .. }));
}

#[test]
fn offline_slots_leave_the_denominator_and_catch_up_after_the_gate() {
    let mut fleet = Fleet::new([3, 1, 1]);
    fleet.slots.get_mut("0-1").unwrap().online = false;
    let view = fleet.settle().cohorts.remove(0);
    assert_eq!((view.reachable, view.updated, view.offline), (2, 2, 1));
    assert!(matches!(view.phase, Phase::Baking { .. }));
    fleet.judge(0, Verdict::Pass);
    fleet.pass_minutes(30);
    fleet.settle();
    fleet.slots.get_mut("0-1").unwrap().online = true;
    assert_eq!(fleet.step().advance, ["0-1"]);
    fleet.judge(0, Verdict::Fail);
    assert!(
        fleet.step().advance.is_empty(),
        "but not what is rejected meanwhile"
    );
}

#[test]
fn a_pause_and_a_freeze_hold_what_is_new_and_not_what_goes_back() {
    let mut fleet = Fleet::new([2, 1, 1]);
    fleet.step();
    fleet.say(Decision::Pause, None);
    let held = fleet.step();
    assert_eq!(
        (held.advance.len(), held.held.as_deref()),
        (0, Some("paused: so says the owner"))
    );
    fleet.pass_minutes(1);
    fleet.say(Decision::Resume, None);
    assert_eq!(fleet.step().advance.len(), 1);
    let until = fleet.now.checked_add(SignedDuration::from_hours(2)).unwrap();
    fleet.policy.freezes = vec![Span {
        from: fleet.now,
        until,
    }];
    let held = fleet.step();
    assert!(held.advance.is_empty() && held.held.unwrap().starts_with("frozen until"));
    fleet.slots.get_mut("0-0").unwrap().state = SlotState::New;
    fleet.judge(0, Verdict::Fail);
    assert_eq!(fleet.step().retreat, ["0-0"]);
}

#[test]
fn a_person_aborts_or_vouches_for_it() {
    let mut fleet = Fleet::new([1, 1, 1]);
    fleet.settle();
    let mut other = fleet.clone();
    fleet.say(Decision::Abort, None);
    fleet.settle();
    assert_eq!(
        fleet.record.ending,
        Some(Ending::Aborted {
            reason: "so says the owner".into()
        })
    );
    other.say(Decision::SkipAnalysis, Some(0));
    assert!(matches!(other.phases()[..2], [Phase::Done, Phase::Baking { .. }]));
}

#[test]
fn a_cohort_of_nobody_is_through_at_once() {
    let mut fleet = Fleet::new([0, 0, 2]);
    fleet.policy.cohorts[1].approval = Approval::Manual;
    let taken = fleet.step();
    assert_eq!(taken.advance, ["2-0"]);
    assert_eq!(taken.cohorts[1].phase, Phase::Done);
}

#[test]
fn what_is_out_of_service_counts_and_may_be_cured() {
    let mut fleet = Fleet::new([10, 1, 1]);
    fleet.policy.cohorts[0].max_unavailable = Limit::Percent(30);
    fleet.slots.get_mut("0-7").unwrap().available = false;
    assert_eq!(
        fleet.step().advance,
        ["0-7", "0-0", "0-1"],
        "three out of ten, of which one is out anyway"
    );
    fleet.policy.max_concurrent = 1;
    assert_eq!(fleet.step().advance, ["0-7"]);
}

#[test]
fn the_first_cohort_that_fits_at_the_start_and_the_last_for_newcomers() {
    let fit = |fits: &[(&str, [bool; 3])]| -> BTreeMap<String, Vec<bool>> {
        fits.iter()
            .map(|(name, fit)| ((*name).to_owned(), fit.to_vec()))
            .collect()
    };
    let all = fit(&[
        ("a", [true, true, false]),
        ("b", [false, true, true]),
        ("c", [false; 3]),
    ]);
    let mut members = snapshot(&all, 3);
    assert_eq!(members.values().copied().collect::<Vec<_>>(), [0, 1, 2]);
    let moved = fit(&[
        ("a", [false, false, true]),
        ("d", [true, true, false]),
        ("e", [false; 3]),
    ]);
    join(&mut members, &moved, 3);
    assert_eq!(
        members.values().copied().collect::<Vec<_>>(),
        [0, 1, 2, 1, 2],
        "a label moves nobody"
    );
}

#[test]
fn a_policy_that_could_never_be_kept_is_refused() {
    let with = |change: fn(&mut Fleet)| {
        let mut fleet = Fleet::new([1, 1, 1]);
        change(&mut fleet);
        fleet.policy.check().unwrap_err().to_string()
    };
    for (text, part) in [
        (with(|fleet| fleet.policy.cohorts.clear()), "1 to 32 are allowed"),
        (
            with(|fleet| fleet.policy.cohorts[1].name = "canary".into()),
            "names must differ",
        ),
        (
            with(|fleet| fleet.policy.max_concurrent = 0),
            "maxConcurrent is 0",
        ),
        (
            with(|fleet| fleet.policy.cohorts[0].max_unavailable = Limit::Percent(0)),
            "maxUnavailable is 0",
        ),
        (
            with(|fleet| fleet.policy.cohorts[0].bake = SignedDuration::from_secs(-1)),
            "is negative",
        ),
        (
            with(|fleet| {
                fleet.policy.freezes = vec![Span {
                    from: fleet.now,
                    until: fleet.now,
                }]
            }),
            "end after it begins",
        ),
    ] {
        assert!(text.contains(part), "{text}");
    }
}
