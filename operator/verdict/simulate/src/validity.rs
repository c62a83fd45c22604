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
    /// Rules that passed it at some time in the first cohort.
    pub passed: [bool; 5],
    /// Kayenta's rule rejected it: on the blocks of all nodes, and on one node's canary beside the others' incumbent.
    pub mann_whitney: [bool; 2],
    /// The counter of failures rejected it, on the same two.
    pub counter: [bool; 2],
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
    let part = |of: fn(&Alarms) -> bool| {
        alarms.iter().filter(|alarm| of(alarm)).count() as f64 / alarms.len() as f64
    };
    let row = |title: &str, value: f64| {
        Row::new(
            format!("{}, {what}: {title}", kind.name()),
            value * 100.0,
            "%",
            alarms.len(),
        )
    };
    let ours = row("rejected", part(|alarm| alarm.ours));
    if !peers {
        let passed = |rule: usize| alarms.iter().filter(|alarm| alarm.passed[rule]).count() as f64;
        let most = (0..5).map(passed).fold(0.0, f64::max) / alarms.len() as f64;
        return vec![
            ours,
            row("passed by the most lenient rule in the first cohort", most),
        ];
    }
    let theirs = [
        (
            "Mann-Whitney at 98% as Kayenta's rule, each minute, blocks of all nodes",
            part(|alarm| alarm.mann_whitney[0]),
        ),
        (
            "the same, one node beside the others",
            part(|alarm| alarm.mann_whitney[1]),
        ),
        (
            "more than 3 failed minutes, blocks of all nodes",
            part(|alarm| alarm.counter[0]),
        ),
        (
            "the same, one node beside the others",
            part(|alarm| alarm.counter[1]),
        ),
    ];
    theirs
        .map(|(rule, part)| ours.clone().against(rule, 100.0 * part))
        .to_vec()
}

/// One rollout through all cohorts of the shipped defaults, looked at after every turn.
#[must_use]
pub fn rollout(kind: Kind, effect: &Effect, seed: u64) -> Alarms {
    let settings = Settings::default();
    let mut alarms = Alarms::default();
    for cohort in 0..u64::from(settings.cohorts) {
        let first = cohort == 0;
        let seen = one_cohort(
            kind,
            effect,
            seed.wrapping_mul(31).wrapping_add(cohort),
            &settings,
        );
        alarms.ours |= seen.ours;
        if first {
            alarms.passed = seen.passed;
        }
        for place in 0..2 {
            alarms.mann_whitney[place] |= seen.mann_whitney[place];
            alarms.counter[place] |= seen.counter[place];
        }
    }
    alarms
}

fn one_cohort(kind: Kind, effect: &Effect, seed: u64, settings: &Settings) -> Alarms {
    let mut alarms = Alarms::default();
    let Ok(mut progress) = Progress::new(settings) else {
        return alarms;
    };
    let mut nodes: Vec<Node> = (0..NODES)
        .map(|number| Node::new(kind, seed, number, BAKE))
        .collect();
    let names: Vec<String> = (0..NODES).map(|number| format!("node-{number}")).collect();
    let mut minutes = [Minutes::default(), Minutes::default()];
    let mut minute: Vec<Vec<Turn>> = vec![Vec::new(); NODES as usize];
    while nodes.iter().all(|node| node.seconds() < BAKE.as_secs()) {
        for ((node, name), minute) in nodes.iter_mut().zip(&names).zip(&mut minute) {
            let turn = node.turn(effect);
            progress.add(name, "npu", &turn);
            for ((_, outcome), passed) in progress.outcomes().into_iter().zip(&mut alarms.passed) {
                alarms.ours |= outcome == Outcome::Fail;
                *passed |= outcome == Outcome::Pass;
            }
            minute.push(turn);
        }
        let over = nodes
            .first()
            .is_some_and(|node| node.seconds() >= 60 * (minutes[0].canary.len() as u64 + 1));
        if over {
            let turns: Vec<Vec<Turn>> = minute.iter_mut().map(std::mem::take).collect();
            add_minute(&mut minutes[0], &turns, &turns);
            add_minute(&mut minutes[1], &turns[..1], &turns[1..]);
            for (place, minutes) in minutes.iter().enumerate() {
                alarms.mann_whitney[place] |= minutes.mann_whitney();
                alarms.counter[place] |= minutes.counter();
            }
        }
    }
    alarms
}

fn add_minute(minutes: &mut Minutes, canary: &[Vec<Turn>], incumbent: &[Vec<Turn>]) {
    let of = |turns: &[Vec<Turn>], arm: fn(&Turn) -> &Counts| {
        let blocks = turns.iter().flatten().map(arm);
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
    minutes.canary.push(of(canary, |turn| &turn.canary));
    minutes.incumbent.push(of(incumbent, |turn| &turn.incumbent));
}
