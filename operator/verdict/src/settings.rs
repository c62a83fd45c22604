//! What is judged, what is allowed, and how sure a verdict must be.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Metric {
    /// Requests without an answer.
    ErrorRate,
    /// A quantile of latency, in thousandths: 950 is p95.
    LatencyQuantile(u16),
    /// Energy per inference.
    EnergyPerInference,
    /// Population stability index of the confidence of answers, canary against incumbent.
    ConfidenceShift,
    /// Inputs that both answered, differently.
    Disagreement,
    /// Answers of which applications said that they told of something that was not there.
    FalseAlarmRate,
    /// Answers of which applications said that they did not tell of something.
    MissRate,
    /// Requests that another variant than the planned best answered.
    FallbackRate,
    /// Restarts of the process or its model.
    RestartRate,
}

/// What the canary may be worse by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// By this many thousandths of the incumbent's.
    IncreasePermille(u32),
    /// By this many millionths (of requests, or of answers) more than the incumbent's.
    IncreaseMillionths(u32),
    /// By this many microseconds more than the incumbent's.
    IncreaseMicroseconds(u32),
    /// By this many a day more than the incumbent's.
    IncreasePerDay(u32),
    /// Not above this, in millionths (of mirrored inputs; of the index), whatever the incumbent does.
    MaximumMillionths(u32),
}

/// A metric and what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The metric.
    pub metric: Metric,
    /// What is allowed.
    pub limit: Limit,
}

/// What is judged, and how sure a verdict must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Chance, in millionths, that a rollout of a canary within all limits is ever rejected: shared equally among
    /// cohorts, rules and series.
    pub false_alarm_millionths: u32,
    /// Chance, in millionths, that a canary at a limit ever passes in one cohort. Not shared: to pass it must pass all.
    pub false_pass_millionths: u32,
    /// Cohorts that the rollout goes through.
    pub cohorts: u16,
    /// Series that are expected; more in the evidence count too.
    pub series: u16,
    /// Whether energy of emulated devices is judged, as on a machine for tests.
    pub accept_emulated_energy: bool,
    /// Part of units, in thousandths, of which evidence may be missing or unusable in a `Pass`.
    pub measuring_failures_permille: u16,
}

impl Default for Settings {
    fn default() -> Self {
        let rule = |metric, limit| Rule { metric, limit };
        Self {
            rules: vec![
                rule(Metric::ErrorRate, Limit::IncreaseMillionths(5_000)),
                rule(Metric::LatencyQuantile(950), Limit::IncreasePermille(100)),
                rule(Metric::EnergyPerInference, Limit::IncreasePermille(50)),
                rule(Metric::ConfidenceShift, Limit::MaximumMillionths(200_000)),
                rule(Metric::Disagreement, Limit::MaximumMillionths(10_000)),
            ],
            false_alarm_millionths: 10_000,
            false_pass_millionths: 50_000,
            cohorts: 3,
            series: 1,
            accept_emulated_energy: false,
            measuring_failures_permille: 200,
        }
    }
}

/// Why nothing can be judged by settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// There is nothing to judge.
    #[error("there are no rules; name at least one metric with its limit")]
    NoRules,
    /// A metric twice.
    #[error("{0} has two rules; leave one")]
    Twice(Metric),
    /// A limit that means nothing for the metric.
    #[error("{0} cannot have the limit {1:?}; it takes {2}")]
    Limit(Metric, Limit, &'static str),
    /// A limit of 0, or so large that it says nothing.
    #[error("the limit of {0} is {1}; 1 to 10000000 are allowed")]
    Size(Metric, u32),
    /// Quantile out of range.
    #[error("a latency quantile of {0} thousandths cannot be judged; 1 to 999 can")]
    Quantile(u16),
    /// A chance out of range.
    #[error("{0} is {1} millionths; 1 to 500000 are allowed")]
    Chance(&'static str, u32),
    /// No cohort or series.
    #[error("there must be 1 to 1000 {0}, and 1 to 64 rules")]
    Shares(&'static str),
}

impl Settings {
    /// Says what is wrong with them.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.rules.is_empty() {
            return Err(SettingsError::NoRules);
        }
        for (place, rule) in self.rules.iter().enumerate() {
            if self
                .rules
                .iter()
                .take(place)
                .any(|earlier| earlier.metric == rule.metric)
            {
                return Err(SettingsError::Twice(rule.metric));
            }
            rule.check()?;
        }
        for (name, chance) in [
            ("the chance of a false alarm", self.false_alarm_millionths),
            ("the chance of a false pass", self.false_pass_millionths),
        ] {
            if !(1..=500_000).contains(&chance) {
                return Err(SettingsError::Chance(name, chance));
            }
        }
        for (name, count) in [("cohorts", self.cohorts), ("series", self.series)] {
            if !(1..=1_000).contains(&count) || self.rules.len() > 64 {
                return Err(SettingsError::Shares(name));
            }
        }
        Ok(())
    }

    /// Chance of a false alarm of one rule on one series in one cohort.
    #[must_use]
    pub fn share(&self, series: usize) -> f64 {
        let series = series.max(usize::from(self.series)).max(1);
        let parts = self.rules.len().max(1) * series * usize::from(self.cohorts.max(1));
        f64::from(self.false_alarm_millionths) / 1e6 / parts as f64
    }

    /// Chance of a false pass.
    #[must_use]
    pub fn pass_chance(&self) -> f64 {
        f64::from(self.false_pass_millionths) / 1e6
    }
}

impl Rule {
    fn check(&self) -> Result<(), SettingsError> {
        use Limit::{
            IncreaseMicroseconds, IncreaseMillionths, IncreasePerDay, IncreasePermille, MaximumMillionths,
        };
        let (fits, takes) = match self.metric {
            Metric::ErrorRate | Metric::FalseAlarmRate | Metric::MissRate | Metric::FallbackRate => (
                matches!(self.limit, IncreasePermille(_) | IncreaseMillionths(_)),
                "an absolute or a relative increase",
            ),
            Metric::LatencyQuantile(_) => (
                matches!(self.limit, IncreasePermille(_) | IncreaseMicroseconds(_)),
                "a relative increase, or one in microseconds",
            ),
            Metric::EnergyPerInference => (matches!(self.limit, IncreasePermille(_)), "a relative increase"),
            Metric::ConfidenceShift | Metric::Disagreement => {
                (matches!(self.limit, MaximumMillionths(_)), "a maximum")
            }
            Metric::RestartRate => (
                matches!(self.limit, IncreasePermille(_) | IncreasePerDay(_)),
                "a relative increase, or one a day",
            ),
        };
        if !fits {
            return Err(SettingsError::Limit(self.metric, self.limit, takes));
        }
        if let Metric::LatencyQuantile(permille) = self.metric
            && !(1..=999).contains(&permille)
        {
            return Err(SettingsError::Quantile(permille));
        }
        let (IncreasePermille(size)
        | IncreaseMillionths(size)
        | IncreaseMicroseconds(size)
        | IncreasePerDay(size)
        | MaximumMillionths(size)) = self.limit;
        let most = if self.metric == Metric::Disagreement {
            999_999
        } else {
            10_000_000
        };
        if (1..=most).contains(&size) {
            Ok(())
        } else {
            Err(SettingsError::Size(self.metric, size))
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ErrorRate => out.write_str("the error rate"),
            Self::LatencyQuantile(permille) if permille % 10 == 0 => write!(out, "p{}", permille / 10),
            Self::LatencyQuantile(permille) => write!(out, "p{}.{}", permille / 10, permille % 10),
            Self::EnergyPerInference => out.write_str("the energy per inference"),
            Self::ConfidenceShift => out.write_str("the shift of confidence"),
            Self::Disagreement => out.write_str("the part of differing answers"),
            Self::FalseAlarmRate => out.write_str("the rate of false alarms"),
            Self::MissRate => out.write_str("the rate of misses"),
            Self::FallbackRate => out.write_str("the fallback rate"),
            Self::RestartRate => out.write_str("the rate of restarts"),
        }
    }
}

/// An allowed difference as arithmetic: added, or multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Margin {
    /// Added to the incumbent's; per request, microseconds, per millisecond, or the whole.
    Add(f64),
    /// Multiplied with the incumbent's.
    Times(f64),
}

impl Limit {
    /// As arithmetic. Restarts are counted for each millisecond.
    pub(crate) fn margin(self) -> Margin {
        match self {
            Self::IncreasePermille(permille) => Margin::Times(1.0 + f64::from(permille) / 1e3),
            Self::IncreaseMillionths(millionths) | Self::MaximumMillionths(millionths) => {
                Margin::Add(f64::from(millionths) / 1e6)
            }
            Self::IncreaseMicroseconds(microseconds) => Margin::Add(f64::from(microseconds)),
            Self::IncreasePerDay(times) => Margin::Add(f64::from(times) / 86.4e6),
        }
    }
}

impl Margin {
    /// Its size: what is added, or the logarithm of the factor.
    pub(crate) fn size(self) -> f64 {
        match self {
            Self::Add(size) => size,
            Self::Times(factor) => factor.ln(),
        }
    }

    /// One of the same kind with another size.
    pub(crate) fn with(self, size: f64) -> Self {
        match self {
            Self::Add(_) => Self::Add(size),
            Self::Times(_) => Self::Times(size.exp()),
        }
    }
}
