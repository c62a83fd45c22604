//! What one unit has learnt from its turns so far: the next turn is judged by what was known before it.

use crate::contrast::{Contrast, Silent};
use crate::evidence::{Counts, Turn};
use crate::sketch::Sketch;

/// Latencies of the incumbent beyond a quantile that make it known well enough.
const BEYOND: u64 = 5;
/// The same, of this rollout alone: then what was before it does not count any more.
const ENOUGH: u64 = 50;
/// Answers of each revision after which their confidences can be told apart.
const CONFIDENCES: u64 = 100;
/// Largest logarithm of a ratio of two bins that is reckoned with.
const LARGEST_RATIO: f64 = 4.0;

/// What the turns of one unit so far say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Past {
    before: Sketch,
    incumbent: Sketch,
    confidence: [Vec<u64>; 2],
}

impl Past {
    /// Of a unit whose incumbent was known before the rollout.
    pub(crate) fn after(before: Option<&Counts>) -> Self {
        Self {
            before: before.map(|counts| counts.latency.clone()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Adds a turn.
    pub(crate) fn add(&mut self, turn: &Turn) {
        self.incumbent.add(&turn.incumbent.latency);
        for (sums, counts) in self.confidence.iter_mut().zip([&turn.canary, &turn.incumbent]) {
            add_bins(sums, counts);
        }
    }

    /// The incumbent's quantile in microseconds, once it is known.
    pub(crate) fn quantile(&self, permille: u16) -> Option<f64> {
        let beyond = |sketch: &Sketch| {
            sketch
                .count()
                .saturating_mul(u64::from(1_000 - permille.min(999)))
                / 1_000
        };
        let known = if beyond(&self.incumbent) < ENOUGH && beyond(&self.before) >= beyond(&self.incumbent) {
            &self.before
        } else {
            &self.incumbent
        };
        let quantile = known.quantile(permille).filter(|_| beyond(known) >= BEYOND);
        quantile.map(|microseconds| microseconds as f64)
    }

    /// An unbiased guess of the population stability index Σ (c - i) ln(c / i): the parts `c` and `i` of each bin are
    /// those of a new turn, the logarithms those of the turns before.
    pub(crate) fn shift<'a>(&self, canary: &[u64], incumbent: &[u64]) -> Result<Contrast<'a>, Silent> {
        let [of_canary, of_incumbent] = [sum(canary), sum(incumbent)];
        if canary.is_empty() || canary.len() != incumbent.len() {
            return Err(Silent::NotDeclared);
        }
        if of_canary == 0 || of_incumbent == 0 {
            return Err(Silent::NoData);
        }
        let [before_canary, before_incumbent] = &self.confidence;
        if sum(before_canary).min(sum(before_incumbent)) < CONFIDENCES || before_canary.len() != canary.len()
        {
            return Err(Silent::Learning);
        }
        let logarithms: Vec<f64> = ratios(before_canary, before_incumbent);
        let parts = canary.iter().zip(incumbent);
        let differences = parts.map(|(c, i)| *c as f64 / of_canary as f64 - *i as f64 / of_incumbent as f64);
        let value = differences
            .zip(&logarithms)
            .map(|(difference, ln)| difference * ln)
            .sum();
        let most = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = logarithms.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Contrast::Shift {
            value,
            reach: most - least,
        })
    }
}

/// The index itself, of counts in bins.
pub(crate) fn stability_index(canary: &[u64], incumbent: &[u64]) -> Option<f64> {
    let [of_canary, of_incumbent] = [sum(canary), sum(incumbent)];
    if of_canary == 0 || of_incumbent == 0 {
        return None;
    }
    let parts = canary.iter().zip(incumbent).zip(ratios(canary, incumbent));
    let terms =
        parts.map(|((c, i), ln)| (*c as f64 / of_canary as f64 - *i as f64 / of_incumbent as f64) * ln);
    Some(terms.sum())
}

/// Logarithms of the parts of bins over one another; half an answer more in each, so that none is empty.
fn ratios(canary: &[u64], incumbent: &[u64]) -> Vec<f64> {
    let share =
        |counts: &[u64], count: u64| (count as f64 + 0.5) / (sum(counts) as f64 + 0.5 * counts.len() as f64);
    let ratio = |(c, i): (&u64, &u64)| (share(canary, *c) / share(incumbent, *i)).ln();
    canary
        .iter()
        .zip(incumbent)
        .map(ratio)
        .map(|ln| ln.clamp(-LARGEST_RATIO, LARGEST_RATIO))
        .collect()
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// Adds the confidences of a block to sums.
pub(crate) fn add_bins(sums: &mut Vec<u64>, counts: &Counts) {
    sums.resize(sums.len().max(counts.confidence.len()), 0);
    for (sum, count) in sums.iter_mut().zip(&counts.confidence) {
        *sum = sum.saturating_add(*count);
    }
}
