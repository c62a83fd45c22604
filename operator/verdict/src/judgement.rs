//! What [`judge`](crate::judge) says.

use crate::settings::Metric;
use serde::{Deserialize, Serialize};

/// Whether a canary may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It is shown to be within every limit.
    Pass,
    /// It is shown to be beyond a limit.
    Fail,
    /// Neither is shown, or measuring failed.
    Inconclusive,
}

/// The verdict on one metric of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Shown to be within the limit.
    Pass,
    /// Shown to be beyond it.
    Fail,
    /// Neither is shown yet.
    Inconclusive,
    /// It cannot be judged here, and does not count.
    NotApplicable,
}

/// How revisions were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Design {
    /// Neighbouring blocks of time on the same unit, in random order.
    Switchback,
    /// The same inputs, given to both.
    Mirrored,
    /// Units that run the one against units that run the other.
    BetweenUnits,
}

/// All that is known of one metric on one series.
///
/// Of a relative limit, `difference`, `lower`, `upper` and `allowed` are parts of the incumbent's (0.1 is 10 percent);
/// else they are in the metric's own unit: parts of requests, answers or inputs, microseconds, restarts a day, or the
/// index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The metric.
    pub metric: Metric,
    /// The series.
    pub series: String,
    /// The verdict.
    pub outcome: Outcome,
    /// How it was compared.
    pub design: Design,
    /// The canary's value over everything: parts of requests, microseconds, nanojoules, restarts a day, the index.
    pub canary: Option<f64>,
    /// The incumbent's; nothing where the metric has none.
    pub incumbent: Option<f64>,
    /// By how much the canary is above the incumbent, as estimated by the comparison.
    pub difference: Option<f64>,
    /// It is above this, but for the chance of a false alarm, however often one looked.
    pub lower: Option<f64>,
    /// It is below this, but for the chance of a false pass, however often one looked.
    pub upper: Option<f64>,
    /// Whether the difference is a part of the incumbent's.
    pub relative: bool,
    /// What is allowed.
    pub allowed: f64,
    /// What it is based on.
    pub samples: Samples,
    /// The unit that alone shows it, where all together do not: then the differences are its own.
    pub unit: Option<String>,
    /// What it needs to end.
    pub needed: Needed,
    /// For a person.
    pub sentence: String,
}

/// What a finding is based on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Samples {
    /// Units.
    pub units: u64,
    /// Of them, those whose own estimate is beyond the limit.
    pub units_beyond: u64,
    /// Turns, or windows.
    pub turns: u64,
    /// Requests (or mirrored inputs) of the canary.
    pub canary: u64,
    /// Requests (or mirrored inputs) of the incumbent.
    pub incumbent: u64,
}

/// What is needed until a finding is no more inconclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Needed {
    /// Nothing.
    Nothing,
    /// About so many more requests of both together, at the pace of evidence so far.
    Requests(u64),
    /// So many units in all: fewer cannot tell the revisions apart.
    Units(u64),
    /// Any data.
    Data,
    /// It cannot be foreseen: the difference lies near the limit.
    Unforeseeable,
}

/// The judgement on a canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// The verdict: the worst of all findings.
    pub verdict: Verdict,
    /// One for each metric and series, in the order of the rules.
    pub findings: Vec<Finding>,
    /// What is wrong with measuring, for a person.
    pub measuring: Vec<String>,
    /// For a person.
    pub sentence: String,
}

impl Verdict {
    /// That of several findings: one that fails is enough, and all that apply must pass.
    pub(crate) fn worst(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut verdict = Self::Inconclusive;
        let mut open = false;
        for outcome in outcomes {
            match outcome {
                Outcome::Fail => return Self::Fail,
                Outcome::Pass => verdict = Self::Pass,
                Outcome::Inconclusive => open = true,
                Outcome::NotApplicable => {}
            }
        }
        if open { Self::Inconclusive } else { verdict }
    }
}

impl Outcome {
    /// What logarithms of wealth show, against the canary and for it, beside the chances of an error.
    pub(crate) fn of(ln: [f64; 2], chances: [f64; 2]) -> Self {
        let [fail, pass] = [0, 1].map(|side: usize| ln[side] >= -chances[side].ln());
        if fail {
            Self::Fail
        } else if pass {
            Self::Pass
        } else {
            Self::Inconclusive
        }
    }
}
