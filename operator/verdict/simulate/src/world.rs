//! Traffic that is made up: nodes, what sets them apart, how load and latency move with time, and what a canary does
//! to them.

use perwatt_verdict::evidence::{Energy, Mirrored, Source};
use perwatt_verdict::{Arm, Counts, Sketch, Turn, schedule};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Poisson, StandardNormal};
use std::time::Duration;

/// Length of the first blocks.
pub const FIRST_BLOCK: Duration = Duration::from_secs(2);
/// Requests a second of one node: 20 on three.
pub const RATE_OF_NODE: f64 = 20.0 / 3.0;
/// Inputs that are mirrored, as a part of all.
pub const MIRRORED: f64 = 0.2;
/// Part of requests that fail under the incumbent.
pub const ERRORS: f64 = 0.005;
/// Standard deviation of the logarithm of latency from one request to the next.
pub const LATENCY_SPREAD: f64 = 0.25;
/// Median latency in microseconds.
const LATENCY: f64 = 8_000.0;
/// Energy of an inference in nanojoules, and its standard deviation as a part of it.
const ENERGY: f64 = 2_000_000.0;
/// Standard deviation of energy from one inference to another.
pub const ENERGY_SPREAD: f64 = 0.1;
/// Part of mirrored inputs that two runs of one model answer differently.
const DIFFERENT: f64 = 0.001;
/// Answers in each bin of confidence.
const CONFIDENCE: [f64; 8] = [0.02, 0.03, 0.05, 0.05, 0.1, 0.15, 0.2, 0.4];
/// The same, tilted (each by e to the minus 0.219 times its bin) so that the population stability index is 0.2.
const SHIFTED: [f64; 8] = [
    0.059_956_1,
    0.072_215_5,
    0.096_646_3,
    0.077_605_3,
    0.124_631_4,
    0.150_115_2,
    0.160_719_8,
    0.258_110_3,
];

/// How traffic and nodes behave, whichever revision runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Requests are independent of one another.
    Independent,
    /// Latency, errors and energy come in phases of half a minute.
    Autocorrelated,
    /// Nodes are apart by a third in latency, by half in errors, by a fifth in energy, and drift for themselves.
    NodeEffects,
    /// Load goes up and down and rises over the rollout; latency and errors follow it.
    Diurnal,
}

/// All kinds.
pub const KINDS: [Kind; 4] = [
    Kind::Independent,
    Kind::Autocorrelated,
    Kind::NodeEffects,
    Kind::Diurnal,
];

impl Kind {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Independent => "independent requests",
            Self::Autocorrelated => "autocorrelated requests",
            Self::NodeEffects => "nodes that differ",
            Self::Diurnal => "a load that changes",
        }
    }
}

/// What the canary does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Requests more that fail, as a part of all.
    pub errors: f64,
    /// Latency, times this.
    pub latency: f64,
    /// Energy, times this.
    pub energy: f64,
    /// Whether its confidences are shifted by an index of 0.2.
    pub shift: bool,
    /// Part of mirrored inputs that it answers differently.
    pub different: f64,
}

impl Effect {
    /// The canary is as good as the incumbent.
    pub const NONE: Self = Self {
        errors: 0.0,
        latency: 1.0,
        energy: 1.0,
        shift: false,
        different: DIFFERENT,
    };
    /// The canary is exactly at each limit of the shipped defaults.
    pub const AT_THE_LIMITS: Self = Self {
        errors: 0.005,
        latency: 1.1,
        energy: 1.05,
        shift: true,
        different: 0.01,
    };
}

/// One node as it goes on in time.
#[derive(Debug)]
pub struct Node {
    kind: Kind,
    random: SmallRng,
    /// Logarithms by which latency, errors and energy of this node differ from others'.
    base: [f64; 3],
    /// The same of the moment.
    phase: [f64; 3],
    second: u64,
    turn: u32,
    /// Seconds of the whole rollout, over which load changes.
    horizon: f64,
}

impl Node {
    /// A node of a rollout; the same seed and number give the same node.
    #[must_use]
    pub fn new(kind: Kind, seed: u64, number: u64, horizon: Duration) -> Self {
        let mut random = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let mut normal = || -> f64 { StandardNormal.sample(&mut random) };
        let apart = if kind == Kind::NodeEffects {
            [0.3, 0.5, 0.2]
        } else {
            [0.0; 3]
        };
        let base = apart.map(|deviation| deviation * normal());
        Self {
            kind,
            random,
            base,
            phase: [0.0; 3],
            second: 0,
            turn: 0,
            horizon: horizon.as_secs_f64(),
        }
    }

    fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.random)
    }

    /// The next turn.
    pub fn turn(&mut self, effect: &Effect) -> Turn {
        let seconds = schedule::block(FIRST_BLOCK, self.turn).as_secs();
        let first = if self.random.random::<bool>() {
            Arm::Canary
        } else {
            Arm::Incumbent
        };
        let mut mirrored = Mirrored::default();
        let block = |arm: Arm, node: &mut Self| {
            let effect = if arm == Arm::Canary { effect } else { &Effect::NONE };
            node.counts(seconds, effect)
        };
        let (canary, incumbent) = match first {
            Arm::Canary => {
                let canary = block(Arm::Canary, self);
                (canary, block(Arm::Incumbent, self))
            }
            Arm::Incumbent => {
                let incumbent = block(Arm::Incumbent, self);
                (block(Arm::Canary, self), incumbent)
            }
        };
        for _ in 0..canary.answered + incumbent.answered {
            if self.random.random::<f64>() < MIRRORED {
                mirrored.compared += 1;
                mirrored.different += u64::from(self.random.random::<f64>() < effect.different);
            }
        }
        let number = self.turn;
        self.turn += 1;
        Turn {
            epoch: "simulated".into(),
            epoch_unix_seconds: 0,
            number,
            first,
            canary,
            incumbent,
            mirrored,
        }
    }

    /// Seconds that are over.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.second
    }

    /// Counts of the next seconds.
    pub fn counts(&mut self, seconds: u64, effect: &Effect) -> Counts {
        let mut counts = Counts {
            milliseconds: seconds * 1_000,
            confidence: vec![0; CONFIDENCE.len() + 1],
            ..Counts::default()
        };
        let mut latencies = Vec::new();
        let mut nanojoules = 0.0;
        for _ in 0..seconds {
            let (load, now) = self.step();
            let arrivals: f64 =
                Poisson::new(RATE_OF_NODE * load).map_or(0.0, |law| law.sample(&mut self.random));
            for _ in 0..arrivals as u64 {
                self.request(now, effect, &mut counts, &mut latencies, &mut nanojoules);
            }
        }
        counts.latency = Sketch::of(&mut latencies);
        counts.energy = Some(Energy {
            source: Source::Measured,
            emulated: false,
            nanojoules: nanojoules as u64,
            inferences: counts.answered,
            error_permille: 0,
            drift_permille: 0,
        });
        counts
    }

    fn request(
        &mut self,
        now: [f64; 3],
        effect: &Effect,
        counts: &mut Counts,
        latencies: &mut Vec<u64>,
        nanojoules: &mut f64,
    ) {
        let fails = self.random.random::<f64>() < (ERRORS * now[1].exp()).min(1.0);
        if fails || self.random.random::<f64>() < effect.errors {
            counts.failed += 1;
            return;
        }
        counts.answered += 1;
        let noise = self.normal();
        latencies.push((LATENCY * effect.latency * (now[0] + LATENCY_SPREAD * noise).exp()).round() as u64);
        *nanojoules += ENERGY * effect.energy * now[2].exp() * (1.0 + ENERGY_SPREAD * self.normal()).max(0.0);
        let bins = if effect.shift { &SHIFTED } else { &CONFIDENCE };
        let mut left: f64 = self.random.random();
        let bin = bins.iter().position(|part| {
            left -= part;
            left < 0.0
        });
        if let Some(count) = counts.confidence.get_mut(bin.unwrap_or(CONFIDENCE.len() - 1)) {
            *count += 1;
        }
    }

    /// The next second: its load, and by how much latency, errors and energy differ.
    fn step(&mut self) -> (f64, [f64; 3]) {
        let time = self.second as f64;
        self.second += 1;
        let (memory, deviations) = match self.kind {
            Kind::Independent | Kind::Diurnal => (0.0, [0.0; 3]),
            Kind::Autocorrelated => (30.0, [0.15, 1.0, 0.05]),
            Kind::NodeEffects => (300.0, [0.1, 0.5, 0.05]),
        };
        if memory > 0.0 {
            let kept = f64::exp(-1.0 / memory);
            for (place, deviation) in deviations.into_iter().enumerate() {
                let noise = self.normal();
                if let Some(phase) = self.phase.get_mut(place) {
                    *phase = kept * *phase + (1.0 - kept * kept).sqrt() * deviation * noise;
                }
            }
        }
        let mut now = [0, 1, 2].map(|place: usize| {
            self.base.get(place).copied().unwrap_or(0.0) + self.phase.get(place).copied().unwrap_or(0.0)
        });
        if self.kind != Kind::Diurnal {
            return (1.0, now);
        }
        let part = time / self.horizon;
        let load = 0.6 + 0.8 * part + 0.5 * (part * 3.0 * std::f64::consts::TAU).sin();
        now = [
            now[0] + 0.3 * (load - 1.0),
            now[1] + 1.2 * (load - 1.0),
            now[2] - 0.1 * (load - 1.0),
        ];
        (load.max(0.05), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_confidences_have_an_index_of_a_fifth() {
        let index: f64 = CONFIDENCE
            .iter()
            .zip(SHIFTED)
            .map(|(i, c)| (c - i) * (c / i).ln())
            .sum();
        assert!((index - 0.2).abs() < 1e-4, "{index}");
        assert!((SHIFTED.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_seed_gives_the_same_node_again_and_another_another() {
        let turn = |seed| Node::new(Kind::NodeEffects, seed, 1, Duration::from_secs(600)).turn(&Effect::NONE);
        assert_eq!(turn(1), turn(1));
        assert_ne!(turn(1), turn(2));
    }
}
