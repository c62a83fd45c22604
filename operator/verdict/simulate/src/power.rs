//! The figure `canary-power`: how many requests, and how long, until a canary that is worse is rejected.

use crate::row::{Row, for_seeds, quantile};
use crate::world::{self, Effect, FIRST_BLOCK, Kind, Node, RATE_OF_NODE};
use perwatt_verdict::evidence::{Alone, Window};
use perwatt_verdict::judgement::Outcome;
use perwatt_verdict::preview::{self, Detection, POWER, Plan};
use perwatt_verdict::{Arm, Evidence, Metric, Progress, Rule, Settings, Unit, Verdict, judge};
use std::time::Duration;

/// Rollouts of each case, for the figure.
pub const ROLLOUTS: usize = 2_000;
/// When a rollout with switchback is given up.
const LONGEST: Duration = Duration::from_secs(4 * 3_600);
/// Windows of a rollout between nodes: two hours.
const WINDOWS: u32 = 6;
/// Seconds of the first of them.
const FIRST_WINDOW: u64 = 128;
/// Seconds that the incumbent is known before, with switchback and between nodes.
const KNOWN: [u64; 2] = [600, 7_200];

/// One canary that is worse.
#[derive(Debug, Clone, Copy)]
pub struct Worse {
    /// What is wrong with it.
    pub name: &'static str,
    /// The metric that shows it.
    pub metric: Metric,
    /// How large that metric's difference is.
    pub size: f64,
    /// What it does.
    pub effect: Effect,
}

/// The canaries of the figure.
pub const CANARIES: [Worse; 4] = [
    Worse {
        name: "errors 0.5% to 1.5%",
        metric: Metric::ErrorRate,
        size: 0.01,
        effect: Effect {
            errors: 0.01,
            ..Effect::NONE
        },
    },
    Worse {
        name: "p95 +20%",
        metric: Metric::LatencyQuantile(950),
        size: 0.2,
        effect: Effect {
            latency: 1.2,
            ..Effect::NONE
        },
    },
    Worse {
        name: "energy +10%",
        metric: Metric::EnergyPerInference,
        size: 0.1,
        effect: Effect {
            energy: 1.1,
            ..Effect::NONE
        },
    },
    Worse {
        name: "2% of answers flipped",
        metric: Metric::Disagreement,
        size: 0.02,
        effect: Effect {
            different: 0.02,
            ..Effect::NONE
        },
    },
];

/// When a rollout was over: requests (or mirrored inputs) and seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End {
    /// Requests of both revisions, or mirrored inputs.
    pub samples: f64,
    /// Seconds.
    pub seconds: f64,
}

const NEVER: End = End {
    samples: f64::INFINITY,
    seconds: f64::INFINITY,
};

/// The figure.
#[must_use]
pub fn measure(rollouts: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for worse in &CANARIES {
        for nodes in [3, 5, 20] {
            rows.extend(switchback(worse, nodes, rollouts));
        }
    }
    for nodes in [3, 5, 20] {
        rows.extend(passing(nodes, rollouts));
    }
    for worse in &CANARIES {
        for nodes in [3, 5, 20] {
            rows.push(between(worse, nodes, rollouts / 10));
        }
    }
    rows
}

fn switchback(worse: &Worse, nodes: u64, rollouts: usize) -> Vec<Row> {
    let wanted = |progress: &Progress| {
        let outcomes = progress.outcomes();
        outcomes
            .iter()
            .any(|(metric, outcome)| *metric == worse.metric && *outcome == Outcome::Fail)
    };
    let ends = for_seeds(rollouts, |seed| {
        run(&worse.effect, nodes, seed, worse.metric, wanted)
    });
    let title = |what: &str| format!("{}, {nodes} nodes, switchback: {what}", worse.name);
    let mut rows = described(&ends, &title, "rejected");
    let settings = Settings::default();
    let rule = settings.rules.iter().find(|rule| rule.metric == worse.metric);
    let forecast = rule.and_then(|rule| forecast(*rule, worse.size, nodes, &settings));
    if let (Some(forecast), [samples, seconds, ..]) = (forecast, &mut rows[..]) {
        *samples = samples
            .clone()
            .against("a test with a fixed sample", forecast.fixed_requests as f64);
        *seconds = seconds
            .clone()
            .against("forecast by the preview", forecast.time.as_secs_f64());
    }
    rows
}

/// A canary that is as good: until it has passed every limit.
fn passing(nodes: u64, rollouts: usize) -> Vec<Row> {
    let passed = |progress: &Progress| progress.verdict() == Verdict::Pass;
    let ends = for_seeds(rollouts, |seed| {
        run(&Effect::NONE, nodes, seed, Metric::ErrorRate, passed)
    });
    described(
        &ends,
        &|what| format!("a canary that is as good, {nodes} nodes, switchback: {what}"),
        "passed",
    )
}

fn described(ends: &[End], title: &dyn Fn(&str) -> String, done: &str) -> Vec<Row> {
    let samples: Vec<f64> = ends.iter().map(|end| end.samples).collect();
    let seconds: Vec<f64> = ends.iter().map(|end| end.seconds).collect();
    let row = |what: String, value, unit| Row::new(title(&what), value, unit, ends.len());
    vec![
        row(
            format!("requests until 95% are {done}"),
            quantile(&samples, POWER),
            "requests",
        ),
        row(
            format!("time until 95% are {done}"),
            quantile(&seconds, POWER),
            "s",
        ),
        row(
            format!("time until half are {done}"),
            quantile(&seconds, 0.5),
            "s",
        ),
    ]
}

/// One rollout, looked at after every turn, until it is over.
pub fn run(effect: &Effect, nodes: u64, seed: u64, metric: Metric, over: impl Fn(&Progress) -> bool) -> End {
    let Ok(mut progress) = Progress::new(&Settings::default()) else {
        return NEVER;
    };
    let mut all: Vec<Node> = (0..nodes)
        .map(|n| Node::new(Kind::Independent, seed, n, LONGEST))
        .collect();
    let names: Vec<String> = (0..nodes).map(|number| format!("node-{number}")).collect();
    for (node, name) in all.iter_mut().zip(&names) {
        progress.begin(name, Some(&node.counts(KNOWN[0], &Effect::NONE)));
    }
    let mut samples = 0;
    loop {
        let mut seconds = 0;
        for (node, name) in all.iter_mut().zip(&names) {
            let turn = node.turn(effect);
            samples += match metric {
                Metric::Disagreement => turn.mirrored.compared,
                _ => turn.canary.requests() + turn.incumbent.requests(),
            };
            progress.add(name, "npu", &turn);
            seconds = node.seconds() - KNOWN[0];
        }
        if over(&progress) {
            return End {
                samples: samples as f64,
                seconds: seconds as f64,
            };
        }
        if seconds > LONGEST.as_secs() {
            return NEVER;
        }
    }
}

/// What the preview says of it.
fn forecast(rule: Rule, size: f64, nodes: u64, settings: &Settings) -> Option<Detection> {
    let plan = plan(nodes);
    preview::rejection(rule, size, &plan, settings).ok().flatten()
}

/// The simulated rollout, as the preview is told of it.
#[must_use]
pub fn plan(nodes: u64) -> Plan {
    let mut known = Node::new(Kind::Independent, 1, 0, LONGEST).counts(3_600, &Effect::NONE);
    let all = RATE_OF_NODE * nodes as f64;
    Plan {
        units: u32::try_from(nodes).unwrap_or(u32::MAX),
        requests_per_second: all,
        mirrored_per_second: all * world::MIRRORED,
        first_block: FIRST_BLOCK,
        rate: world::ERRORS,
        latency: std::mem::take(&mut known.latency),
        incumbent_known: true,
        energy_spread: world::ENERGY_SPREAD,
    }
}

/// Half of the nodes run the canary, and one looks after each window.
fn between(worse: &Worse, nodes: u64, rollouts: usize) -> Row {
    let name = |what: String| format!("{}, {nodes} nodes, between nodes: {what}", worse.name);
    let needed = preview::fewest_units(&Settings::default());
    if nodes < needed || worse.metric == Metric::Disagreement {
        let why = if nodes < needed {
            format!("it takes {needed} nodes")
        } else {
            "needs mirrored inputs".into()
        };
        return Row::new(name(format!("rejected within two hours ({why})")), 0.0, "%", 0);
    }
    let rejected = for_seeds(rollouts, |seed| is_rejected_between(worse, nodes, seed));
    let part = rejected.iter().filter(|rejected| **rejected).count() as f64 / rollouts.max(1) as f64;
    Row::new(
        name("rejected within two hours".into()),
        part * 100.0,
        "%",
        rollouts,
    )
}

fn is_rejected_between(worse: &Worse, nodes: u64, seed: u64) -> bool {
    let settings = Settings::default();
    let mut evidence = Evidence::new("b", "a");
    let mut all: Vec<Node> = (0..nodes)
        .map(|n| Node::new(Kind::NodeEffects, seed, n, LONGEST))
        .collect();
    for (number, node) in all.iter_mut().enumerate() {
        let arm = if number % 2 == 0 {
            Arm::Canary
        } else {
            Arm::Incumbent
        };
        let before = Some(node.counts(KNOWN[1], &Effect::NONE));
        let unit = Unit {
            series: "npu".into(),
            confidence_edges: (0..9).map(f64::from).collect(),
            alone: Some(Alone {
                arm,
                windows: Vec::new(),
            }),
            before,
            ..Unit::default()
        };
        evidence.units.insert(format!("node-{number:02}"), unit);
    }
    for window in 0..WINDOWS {
        for (unit, node) in evidence.units.values_mut().zip(&mut all) {
            let Some(alone) = &mut unit.alone else { continue };
            let effect = if alone.arm == Arm::Canary {
                &worse.effect
            } else {
                &Effect::NONE
            };
            let counts = node.counts(FIRST_WINDOW << window, effect);
            alone.windows.push(Window {
                number: window,
                counts,
            });
        }
        if judge(&evidence, &settings).is_ok_and(|judgement| judgement.verdict == Verdict::Fail) {
            return true;
        }
    }
    false
}
