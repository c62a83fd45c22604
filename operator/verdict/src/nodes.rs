//! Findings where no unit can alternate revisions: units that run the one against units that run the other.
//!
//! The unit is the sample: requests of one node say much of that node and little of others. Looks are taken after
//! windows that double in length, and each spends a part of the chance of an error, so that looking in between costs
//! nothing.

use crate::contrast::{hits, judged};
use crate::evidence::{Alone, Arm, Counts};
use crate::judgement::{Design, Finding, Needed, Outcome, Samples};
use crate::rank::{Chances, rank_sum};
use crate::settings::{Limit, Margin, Metric, Rule, Settings};
use crate::switchback::{add, bisect, value};

/// One rule on the units of one series that run one revision each.
pub(crate) struct Between<'a> {
    pub rule: Rule,
    pub series: &'a str,
    /// With what each counted before the rollout.
    pub units: &'a [(&'a Alone, Option<&'a Counts>)],
    pub settings: &'a Settings,
    pub chances: [f64; 2],
}

/// What one unit shows: values to be ranked.
struct Shown {
    arm: Arm,
    value: f64,
}

impl Between<'_> {
    /// What is known.
    pub(crate) fn find(&self) -> Finding {
        let look = self.look();
        let totals: Vec<(Arm, Counts, Option<&Counts>)> = (self.units.iter())
            .filter(|(unit, _)| look.is_some_and(|look| complete(unit) > look))
            .map(|(unit, before)| (unit.arm, self.total(unit, look), *before))
            .collect();
        let mut finding = self.blank(&totals, look);
        if matches!(self.rule.metric, Metric::ConfidenceShift | Metric::Disagreement) {
            finding.outcome = Outcome::NotApplicable;
            finding.needed = Needed::Nothing;
            return finding;
        }
        let shown = self.values(&totals);
        // A unit without a measured figure would leave the comparison to those that have one.
        if self.rule.metric == Metric::EnergyPerInference && shown.len() < totals.len() {
            finding.outcome = Outcome::NotApplicable;
            finding.needed = Needed::Nothing;
            return finding;
        }
        let chances = self.chances.map(|chance| spent(chance, look.unwrap_or(0)));
        let enough = fewest_units(chances[0]);
        if (shown.len() as u64) < enough {
            finding.needed = Needed::Units(enough);
        }
        if shown.is_empty() {
            return finding;
        }
        self.conclude(&mut finding, &shown, chances);
        finding
    }

    fn conclude(&self, finding: &mut Finding, shown: &[Shown], chances: [f64; 2]) {
        let size = self.rule.limit.margin().size();
        let at = |size: f64| self.chances_at(shown, size);
        let canaries = shown.iter().filter(|unit| unit.arm == Arm::Canary);
        let middle = self.difference(shown);
        finding.difference = middle.map(|middle| self.scaled(middle));
        if let Some(middle) = middle {
            let typical = median(
                shown
                    .iter()
                    .filter(|unit| unit.arm == Arm::Incumbent)
                    .map(|unit| unit.value),
            );
            finding.samples.units_beyond = typical.map_or(0, |typical| {
                canaries.filter(|unit| unit.value - typical > size).count() as u64
            });
            let far = 64.0 * (middle.abs() + size.abs()) + 64.0;
            let above = |size: f64| at(size).is_some_and(|p| p.high <= chances[0]);
            let below = |size: f64| at(size).is_some_and(|p| p.low <= chances[1]);
            finding.lower = above(middle - far).then(|| self.scaled(bisect(middle, middle - far, above)));
            finding.upper = below(middle + far).then(|| self.scaled(bisect(middle, middle + far, below)));
        }
        finding.outcome = match at(size) {
            Some(p) if p.high <= chances[0] => Outcome::Fail,
            Some(p) if p.low <= chances[1] => Outcome::Pass,
            _ => Outcome::Inconclusive,
        };
        match finding.outcome {
            Outcome::Inconclusive if !matches!(finding.needed, Needed::Units(_)) => {
                finding.needed = Needed::Unforeseeable;
            }
            Outcome::Inconclusive => {}
            _ => finding.needed = Needed::Nothing,
        }
    }

    /// The last look: after the last window that all units have but the few whose evidence may be missing.
    fn look(&self) -> Option<u32> {
        let mut complete: Vec<u32> = self.units.iter().map(|(unit, _)| complete(unit)).collect();
        complete.sort_unstable();
        let missing =
            complete.len() * usize::from(self.settings.measuring_failures_permille.min(1_000)) / 1_000;
        complete
            .get(missing)
            .or(complete.last())
            .copied()
            .unwrap_or(0)
            .checked_sub(1)
    }

    fn total(&self, unit: &Alone, look: Option<u32>) -> Counts {
        let mut total = Counts::default();
        let windows = unit
            .windows
            .iter()
            .filter(|window| look.is_some_and(|look| window.number <= look));
        windows.for_each(|window| add(&mut total, &window.counts, self.settings));
        total
    }

    /// Values of all units that have one; each less its own before the rollout, where all know it.
    fn values(&self, totals: &[(Arm, Counts, Option<&Counts>)]) -> Vec<Shown> {
        let after = totals.iter().map(|(_, counts, _)| self.value(counts));
        let before: Option<Vec<f64>> = totals
            .iter()
            .map(|(_, _, before)| self.value((*before)?))
            .collect();
        let before = before.unwrap_or_else(|| vec![0.0; totals.len()]);
        let values = after.zip(before).zip(totals);
        values
            .filter_map(|((after, before), (arm, ..))| {
                Some(Shown {
                    arm: *arm,
                    value: after? - before,
                })
            })
            .collect()
    }

    /// The value of a unit on the scale of the limit: itself, or its logarithm.
    fn value(&self, counts: &Counts) -> Option<f64> {
        if self.rule.metric == Metric::EnergyPerInference
            && !counts.energy.is_some_and(|e| judged(&e, self.settings))
        {
            return None;
        }
        match (self.rule.metric, self.rule.limit.margin()) {
            (Metric::LatencyQuantile(_) | Metric::EnergyPerInference, Margin::Times(_)) => {
                value(self.rule.metric, counts)
                    .filter(|value| *value > 0.0)
                    .map(f64::ln)
            }
            (Metric::LatencyQuantile(_) | Metric::EnergyPerInference, Margin::Add(_)) => {
                value(self.rule.metric, counts)
            }
            (metric, margin) => {
                let (hits, of) = hits(metric, counts);
                // Half a hit more, so that none has a logarithm.
                let half = if matches!(margin, Margin::Times(_)) {
                    0.5
                } else {
                    0.0
                };
                let rate = (of > 0).then(|| (hits as f64 + half) / of as f64)?;
                Some(if half > 0.0 { rate.ln() } else { rate })
            }
        }
    }

    /// Chances of the ranks that are seen, if the canary were worse by `size`.
    fn chances_at(&self, shown: &[Shown], size: f64) -> Option<Chances> {
        let of = |arm, less: f64| -> Vec<f64> {
            shown
                .iter()
                .filter(|unit| unit.arm == arm)
                .map(|unit| unit.value - less)
                .collect()
        };
        let others = of(Arm::Incumbent, 0.0);
        let [high, low] =
            [1.0, -1.0].map(|side| rank_sum(&of(Arm::Canary, size + side * self.error()), &others));
        Some(Chances {
            high: high?.high,
            low: low?.low,
        })
    }

    /// How far two meters may be apart.
    fn error(&self) -> f64 {
        if self.rule.metric != Metric::EnergyPerInference {
            return 0.0;
        }
        let energies = self
            .units
            .iter()
            .flat_map(|(unit, _)| &unit.windows)
            .filter_map(|window| window.counts.energy);
        let most = energies.map(|energy| energy.error_permille).max().unwrap_or(0);
        2.0 * (f64::from(most) / 1e3).ln_1p()
    }

    /// The middle of all differences of a canary and an incumbent (Hodges and Lehmann).
    fn difference(&self, shown: &[Shown]) -> Option<f64> {
        let of = |arm| shown.iter().filter(move |unit| unit.arm == arm);
        median(of(Arm::Canary).flat_map(|canary| of(Arm::Incumbent).map(|other| canary.value - other.value)))
    }

    fn scaled(&self, size: f64) -> f64 {
        match (self.rule.limit.margin(), self.rule.metric) {
            (Margin::Times(_), _) => size.exp_m1(),
            (Margin::Add(_), Metric::RestartRate) => size * 86.4e6,
            (Margin::Add(_), _) => size,
        }
    }

    fn blank(&self, totals: &[(Arm, Counts, Option<&Counts>)], look: Option<u32>) -> Finding {
        let sum = |arm: Arm| {
            let mut sum = Counts::default();
            let own = totals.iter().filter(|(of, ..)| *of == arm);
            own.for_each(|(_, counts, _)| add(&mut sum, counts, self.settings));
            sum
        };
        let [canary, incumbent] = [Arm::Canary, Arm::Incumbent].map(sum);
        Finding {
            metric: self.rule.metric,
            series: self.series.to_owned(),
            outcome: Outcome::Inconclusive,
            design: Design::BetweenUnits,
            canary: value(self.rule.metric, &canary),
            incumbent: value(self.rule.metric, &incumbent),
            difference: None,
            lower: None,
            upper: None,
            relative: matches!(self.rule.limit, Limit::IncreasePermille(_)),
            allowed: self.scaled(self.rule.limit.margin().size()),
            samples: Samples {
                units: totals.len() as u64,
                units_beyond: 0,
                turns: look.map_or(0, |look| u64::from(look) + 1),
                canary: canary.requests(),
                incumbent: incumbent.requests(),
            },
            unit: None,
            needed: Needed::Data,
            sentence: String::new(),
        }
    }
}

/// Windows from the first that a unit has without a gap.
fn complete(unit: &Alone) -> u32 {
    let numbers = unit.windows.iter().map(|window| window.number);
    numbers
        .zip(0..)
        .take_while(|(number, place)| number == place)
        .count() as u32
}

/// What the look after window `look` may spend of a chance: all looks together spend no more than the whole.
pub(crate) fn spent(chance: f64, look: u32) -> f64 {
    let look = f64::from(look);
    chance / ((look + 1.0) * (look + 2.0))
}

/// Fewest units, half of them canaries, whose ranks can ever have so small a chance.
#[must_use]
pub(crate) fn fewest_units(chance: f64) -> u64 {
    // Ways to choose half of 2n units.
    let mut ways = 1.0;
    let mut half = 0.0;
    while 1.0 / ways > chance && half < 1_000.0 {
        half += 1.0;
        ways *= (4.0 * half - 2.0) / half;
    }
    2 * half as u64
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some(upper.midpoint(*lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_looks_together_spend_the_chance_and_no_more() {
        let all: f64 = (0..100_000).map(|look| spent(0.01, look)).sum();
        assert!(all <= 0.01 && all > 0.0099);
    }

    #[test]
    fn fewer_units_than_stated_cannot_have_so_small_a_chance() {
        for chance in [0.05, 1e-3, 3e-4, 1e-6] {
            let units = fewest_units(chance) as usize;
            let best = |units: usize| {
                let high: Vec<f64> = (0..units / 2).map(|n| 100.0 + n as f64).collect();
                let low: Vec<f64> = (0..units / 2).map(|n| n as f64).collect();
                rank_sum(&high, &low).unwrap().high
            };
            assert!(
                best(units) <= chance && best(units - 2) > chance,
                "{chance}: {units}"
            );
        }
    }
}
