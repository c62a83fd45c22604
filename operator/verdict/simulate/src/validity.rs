//! The figure `canary-validity`: how often a canary that is no worse is ever rejected, though one looks after every
//! turn.

use crate::peers::Minutes;
use crate::row::{Row, for_seeds};
use crate::world::{Effect, KINDS, Kind, Node};
use perwatt_verdict::{Counts, Progress, Settings, Turn, judgement::Outcome};
use std::time::Duration;

/// Rollouts of each kind of traffic, for the figure.
pub const ROLLOUTS: usize = 10_000;
/// Nodes of each cohort.
const NODES: u64 = 3;
/// How long each cohort is looked at.
const BAKE: Duration = Duration::from_secs(600);

/// What happened in one simulated rollout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarms {
    /// It was rejected.
    pub ours: bool,
    /// A rule passed it at some time, in the first cohort.
    pub passed: bool,
    /// Kayenta's rule rejected it.
    pub mann_whitney: bool,
    /// The counter of failures rejected it.
    pub counter: bool,
}

/// The figure.
#[must_use]
pub fn measure(rollouts: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in KINDS {
        for (effect, what) in [
            (Effect::NONE, "canary as good as its incumbent"),
            (Effect::AT_THE_LIMITS, "canary exactly at every limit"),
        ] {
            let alarms = for_seeds(rollouts, |seed| rollout(kind, &effect, seed));
            rows.extend(summary(kind, what, &alarms, effect == Effect::NONE));
        }
    }
    rows
}

fn summary(kind: Kind, what: &str, alarms: &[Alarms], peers: bool) -> Vec<Row> {
    let part = |of: fn(&Alarms) -> bool| alarms.iter().filter(|alarm| of(alarm)).count() as f64 / alarms.len() as f64;
    let row = |title: &str, value: f64| Row::new(format!("{}, {what}: {title}", kind.name()), value * 100.0, "%", alarms.len());
    let ours = row("rejected", part(|alarm| alarm.ours));
    if !peers {
        return vec![ours, row("a limit that it is at passed in the first cohort", part(|alarm| alarm.passed))];
    }
    let theirs = 100.0 * part(|alarm| alarm.mann_whitney);
    let counter = 100.0 * part(|alarm| alarm.counter);
    let again = row("rejected", part(|alarm| alarm.ours));
    vec![
        ours.against("Mann-Whitney at 98% as Kayenta's rule, each minute", theirs),
        again.against("more than 3 failed minutes", counter),
    ]
}

/// One rollout through all cohorts of the shipped defaults, looked at after every turn.
#[must_use]
pub fn rollout(kind: Kind, effect: &Effect, seed: u64) -> Alarms {
    let settings = Settings::default();
    let mut alarms = Alarms::default();
    for cohort in 0..u64::from(settings.cohorts) {
        let first = cohort == 0;
        let seen = one_cohort(kind, effect, seed.wrapping_mul(31).wrapping_add(cohort), &settings);
        alarms.ours |= seen.ours;
        alarms.passed |= first && seen.passed;
        alarms.mann_whitney |= seen.mann_whitney;
        alarms.counter |= seen.counter;
    }
    alarms
}

fn one_cohort(kind: Kind, effect: &Effect, seed: u64, settings: &Settings) -> Alarms {
    let mut alarms = Alarms::default();
    let Ok(mut progress) = Progress::new(settings) else { return alarms };
    let mut nodes: Vec<Node> = (0..NODES).map(|number| Node::new(kind, seed, number, BAKE)).collect();
    let names: Vec<String> = (0..NODES).map(|number| format!("node-{number}")).collect();
    let mut minutes = Minutes::default();
    let mut minute = Vec::new();
    while nodes.iter().all(|node| node.seconds() < BAKE.as_secs()) {
        for (node, name) in nodes.iter_mut().zip(&names) {
            let turn = node.turn(effect);
            progress.add(name, "npu", &turn);
            for (_, outcome) in progress.outcomes() {
                alarms.ours |= outcome == Outcome::Fail;
                alarms.passed |= outcome == Outcome::Pass;
            }
            minute.push(turn);
        }
        let over = nodes.first().is_some_and(|node| node.seconds() >= 60 * (minutes.canary.len() as u64 + 1));
        if over {
            add_minute(&mut minutes, &std::mem::take(&mut minute));
            alarms.mann_whitney |= minutes.mann_whitney();
            alarms.counter |= minutes.counter();
        }
    }
    alarms
}

fn add_minute(minutes: &mut Minutes, turns: &[Turn]) {
    let of = |arm: fn(&Turn) -> &Counts| {
        let blocks = turns.iter().map(arm);
        let mut latency = perwatt_verdict::Sketch::default();
        let (mut failed, mut requests, mut nanojoules, mut inferences) = (0, 0, 0, 0);
        for counts in blocks {
            latency.add(&counts.latency);
            failed += counts.failed;
            requests += counts.requests();
            nanojoules += counts.energy.map_or(0, |energy| energy.nanojoules);
            inferences += counts.energy.map_or(0, |energy| energy.inferences);
        }
        [
            failed as f64 / requests.max(1) as f64,
            latency.quantile(950).unwrap_or(0) as f64,
            nanojoules as f64 / inferences.max(1) as f64,
        ]
    };
    minutes.canary.push(of(|turn| &turn.canary));
    minutes.incumbent.push(of(|turn| &turn.incumbent));
}
