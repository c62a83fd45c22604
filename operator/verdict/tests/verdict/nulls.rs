//! Errors of verdicts, on simulated rollouts that are looked at after every turn. `make bench NAME=canary-validity`
//! runs thousands.

use perwatt_simulate::validity::{Alarms, rollout};
use perwatt_simulate::world::{Effect, KINDS};

const ROLLOUTS: u64 = 60;

fn rollouts(effect: &Effect) -> Vec<Alarms> {
    let seeds = |kind| (0..ROLLOUTS).map(move |seed| rollout(kind, effect, seed));
    KINDS.into_iter().flat_map(seeds).collect()
}

#[test]
fn a_canary_as_good_as_its_incumbent_is_not_rejected() {
    let alarms = rollouts(&Effect::NONE);
    assert_eq!(alarms.iter().filter(|alarms| alarms.ours).count(), 0);
    // The same traffic is not so tame that any rule would do.
    let counter = alarms.iter().filter(|alarms| alarms.counter[0]).count();
    assert!(counter > 10, "{counter} of {}", alarms.len());
}

#[test]
fn a_canary_exactly_at_every_limit_is_rejected_and_passed_no_oftener_than_stated() {
    let alarms = rollouts(&Effect::AT_THE_LIMITS);
    // Of 240 at most 2.4 by what is stated; more than 7 has a chance of 1 in 300.
    let rejected = alarms.iter().filter(|alarms| alarms.ours).count();
    assert!(rejected <= 7, "{rejected}");
    // At most 12 for each rule; more than 22 has a chance of 1 in 300.
    for rule in 0..5 {
        let passed = alarms.iter().filter(|alarms| alarms.passed[rule]).count();
        assert!(passed <= 22, "rule {rule}: {passed}");
    }
    assert!(
        alarms.iter().any(|alarms| alarms.passed.contains(&true)),
        "the limits are near, so some must pass"
    );
}

#[test]
fn a_canary_beyond_a_limit_is_rejected_in_every_kind_of_traffic() {
    let slow = Effect {
        latency: 1.3,
        ..Effect::NONE
    };
    for kind in KINDS {
        for seed in 0..5 {
            assert!(rollout(kind, &slow, seed).ours, "{} {seed}", kind.name());
        }
    }
}
