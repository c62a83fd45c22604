//! Units that run one revision each.

use crate::build::{judged, of, of_units};
use perwatt_simulate::world::{Effect, Kind, Node};
use perwatt_verdict::evidence::{Alone, Window};
use perwatt_verdict::judgement::{Needed, Outcome};
use perwatt_verdict::preview::fewest_units;
use perwatt_verdict::{Arm, Evidence, Metric, Settings, Unit, Verdict};
use std::time::Duration;

fn apart(units: u64, effect: &Effect, seed: u64, windows: u32) -> Evidence {
    of_units((0..units).map(|number| {
        let mut node = Node::new(Kind::NodeEffects, seed, number, Duration::from_secs(1));
        let before = Some(node.counts(3_600, &Effect::NONE));
        let arm = if number % 2 == 0 {
            Arm::Canary
        } else {
            Arm::Incumbent
        };
        let effect = if arm == Arm::Canary { effect } else { &Effect::NONE };
        let windows = (0..windows).map(|number| Window {
            number,
            counts: node.counts(128 << number, effect),
        });
        Unit {
            series: "npu".into(),
            confidence_edges: (0..9).map(f64::from).collect(),
            alone: Some(Alone {
                arm,
                windows: windows.collect(),
            }),
            before,
            ..Unit::default()
        }
    }))
}

#[test]
fn below_the_stated_number_of_nodes_even_a_gross_fault_is_inconclusive_and_the_number_is_said() {
    let needed = fewest_units(&Settings::default());
    assert_eq!(needed, 14);
    let gross = Effect {
        latency: 3.0,
        ..Effect::NONE
    };
    let judgement = judged(&apart(5, &gross, 1, 3));
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    let finding = of(&judgement, Metric::LatencyQuantile(950));
    assert!(
        matches!(finding.needed, Needed::Units(units) if units >= needed),
        "{finding:?}"
    );
    assert!(
        finding.sentence.contains("half of them canaries"),
        "{}",
        finding.sentence
    );
    assert_eq!(judged(&apart(needed, &gross, 1, 1)).verdict, Verdict::Fail);
}

#[test]
fn nodes_that_differ_reject_no_good_canary_and_hide_no_bad_one() {
    let bad = Effect {
        latency: 1.6,
        ..Effect::NONE
    };
    for seed in 0..10 {
        assert_ne!(
            judged(&apart(20, &Effect::NONE, seed, 2)).verdict,
            Verdict::Fail,
            "{seed}"
        );
        assert_eq!(judged(&apart(20, &bad, seed, 2)).verdict, Verdict::Fail, "{seed}");
    }
}

#[test]
fn one_sick_node_of_many_rejects_nothing() {
    let mut evidence = apart(20, &Effect::NONE, 3, 2);
    let sick = evidence.units.get_mut("edge-00").unwrap().alone.as_mut().unwrap();
    for window in &mut sick.windows {
        window.counts.failed += window.counts.answered * 9;
    }
    assert_ne!(judged(&evidence).verdict, Verdict::Fail);
}

#[test]
fn what_needs_the_same_inputs_is_not_judged_and_a_dark_node_is_waited_for_no_longer() {
    let mut evidence = apart(20, &Effect::NONE, 4, 3);
    let judgement = judged(&evidence);
    for metric in [Metric::Disagreement, Metric::ConfidenceShift] {
        assert_eq!(of(&judgement, metric).outcome, Outcome::NotApplicable);
    }
    for name in ["edge-03", "edge-04"] {
        evidence
            .units
            .get_mut(name)
            .unwrap()
            .alone
            .as_mut()
            .unwrap()
            .windows
            .clear();
    }
    let errors = judged(&evidence);
    let errors = of(&errors, Metric::ErrorRate);
    assert_eq!((errors.samples.turns, errors.samples.units), (3, 18));
}
