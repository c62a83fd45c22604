//! A policy as a user writes it, as what the course of a rollout is computed from.

use perwatt_crds::rollout::{
    Analysis, Approval, Cohort, Increase, Metric, OnInconclusive, RolloutPolicySpec,
};
use perwatt_crds::schema::to_std;
use perwatt_rollout as course;
use perwatt_verdict::settings::{Limit, Metric as Judged, Rule, Settings};

/// Reads a policy.
///
/// # Errors
/// What cannot be carried out, for a person.
pub fn build_policy(spec: &RolloutPolicySpec) -> Result<course::Policy, String> {
    let cohorts: Vec<_> = spec.cohorts.iter().map(build_cohort).collect::<Result<_, _>>()?;
    if cohorts.is_empty() {
        return Err("it has no cohorts".to_owned());
    }
    Ok(course::Policy {
        analysis: build_settings(spec, cohorts.len())?,
        cohorts,
        on_inconclusive: match spec.on_inconclusive.unwrap_or_default() {
            OnInconclusive::Hold => course::OnInconclusive::Hold,
            OnInconclusive::Rollback => course::OnInconclusive::Rollback,
        },
    })
}

fn build_cohort(cohort: &Cohort) -> Result<course::Cohort, String> {
    let share = cohort.share.as_deref().map(|text| {
        let parts = read(text, "%", 10.0);
        parts
            .filter(|permille| (1..=1_000).contains(permille))
            .ok_or_else(|| {
                format!(
                    "cohort {}: share is {text}, from 0.1% to 100% are possible",
                    cohort.name
                )
            })
    });
    Ok(course::Cohort {
        name: cohort.name.clone(),
        selector: course::Selector {
            sites: cohort.sites.as_ref().map(|sites| sites.match_labels.clone()),
            nodes: cohort.nodes.as_ref().map(|nodes| nodes.match_labels.clone()),
            profiles: cohort.profiles.clone(),
            share_permille: share.transpose()?,
        },
        bake: to_std(&cohort.bake),
        deadline: to_std(&cohort.deadline),
        manual: cohort.approval == Approval::Manual,
    })
}

fn build_settings(spec: &RolloutPolicySpec, cohorts: usize) -> Result<Option<Settings>, String> {
    let mut settings = Settings {
        cohorts: u16::try_from(cohorts).unwrap_or(u16::MAX),
        accept_emulated_energy: spec.accept_emulated_energy.unwrap_or(false),
        ..Settings::default()
    };
    if let Some(analysis) = &spec.analysis {
        if analysis.is_empty() {
            return Ok(None);
        }
        settings.rules = analysis.iter().map(build_rule).collect::<Result<_, _>>()?;
    }
    settings.check().map_err(|error| format!("analysis: {error}"))?;
    Ok(Some(settings))
}

fn build_rule(analysis: &Analysis) -> Result<Rule, String> {
    let metric = match analysis.metric {
        Metric::ErrorRate => Judged::ErrorRate,
        Metric::LatencyP50 => Judged::LatencyQuantile(500),
        Metric::LatencyP95 => Judged::LatencyQuantile(950),
        Metric::LatencyP99 => Judged::LatencyQuantile(990),
        Metric::EnergyPerInference => Judged::EnergyPerInference,
        Metric::ConfidenceShift => Judged::ConfidenceShift,
        Metric::Disagreement => Judged::Disagreement,
        Metric::FalseAlarmRate => Judged::FalseAlarmRate,
        Metric::MissRate => Judged::MissRate,
        Metric::FallbackRate => Judged::FallbackRate,
    };
    let limit = match (&analysis.max_increase, &analysis.maximum) {
        (Some(increase), None) => build_increase(increase, metric),
        (None, Some(maximum)) => build_maximum(maximum, metric),
        _ => None,
    };
    let limit = limit.ok_or_else(|| {
        format!(
            "analysis of {:?}: its limit cannot be read; a part is written 10%, a time 5ms, the shift of confidence 0.2",
            analysis.metric
        )
    })?;
    Ok(Rule { metric, limit })
}

fn build_increase(increase: &Increase, metric: Judged) -> Option<Limit> {
    if let Some(relative) = &increase.relative {
        return read(relative, "%", 10.0).map(Limit::IncreasePermille);
    }
    let absolute = increase.absolute.as_deref()?;
    if !matches!(metric, Judged::LatencyQuantile(_)) {
        return read(absolute, "%", 10_000.0).map(Limit::IncreaseMillionths);
    }
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let microseconds = units
        .iter()
        .find_map(|(unit, factor)| read(absolute, unit, *factor));
    microseconds.map(Limit::IncreaseMicroseconds)
}

fn build_maximum(maximum: &str, metric: Judged) -> Option<Limit> {
    let millionths = match metric {
        Judged::ConfidenceShift => read(maximum, "", 1e6),
        _ => read(maximum, "%", 10_000.0),
    };
    millionths.map(Limit::MaximumMillionths)
}

/// A decimal with a unit, times `factor`.
fn read(text: &str, unit: &str, factor: f64) -> Option<u32> {
    let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
    let scaled = (number * factor).round();
    (0.0..=f64::from(u32::MAX))
        .contains(&scaled)
        .then_some(scaled as u32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn policy(analysis: serde_json::Value) -> Result<course::Policy, String> {
        let spec = json!({"cohorts": [{"name": "canary", "share": "12.5%", "bake": "30m"}, {"name": "rest"}], "analysis": analysis});
        build_policy(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn limits_are_read_in_their_units() {
        let read = policy(json!([
            {"metric": "ErrorRate", "maxIncrease": {"absolute": "0.5%"}},
            {"metric": "LatencyP95", "maxIncrease": {"relative": "10%"}},
            {"metric": "LatencyP99", "maxIncrease": {"absolute": "2.5ms"}},
            {"metric": "EnergyPerInference", "maxIncrease": {"relative": "5.5%"}},
            {"metric": "ConfidenceShift", "maximum": "0.2"},
            {"metric": "Disagreement", "maximum": "1%"},
        ]))
        .unwrap();
        let limits: Vec<_> = read
            .analysis
            .unwrap()
            .rules
            .iter()
            .map(|rule| rule.limit)
            .collect();
        assert_eq!(
            limits,
            [
                Limit::IncreaseMillionths(5_000),
                Limit::IncreasePermille(100),
                Limit::IncreaseMicroseconds(2_500),
                Limit::IncreasePermille(55),
                Limit::MaximumMillionths(200_000),
                Limit::MaximumMillionths(10_000),
            ]
        );
        assert_eq!(read.cohorts[0].selector.share_permille, Some(125));
        assert_eq!(read.cohorts[0].bake.as_secs(), 1_800);
        assert_eq!(read.cohorts[1].deadline.as_secs(), 86_400);
    }

    #[test]
    fn without_analysis_the_shipped_rules_judge_and_an_empty_list_judges_nothing() {
        assert_eq!(policy(json!(null)).unwrap().analysis.unwrap().rules.len(), 5);
        assert_eq!(policy(json!([])).unwrap().analysis, None);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let error = policy(json!([{"metric": "LatencyP95", "maxIncrease": {"absolute": "5%"}}])).unwrap_err();
        assert!(error.contains("LatencyP95") && error.contains("5ms"), "{error}");
        let error = policy(json!([{"metric": "ErrorRate", "maxIncrease": {"relative": "0%"}}])).unwrap_err();
        assert!(error.contains("error rate"), "{error}");
    }
}
