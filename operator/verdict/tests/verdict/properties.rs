//! Properties of every judgement.

use crate::build::{judged, of_units, unit};
use perwatt_simulate::world::{Effect, KINDS, Kind};
use perwatt_verdict::judgement::Outcome;
use perwatt_verdict::{Evidence, Progress, Settings};
use proptest::prelude::*;

fn some_effect() -> impl Strategy<Value = Effect> {
    let numbers = (
        0.0..0.03f64,
        0.8..1.4f64,
        0.9..1.2f64,
        any::<bool>(),
        0.0..0.04f64,
    );
    numbers.prop_map(|(errors, latency, energy, shift, different)| Effect {
        errors,
        latency,
        energy,
        shift,
        different,
    })
}

fn some_evidence() -> impl Strategy<Value = Evidence> {
    (0..4usize, some_effect(), 0..1_000u64, 1..4u64, 60..900u64).prop_map(
        |(kind, effect, seed, units, seconds)| {
            of_units((0..units).map(|n| unit(KINDS[kind], &effect, seed, n, seconds)))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn evidence_may_come_in_any_order_in_parts_and_twice(whole in some_evidence(), cut in 0..100usize) {
        let mut early = whole.clone();
        let mut late = whole.clone();
        for (unit, rest) in early.units.values_mut().zip(late.units.values_mut()) {
            rest.turns = unit.turns.split_off(cut.min(unit.turns.len()));
            rest.turns.reverse();
        }
        let mut merged = late;
        merged.merge(&early).unwrap();
        merged.merge(&early).unwrap();
        merged.merge(&whole).unwrap();
        prop_assert_eq!(judged(&merged), judged(&whole));
        let mut sorted = whole;
        sorted.merge(&merged).unwrap();
        prop_assert_eq!(sorted, merged);
    }

    #[test]
    fn looking_after_every_turn_ends_where_judging_everything_does(evidence in some_evidence()) {
        let mut progress = Progress::new(&Settings::default()).unwrap();
        for (name, unit) in &evidence.units {
            unit.turns.iter().for_each(|turn| progress.add(name, &unit.series, turn));
        }
        let found: Vec<(_, Outcome)> = crate::build::outcomes(&judged(&evidence));
        prop_assert_eq!(progress.outcomes(), found);
    }

    #[test]
    fn intervals_agree_with_outcomes_and_hold_the_estimate(evidence in some_evidence()) {
        for finding in judged(&evidence).findings {
            let (Some(difference), allowed) = (finding.difference, finding.allowed) else { continue };
            let near = 1e-6 * (1.0 + difference.abs());
            prop_assert!(finding.lower.is_none_or(|lower| lower <= difference + near), "{:?}", finding);
            prop_assert!(finding.upper.is_none_or(|upper| upper >= difference - near), "{:?}", finding);
            // The index learns as it goes, and its limit enters the size of bets: there the two may differ a little.
            if finding.metric != perwatt_verdict::Metric::ConfidenceShift {
                let above = finding.lower.is_some_and(|lower| lower > allowed + near);
                let below = finding.upper.is_some_and(|upper| upper < allowed - near);
                prop_assert!(!above || finding.outcome == Outcome::Fail, "{:?}", finding);
                prop_assert!(!below || finding.outcome == Outcome::Pass, "{:?}", finding);
            }
        }
    }

    #[test]
    fn swapping_the_revisions_never_lets_both_fail(evidence in some_evidence()) {
        let mut swapped = evidence.clone();
        crate::build::each_turn(&mut swapped, |turn| std::mem::swap(&mut turn.canary, &mut turn.incumbent));
        let pairs = judged(&evidence).findings.into_iter().zip(judged(&swapped).findings);
        for (one, other) in pairs.filter(|(one, _)| one.relative) {
            prop_assert!(one.outcome != Outcome::Fail || other.outcome != Outcome::Fail, "{:?} {:?}", one, other);
        }
    }
}

#[test]
fn evidence_of_other_revisions_is_not_mixed_in() {
    let mut own = of_units([unit(Kind::Independent, &Effect::NONE, 1, 1, 60)]);
    let mut other = own.clone();
    other.canary = "c".into();
    let error = own.clone().merge(&other).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("it compares c with a, wanted is b with a"),
        "{error}"
    );
    other.canary = "b".into();
    other.units.get_mut("edge-00").unwrap().turns[0].canary.failed += 1;
    let before = own.clone();
    own.merge(&other).unwrap_err();
    assert_eq!(own, before, "nothing was added");
}

#[test]
fn evidence_survives_json() {
    let evidence = of_units([unit(Kind::Independent, &Effect::NONE, 1, 1, 60)]);
    let text = serde_json::to_string(&evidence).unwrap();
    assert_eq!(serde_json::from_str::<Evidence>(&text).unwrap(), evidence);
    for wrong in [
        r#"{"schema":1,"canary":"b"}"#,
        r#"{"schema":-1,"canary":"b","incumbent":"a"}"#,
    ] {
        serde_json::from_str::<Evidence>(wrong).unwrap_err();
    }
}
