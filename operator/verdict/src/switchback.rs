//! Findings from units that alternate both revisions.

use crate::contrast::{Contrast, Silent, hits, judged};
use crate::evidence::{Counts, Mirrored, Source, Turn};
use crate::judgement::{Design, Finding, Needed, Outcome, Samples};
use crate::past::{Past, add_bins, stability_index};
use crate::progress::{mirrored_ln, needs_feedback, without_data};
use crate::proportion;
use crate::settings::{Margin, Metric, Rule, Settings};
use crate::sketch::Sketch;
use crate::wealth::{Both, ON_ALL, Side, ln_any};
use std::collections::BTreeSet;

/// Halvings until a limit is found: to a billionth of where it is looked for.
const HALVINGS: usize = 40;

/// A unit of a series.
pub(crate) struct Turns<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its turns in order.
    pub turns: Vec<&'a Turn>,
    /// The incumbent before the rollout.
    pub before: Option<&'a Counts>,
}

/// One rule on the units of one series.
pub(crate) struct Case<'a> {
    pub rule: Rule,
    pub series: &'a str,
    pub units: &'a [Turns<'a>],
    pub settings: &'a Settings,
    /// Of a false alarm, and of a false pass.
    pub chances: [f64; 2],
}

impl Case<'_> {
    /// What is known.
    pub(crate) fn find(&self) -> Finding {
        if self.rule.metric == Metric::Disagreement {
            self.find_mirrored()
        } else {
            self.find_blocks()
        }
    }

    fn find_blocks(&self) -> Finding {
        let mut silent = BTreeSet::new();
        let contrasts: Vec<Vec<Contrast<'_>>> = self
            .units
            .iter()
            .map(|unit| self.contrasts(unit, &mut silent))
            .collect();
        let all: Vec<&Contrast<'_>> = contrasts.iter().flatten().collect();
        let mut finding = self.blank(Design::Switchback);
        finding.samples.units = contrasts.iter().filter(|unit| !unit.is_empty()).count() as u64;
        finding.samples.turns = all.len() as u64;
        if all.is_empty() {
            finding.outcome = without_data(&silent);
            return finding;
        }
        let margin = self.rule.limit.margin();
        let own = |unit: &&Vec<Contrast<'_>>| unit.iter().map(|c| c.lean(margin)).sum::<f64>() > 0.0;
        finding.samples.units_beyond = contrasts.iter().filter(own).count() as u64;
        self.describe(&mut finding, &all, ON_ALL);
        let turns = self.units.iter().flat_map(|unit| &unit.turns);
        let feedback: u64 = turns
            .map(|turn| {
                turn.canary
                    .feedback
                    .total()
                    .saturating_add(turn.incumbent.feedback.total())
            })
            .fold(0, u64::saturating_add);
        if needs_feedback(self.rule.metric) && feedback == 0 {
            return finding;
        }
        let together = wealth(&all, margin);
        let apart: Vec<f64> = contrasts
            .iter()
            .filter(|unit| !unit.is_empty())
            .map(|unit| ln_alone(unit, margin))
            .collect();
        let ln = [
            ln_any(together.ln(Side::Fail), apart.iter().copied()),
            together.ln(Side::Pass),
        ];
        finding.outcome = Outcome::of(ln, self.chances);
        if finding.outcome == Outcome::Fail && together.ln(Side::Fail) + ON_ALL.ln() < -self.chances[0].ln() {
            self.name_worst(&mut finding, &contrasts);
        }
        let requests = finding.samples.canary.saturating_add(finding.samples.incumbent);
        finding.needed = needed(finding.outcome, ln, self.chances, requests);
        finding
    }

    /// Puts in what turns say, where so large a part of the money was bet on them.
    fn describe(&self, finding: &mut Finding, turns: &[&Contrast<'_>], part: f64) {
        let margin = self.rule.limit.margin();
        let shown = |size: f64| self.shown(size);
        finding.difference = estimate(turns, margin, self.reach()).map(shown);
        [finding.lower, finding.upper] = self.interval(turns, margin, part).map(|bound| bound.map(shown));
    }

    /// Names the unit that alone shows that the canary is worse, and says what it shows.
    fn name_worst(&self, finding: &mut Finding, contrasts: &[Vec<Contrast<'_>>]) {
        let margin = self.rule.limit.margin();
        let wealths = contrasts
            .iter()
            .zip(self.units)
            .map(|(turns, unit)| (ln_alone(turns, margin), turns, unit));
        let Some((_, turns, unit)) = wealths.max_by(|left, right| left.0.total_cmp(&right.0)) else {
            return;
        };
        finding.unit = Some(unit.name.to_owned());
        let part = (1.0 - ON_ALL) / finding.samples.units.max(1) as f64;
        self.describe(finding, &turns.iter().collect::<Vec<_>>(), part);
    }

    fn contrasts<'a>(&self, unit: &Turns<'a>, silent: &mut BTreeSet<Silent>) -> Vec<Contrast<'a>> {
        let mut past = Past::after(unit.before);
        let mut contrasts = Vec::new();
        for turn in &unit.turns {
            match Contrast::of(self.rule.metric, turn, &past, self.settings) {
                Ok(contrast) => contrasts.push(contrast),
                Err(why) => {
                    silent.insert(why);
                }
            }
            past.add(turn);
        }
        contrasts
    }

    fn find_mirrored(&self) -> Finding {
        let mut finding = self.blank(Design::Mirrored);
        let limit = self.rule.limit.margin().size();
        let mut sum = Mirrored::default();
        let mut units = Vec::new();
        for unit in self.units {
            let mut own = Mirrored::default();
            unit.turns.iter().for_each(|turn| own.add(turn.mirrored));
            sum.add(own);
            units.push(own);
            finding.samples.units += u64::from(own.compared > 0);
            finding.samples.units_beyond += u64::from(own.different as f64 > limit * own.compared as f64);
        }
        (finding.samples.canary, finding.samples.incumbent) = (sum.compared, sum.compared);
        if sum.compared == 0 {
            return finding;
        }
        let part = sum.different as f64 / sum.compared as f64;
        (finding.canary, finding.difference) = (Some(part), Some(part));
        let ln = |limit, side| proportion::ln_wealth(sum.different, sum.compared, limit, side);
        let goals = [-(self.chances[0] * ON_ALL).ln(), -self.chances[1].ln()];
        let beyond = |side, size| ln(size, side) >= goals[usize::from(side == Side::Pass)];
        finding.lower = beyond(Side::Fail, 1e-9).then(|| bisect(part, 1e-9, |size| beyond(Side::Fail, size)));
        finding.upper =
            beyond(Side::Pass, 1.0 - 1e-9).then(|| bisect(part, 1.0 - 1e-9, |size| beyond(Side::Pass, size)));
        let ln = mirrored_ln(units.iter(), self.rule);
        finding.outcome = Outcome::of(ln, self.chances);
        finding.needed = needed(finding.outcome, ln, self.chances, sum.compared);
        if finding.outcome == Outcome::Fail && finding.lower.is_none_or(|lower| lower <= limit) {
            name_worst_mirrored(&mut finding, self.units, &units, limit);
        }
        finding
    }

    fn blank(&self, design: Design) -> Finding {
        let (canary, incumbent) = (
            self.total(|turn| &turn.canary),
            self.total(|turn| &turn.incumbent),
        );
        Finding {
            metric: self.rule.metric,
            series: self.series.to_owned(),
            outcome: Outcome::Inconclusive,
            design,
            canary: match self.rule.metric {
                Metric::ConfidenceShift => stability_index(&canary.confidence, &incumbent.confidence),
                metric => value(metric, &canary),
            },
            incumbent: value(self.rule.metric, &incumbent),
            difference: None,
            lower: None,
            upper: None,
            relative: matches!(self.rule.limit.margin(), Margin::Times(_)),
            allowed: self.shown(self.rule.limit.margin().size()),
            samples: Samples {
                canary: canary.requests(),
                incumbent: incumbent.requests(),
                ..Samples::default()
            },
            unit: None,
            needed: Needed::Data,
            sentence: String::new(),
        }
    }

    fn total(&self, arm: impl Fn(&Turn) -> &Counts) -> Counts {
        let mut total = Counts::default();
        for turn in self.units.iter().flat_map(|unit| &unit.turns) {
            add(&mut total, arm(turn), self.settings);
        }
        total
    }

    /// How far from 0 a difference is looked for.
    fn reach(&self) -> f64 {
        match (self.rule.metric, self.rule.limit.margin()) {
            (Metric::LatencyQuantile(_), Margin::Add(_)) => 6e8,
            (Metric::ConfidenceShift, _) => 16.0,
            (_, Margin::Add(_)) => 1.0,
            (_, Margin::Times(_)) => 5.0,
        }
    }

    /// Limits that the canary is shown to be above, and below.
    fn interval(&self, all: &[&Contrast<'_>], margin: Margin, part: f64) -> [Option<f64>; 2] {
        let middle = estimate(all, margin, self.reach());
        let chances = [self.chances[0] * part, self.chances[1]];
        [(Side::Fail, -1.0, 0), (Side::Pass, 1.0, 1)].map(|(side, sign, chance): (_, _, usize)| {
            let middle = middle?;
            let far = sign * self.reach();
            let holds = |size: f64| wealth(all, margin.with(size)).ln(side) >= -chances[chance].ln();
            holds(far).then(|| bisect(middle, far, holds))
        })
    }

    /// A size as it is shown.
    fn shown(&self, size: f64) -> f64 {
        match (self.rule.metric, self.rule.limit.margin()) {
            (_, Margin::Times(_)) => size.exp_m1(),
            (Metric::RestartRate, Margin::Add(_)) => size * 86.4e6,
            (_, Margin::Add(_)) => size,
        }
    }
}

/// Where a property ends that holds at `far` and not at `near`.
pub(crate) fn bisect(near: f64, far: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut near, mut far) = (near, far);
    for _ in 0..HALVINGS {
        let middle = near.midpoint(far);
        if holds(middle) {
            far = middle
        } else {
            near = middle
        }
    }
    far
}

fn wealth(all: &[&Contrast<'_>], margin: Margin) -> Both {
    let mut sum = Both::default();
    all.iter().for_each(|contrast| sum.add(&contrast.bets(margin)));
    sum
}

/// Names the unit that alone shows that answers differ more than allowed, and says what it shows.
fn name_worst_mirrored(finding: &mut Finding, units: &[Turns<'_>], counts: &[Mirrored], limit: f64) {
    let ln = |own: &Mirrored| proportion::ln_wealth(own.different, own.compared, limit, Side::Fail);
    let worst = units
        .iter()
        .zip(counts)
        .max_by(|left, right| ln(left.1).total_cmp(&ln(right.1)));
    let Some((unit, own)) = worst.filter(|(_, own)| own.compared > 0) else {
        return;
    };
    finding.unit = Some(unit.name.to_owned());
    let part = own.different as f64 / own.compared as f64;
    (finding.canary, finding.difference) = (Some(part), Some(part));
    (finding.lower, finding.upper) = (Some(limit), None);
    (finding.samples.canary, finding.samples.incumbent) = (own.compared, own.compared);
}

/// Logarithm of the wealth against the canary on one unit.
fn ln_alone(turns: &[Contrast<'_>], margin: Margin) -> f64 {
    wealth(&turns.iter().collect::<Vec<_>>(), margin).ln(Side::Fail)
}

/// The size at which all turns together lean to neither side.
fn estimate(all: &[&Contrast<'_>], margin: Margin, reach: f64) -> Option<f64> {
    let above = |size: f64| all.iter().map(|c| c.lean(margin.with(size))).sum::<f64>() > 0.0;
    (above(-reach) && !above(reach)).then(|| bisect(reach, -reach, above))
}

/// How many more requests are needed if evidence goes on to grow as it did.
fn needed(outcome: Outcome, ln: [f64; 2], chances: [f64; 2], requests: u64) -> Needed {
    if outcome != Outcome::Inconclusive {
        return Needed::Nothing;
    }
    let part = ln
        .iter()
        .zip(chances)
        .map(|(ln, chance)| ln / -chance.ln())
        .fold(0.0, f64::max);
    if part < 0.02 {
        return Needed::Unforeseeable;
    }
    Needed::Requests((requests as f64 * (1.0 / part - 1.0)).ceil() as u64)
}

/// Adds counts, and energy only where it is judged.
pub(crate) fn add(total: &mut Counts, counts: &Counts, settings: &Settings) {
    for (sum, more) in [
        (&mut total.milliseconds, counts.milliseconds),
        (&mut total.answered, counts.answered),
        (&mut total.failed, counts.failed),
        (&mut total.fallbacks, counts.fallbacks),
        (&mut total.restarts, counts.restarts),
        (&mut total.feedback.false_alarm, counts.feedback.false_alarm),
        (&mut total.feedback.miss, counts.feedback.miss),
        (&mut total.feedback.correct, counts.feedback.correct),
    ] {
        *sum = sum.saturating_add(more);
    }
    total.latency.add(&counts.latency);
    add_bins(&mut total.confidence, counts);
    if let Some(energy) = counts.energy.filter(|energy| judged(energy, settings)) {
        let sum = total.energy.get_or_insert(crate::evidence::Energy {
            source: Source::Measured,
            nanojoules: 0,
            inferences: 0,
            ..energy
        });
        sum.nanojoules = sum.nanojoules.saturating_add(energy.nanojoules);
        sum.inferences = sum.inferences.saturating_add(energy.inferences);
        sum.error_permille = sum.error_permille.max(energy.error_permille);
    }
}

/// A metric's value over counts, as it is shown.
pub(crate) fn value(metric: Metric, counts: &Counts) -> Option<f64> {
    let quantile =
        |sketch: &Sketch, permille| sketch.quantile(permille).map(|microseconds| microseconds as f64);
    match metric {
        Metric::LatencyQuantile(permille) => quantile(&counts.latency, permille),
        Metric::EnergyPerInference => {
            let energy = counts.energy.filter(|energy| energy.inferences > 0)?;
            Some(energy.nanojoules as f64 / energy.inferences as f64)
        }
        Metric::ConfidenceShift | Metric::Disagreement => None,
        _ => {
            let (hits, of) = hits(metric, counts);
            let day = if metric == Metric::RestartRate {
                86.4e6
            } else {
                1.0
            };
            (of > 0).then(|| hits as f64 / of as f64 * day)
        }
    }
}
