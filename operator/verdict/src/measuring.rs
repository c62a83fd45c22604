//! What is wrong with measuring, which is no fault of the canary: it keeps a verdict from being `Pass`, and only where
//! the comparison itself is broken from being `Fail`.

use crate::evidence::{Arm, Evidence, Unit};
use crate::proportion;
use crate::settings::Settings;
use crate::switchback::Turns;
use crate::wealth::{Both, ON_COUNTS, Side};

/// Chance of an alarm of each check of the comparison itself.
const CHANCE: f64 = 1e-4;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Problems {
    /// Too much is missing, or the two revisions were not treated alike: nothing may pass.
    pub doubtful: Vec<String>,
    /// The order of blocks was not random: nothing may fail either.
    pub broken: Vec<String>,
}

/// Looks for evidence that is missing. `unusable` names units with what is wrong with them.
pub(crate) fn check_budget(
    evidence: &Evidence,
    unusable: &[(String, String)],
    settings: &Settings,
) -> Problems {
    let mut problems = Problems::default();
    let budget = u64::from(settings.measuring_failures_permille);
    let silent = |unit: &Unit| {
        unit.measuring.failed.saturating_mul(1_000) > unit.measuring.asked.saturating_mul(budget)
    };
    let silent: Vec<&String> = (evidence.units.iter())
        .filter(|(name, unit)| silent(unit) && unusable.iter().all(|(other, _)| other != *name))
        .map(|(name, _)| name)
        .collect();
    let lost = (unusable.len() + silent.len()) as u64;
    let all = evidence.units.len() as u64;
    if lost.saturating_mul(1_000) > all.saturating_mul(budget) {
        let example = unusable
            .first()
            .map(|(name, why)| format!("{name}: {why}"))
            .or_else(|| {
                silent
                    .first()
                    .map(|name| format!("{name} often gave no evidence"))
            });
        problems.doubtful.push(format!(
            "measuring failed on {lost} of {all} nodes, allowed are {budget} of 1000 ({})",
            example.unwrap_or_default()
        ));
    }
    problems
}

/// Looks at how the blocks of a series were made.
pub(crate) fn check_turns(series: &str, units: &[Turns<'_>]) -> Problems {
    let mut problems = Problems::default();
    let turns = || units.iter().flat_map(|unit| &unit.turns);
    let firsts = turns().map(|turn| turn.first == Arm::Canary);
    let changes = units
        .iter()
        .flat_map(|unit| unit.turns.windows(2).map(|pair| pair[0].first != pair[1].first));
    if !is_fair(firsts) || !is_fair(changes) {
        problems.broken.push(format!(
            "the order of blocks was not random on {series}: no comparison of them holds"
        ));
    }
    let mut traffic = Both::default();
    for turn in turns() {
        let difference = turn.canary.requests() as f64 - turn.incumbent.requests() as f64;
        traffic.add(&Both::on_signs(&[(1.0, difference)], &ON_COUNTS));
    }
    for (side, what) in [(Side::Fail, "more"), (Side::Pass, "fewer")] {
        if traffic.ln(side) >= -CHANCE.ln() {
            problems.doubtful.push(format!(
                "the canary got {what} requests than the incumbent on {series}: they were not treated alike"
            ));
        }
    }
    problems
}

/// Whether a coin may be fair.
fn is_fair(tosses: impl Iterator<Item = bool>) -> bool {
    let (mut heads, mut all) = (0, 0);
    for toss in tosses {
        heads += u64::from(toss);
        all += 1;
    }
    [Side::Fail, Side::Pass]
        .iter()
        .all(|side| proportion::ln_wealth(heads, all, 0.5, *side) < -CHANCE.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coin_that_always_or_never_changes_is_found_out() {
        assert!(is_fair((0..60).map(|n: u32| n.count_ones().is_multiple_of(2))));
        assert!(!is_fair((0..60).map(|_| true)));
        assert!(!is_fair((0..60).map(|_| false)));
        assert!(is_fair((0..3).map(|_| true)), "three tosses say nothing");
    }
}
