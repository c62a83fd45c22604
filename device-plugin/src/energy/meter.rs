//! One device's meter: which sample its reading gives, how busy it was, and what that adds up to.

use super::{Bounds, Integrator, Sample, Shape, Totals};
use crate::discovery::{Field, Found, Reading};
use crate::telemetry::{Busy, FigureSource, Memory, Throttle};
use std::time::Duration;

/// Figures of a device that change with every sample. Nobody is woken for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Where temperature, utilisation, clock and memory come from.
    pub source: FigureSource,
    /// Power in milliwatts, and where it comes from.
    pub power: Option<(u32, FigureSource)>,
    /// Thousandths of full use.
    pub utilisation_permille: Option<u16>,
    /// Clock in hertz.
    pub clock_hertz: Option<u64>,
    /// The fastest clock in hertz.
    pub clock_limit_hertz: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Why it is slowed down; nothing where it does not tell.
    pub throttles: Option<Vec<Throttle>>,
    /// Whether it sleeps.
    pub asleep: bool,
    /// Energy since the agent saw the device first.
    pub energy: Totals,
}

/// The meter of one device.
#[derive(Debug, Default)]
pub struct Meter {
    integrator: Integrator,
    busy: Option<(Duration, u64)>,
    has_counter: bool,
}

impl Meter {
    /// Takes what the device tells at `at`, a time that only grows and goes on in suspend.
    pub fn take(&mut self, found: &Found, reading: &Reading, at: Duration) -> Figures {
        self.integrator.set_bounds(Bounds {
            max_milliwatts: found.power.max_milliwatts,
            idle_milliwatts: found.power.idle_milliwatts,
        });
        let telemetry = &reading.telemetry;
        let stale = reading.stale.is_some();
        let (utilisation_permille, shape) = self.utilisation(telemetry.busy, at);
        let power = power(found, reading, utilisation_permille);
        self.has_counter |= telemetry.energy.is_some();
        let (sample, source) = match (telemetry.energy, power) {
            _ if stale => (Sample::Nothing, telemetry.source),
            _ if telemetry.asleep => {
                let milliwatts = found.power.sleep_milliwatts;
                (Sample::Asleep { milliwatts }, FigureSource::Nameplate)
            }
            (Some(counter), _) => {
                let (microjoules, range) = (counter.microjoules, counter.range);
                (Sample::Counter { microjoules, range }, telemetry.source)
            }
            // A counter that is garbled for once bridges the moment; a switch to power would not.
            (None, Some((milliwatts, source))) if !self.has_counter => {
                let shape = match source {
                    FigureSource::Measured => Shape::Point,
                    // An emulated device has the power that was written, until another is.
                    _ if found.emulated => Shape::Hold,
                    _ => shape,
                };
                (Sample::Power { milliwatts, shape }, source)
            }
            _ => (Sample::Nothing, telemetry.source),
        };
        self.integrator.add(at, sample, source);
        Figures {
            source: telemetry.source,
            power,
            utilisation_permille,
            clock_hertz: telemetry.clock_hertz,
            clock_limit_hertz: telemetry.clock_limit_hertz,
            memory: telemetry.memory,
            throttles: telemetry.throttles.clone(),
            asleep: telemetry.asleep,
            energy: self.integrator.totals(),
        }
    }

    /// Thousandths of full use, and what they say of the time around them.
    fn utilisation(&mut self, busy: Option<Busy>, at: Duration) -> (Option<u16>, Shape) {
        match busy {
            Some(Busy::Permille(permille)) => (Some(permille.min(1000)), Shape::Point),
            Some(Busy::Microseconds(now)) => {
                let before = self.busy.replace((at, now));
                let share = before.and_then(|(since, before)| {
                    let time = at.checked_sub(since)?.as_micros();
                    let worked = u128::from(now.checked_sub(before)?);
                    u16::try_from((worked * 1000).checked_div(time)?.min(1000)).ok()
                });
                (share, Shape::Mean)
            }
            None => {
                self.busy = None;
                (None, Shape::Point)
            }
        }
    }
}

/// What the device tells, else a model: between idle and typical power, by its utilisation.
fn power(found: &Found, reading: &Reading, utilisation: Option<u16>) -> Option<(u32, FigureSource)> {
    if let Field::Value(milliwatts) = reading.power {
        return Some((milliwatts, reading.telemetry.source));
    }
    let (idle, typical) = (found.power.idle_milliwatts?, found.power.typical_milliwatts?);
    let more = u64::from(typical.saturating_sub(idle)) * u64::from(utilisation?) / 1000;
    let milliwatts = idle.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
    Some((milliwatts, FigureSource::Modelled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::paths::Paths;
    use crate::telemetry::EnergyCounter;
    use std::path::Path;

    fn found() -> Found {
        let mut found = fixtures::found(&Paths::below(Path::new("/nowhere")));
        found.emulated = false;
        found.power.idle_milliwatts = Some(500);
        found.power.sleep_milliwatts = Some(50);
        found
    }

    /// What the meter says after these readings, a second apart.
    fn figures(found: &Found, readings: &[Reading]) -> Figures {
        let mut meter = Meter::default();
        let mut last = Figures::default();
        for (second, reading) in (0..).zip(readings) {
            last = meter.take(found, reading, Duration::from_secs(second));
        }
        last
    }

    fn busy(micros: u64) -> Reading {
        let mut reading = fixtures::well();
        reading.telemetry.source = FigureSource::Measured;
        reading.telemetry.busy = Some(Busy::Microseconds(micros));
        reading
    }

    #[test]
    fn utilisation_is_the_work_between_two_looks_and_models_power() {
        let figures = figures(&found(), &[busy(0), busy(250_000), busy(500_000)]);
        assert_eq!(figures.utilisation_permille, Some(250));
        // A quarter of the way from 500 to 2500 mW.
        assert_eq!(figures.power, Some((1000, FigureSource::Modelled)));
        assert!((figures.energy.joules(FigureSource::Modelled) - 2.0).abs() < 1e-9);
        assert_eq!(figures.energy.joules(FigureSource::Measured), 0.0);
    }

    #[test]
    fn a_counter_comes_before_power_and_sleep_before_both() {
        let at = |microjoules| {
            let mut reading = fixtures::well();
            reading.telemetry.source = FigureSource::Measured;
            reading.power = Field::Value(9000);
            reading.telemetry.energy = Some(EnergyCounter {
                microjoules,
                range: None,
            });
            reading
        };
        let mut garbled = at(0);
        garbled.telemetry.energy = None;
        let counted = figures(&found(), &[at(0), garbled, at(3_000_000)]);
        assert_eq!(counted.energy.joules(FigureSource::Measured), 3.0);
        assert_eq!(counted.power, Some((9000, FigureSource::Measured)));
        let mut asleep = fixtures::well();
        asleep.telemetry.asleep = true;
        let slept = figures(&found(), &[asleep.clone(), asleep]);
        assert!((slept.energy.joules(FigureSource::Nameplate) - 0.05).abs() < 1e-9);
    }

    #[test]
    fn an_emulated_device_holds_its_power_and_a_silent_probe_counts_nothing() {
        let mut device = found();
        device.emulated = true;
        let at = |milliwatts| {
            let mut reading = fixtures::well();
            reading.power = Field::Value(milliwatts);
            reading
        };
        let figures = figures(&device, &[at(1000), at(4000), Reading::stale("late".into())]);
        assert_eq!(figures.energy.joules(FigureSource::Modelled), 5.0);
        assert_eq!(figures.energy.joules(FigureSource::Measured), 0.0);
    }
}
