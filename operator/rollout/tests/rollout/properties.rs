//! Properties of every rollout.

use crate::fleet::Fleet;
use perwatt_rollout::{Decision, Limit, Phase, Seen, Slot, SlotState, step};
use perwatt_verdict::Verdict;
use proptest::prelude::*;

/// What happens between two steps.
#[derive(Debug, Clone)]
enum Event {
    Minutes(i64),
    Flip(usize),
    Break(usize),
    Finish,
    Judge(usize, Verdict),
    Say(Decision, usize),
}

fn some_event() -> impl Strategy<Value = Event> {
    let verdict =
        prop_oneof![4 => Just(Verdict::Pass), 1 => Just(Verdict::Fail), 2 => Just(Verdict::Inconclusive)];
    let decision = prop_oneof![
        3 => Just(Decision::Approve), 1 => Just(Decision::Pause), 3 => Just(Decision::Resume),
        1 => Just(Decision::SkipAnalysis)
    ];
    prop_oneof![
        4 => (0..90i64).prop_map(Event::Minutes),
        2 => (0..64usize).prop_map(Event::Flip),
        1 => (0..64usize).prop_map(Event::Break),
        6 => Just(Event::Finish),
        3 => (0..3usize, verdict).prop_map(|(cohort, verdict)| Event::Judge(cohort, verdict)),
        1 => (decision, 0..3usize).prop_map(|(decision, cohort)| Event::Say(decision, cohort)),
    ]
}

fn nth(fleet: &mut Fleet, number: usize) -> Option<&mut Slot> {
    let count = fleet.slots.len().max(1);
    fleet.slots.values_mut().nth(number % count)
}

fn happen(fleet: &mut Fleet, event: Event) {
    match event {
        Event::Minutes(minutes) => fleet.pass_minutes(minutes),
        Event::Flip(number) => nth(fleet, number)
            .into_iter()
            .for_each(|slot| slot.online = !slot.online),
        Event::Break(number) => nth(fleet, number)
            .into_iter()
            .for_each(|slot| slot.available = !slot.available),
        Event::Finish => {
            let back = fleet.record.rolls_back();
            for slot in fleet
                .slots
                .values_mut()
                .filter(|slot| slot.state == SlotState::Changing)
            {
                slot.state = if back { SlotState::Old } else { SlotState::New };
            }
        }
        Event::Judge(cohort, verdict) => fleet.judge(cohort, verdict),
        Event::Say(decision, cohort) => fleet.say(decision, Some(cohort)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn limits_order_and_rejections_hold_whatever_happens(
        sizes in [0..6usize, 1..6usize, 1..6usize],
        unavailable in 1..4u32,
        concurrent in 1..6u32,
        events in prop::collection::vec(some_event(), 1..60),
    ) {
        let mut fleet = Fleet::new(sizes);
        fleet.policy.max_concurrent = concurrent;
        fleet.policy.cohorts.iter_mut().for_each(|cohort| cohort.max_unavailable = Limit::Count(unavailable));
        let mut rejected = false;
        for event in events {
            happen(&mut fleet, event);
            let taken = fleet.step();
            let again = fleet.step();
            prop_assert_eq!(&again, &taken, "taken again it is the same");
            prop_assert!(taken.advance.is_empty() || taken.retreat.is_empty());
            prop_assert!(!rejected || taken.advance.is_empty(), "what was rejected never advances");
            rejected |= taken.record.rolls_back();
            let changing = fleet.slots.values().filter(|slot| slot.online && slot.state == SlotState::Changing).count();
            prop_assert!(taken.advance.is_empty() || taken.advance.len() + changing <= concurrent as usize);
            for (place, view) in taken.cohorts.iter().enumerate() {
                let of = |name: &&String| fleet.record.members[*name] == place;
                let serving = taken.advance.iter().filter(of).filter(|name| fleet.slots[*name].available).count();
                prop_assert!(serving <= unavailable as usize);
                let before = taken.cohorts.iter().take(place).all(|view| view.phase == Phase::Done);
                let opened = !matches!(view.phase, Phase::Waiting | Phase::AwaitingApproval);
                prop_assert!(!opened || rejected || before, "a cohort opens when those before it are through");
            }
            for name in taken.advance.iter().chain(&taken.retreat) {
                fleet.slots.get_mut(name).unwrap().state = SlotState::Changing;
            }
        }
    }

    #[test]
    fn a_good_revision_reaches_everybody_who_can_be_reached(sizes in [1..6usize, 1..6usize, 1..6usize], dark in 0..18usize) {
        let mut fleet = Fleet::new(sizes);
        let count = fleet.slots.len();
        let name = fleet.slots.keys().nth(dark % count).unwrap().clone();
        if sizes[fleet.record.members[&name]] > 1 {
            fleet.slots.get_mut(&name).unwrap().online = false;
        }
        (0..3).for_each(|cohort| fleet.judge(cohort, Verdict::Pass));
        for _ in 0..4 {
            fleet.settle();
            fleet.pass_minutes(61);
        }
        prop_assert!(fleet.slots.values().all(|slot| !slot.online || slot.state == SlotState::New));
        fleet.slots.values_mut().for_each(|slot| slot.online = true);
        fleet.settle();
        prop_assert!(fleet.slots.values().all(|slot| slot.state == SlotState::New), "and later the others");
    }
}

#[test]
fn a_record_of_another_policy_is_refused() {
    let mut fleet = Fleet::new([1, 1, 1]);
    fleet.policy.cohorts.pop();
    let seen = Seen {
        slots: &fleet.slots,
        verdicts: &fleet.verdicts,
        words: &fleet.words,
        now: fleet.now,
    };
    step(&fleet.policy, &fleet.record, seen).unwrap_err();
}
