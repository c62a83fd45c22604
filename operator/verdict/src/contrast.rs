//! One turn through the eyes of one metric: what the two blocks say of one another, and what a bet on it pays.
//!
//! The hypothesis at the limit is always of one form: a change of one block's counts after which the two could be
//! swapped without anybody noticing. Then the coin that decided the order of the blocks makes the sign of their
//! difference a fair coin, whatever time of day, load, node or neighbouring request did to both.

use crate::evidence::{Counts, Energy, Source, Turn};
use crate::past::Past;
use crate::settings::{Margin, Metric, Settings};
use crate::sketch::Sketch;
use crate::wealth::{Both, ON_COUNTS, ON_RATIOS};
use statrs::distribution::{Discrete, Poisson};

/// Most values of a random number that are looked at, and how many deviations to either side.
const TERMS: usize = 64;
const DEVIATIONS: f64 = 7.0;

/// What one turn says.
#[derive(Debug, Clone)]
pub(crate) enum Contrast<'a> {
    /// Hits among so many requests (answers, milliseconds), canary's first.
    Hits { hits: [f64; 2], of: [f64; 2] },
    /// Latencies of both, and the incumbent's quantile as it was before this turn.
    Tail {
        sketches: [&'a Sketch; 2],
        threshold: f64,
    },
    /// Logarithm of the canary's mean over the incumbent's, and how far that of the meter may be off.
    Ratio { ln: f64, error: f64 },
    /// An unbiased guess of an index, and how far from 0 it could have been.
    Shift { value: f64, reach: f64 },
}

/// Why a turn says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Silent {
    /// One of the blocks counted nothing.
    NoData,
    /// Nothing to compare with is known yet: it is learnt from the turns before.
    Learning,
    /// Energy of one side is not measured.
    NotMeasured,
    /// The model declares no confidence.
    NotDeclared,
}

impl<'a> Contrast<'a> {
    /// What a turn says to a metric, given the turns before it.
    pub(crate) fn of(
        metric: Metric,
        turn: &'a Turn,
        past: &Past,
        settings: &Settings,
    ) -> Result<Self, Silent> {
        let (canary, incumbent) = (&turn.canary, &turn.incumbent);
        match metric {
            Metric::LatencyQuantile(permille) => {
                let sketches = [&canary.latency, &incumbent.latency];
                if sketches.iter().any(|sketch| sketch.count() == 0) {
                    return Err(Silent::NoData);
                }
                let threshold = past.quantile(permille).ok_or(Silent::Learning)?;
                Ok(Self::Tail { sketches, threshold })
            }
            Metric::EnergyPerInference => {
                let [(canary, drift), (incumbent, more)] =
                    [joules(canary, settings)?, joules(incumbent, settings)?];
                Ok(Self::Ratio {
                    ln: (canary / incumbent).ln(),
                    error: (f64::from(drift.max(more)) / 1e3).ln_1p(),
                })
            }
            Metric::ConfidenceShift => past.shift(&canary.confidence, &incumbent.confidence),
            _ => {
                let [(canary, of_canary), (incumbent, of_incumbent)] =
                    [canary, incumbent].map(|counts| hits(metric, counts));
                if of_canary == 0 || of_incumbent == 0 {
                    return Err(Silent::NoData);
                }
                Ok(Self::Hits {
                    hits: [canary as f64, incumbent as f64],
                    of: [of_canary as f64, of_incumbent as f64],
                })
            }
        }
    }

    /// Bets on the two sides of a limit.
    pub(crate) fn bets(&self, margin: Margin) -> Both {
        match self {
            Self::Hits { hits, of } => Both::on_signs(&differences(*hits, *of, margin), &ON_COUNTS),
            Self::Tail { .. } => Both::on_signs(&[(1.0, self.lean(margin))], &ON_COUNTS),
            Self::Ratio { ln, error } => {
                let at = |ln: f64| Both::on_signs(&[(1.0, ln - margin.size())], &ON_RATIOS);
                Both {
                    fail: at(ln - error).fail,
                    pass: at(ln + error).pass,
                }
            }
            Self::Shift { value, reach } => Both::on_bounded(*value, margin.size(), *reach),
        }
    }

    /// By how much the canary is on the wrong side of a limit; over all turns an estimate is where it is 0.
    pub(crate) fn lean(&self, margin: Margin) -> f64 {
        match self {
            Self::Hits { hits, of } => {
                let rates = [hits[0] / of[0], hits[1] / of[1]];
                let allowed = match margin {
                    Margin::Add(more) => rates[1] + more,
                    Margin::Times(factor) => rates[1] * factor,
                };
                (rates[0] - allowed) * common(*of)
            }
            Self::Tail { sketches, threshold } => {
                let allowed = match margin {
                    Margin::Add(more) => threshold + more,
                    Margin::Times(factor) => threshold * factor,
                };
                let of = sketches.map(|sketch| sketch.count() as f64);
                (sketches[0].above(allowed) / of[0] - sketches[1].above(*threshold) / of[1]) * common(of)
            }
            Self::Ratio { ln: value, .. } | Self::Shift { value, .. } => value - margin.size(),
        }
    }
}

/// Energy per inference in nanojoules, and the meter's drift, where it may be judged.
fn joules(counts: &Counts, settings: &Settings) -> Result<(f64, u16), Silent> {
    let energy = counts.energy.as_ref().ok_or(Silent::NotMeasured)?;
    if !judged(energy, settings) {
        return Err(Silent::NotMeasured);
    }
    if energy.inferences == 0 || energy.nanojoules == 0 {
        return Err(Silent::NoData);
    }
    Ok((
        energy.nanojoules as f64 / energy.inferences as f64,
        energy.drift_permille,
    ))
}

/// Whether a figure of energy may decide over a canary.
pub(crate) fn judged(energy: &Energy, settings: &Settings) -> bool {
    if energy.emulated {
        settings.accept_emulated_energy
    } else {
        energy.source == Source::Measured
    }
}

/// Hits of a metric that counts, and among how many.
pub(crate) fn hits(metric: Metric, counts: &Counts) -> (u64, u64) {
    match metric {
        Metric::ErrorRate => (counts.failed, counts.requests()),
        Metric::FallbackRate => (counts.fallbacks, counts.requests()),
        Metric::FalseAlarmRate => (counts.feedback.false_alarm, counts.answered),
        Metric::MissRate => (counts.feedback.miss, counts.answered),
        Metric::RestartRate => (counts.restarts, counts.milliseconds),
        Metric::LatencyQuantile(_)
        | Metric::EnergyPerInference
        | Metric::ConfidenceShift
        | Metric::Disagreement => (0, 0),
    }
}

/// Requests that two blocks have as if both had the same: the harmonic mean.
fn common(of: [f64; 2]) -> f64 {
    2.0 * of[0] * of[1] / (of[0] + of[1])
}

/// Differences in hits after one side got what the limit allows, with their weights.
///
/// An absolute limit allows each request one more hit with that chance; a relative one allows that of the canary's
/// hits only each `1/factor`-th would have been one of the incumbent's. Which, is not known: bets are averaged over it.
fn differences(hits: [f64; 2], of: [f64; 2], margin: Margin) -> Vec<(f64, f64)> {
    let scale = common(of);
    let changed = |side: usize, to: f64| {
        let mut hits = hits;
        hits[side] = to;
        (hits[0] / of[0] - hits[1] / of[1]) * scale
    };
    let with = |side: usize, numbers: Vec<(f64, f64)>, change: &dyn Fn(f64) -> f64| {
        numbers
            .into_iter()
            .map(|(weight, number)| (weight, changed(side, change(number))))
            .collect()
    };
    match margin {
        Margin::Add(more) => {
            let side = usize::from(more >= 0.0);
            with(side, poisson(of[side] * more.abs()), &|extra| hits[side] + extra)
        }
        Margin::Times(factor) => {
            let side = usize::from(factor < 1.0);
            with(side, thinned(hits[side], factor.min(1.0 / factor)), &|kept| kept)
        }
    }
}

/// Numbers that a Poisson variable takes, with their weights.
fn poisson(mean: f64) -> Vec<(f64, f64)> {
    let Ok(law) = Poisson::new(mean) else {
        return vec![(1.0, 0.0)];
    };
    weighted(mean, mean.sqrt(), f64::INFINITY, |number| law.pmf(number))
}

/// How many of `count` are kept where each is with a chance, with weights.
fn thinned(count: f64, chance: f64) -> Vec<(f64, f64)> {
    let deviation = (count * chance * (1.0 - chance)).sqrt();
    match statrs::distribution::Binomial::new(chance, count as u64) {
        Ok(law) => weighted(count * chance, deviation, count, |number| law.pmf(number)),
        Err(_) => vec![(1.0, count)],
    }
}

/// Weights of the numbers around a mean; of many numbers only each few-th.
fn weighted(mean: f64, deviation: f64, most: f64, weight: impl Fn(u64) -> f64) -> Vec<(f64, f64)> {
    let first = (mean - DEVIATIONS * deviation).floor().max(0.0);
    let last = (mean + DEVIATIONS * deviation + 6.0).ceil().min(most);
    let step = ((last - first) / TERMS as f64).floor().max(1.0);
    let numbers = (0..=TERMS * 2)
        .map(|n| first + n as f64 * step)
        .take_while(|n| *n <= last);
    let mut terms: Vec<(f64, f64)> = numbers.map(|n| (weight(n as u64), n)).collect();
    let sum: f64 = terms.iter().map(|(weight, _)| weight).sum();
    if sum <= 0.0 || !sum.is_finite() {
        return vec![(1.0, mean.round())];
    }
    terms.retain(|(weight, _)| *weight > 1e-12 * sum);
    terms.iter_mut().for_each(|(weight, _)| *weight /= sum);
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wealth::Side;

    fn mean_factor(margin: Margin, laws: impl Fn(u64, u64) -> f64) -> f64 {
        let mut sum = 0.0;
        for canary in 0..60 {
            for incumbent in 0..60 {
                let contrast = Contrast::Hits {
                    hits: [f64::from(canary), f64::from(incumbent)],
                    of: [200.0, 200.0],
                };
                let bets = contrast.bets(margin);
                sum +=
                    laws(u64::from(canary as u32), u64::from(incumbent as u32)) * bets.ln(Side::Fail).exp();
            }
        }
        sum
    }

    #[test]
    fn at_the_limit_bets_on_counts_are_fair_and_within_it_they_lose() {
        let [one, two, four] = [1.0, 2.0, 4.0].map(|mean| Poisson::new(mean).unwrap());
        // 1 of 200 and an allowed 0.5% more are 2 of 200.
        let fair = mean_factor(Margin::Add(0.005), |c, i| two.pmf(c) * one.pmf(i));
        assert!((fair - 1.0).abs() < 1e-6, "{fair}");
        let fair = mean_factor(Margin::Times(2.0), |c, i| two.pmf(c) * one.pmf(i));
        assert!((fair - 1.0).abs() < 1e-6, "{fair}");
        let within = mean_factor(Margin::Add(0.005), |c, i| one.pmf(c) * one.pmf(i));
        let beyond = mean_factor(Margin::Add(0.005), |c, i| four.pmf(c) * one.pmf(i));
        assert!(within < 1.0 && beyond > 1.0, "{within} {beyond}");
    }

    #[test]
    fn weights_are_together_one_and_few_however_large_the_numbers() {
        for terms in [
            poisson(0.0),
            poisson(0.3),
            poisson(1e6),
            thinned(1e7, 0.9),
            thinned(0.0, 0.9),
        ] {
            assert!(terms.len() <= 2 * TERMS + 1);
            let sum: f64 = terms.iter().map(|(weight, _)| weight).sum();
            assert!((sum - 1.0).abs() < 1e-9);
        }
        let mean: f64 = poisson(1e6).iter().map(|(weight, number)| weight * number).sum();
        assert!((mean - 1e6).abs() < 1.0, "{mean}");
    }

    #[test]
    fn a_limit_that_lies_exactly_at_the_difference_leans_to_no_side() {
        let latency = [1_100u64, 2_200, 3_300].map(|l| l * 100);
        let faster = latency.map(|l| l * 10 / 11);
        let sketches = [
            &Sketch::of(&mut latency.to_vec()),
            &Sketch::of(&mut faster.to_vec()),
        ];
        let tail = Contrast::Tail {
            sketches,
            threshold: 250_000.0,
        };
        assert!(tail.lean(Margin::Times(1.1)).abs() < 1e-9);
        assert!(tail.lean(Margin::Times(1.4)) < 0.0);
        assert!(tail.lean(Margin::Times(0.7)) > 0.0);
    }
}
