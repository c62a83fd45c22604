//! What a rollout can detect, before it begins: in what time a difference is seen, and which is the smallest that is.
//!
//! These are forecasts from a baseline of the incumbent, with requests that are independent of one another: bursts and
//! slow drifts make a rollout take longer, never a verdict wrong.

use crate::judgement::Verdict;
use crate::nodes;
use crate::schedule;
use crate::settings::{Limit, Margin, Metric, Rule, Settings, SettingsError};
use crate::sketch::Sketch;
use crate::wealth::{BETS, ON_ALL};
use statrs::distribution::{ContinuousCDF, Normal};
use std::time::Duration;

/// Chance with which a difference is to be seen in the time that is given.
pub const POWER: f64 = 0.95;
/// Nearly all of them.
const ALL: f64 = 0.999;
/// Turns after which a forecast gives up: two years.
const MOST_TURNS: u32 = 1_024;
/// Largest growth of wealth that one turn can bring: see [`crate::wealth`].
const MOST_GROWTH: f64 = 0.66;

/// What is known of the incumbent, and of the rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Units that alternate both revisions.
    pub units: u32,
    /// Requests a second of all of them together.
    pub requests_per_second: f64,
    /// Inputs a second that are mirrored, of all of them together.
    pub mirrored_per_second: f64,
    /// Length of the first blocks.
    pub first_block: Duration,
    /// Part of requests that count against the metric (errors, fallbacks, differing answers, false alarms, misses); restarts
    /// a day.
    pub rate: f64,
    /// Latencies of the incumbent.
    pub latency: Sketch,
    /// Whether each unit tells what its incumbent's latencies were before the rollout.
    pub incumbent_known: bool,
    /// Standard deviation of the energy per inference from one inference to another, as a part of its mean.
    pub energy_spread: f64,
}

/// When something is seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// Requests of both revisions together (or mirrored inputs) until it is seen with a chance of [`POWER`].
    pub requests: u64,
    /// Time until then.
    pub time: Duration,
    /// Requests that a test needs which looks only once, at the end, for the same chances of an error: its sample is
    /// fixed, and what it compares with is known.
    pub fixed_requests: u64,
}

/// What one pair of requests (one of each revision), or one mirrored input, says on average.
struct Signal {
    /// Mean beyond the limit.
    gap: f64,
    /// Variance of it at the limit, and as it is.
    variance: [f64; 2],
    /// By how much it makes the logarithm of wealth grow.
    growth: f64,
    /// Requests in it.
    requests: f64,
    /// Samples a second.
    rate: f64,
    /// Turns of each unit that only teach.
    learning: f64,
}

/// When a canary is rejected whose metric is `effect` of the incumbent's higher, or by that much (as the rule's limit
/// is, in its unit); nothing where it is not within two years.
///
/// # Errors
/// Where nothing can be judged by the settings.
pub fn rejection(
    rule: Rule,
    effect: f64,
    plan: &Plan,
    settings: &Settings,
) -> Result<Option<Detection>, SettingsError> {
    settings.check()?;
    Ok(detect(rule, effect, plan, settings, Verdict::Fail))
}

/// When a canary passes a rule that is as good as its incumbent.
///
/// # Errors
/// Where nothing can be judged by the settings.
pub fn acceptance(rule: Rule, plan: &Plan, settings: &Settings) -> Result<Option<Detection>, SettingsError> {
    settings.check()?;
    // Of two that are as good some answers differ all the same.
    let effect = match rule.metric {
        Metric::Disagreement => plan.rate,
        _ => 0.0,
    };
    Ok(detect(rule, effect, plan, settings, Verdict::Pass))
}

/// The smallest effect that is rejected in a time; nothing where not even tenfold is.
///
/// # Errors
/// Where nothing can be judged by the settings.
pub fn smallest(
    rule: Rule,
    within: Duration,
    plan: &Plan,
    settings: &Settings,
) -> Result<Option<f64>, SettingsError> {
    settings.check()?;
    let seen = |effect: f64| {
        detect(rule, effect, plan, settings, Verdict::Fail).is_some_and(|detection| detection.time <= within)
    };
    let limit = shown(rule.limit);
    let most = match rule.limit {
        Limit::IncreasePermille(_) => 9.0,
        // No more than all requests can fail, nor can all answers but differ.
        Limit::IncreaseMillionths(_) => (limit * 1e3).min(ALL - plan.rate),
        Limit::MaximumMillionths(_) => (limit * 1e3).min(ALL),
        Limit::IncreaseMicroseconds(_) | Limit::IncreasePerDay(_) => limit * 1e3,
    };
    Ok((most > limit && seen(most)).then(|| crate::switchback::bisect(limit, most, seen)))
}

/// Fewest units, half of them canaries, with which units that run one revision each can tell revisions apart.
#[must_use]
pub fn fewest_units(settings: &Settings) -> u64 {
    nodes::fewest_units(nodes::spent(settings.share(1), 0))
}

/// What is shown before a rollout, for a person.
///
/// # Errors
/// Where nothing can be judged by the settings.
pub fn sentence(
    rule: Rule,
    within: Duration,
    plan: &Plan,
    settings: &Settings,
) -> Result<String, SettingsError> {
    let start = format!(
        "with {} {} and {} requests/s",
        plan.units,
        if plan.units == 1 { "node" } else { "nodes" },
        (plan.requests_per_second * 1e2).round() / 1e2
    );
    let minutes = |time: Duration| match time.as_secs().div_ceil(60) {
        minutes @ 0..180 => format!("{minutes} min"),
        minutes => format!("{} h", minutes.div_ceil(60)),
    };
    let Some(effect) = smallest(rule, within, plan, settings)? else {
        return Ok(format!(
            "{start}, nothing about {} can be seen in {}",
            rule.metric,
            minutes(within)
        ));
    };
    let amount = match rule.limit {
        Limit::IncreasePermille(_) => format!("+{:.0}%", effect * 100.0),
        Limit::IncreaseMillionths(_) => format!("+{:.2} points", effect * 100.0),
        Limit::MaximumMillionths(_) => format!("{:.2}%", effect * 100.0),
        Limit::IncreaseMicroseconds(_) => format!("+{:.2} ms", effect / 1e3),
        Limit::IncreasePerDay(_) => format!("+{effect:.1} a day"),
    };
    let passes = acceptance(rule, plan, settings)?
        .map(|detection| format!("; one that is as good passes in {}", minutes(detection.time)))
        .unwrap_or_default();
    Ok(format!(
        "{start}, {amount} of {} can be seen in {}{passes}",
        rule.metric,
        minutes(within)
    ))
}

fn detect(rule: Rule, effect: f64, plan: &Plan, settings: &Settings, side: Verdict) -> Option<Detection> {
    let signal = signal(rule, effect, plan)?;
    let (gap, chance) = match side {
        Verdict::Fail => (signal.gap, settings.share(1)),
        _ => (-signal.gap, settings.pass_chance()),
    };
    let normal = Normal::standard();
    if gap <= 0.0 || signal.rate <= 0.0 || plan.units == 0 {
        return None;
    }
    let deviations = [1.0 - chance, POWER].map(|part| normal.inverse_cdf(part));
    let far = deviations[0] * signal.variance[0].sqrt() + deviations[1] * signal.variance[1].sqrt();
    let fixed = (far / gap).powi(2);
    // Of the mixture about a third stays with bets that are near enough to the best.
    let goal = -(chance * ON_ALL).ln() + (BETS as f64 / 3.0).ln();
    let tail = deviations[1];
    let mut growth = 0.0;
    let mut samples = 0.0;
    for number in 0..MOST_TURNS {
        // A block of each revision; what it brings is bounded, however much it holds.
        let seconds = schedule::block(plan.first_block, number).as_secs_f64();
        let turn = signal.rate * seconds;
        samples += turn;
        let known = f64::from(number) + 1.0 > signal.learning;
        if known {
            let units = f64::from(plan.units);
            let of_one = turn / units * signal.growth;
            growth += units * MOST_GROWTH * (1.0 - (-of_one / MOST_GROWTH).exp());
        }
        if growth - tail * (2.0 * growth).sqrt() >= goal {
            return Some(Detection {
                requests: (samples * signal.requests).ceil() as u64,
                time: schedule::time(plan.first_block, number + 1),
                fixed_requests: (fixed * signal.requests).ceil() as u64,
            });
        }
    }
    None
}

/// What one sample says. A second of a block has one revision's requests, so a pair takes two seconds' worth of half.
fn signal(rule: Rule, effect: f64, plan: &Plan) -> Option<Signal> {
    let margin = rule.limit.margin();
    let pairs = |gap: f64, variance: [f64; 2]| Signal {
        gap,
        variance,
        growth: gap * gap / variance[1] / 2.0,
        requests: 2.0,
        rate: plan.requests_per_second,
        learning: 0.0,
    };
    Some(match rule.metric {
        Metric::Disagreement => {
            let (limit, part) = (margin.size(), effect.clamp(0.0, 1.0));
            let variance = |part: f64| part * (1.0 - part);
            let likely = |part: f64, limit: f64| {
                if part > 0.0 {
                    part * (part / limit).ln()
                } else {
                    0.0
                }
            };
            Signal {
                growth: likely(part, limit) + likely(1.0 - part, 1.0 - limit),
                requests: 1.0,
                rate: plan.mirrored_per_second * 2.0,
                ..pairs(part - limit, [variance(limit), variance(part)])
            }
        }
        Metric::LatencyQuantile(permille) => {
            let threshold = plan.latency.quantile(permille)? as f64;
            let all = plan.latency.count() as f64;
            let beyond = 1.0 - f64::from(permille) / 1e3;
            // Canary's latencies are the incumbent's, scaled or shifted.
            let limit = match margin {
                Margin::Times(factor) => threshold * factor / (1.0 + effect),
                Margin::Add(more) => threshold + more - effect,
            };
            let canary = plan.latency.above(limit) / all;
            let own = plan.latency.above(threshold) / all;
            let variance = |of: f64| of * (1.0 - of) + own * (1.0 - own);
            let turn =
                plan.requests_per_second / f64::from(plan.units.max(1)) * plan.first_block.as_secs_f64();
            let learning = if plan.incumbent_known {
                0.0
            } else {
                5.0 / beyond.max(1e-3) / turn.max(1e-9)
            };
            Signal {
                learning: learning.ceil(),
                ..pairs(canary - own, [variance(own), variance(canary)])
            }
        }
        Metric::EnergyPerInference => {
            let variance = 2.0 * plan.energy_spread.powi(2);
            pairs(effect.ln_1p() - margin.size(), [variance; 2])
        }
        Metric::ConfidenceShift => return None,
        _ => {
            let day = if rule.metric == Metric::RestartRate {
                86_400.0 * plan.requests_per_second
            } else {
                1.0
            };
            let rate = plan.rate / day;
            match margin {
                Margin::Add(_) => {
                    let (more, canary) = (shown(rule.limit) / day, rate + effect / day);
                    let variance = |canary: f64| canary * (1.0 - canary) + rate * (1.0 - rate);
                    pairs(canary - rate - more, [variance(rate + more), variance(canary)])
                }
                Margin::Times(factor) => {
                    let canary = rate * (1.0 + effect) / factor;
                    pairs(canary - rate, [rate + rate, canary + rate])
                }
            }
        }
    })
}

/// A limit in the unit of its effects.
fn shown(limit: Limit) -> f64 {
    match limit {
        Limit::IncreasePermille(permille) => f64::from(permille) / 1e3,
        Limit::IncreaseMillionths(millionths) | Limit::MaximumMillionths(millionths) => {
            f64::from(millionths) / 1e6
        }
        Limit::IncreaseMicroseconds(size) | Limit::IncreasePerDay(size) => f64::from(size),
    }
}
