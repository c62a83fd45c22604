//! The chain, moved through time by hand.

use super::breaker::TRIAL_LEASE;
use super::*;

const STABLE: Duration = Duration::from_secs(5);

fn chain() -> (Chain, Instant) {
    (
        Chain::new(["npu", "cpu"], Policy::with_stable_for(STABLE)),
        Instant::now(),
    )
}

fn reason(chain: &Chain, now: Instant) -> Option<Reason> {
    chain.active(now).cause.map(|cause| cause.reason)
}

#[test]
fn the_first_serves_while_all_are_well() {
    let (mut chain, now) = chain();
    assert_eq!(
        chain.active(now),
        Active {
            index: Some(0),
            cause: None
        }
    );
    assert_eq!(chain.candidates(now), [0, 1]);
}

#[test]
fn a_taint_takes_the_variant_out_at_once_and_it_returns_after_a_stable_time() {
    let (mut chain, now) = chain();
    chain.taint(0, "too hot".into());
    assert_eq!(chain.candidates(now), [1], "an unhealthy device must not be used");
    assert_eq!(reason(&chain, now), Some(Reason::DeviceUnhealthy));
    chain.heal(0, now);
    assert_eq!(reason(&chain, now), Some(Reason::DeviceRecovering));
    assert_eq!(
        chain.candidates(now),
        [1, 0],
        "a recovering one is the last resort"
    );
    assert_eq!(chain.next_change(now), Some(now + STABLE));
    assert_eq!(
        chain.active(now + STABLE),
        Active {
            index: Some(0),
            cause: None
        }
    );
    assert_eq!(chain.next_change(now + STABLE), None);
}

#[test]
fn a_device_that_leaves_serves_only_where_nothing_else_can_and_is_back_at_once() {
    let (mut chain, now) = chain();
    chain.leave(0, Some("a fan".into()));
    assert_eq!(reason(&chain, now), Some(Reason::DeviceLeaving));
    assert_eq!(
        (chain.candidates(now), chain.active(now).index),
        (vec![1, 0], Some(1))
    );
    chain.load_failed(1, "hash".into());
    assert_eq!(chain.candidates(now), [0]);
    let by_the_first = Active {
        index: Some(0),
        cause: None,
    };
    assert_eq!(chain.active(now), by_the_first);
    chain.loaded(1);
    chain.leave(0, None);
    assert_eq!(chain.active(now), by_the_first);
    assert_eq!(chain.next_change(now), None);
}

#[test]
fn a_device_that_leaves_and_dies_must_not_be_used() {
    let (mut chain, now) = chain();
    chain.load_failed(1, "hash".into());
    chain.leave(0, Some("a fan".into()));
    chain.taint(0, "lost".into());
    assert_eq!(reason(&chain, now), Some(Reason::DeviceUnhealthy));
    assert_eq!(chain.candidates(now), Vec::<usize>::new());
    chain.heal(0, now);
    assert_eq!(chain.candidates(now), [0], "it leaves, and works again");
}

#[test]
fn what_works_is_the_last_resort_before_what_fails() {
    let mut chain = Chain::new(["cpu", "npu"], Policy::with_stable_for(STABLE));
    let now = Instant::now();
    chain.leave(1, Some("a fan".into()));
    for _ in 0..3 {
        chain.failed(0, "broken".into(), now, now);
    }
    assert_eq!(
        (chain.candidates(now), chain.active(now).index),
        (vec![1, 0], Some(1))
    );
    for _ in 0..3 {
        chain.failed(1, "broken".into(), now, now);
    }
    assert_eq!(
        (chain.candidates(now), chain.active(now).index),
        (vec![0, 1], Some(0))
    );
    let later = now + Duration::from_secs(1);
    assert_eq!(chain.candidates(later), [0, 1], "a trial of what stays");
    assert_eq!(chain.candidates(later), [0, 1], "and none of what leaves");
}

#[test]
fn a_second_taint_starts_the_time_again_and_health_repeated_does_not() {
    let (mut chain, now) = chain();
    chain.taint(0, "hot".into());
    chain.heal(0, now);
    chain.taint(0, "hot".into());
    chain.heal(0, now + Duration::from_secs(4));
    chain.heal(0, now + Duration::from_secs(8));
    assert_eq!(reason(&chain, now + STABLE), Some(Reason::DeviceRecovering));
    assert_eq!(reason(&chain, now + Duration::from_secs(9)), None);
}

#[test]
fn three_failures_in_a_row_open_the_breaker_and_one_trial_goes_through() {
    let (mut chain, now) = chain();
    for _ in 0..2 {
        chain.failed(0, "broken".into(), now, now);
    }
    chain.succeeded(0, now, now);
    for _ in 0..2 {
        chain.failed(0, "broken".into(), now, now);
    }
    assert_eq!(
        chain.active(now).index,
        Some(0),
        "a success starts the count again"
    );
    chain.failed(0, "broken".into(), now, now);
    assert_eq!(reason(&chain, now), Some(Reason::BreakerOpen));
    assert_eq!(chain.candidates(now), [1, 0]);
    let later = now + Duration::from_secs(1);
    assert_eq!(chain.candidates(later), [0, 1], "the trial");
    assert_eq!(chain.candidates(later), [1, 0], "only one");
    chain.failed(0, "broken".into(), later, later);
    assert_eq!(
        chain.candidates(later + Duration::from_secs(1)),
        [1, 0],
        "the back-off doubled"
    );
    assert_eq!(chain.candidates(later + Duration::from_secs(2)), [0, 1]);
    for _ in 0..2 {
        chain.succeeded(0, later, later);
    }
    assert_eq!(
        reason(&chain, later),
        Some(Reason::BreakerOpen),
        "two answers are no proof"
    );
    chain.succeeded(0, later, later);
    assert_eq!(
        chain.active(later),
        Active {
            index: Some(0),
            cause: None
        }
    );
}

#[test]
fn a_trial_that_nobody_reports_on_is_given_away_again() {
    let (mut chain, now) = chain();
    for _ in 0..3 {
        chain.failed(0, "broken".into(), now, now);
    }
    let trial = now + Duration::from_secs(1);
    assert_eq!(chain.candidates(trial), [0, 1]);
    assert_eq!(chain.candidates(trial + TRIAL_LEASE), [0, 1]);
}

#[test]
fn the_back_off_has_a_longest() {
    let (mut chain, mut now) = chain();
    for _ in 0..40 {
        chain.failed(0, "broken".into(), now, now);
        now += Duration::from_secs(60);
    }
    assert_eq!(chain.candidates(now), [0, 1]);
}

#[test]
fn open_breakers_are_tried_where_nothing_else_is_left_and_taints_are_not() {
    let (mut chain, now) = chain();
    chain.taint(0, "dead".into());
    for _ in 0..3 {
        chain.failed(1, "broken".into(), now, now);
    }
    assert_eq!(chain.candidates(now), [1]);
    assert_eq!(chain.active(now).index, Some(1));
    chain.load_failed(1, "hash".into());
    assert_eq!(chain.candidates(now), Vec::<usize>::new());
    let active = chain.active(now);
    assert_eq!(active.index, None);
    assert!(active.cause.is_some_and(|cause| cause.message.contains("dead")));
}

#[test]
fn calls_that_were_under_way_when_the_breaker_opened_say_nothing_new() {
    let (mut chain, now) = chain();
    let opened = now + Duration::from_millis(10);
    for _ in 0..50 {
        chain.failed(0, "killed".into(), now, opened);
    }
    chain.succeeded(0, now, opened);
    assert_eq!(
        chain.candidates(opened + Duration::from_secs(1)),
        [0, 1],
        "the back-off is the first, and an old answer closes nothing"
    );
}

#[test]
fn an_answer_lets_the_next_trial_through_and_a_failure_waits_for_longer() {
    let (mut chain, now) = chain();
    for _ in 0..3 {
        chain.failed(0, "broken".into(), now, now);
    }
    let trial = now + Duration::from_secs(1);
    assert_eq!(chain.candidates(trial), [0, 1]);
    chain.succeeded(0, trial, trial);
    assert_eq!(chain.candidates(trial), [0, 1], "the next, at once");
    chain.failed(0, "broken".into(), trial, trial);
    assert_eq!(chain.candidates(trial + Duration::from_secs(1)), [1, 0]);
    assert_eq!(chain.candidates(trial + Duration::from_secs(2)), [0, 1]);
}

#[test]
fn a_breaker_that_opens_again_soon_goes_on_where_it_was() {
    let (mut chain, now) = chain();
    let fail = |chain: &mut Chain, at| {
        for _ in 0..3 {
            chain.failed(0, "broken".into(), at, at);
        }
    };
    let answer = |chain: &mut Chain, at| {
        for _ in 0..3 {
            chain.succeeded(0, at, at);
        }
    };
    fail(&mut chain, now);
    answer(&mut chain, now);
    fail(&mut chain, now);
    assert_eq!(chain.candidates(now + Duration::from_secs(1)), [1, 0]);
    assert_eq!(chain.candidates(now + Duration::from_secs(2)), [0, 1]);
    answer(&mut chain, now);
    let later = now + Duration::from_secs(61);
    fail(&mut chain, later);
    assert_eq!(
        chain.candidates(later + Duration::from_secs(1)),
        [0, 1],
        "what was long ago is forgotten"
    );
}

#[test]
fn jitter_makes_waits_longer_by_a_bounded_amount_and_differs_from_seed_to_seed() {
    let returns = |seed| {
        let policy = Policy::with_stable_for(STABLE).with_jitter(10, seed);
        let (mut chain, now) = (Chain::new(["npu"], policy), Instant::now());
        chain.taint(0, "hot".into());
        chain.heal(0, now);
        chain.next_change(now).unwrap() - now
    };
    let waits: std::collections::BTreeSet<_> = (0..32).map(returns).collect();
    assert!(waits.len() > 8, "{waits:?}");
    assert!(
        waits
            .iter()
            .all(|wait| (STABLE..=STABLE * 11 / 10).contains(wait)),
        "{waits:?}"
    );
    assert_eq!(returns(7), returns(7));
}

#[test]
fn a_barred_variant_is_no_last_resort_and_a_late_load_brings_one_back() {
    let (mut chain, now) = chain();
    chain.bar(
        0,
        Cause::new(Reason::BelowMinimumAccuracy, "npu is not accurate enough"),
    );
    chain.load_failed(1, "no server".into());
    assert_eq!(chain.candidates(now), Vec::<usize>::new());
    assert_eq!(reason(&chain, now), Some(Reason::BelowMinimumAccuracy));
    chain.loaded(1);
    assert_eq!(chain.candidates(now), [1]);
    chain.hung(1, Some("no thread is left".into()));
    assert_eq!(chain.candidates(now), Vec::<usize>::new());
    chain.hung(1, None);
    assert_eq!(chain.candidates(now), [1]);
}
