//! The verdict as turns come, one by one. [`judge`](crate::judge) over the same turns gives the same outcomes.

use crate::contrast::{Contrast, Silent};
use crate::evidence::{Counts, Mirrored, Turn};
use crate::judgement::{Outcome, Verdict};
use crate::past::Past;
use crate::proportion;
use crate::settings::{Metric, Rule, Settings, SettingsError};
use crate::wealth::{Both, Side, Wealth, ln_any};
use std::collections::{BTreeMap, BTreeSet};

/// Sums over the turns so far, for whoever looks after every turn: what a rollout would have seen is found without
/// judging all evidence anew each time.
#[derive(Debug, Clone)]
pub struct Progress {
    settings: Settings,
    units: BTreeMap<String, Past>,
    series: BTreeMap<String, Vec<Tally>>,
}

/// What one rule knows of one series.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    wealth: Both,
    /// Against the canary, by unit.
    units: BTreeMap<String, Wealth>,
    turns: u64,
    silent: BTreeSet<Silent>,
    mirrored: BTreeMap<String, Mirrored>,
    feedback: u64,
}

impl Progress {
    /// Without any turns.
    ///
    /// # Errors
    /// Where nothing can be judged by the settings.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self {
            settings: settings.clone(),
            units: BTreeMap::new(),
            series: BTreeMap::new(),
        })
    }

    /// Tells of a unit, before its first turn, what its incumbent did before the rollout.
    pub fn begin(&mut self, unit: &str, before: Option<&Counts>) {
        self.units.insert(unit.to_owned(), Past::after(before));
    }

    /// Adds the next turn of a unit. Turns of one unit come in their order.
    pub fn add(&mut self, unit: &str, series: &str, turn: &Turn) {
        let past = self.units.entry(unit.to_owned()).or_default();
        let tallies = self.series.entry(series.to_owned()).or_default();
        tallies.resize_with(self.settings.rules.len(), Tally::default);
        for (rule, tally) in self.settings.rules.iter().zip(tallies) {
            tally.add(*rule, unit, turn, past, &self.settings);
        }
        past.add(turn);
    }

    /// The outcome of each rule on each series, in the order of series and rules.
    #[must_use]
    pub fn outcomes(&self) -> Vec<(Metric, Outcome)> {
        let chances = [
            self.settings.share(self.series.len()),
            self.settings.pass_chance(),
        ];
        let tallies = self
            .series
            .values()
            .flat_map(|tallies| self.settings.rules.iter().zip(tallies));
        tallies
            .map(|(rule, tally)| (rule.metric, tally.outcome(*rule, chances)))
            .collect()
    }

    /// The worst of them. What is wrong with measuring is not looked at here.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::worst(self.outcomes().into_iter().map(|(_, outcome)| outcome))
    }
}

impl Tally {
    fn add(&mut self, rule: Rule, unit: &str, turn: &Turn, past: &Past, settings: &Settings) {
        for counts in [&turn.canary, &turn.incumbent] {
            self.feedback = self.feedback.saturating_add(counts.feedback.total());
        }
        if rule.metric == Metric::Disagreement {
            entry(&mut self.mirrored, unit).add(turn.mirrored);
            self.turns += 1;
            return;
        }
        match Contrast::of(rule.metric, turn, past, settings) {
            Ok(contrast) => {
                let bets = contrast.bets(rule.limit.margin());
                self.wealth.add(&bets);
                entry(&mut self.units, unit).add(&bets.fail);
                self.turns += 1;
            }
            Err(silent) => {
                self.silent.insert(silent);
            }
        }
    }

    fn outcome(&self, rule: Rule, chances: [f64; 2]) -> Outcome {
        if rule.metric == Metric::Disagreement {
            return Outcome::of(mirrored_ln(self.mirrored.values(), rule), chances);
        }
        if self.turns == 0 {
            return without_data(&self.silent);
        }
        if needs_feedback(rule.metric) && self.feedback == 0 {
            return Outcome::Inconclusive;
        }
        let fail = ln_any(self.wealth.ln(Side::Fail), self.units.values().map(Wealth::ln));
        Outcome::of([fail, self.wealth.ln(Side::Pass)], chances)
    }
}

/// The entry of a unit.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, unit: &str) -> &'a mut T {
    map.entry(unit.to_owned()).or_default()
}

/// Logarithms of the wealth that the mirrored inputs of some units make, against the canary and for it.
pub(crate) fn mirrored_ln<'a>(units: impl Iterator<Item = &'a Mirrored> + Clone, rule: Rule) -> [f64; 2] {
    let limit = rule.limit.margin().size();
    let ln =
        |mirrored: Mirrored, side| proportion::ln_wealth(mirrored.different, mirrored.compared, limit, side);
    let mut all = Mirrored::default();
    units.clone().for_each(|unit| all.add(*unit));
    let alone = units
        .filter(|unit| unit.compared > 0)
        .map(|unit| ln(*unit, Side::Fail));
    [ln_any(ln(all, Side::Fail), alone), ln(all, Side::Pass)]
}

/// Whether a metric lives on what applications say.
pub(crate) fn needs_feedback(metric: Metric) -> bool {
    matches!(metric, Metric::FalseAlarmRate | Metric::MissRate)
}

/// The outcome where no turn says anything: not applicable only where none ever will.
pub(crate) fn without_data(silent: &BTreeSet<Silent>) -> Outcome {
    let never = |silent: &Silent| matches!(silent, Silent::NotMeasured | Silent::NotDeclared);
    if !silent.is_empty() && silent.iter().all(never) {
        Outcome::NotApplicable
    } else {
        Outcome::Inconclusive
    }
}
