//! From evidence to a judgement.

use crate::evidence::{Alone, Counts, Evidence};
use crate::judgement::{Finding, Judgement, Outcome, Verdict};
use crate::measuring::{self, Problems};
use crate::nodes::Between;
use crate::sentence;
use crate::settings::{Settings, SettingsError};
use crate::switchback::{Case, Turns};
use std::collections::BTreeMap;

/// The units of one series.
#[derive(Default)]
struct Series<'a> {
    turns: Vec<Turns<'a>>,
    alone: Vec<(&'a Alone, Option<&'a Counts>)>,
}

/// Judges a canary by all evidence so far.
///
/// A unit whose evidence cannot be is left out, and counts against the budget of measuring; so does evidence that
/// cannot be read as a whole. Nothing in evidence makes this fail.
///
/// # Errors
/// Where nothing can be judged by the settings.
pub fn judge(evidence: &Evidence, settings: &Settings) -> Result<Judgement, SettingsError> {
    settings.check()?;
    if let Err(error) = evidence.check() {
        return Ok(unreadable(&error.to_string()));
    }
    let mut all: BTreeMap<&str, Series<'_>> = BTreeMap::new();
    let mut unusable = Vec::new();
    for (name, unit) in &evidence.units {
        if let Err(error) = unit.check() {
            unusable.push((name.clone(), error.to_string()));
            continue;
        }
        let series = all.entry(&unit.series).or_default();
        if !unit.turns.is_empty() {
            let (turns, before) = (unit.in_order(), unit.before.as_ref());
            series.turns.push(Turns { name, turns, before });
        }
        series
            .alone
            .extend(unit.alone.iter().map(|alone| (alone, unit.before.as_ref())));
    }
    let mut problems = measuring::check_budget(evidence, &unusable, settings);
    for (name, series) in &all {
        let Problems { doubtful, broken } = measuring::check_turns(name, &series.turns);
        problems.doubtful.extend(doubtful);
        problems.broken.extend(broken);
    }
    let mut findings = findings(&all, settings);
    for finding in &mut findings {
        finding.sentence = sentence::of_finding(finding, evidence);
    }
    Ok(conclude(findings, problems, evidence))
}

fn findings(all: &BTreeMap<&str, Series<'_>>, settings: &Settings) -> Vec<Finding> {
    let chances = [settings.share(all.len()), settings.pass_chance()];
    let find = |(name, series): (&&str, &Series<'_>)| -> Vec<Finding> {
        let rules = settings.rules.iter();
        rules
            .map(|rule| {
                // Units that alternate say more than units apart from one another.
                if series.turns.is_empty() && !series.alone.is_empty() {
                    let (rule, units) = (*rule, &series.alone[..]);
                    Between {
                        rule,
                        series: name,
                        units,
                        settings,
                        chances,
                    }
                    .find()
                } else {
                    let (rule, units) = (*rule, &series.turns[..]);
                    Case {
                        rule,
                        series: name,
                        units,
                        settings,
                        chances,
                    }
                    .find()
                }
            })
            .collect()
    };
    all.iter().flat_map(find).collect()
}

fn conclude(findings: Vec<Finding>, problems: Problems, evidence: &Evidence) -> Judgement {
    let worst = Verdict::worst(findings.iter().map(|finding| finding.outcome));
    let verdict = match worst {
        Verdict::Fail if problems.broken.is_empty() => Verdict::Fail,
        Verdict::Pass if problems.broken.is_empty() && problems.doubtful.is_empty() => Verdict::Pass,
        _ => Verdict::Inconclusive,
    };
    let mut measuring = problems.broken;
    measuring.extend(problems.doubtful);
    let sentence = sentence::of_judgement(verdict, &findings, &measuring, evidence);
    Judgement {
        verdict,
        findings,
        measuring,
        sentence,
    }
}

fn unreadable(why: &str) -> Judgement {
    let sentence = format!("the evidence cannot be used: {why}");
    Judgement {
        verdict: Verdict::Inconclusive,
        findings: Vec::new(),
        measuring: vec![sentence.clone()],
        sentence,
    }
}

/// Whether a finding was left out of the verdict.
#[must_use]
pub(crate) fn counts(finding: &Finding) -> bool {
    finding.outcome != Outcome::NotApplicable
}
