//! What a person reads.

use crate::build::{evidence, judged, of, of_units, unit};
use perwatt_simulate::world::{Effect, Kind};
use perwatt_verdict::Metric;

#[test]
fn a_rejection_says_what_by_how_much_how_surely_where_and_what_is_allowed() {
    let slow = Effect {
        latency: 1.23,
        ..Effect::NONE
    };
    let units = [slow, slow, Effect::NONE].into_iter().enumerate();
    let judgement =
        judged(&of_units(units.map(|(n, effect)| {
            unit(Kind::Independent, &effect, 3, n as u64, 3_600)
        })));
    let sentence = &of(&judgement, Metric::LatencyQuantile(950)).sentence;
    let shape = "p95 of revision b is ";
    assert!(
        sentence.starts_with(shape)
            && sentence.contains("%) above that of a on 2 of 3 nodes; allowed is 10%"),
        "{sentence}"
    );
    assert!(sentence.contains('(') && sentence.contains(" to "), "{sentence}");
}

#[test]
fn every_metric_has_a_sentence_of_its_own() {
    let worse = Effect {
        errors: 0.02,
        different: 0.03,
        energy: 1.2,
        shift: true,
        ..Effect::NONE
    };
    let judgement = judged(&evidence(&worse, 4));
    for (metric, parts) in [
        (
            Metric::ErrorRate,
            &[
                "the error rate of revision b is ",
                " points (",
                " above that of a on 3 of 3 nodes; allowed is 0.50% points",
            ][..],
        ),
        (
            Metric::EnergyPerInference,
            &["the energy per inference of revision b is 20%", "allowed is 5.0%"],
        ),
        (
            Metric::Disagreement,
            &[
                "the part of differing answers of revision b is ",
                " inputs on 3 of 3 nodes; allowed is 1.0%",
            ],
        ),
        (
            Metric::ConfidenceShift,
            &[
                "the shift of confidence of revision b is 0.",
                "against a",
                "allowed is 0.20",
            ],
        ),
    ] {
        let sentence = &of(&judgement, metric).sentence;
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
    }
    let early = judged(&of_units([unit(Kind::Independent, &Effect::NONE, 4, 0, 240)]));
    let sentence = &of(&early, Metric::ErrorRate).sentence;
    assert!(sentence.contains("more requests are needed"), "{sentence}");
}

#[test]
fn a_sentence_is_never_longer_than_a_condition_may_be() {
    let mut long = evidence(&Effect::NONE, 5);
    (long.canary, long.incumbent) = ("ü".repeat(126), "ß".repeat(126));
    let series = "é".repeat(126);
    long.units
        .values_mut()
        .for_each(|unit| unit.series.clone_from(&series));
    let judgement = judged(&long);
    let sentences = judgement.findings.iter().map(|finding| &finding.sentence);
    assert!(
        sentences
            .chain([&judgement.sentence])
            .all(|sentence| sentence.len() <= 1_024)
    );
}
