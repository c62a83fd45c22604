//! When things go wrong: each ends in the documented verdict.

use crate::build::{each_turn, evidence, judged, of, of_units, unit};
use perwatt_simulate::world::{Effect, KINDS, Kind};
use perwatt_verdict::evidence::Measuring;
use perwatt_verdict::judgement::{Needed, Outcome};
use perwatt_verdict::{Arm, Counts, Evidence, EvidenceError, Metric, Sketch, Verdict};

const P95: Metric = Metric::LatencyQuantile(950);

const SLOW: Effect = Effect {
    latency: 1.3,
    ..Effect::NONE
};

#[test]
fn a_good_canary_passes_and_each_bad_one_fails_by_the_metric_that_is_bad() {
    let good = judged(&evidence(&Effect::NONE, 1));
    assert_eq!(good.verdict, Verdict::Pass, "{}", good.sentence);
    let bad = [
        (
            Metric::ErrorRate,
            Effect {
                errors: 0.03,
                ..Effect::NONE
            },
        ),
        (P95, SLOW),
        (
            Metric::EnergyPerInference,
            Effect {
                energy: 1.15,
                ..Effect::NONE
            },
        ),
        (
            Metric::Disagreement,
            Effect {
                different: 0.04,
                ..Effect::NONE
            },
        ),
    ];
    for (metric, effect) in bad {
        let judgement = judged(&evidence(&effect, 1));
        assert_eq!(judgement.verdict, Verdict::Fail, "{metric}");
        let failed: Vec<_> = judgement
            .findings
            .iter()
            .filter(|f| f.outcome == Outcome::Fail)
            .collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].metric, metric);
        assert_eq!(judgement.sentence, failed[0].sentence);
    }
}

#[test]
fn confidences_that_moved_far_fail_and_so_do_those_that_are_no_numbers() {
    let mut moved = evidence(&Effect::NONE, 2);
    each_turn(&mut moved, |turn| turn.canary.confidence[..8].reverse());
    let mut none = evidence(&Effect::NONE, 2);
    each_turn(&mut none, |turn| {
        let most = turn.canary.confidence[7];
        turn.canary.confidence[7] = 0;
        turn.canary.confidence[8] += most;
    });
    for evidence in [moved, none] {
        let judgement = judged(&evidence);
        assert_eq!(
            of(&judgement, Metric::ConfidenceShift).outcome,
            Outcome::Fail,
            "{}",
            judgement.sentence
        );
    }
}

#[test]
fn without_evidence_or_traffic_nothing_is_concluded() {
    let empty = judged(&Evidence::new("b", "a"));
    assert_eq!((empty.verdict, empty.findings.len()), (Verdict::Inconclusive, 0));
    assert_eq!(empty.sentence, "there is no evidence of revision b yet");
    let mut quiet = evidence(&Effect::NONE, 3);
    each_turn(&mut quiet, |turn| {
        (turn.canary, turn.incumbent) = (Counts::default(), Counts::default());
        turn.mirrored = perwatt_verdict::evidence::Mirrored::default();
    });
    let judgement = judged(&quiet);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    let errors = of(&judgement, Metric::ErrorRate);
    assert_eq!(
        (errors.outcome, errors.needed),
        (Outcome::Inconclusive, Needed::Data)
    );
}

#[test]
fn a_canary_that_nobody_asks_does_not_pass() {
    let mut one_sided = evidence(&Effect::NONE, 4);
    each_turn(&mut one_sided, |turn| turn.canary = Counts::default());
    let judgement = judged(&one_sided);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement
            .measuring
            .iter()
            .any(|line| line.contains("fewer requests")),
        "{:?}",
        judgement.measuring
    );
}

#[test]
fn a_canary_that_is_fast_because_it_fails_fails() {
    let mut fast = evidence(
        &Effect {
            errors: 0.3,
            latency: 0.5,
            ..Effect::NONE
        },
        5,
    );
    each_turn(&mut fast, |turn| turn.canary.milliseconds /= 2);
    let judgement = judged(&fast);
    assert_eq!(judgement.verdict, Verdict::Fail);
    assert_eq!(
        of(&judgement, P95).outcome,
        Outcome::Pass,
        "what it answers, it answers quickly"
    );
    assert!(
        judgement.sentence.starts_with("the error rate of revision b is"),
        "{}",
        judgement.sentence
    );
}

#[test]
fn a_canary_as_bad_as_its_incumbent_passes_and_a_person_is_told() {
    let mut both = evidence(&Effect::NONE, 6);
    each_turn(&mut both, |turn| {
        for counts in [&mut turn.canary, &mut turn.incumbent] {
            counts.failed += counts.answered / 4;
        }
    });
    let judgement = judged(&both);
    assert_eq!(judgement.verdict, Verdict::Pass, "{}", judgement.sentence);
    assert!(
        judgement
            .sentence
            .contains("so is the incumbent: it fails 20% of requests"),
        "{}",
        judgement.sentence
    );
}

#[test]
fn a_node_that_is_sick_for_its_own_reasons_rejects_nothing() {
    let sick = |turn: &mut perwatt_verdict::Turn| {
        for counts in [&mut turn.canary, &mut turn.incumbent] {
            counts.failed += counts.answered;
            counts.latency = Sketch::of(&mut vec![900_000; usize::try_from(counts.answered).unwrap()]);
        }
    };
    let mut with_sick = evidence(&Effect::NONE, 7);
    with_sick
        .units
        .get_mut("edge-01")
        .unwrap()
        .turns
        .iter_mut()
        .for_each(sick);
    assert_ne!(judged(&with_sick).verdict, Verdict::Fail);
}

#[test]
fn a_canary_that_is_bad_on_one_node_of_three_fails_and_names_how_many() {
    let units = [Effect::NONE, SLOW, Effect::NONE].iter().enumerate();
    let mixed = of_units(units.map(|(n, effect)| unit(Kind::Independent, effect, 8, n as u64, 1_800)));
    let judgement = judged(&mixed);
    let slow = of(&judgement, P95);
    assert_eq!(
        (judgement.verdict, slow.samples.units_beyond, slow.unit.as_deref()),
        (Verdict::Fail, 1, Some("edge-01"))
    );
    assert!(slow.lower.is_some_and(|lower| lower > 0.1), "{slow:?}");
    assert!(
        judgement
            .sentence
            .contains("that of a on edge-01, one of 3 nodes"),
        "{}",
        judgement.sentence
    );
    let mut apart = mixed.clone();
    apart.units.get_mut("edge-01").unwrap().series = "npu on hailo-10".into();
    assert_eq!(judged(&apart).verdict, Verdict::Fail, "the worst series counts");
    assert!(
        judged(&apart).sentence.contains("on 1 of 1 node"),
        "{}",
        judged(&apart).sentence
    );
}

#[test]
fn the_time_of_day_and_clocks_that_are_wrong_change_no_verdict() {
    for kind in KINDS {
        let mut good = of_units((0..3).map(|n| unit(kind, &Effect::NONE, 9, n, 1_800)));
        assert_ne!(judged(&good).verdict, Verdict::Fail, "{}", kind.name());
        let bad = of_units((0..3).map(|n| unit(kind, &SLOW, 9, n, 1_800)));
        assert_eq!(judged(&bad).verdict, Verdict::Fail, "{}", kind.name());
        let before = judged(&good);
        for (number, unit) in good.units.values_mut().enumerate() {
            unit.turns
                .iter_mut()
                .for_each(|turn| turn.epoch_unix_seconds += 1_000_000_007 * number as u64);
        }
        assert_eq!(judged(&good), before);
    }
}

#[test]
fn blocks_in_an_order_that_is_not_random_prove_nothing() {
    let mut ordered = evidence(&SLOW, 10);
    each_turn(&mut ordered, |turn| turn.first = Arm::Canary);
    let judgement = judged(&ordered);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement.sentence.contains("not random"),
        "{}",
        judgement.sentence
    );
}

#[test]
fn counters_that_go_back_have_no_difference() {
    let later = Counts {
        answered: 10,
        failed: 3,
        ..Counts::default()
    };
    let earlier = Counts {
        answered: 12,
        ..Counts::default()
    };
    let error = later.since(&earlier).unwrap_err();
    assert_eq!(error, EvidenceError::WentBack("answered requests", 12, 10));
    assert!(error.to_string().contains("reset or wrapped"), "{error}");
    let earlier = Counts {
        answered: 4,
        latency: Sketch::of(&mut [7, 7, 900]),
        ..Counts::default()
    };
    let mut later = Counts {
        answered: 10,
        latency: Sketch::of(&mut [7, 7, 8, 900]),
        ..Counts::default()
    };
    let between = later.since(&earlier).unwrap();
    assert_eq!((between.answered, between.latency), (6, Sketch::of(&mut [8])));
    later.latency = Sketch::of(&mut [7, 7, 8]);
    later.since(&earlier).unwrap_err();
}

#[test]
fn evidence_that_cannot_be_is_left_out_and_counts_against_measuring() {
    type Spoil = fn(&mut perwatt_verdict::Unit);
    let wrong: [(&str, Spoil); 6] = [
        ("a counter wrapped", |unit| {
            unit.turns[5].canary.answered = u64::MAX - 3
        }),
        ("rising order", |unit| unit.confidence_edges[2] = f64::NAN),
        ("latencies", |unit| unit.turns[5].incumbent.answered /= 2),
        ("different answers", |unit| {
            unit.turns[5].mirrored.different = 1 << 40
        }),
        ("reported twice", |unit| {
            let mut again = unit.turns[5].clone();
            again.canary.failed += 1;
            unit.turns.push(again);
        }),
        ("bins", |unit| unit.turns[5].canary.confidence.truncate(3)),
    ];
    for (why, break_it) in wrong {
        let mut few = evidence(&Effect::NONE, 11);
        break_it(few.units.get_mut("edge-01").unwrap());
        let judgement = judged(&few);
        assert_eq!(
            judgement.verdict,
            Verdict::Inconclusive,
            "{why}: one of three is more than a fifth"
        );
        assert!(judgement.sentence.contains(why), "{why}: {}", judgement.sentence);
        let mut many = of_units((0..6).map(|n| unit(Kind::Independent, &Effect::NONE, 11, n, 1_800)));
        break_it(many.units.get_mut("edge-01").unwrap());
        assert_eq!(judged(&many).verdict, Verdict::Pass, "{why}: one of six is not");
        let mut bad = evidence(&SLOW, 11);
        break_it(bad.units.get_mut("edge-01").unwrap());
        assert_eq!(
            judged(&bad).verdict,
            Verdict::Fail,
            "{why}: what is left is enough"
        );
    }
}

#[test]
fn a_failure_of_measuring_is_none_of_the_model() {
    let mut silent = evidence(&Effect::NONE, 12);
    silent.units.get_mut("edge-02").unwrap().measuring = Measuring { asked: 10, failed: 9 };
    let judgement = judged(&silent);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement.sentence.contains("measuring failed on 1 of 3 nodes"),
        "{}",
        judgement.sentence
    );
    silent.units.get_mut("edge-02").unwrap().measuring = Measuring { asked: 10, failed: 1 };
    assert_eq!(judged(&silent).verdict, Verdict::Pass);
}

#[test]
fn another_format_is_said_and_judged_by_nobody() {
    let mut newer = evidence(&SLOW, 13);
    newer.schema = 2;
    let judgement = judged(&newer);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert!(
        judgement.sentence.contains("upgrade the older side"),
        "{}",
        judgement.sentence
    );
}
