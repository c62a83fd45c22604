//! Evidence for tests, from made-up traffic.

use perwatt_simulate::world::{Effect, Kind, Node};
use perwatt_verdict::judgement::Outcome;
use perwatt_verdict::{Evidence, Finding, Judgement, Metric, Settings, Turn, Unit, judge};
use std::time::Duration;

pub const SECONDS: u64 = 1_800;

/// A unit that ran for some seconds.
pub fn unit(kind: Kind, effect: &Effect, seed: u64, number: u64, seconds: u64) -> Unit {
    let mut node = Node::new(kind, seed, number, Duration::from_secs(seconds));
    let mut turns = Vec::new();
    while node.seconds() < seconds {
        turns.push(node.turn(effect));
    }
    Unit {
        series: "npu on hailo-9".into(),
        turns,
        confidence_edges: (0..9).map(f64::from).collect(),
        ..Unit::default()
    }
}

/// Three units that ran for half an hour.
pub fn evidence(effect: &Effect, seed: u64) -> Evidence {
    of_units((0..3).map(|number| unit(Kind::Independent, effect, seed, number, SECONDS)))
}

/// Evidence of some units.
pub fn of_units(units: impl IntoIterator<Item = Unit>) -> Evidence {
    let mut evidence = Evidence::new("b", "a");
    for (number, unit) in units.into_iter().enumerate() {
        evidence.units.insert(format!("edge-{number:02}"), unit);
    }
    evidence
}

/// Changes every turn of every unit.
pub fn each_turn(evidence: &mut Evidence, change: impl Fn(&mut Turn)) {
    let units = evidence.units.values_mut();
    units.flat_map(|unit| &mut unit.turns).for_each(change);
}

/// By the shipped defaults.
pub fn judged(evidence: &Evidence) -> Judgement {
    judge(evidence, &Settings::default()).unwrap()
}

/// What was found of one metric.
pub fn of(judgement: &Judgement, metric: Metric) -> &Finding {
    judgement
        .findings
        .iter()
        .find(|finding| finding.metric == metric)
        .unwrap()
}

/// The outcomes of all metrics.
pub fn outcomes(judgement: &Judgement) -> Vec<(Metric, Outcome)> {
    let findings = judgement.findings.iter();
    findings
        .map(|finding| (finding.metric, finding.outcome))
        .collect()
}
