//! What runtimes found of latency and energy, as the planner takes it: in bands, kept in the status of
//! their workload, so that a new operator knows what the old one knew.
//!
//! Kept only where placement asks for figures. A figure stays until a later one is in another band.

use super::workload::Facts;
use crate::evidence::{Energy, VariantReport};
use perwatt_crds::InferenceWorkloadSpec;
use perwatt_crds::performance::{FigureSource, MeasuredFigure};
use perwatt_crds::workload::Objective;
use perwatt_planner::figure::settled_band;
use std::collections::BTreeMap;

/// The profile of a figure of a variant without a device.
pub const NO_DEVICE: &str = "-";

/// Figures that a status holds.
const FIGURE_LIMIT: usize = 64;

/// Inferences below which a 99th percentile is a guess.
const LEAST_INFERENCES: u64 = 100;

/// What was found of one variant on one kind of device by all pods that were asked.
#[derive(Default)]
struct Sum {
    microjoules: u128,
    inferences: u128,
    p99_seconds: f64,
    /// The weakest.
    source: Option<FigureSource>,
    emulated: bool,
}

/// The figures of a workload: those that it has, with what was found since.
#[must_use]
pub fn compute(facts: &Facts<'_>) -> Vec<MeasuredFigure> {
    let status = facts.workload.status.as_ref();
    let known = status.map_or(&[][..], |status| &status.figures);
    let spec = &facts.workload.spec;
    if !is_wanted(spec) {
        return Vec::new();
    }
    let mut figures: BTreeMap<(String, String), MeasuredFigure> = known
        .iter()
        .map(|figure| ((figure.variant.clone(), figure.profile.clone()), figure.clone()))
        .collect();
    for (place, sum) in sums(facts) {
        let figure = settle(figures.get(&place), &place, &sum);
        figures.insert(place, figure);
    }
    let is_named = |variant: &str| spec.variants.iter().any(|known| known.name == variant);
    let figures = figures.into_values().filter(|figure| is_named(&figure.variant));
    figures.take(FIGURE_LIMIT).collect()
}

fn is_wanted(spec: &InferenceWorkloadSpec) -> bool {
    spec.expected_rate_per_minute.is_some()
        || spec.placement.latency.is_some()
        || spec.placement.objective == Objective::Latency
}

fn sums(facts: &Facts<'_>) -> BTreeMap<(String, String), Sum> {
    let mut sums = BTreeMap::<(String, String), Sum>::new();
    for (uid, owned) in facts.pods.values() {
        // What another revision cost says nothing of this one.
        if owned.revision != facts.revision {
            continue;
        }
        for report in facts
            .evidence
            .report(uid)
            .into_iter()
            .flat_map(|report| report.variants)
        {
            let profile = owned.profile.as_deref().filter(|_| report.name == owned.variant);
            let place = (report.name.clone(), profile.unwrap_or(NO_DEVICE).to_owned());
            add(sums.entry(place).or_default(), &report);
        }
    }
    sums.retain(|_, sum| sum.inferences > 0);
    sums
}

fn add(sum: &mut Sum, report: &VariantReport) {
    let latency = report.latency_seconds.as_ref();
    let Some(latency) = latency.filter(|latency| latency.count >= LEAST_INFERENCES) else {
        return;
    };
    let count = u128::from(latency.count);
    sum.inferences += count;
    sum.p99_seconds = sum.p99_seconds.max(latency.p99.unwrap_or_default());
    if let Some(energy) = &report.energy {
        sum.microjoules += u128::from(energy.microjoules_per_inference) * count;
        sum.source = sum.source.max(Some(source(energy)));
        sum.emulated |= energy.emulated;
    }
}

fn source(energy: &Energy) -> FigureSource {
    match energy.source.as_str() {
        "measured" => FigureSource::Measured,
        "modelled" => FigureSource::Modelled,
        _ => FigureSource::Nameplate,
    }
}

fn settle(known: Option<&MeasuredFigure>, place: &(String, String), sum: &Sum) -> MeasuredFigure {
    let mean = u64::try_from(sum.microjoules / sum.inferences.max(1)).unwrap_or(u64::MAX);
    let known_energy = known.and_then(|known| known.microjoules_per_inference);
    let known_p99 = known.and_then(|known| known.p99_microseconds);
    let p99 = microseconds(sum.p99_seconds).map(|found| settled_band(known_p99, found));
    let energy = (mean > 0).then(|| settled_band(known_energy, mean));
    MeasuredFigure {
        variant: place.0.clone(),
        profile: place.1.clone(),
        microjoules_per_inference: energy.or(known_energy),
        p99_microseconds: p99.or(known_p99),
        source: sum
            .source
            .filter(|_| energy.is_some())
            .or(known.map(|known| known.source))
            .unwrap_or_default(),
        emulated: sum.emulated || (energy.is_none() && known.is_some_and(|known| known.emulated)),
    }
}

/// Nothing where it is no positive time: what runtimes say is not to be trusted blindly.
fn microseconds(seconds: f64) -> Option<u64> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive, and less than a day"
    )]
    (seconds > 0.0 && seconds < 86_400.0).then(|| (seconds * 1e6).ceil() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::evidence::Latency;
    use perwatt_planner::figure::band;

    fn report(count: u64, p99: f64, microjoules: u64) -> VariantReport {
        VariantReport {
            name: "chip".into(),
            latency_seconds: Some(Latency {
                p95: p99,
                p99: Some(p99),
                count,
            }),
            energy: Some(Energy {
                microjoules_per_inference: microjoules,
                source: "modelled".into(),
                emulated: false,
            }),
        }
    }

    fn place() -> (String, String) {
        ("chip".into(), "kind".into())
    }

    #[test]
    fn pods_count_by_their_inferences_and_the_slowest_sets_the_latency() {
        let mut sum = Sum::default();
        add(&mut sum, &report(100, 0.002, 1_000));
        add(&mut sum, &report(300, 0.003, 2_000));
        add(&mut sum, &report(99, 9.0, 9_000_000));
        let figure = settle(None, &place(), &sum);
        assert_eq!(figure.microjoules_per_inference, Some(band(1_750)));
        assert_eq!(figure.p99_microseconds, Some(band(3_000)));
        assert_eq!(figure.source, FigureSource::Modelled);
    }

    #[test]
    fn a_figure_stays_in_its_band_and_a_time_that_is_none_changes_nothing() {
        let mut sum = Sum::default();
        add(&mut sum, &report(100, 0.002, 1_000));
        let first = settle(None, &place(), &sum);
        let mut noise = Sum::default();
        add(&mut noise, &report(100, f64::NAN, 1_010));
        assert_eq!(settle(Some(&first), &place(), &noise), first);
    }
}
