//! What serving costs in one way: the objective, in integers.
//!
//! Expected draw of a slot = the idle power that it keeps awake + rate × energy of an inference.
//! A device that cannot sleep draws its idle power whether it serves or not: that is sunk, and
//! counts nothing. One microjoule a second is one microwatt, which is the unit in here: a slot
//! that hears one request a minute costs less than a milliwatt.

use crate::figure::{Figure, Origin, band};
use crate::world::{Profile, Variant, Workload};
use perwatt_crds::performance::FigureSource;
use perwatt_crds::profile::Power;
use perwatt_crds::workload::Objective;
use std::time::Duration;

/// A move must gain more than this share of what the slot costs where it is. Bands are a tenth
/// wide: two figures that each waver between two neighbouring bands change their ratio by at most
/// 1.1 × 1.1, so a slot that moved for more than 1 − 1/1.1 (a little over 9%) never moves back for
/// the noise that moved it.
pub const HYSTERESIS_PERMILLE: u64 = 100;

/// A move for watts must also gain more than this. It starts a pod and often a bridge, which costs
/// some ten joules: 5 milliwatts pay that back within the hour.
pub const HYSTERESIS_MILLIWATTS: u64 = 5;

/// What is known of serving a slot in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Energy of an inference, in microjoules.
    pub microjoules: Option<Figure>,
    /// Latency of an inference, 99th percentile, in microseconds.
    pub p99_microseconds: Option<Figure>,
    /// Idle power that the slot keeps awake, in milliwatts; nothing where the device cannot sleep.
    pub awake_milliwatts: u32,
    /// What the slot is expected to draw, in microwatts; none where its rate or energy is not known.
    pub microwatts: Option<u64>,
}

impl Expected {
    /// What is known of a variant on a profile, or on none.
    pub(crate) fn of(workload: &Workload, variant: &Variant, profile: Option<(&str, &Profile)>) -> Self {
        let power = profile.map(|(_, profile)| &profile.power);
        let p99_microseconds = p99(workload, variant, profile);
        let microjoules = energy(workload, variant, profile, p99_microseconds);
        let awake_milliwatts = power.map_or(0, awake_milliwatts);
        let rate = workload.expected_rate_per_minute;
        let microwatts = rate.zip(microjoules).map(|(rate, energy)| {
            let active = u128::from(rate) * u128::from(energy.value) / 60;
            u64::try_from(active)
                .unwrap_or(u64::MAX)
                .saturating_add(u64::from(awake_milliwatts) * 1000)
        });
        Self {
            microjoules,
            p99_microseconds,
            awake_milliwatts,
            microwatts,
        }
    }

    /// What the objective makes of it: lower is better. None where a figure is missing.
    pub(crate) fn cost(&self, objective: Objective, variant: &Variant) -> Option<u64> {
        match objective {
            Objective::Energy => self.microwatts,
            Objective::Latency => self.p99_microseconds.map(|figure| figure.value),
            Objective::Quality => variant
                .accuracy_permille
                .map(|accuracy| 1000_u64.saturating_sub(u64::from(accuracy))),
            Objective::Order => None,
        }
    }
}

/// Whether `lower` is worth a move from `present`. Accuracy is declared, and does not waver.
pub(crate) fn gains_enough(objective: Objective, lower: u64, present: u64) -> bool {
    let (permille, least) = match objective {
        Objective::Energy => (HYSTERESIS_PERMILLE, HYSTERESIS_MILLIWATTS * 1000),
        Objective::Latency => (HYSTERESIS_PERMILLE, 0),
        Objective::Quality | Objective::Order => (0, 0),
    };
    let margin = (u128::from(present) * u128::from(permille) / 1000).max(u128::from(least));
    u128::from(present.saturating_sub(lower)) > margin
}

/// Idle power that a slot keeps awake.
fn awake_milliwatts(power: &Power) -> u32 {
    match (power.sleep_milliwatts, power.idle_milliwatts) {
        (Some(sleep), Some(idle)) => idle.saturating_sub(sleep),
        _ => 0,
    }
}

/// Latency: measured first, declared next. A nameplate has none.
fn p99(workload: &Workload, variant: &Variant, profile: Option<(&str, &Profile)>) -> Option<Figure> {
    let found = workload.found(&variant.name, profile.map(|(name, _)| name));
    let measured = found.and_then(|found| {
        Some(Figure {
            value: band(found.p99_microseconds?),
            origin: Origin::Measured,
            source: FigureSource::Measured,
            emulated: found.emulated,
        })
    });
    measured.or_else(|| {
        let declared = variant.performance.as_ref()?;
        Some(Figure {
            value: microseconds(declared.p99?),
            origin: Origin::Declared,
            source: declared.source,
            emulated: false,
        })
    })
}

/// Energy of an inference: measured first, declared next, nameplate last. A runtime that knows of
/// its device no more than the nameplate has measured the time, which is better than the nameplate
/// alone, and no better than what somebody declares.
fn energy(
    workload: &Workload,
    variant: &Variant,
    profile: Option<(&str, &Profile)>,
    p99: Option<Figure>,
) -> Option<Figure> {
    let found = workload
        .found(&variant.name, profile.map(|(name, _)| name))
        .and_then(|found| {
            Some(Figure {
                value: band(found.microjoules?),
                origin: Origin::Measured,
                source: found.source,
                emulated: found.emulated,
            })
        });
    let declared = variant.performance.as_ref().and_then(|declared| {
        Some(Figure {
            value: declared.microjoules?,
            origin: Origin::Declared,
            source: declared.source,
            emulated: false,
        })
    });
    found
        .filter(|found| found.source != FigureSource::Nameplate)
        .or(declared)
        .or(found)
        .or_else(|| nameplate_energy(profile?.1, p99?))
}

/// The nameplate's power for as long as an inference takes at most: milliwatts times milliseconds
/// are microjoules.
fn nameplate_energy(profile: &Profile, p99: Figure) -> Option<Figure> {
    let typical = profile.power.typical_milliwatts?;
    Some(Figure {
        value: u64::from(typical).saturating_mul(p99.value) / 1000,
        origin: Origin::Nameplate,
        source: FigureSource::Nameplate,
        emulated: p99.emulated,
    })
}

pub(crate) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
