//! How far integrated energy is from the truth, on made traces whose energy is known exactly.
//!
//! A trace is a device's power over time, and what the agent gets to see of it once a second: a
//! counter or samples, with the gaps, wraps, resets and late looks that real ones have. Beside
//! the integrator stands the formula that is used where nothing measures the device: the node's
//! energy times the workload's share of CPU time. Gaps that are unobserved count for neither.
//!
//! Pure, and the same on every machine: the bench writes these figures down.

use super::{Bounds, Integrator, Sample, Shape};
use crate::telemetry::FigureSource;
use std::f64::consts::TAU;
use std::time::Duration;

/// Length of every trace, in seconds.
const LENGTH: u32 = 1800;

/// The most that the device draws, in milliwatts.
const MAX_MILLIWATTS: u32 = 12_000;

/// What the node draws beside the device: at rest, and more for each core that works, in watts.
const NODE_WATTS: (f64, f64) = (6.0, 4.0);

/// Cores that the workload keeps busy beside the device, and those of everybody else.
const CORES: (f64, f64) = (0.12, 0.88);

/// When the counter is reset, in seconds.
const RESETS: [f64; 2] = [599.5, 1299.5];

/// Where the counter of a trace wraps, in microjoules; small, so that it wraps often.
const RANGE: u64 = 999_999_999;

/// How one trace went.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What the trace is.
    pub name: String,
    /// Joules that the device drew while it was observed.
    pub truth: f64,
    /// Joules that were integrated.
    pub integrated: f64,
    /// Joules by the share of CPU time over the same time.
    pub by_cpu_share: f64,
    /// Seconds that counted as unobserved.
    pub unobserved_seconds: f64,
}

impl Outcome {
    /// How far the integrated energy is from the truth, in per cent of it.
    #[must_use]
    pub fn error_percent(&self) -> f64 {
        (self.integrated - self.truth).abs() / self.truth * 100.0
    }

    /// The same of the formula by CPU time.
    #[must_use]
    pub fn cpu_share_error_percent(&self) -> f64 {
        (self.by_cpu_share - self.truth).abs() / self.truth * 100.0
    }
}

/// How the device's power runs; a function from seconds to watts.
struct Load {
    name: &'static str,
    watts: fn(f64) -> f64,
}

const LOADS: [Load; 4] = [
    Load {
        name: "steady",
        watts: |_| 4.2,
    },
    Load {
        name: "slow wave",
        watts: |t| 5.0 + 3.0 * (t * TAU / 60.0).sin(),
    },
    // Three seconds of work in every ten.
    Load {
        name: "bursts",
        watts: |t| if t % 10.0 < 3.0 { 9.0 } else { 0.8 },
    },
    // Shorter than the distance of two looks, and not in step with them.
    Load {
        name: "short bursts",
        watts: |t| if t % 0.73 < 0.2 { 8.0 } else { 0.6 },
    },
];

/// How the agent sees it.
#[derive(Clone, Copy, PartialEq)]
enum Meter {
    Samples,
    Counter,
}

/// What goes wrong on the way.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// Looks come up to 0.8 s late.
    Irregular,
    /// The agent is away for 100 s, twice.
    Gaps,
    /// The counter wraps every few minutes.
    Wraps,
    /// The counter is reset twice, between two looks.
    Resets,
}

/// All traces.
#[must_use]
pub fn run() -> Vec<Outcome> {
    use Trouble::{Gaps, Irregular, None, Resets, Wraps};
    let mut outcomes = Vec::new();
    for load in &LOADS {
        for trouble in [None, Irregular, Gaps, Wraps, Resets] {
            outcomes.push(trial(load, Meter::Counter, trouble));
        }
        for trouble in [None, Irregular, Gaps] {
            outcomes.push(trial(load, Meter::Samples, trouble));
        }
    }
    outcomes
}

/// Steps in which the truth is summed, a second.
const FINE: u32 = 200;

fn trial(load: &Load, meter: Meter, trouble: Trouble) -> Outcome {
    // Joules of the device up to each fine step.
    let mut sums = vec![0.0];
    for step in 0..LENGTH * FINE {
        let t = (f64::from(step) + 0.5) / f64::from(FINE);
        let last = sums[step as usize];
        sums.push(last + (load.watts)(t) / f64::from(FINE));
    }
    let drawn = |t: f64| sums[fine_step(t).min(sums.len() - 1)];
    let mean_watts = drawn(f64::from(LENGTH)) / f64::from(LENGTH);
    let mut integrator = Integrator::new(Bounds {
        max_milliwatts: Some(MAX_MILLIWATTS),
        idle_milliwatts: None,
    });
    let (mut truth, mut last) = (0.0, None::<f64>);
    for second in 0..LENGTH {
        if trouble == Trouble::Gaps && is_away(second) {
            continue;
        }
        let t = f64::from(second)
            + if trouble == Trouble::Irregular {
                jitter(second)
            } else {
                0.0
            };
        let sample = match meter {
            Meter::Samples => Sample::Power {
                milliwatts: milli((load.watts)(t)),
                shape: Shape::Point,
            },
            Meter::Counter => counter(drawn, t, trouble),
        };
        let before = integrator.totals().unobserved;
        integrator.add(Duration::from_secs_f64(t), sample, FigureSource::Measured);
        // What the integrator says it did not see is no part of what it must have seen.
        if let Some(last) = last.filter(|_| integrator.totals().unobserved == before) {
            truth += drawn(t) - drawn(last);
        }
        last = Some(t);
    }
    let totals = integrator.totals();
    let meter = if meter == Meter::Counter {
        "counter"
    } else {
        "1 Hz samples"
    };
    Outcome {
        name: format!("{}, {meter}{}", load.name, trouble.suffix()),
        truth,
        integrated: totals.joules(FigureSource::Measured),
        by_cpu_share: by_cpu_share(mean_watts, totals.observed.as_secs_f64()),
        unobserved_seconds: totals.unobserved.as_secs_f64(),
    }
}

impl Trouble {
    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Irregular => ", irregular",
            Self::Gaps => ", two gaps of 100 s",
            Self::Wraps => ", wraps",
            Self::Resets => ", two resets",
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn fine_step(t: f64) -> usize {
    (t * f64::from(FINE)).round() as usize
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn milli(watts: f64) -> u32 {
    (watts * 1000.0).round() as u32
}

fn is_away(second: u32) -> bool {
    (300..400).contains(&second) || (1100..1200).contains(&second)
}

/// Up to 0.8 s late, so that two looks are between 0.2 and 1.8 s apart.
fn jitter(second: u32) -> f64 {
    f64::from(second * 37 % 81) / 100.0
}

/// What the counter shows at `t`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn counter(drawn: impl Fn(f64) -> f64, t: f64, trouble: Trouble) -> Sample {
    let micro = |joules: f64| (joules * 1e6).round() as u64;
    match trouble {
        Trouble::Wraps => {
            let microjoules = (micro(drawn(t)) + RANGE / 2) % (RANGE + 1);
            Sample::Counter {
                microjoules,
                range: Some(RANGE),
            }
        }
        Trouble::Resets => {
            let reset = RESETS.into_iter().rfind(|at| t >= *at);
            // Before the first reset it shows what was drawn before the trace.
            let begun = reset.map_or(-7000.0, &drawn);
            Sample::Counter {
                microjoules: micro(drawn(t) - begun),
                range: None,
            }
        }
        _ => Sample::Counter {
            microjoules: micro(drawn(t)),
            range: None,
        },
    }
}

/// Joules of the workload by its share of CPU time, over `seconds`: what the node draws, the
/// device included, is divided by who used the CPU.
fn by_cpu_share(device_watts: f64, seconds: f64) -> f64 {
    let (workload, others) = CORES;
    let (rest, core) = NODE_WATTS;
    let node = rest + core * (workload + others) + device_watts;
    node * seconds * workload / (workload + others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrated_energy_is_within_five_per_cent_of_the_truth() {
        let outcomes = run();
        assert_eq!(outcomes.len(), 32);
        for outcome in outcomes {
            assert!(
                outcome.error_percent() <= 5.0,
                "{outcome:?}: {} %",
                outcome.error_percent()
            );
            assert!(outcome.truth > 1000.0, "{outcome:?}");
        }
    }

    #[test]
    fn gaps_are_said_for_samples_and_bridged_by_a_counter() {
        for outcome in run().iter().filter(|outcome| outcome.name.contains("gaps")) {
            let unobserved = if outcome.name.contains("counter") {
                0.0
            } else {
                202.0
            };
            assert!(
                (outcome.unobserved_seconds - unobserved).abs() < 0.01,
                "{outcome:?}"
            );
        }
    }
}
