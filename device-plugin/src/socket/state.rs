//! What a runtime is told of its device. Pure.

use crate::state::Device;
use crate::telemetry::{FigureSource, Throttle};
use perwatt_crds::inventory::{DeviceHealth, HealthDimension, HealthReason, TemperatureBand};
use perwatt_device_socket::{DeviceState, Health, PowerSource};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

/// A number of this agent's life; another one after its restart, which begins its sums anew.
pub(super) fn epoch() -> u64 {
    static EPOCH: OnceLock<u64> = OnceLock::new();
    *EPOCH.get_or_init(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::try_from(now.map_or(1, |now: Duration| now.as_millis()))
            .unwrap_or(1)
            .max(1)
    })
}

/// The state of a device, whole.
pub(super) fn build_state(device: &Device, epoch: u64) -> DeviceState {
    let view = &device.view;
    let is_drain = |reason: &&HealthReason| reason.dimension == HealthDimension::Drained;
    let drain = view.reasons.iter().find(is_drain);
    let reason = view.reasons.iter().find(|reason| !is_drain(reason));
    let (active_milliwatts, power_source) = power(device);
    let energy = energy(device);
    let health = match view.own_health {
        DeviceHealth::Healthy => Health::Healthy,
        DeviceHealth::Degraded => Health::Degraded,
        DeviceHealth::Unhealthy => Health::Unhealthy,
        DeviceHealth::Unknown => Health::Unknown,
    };
    let throttles = view.figures.throttles.as_deref().unwrap_or_default();
    DeviceState {
        id: device.found.id.clone(),
        profile: device.found.profile.clone(),
        health: health.into(),
        reason: reason
            .map(|reason| reason.dimension.as_str().to_owned())
            .unwrap_or_default(),
        message: reason.map(|reason| reason.message.clone()).unwrap_or_default(),
        emulated: device.found.emulated,
        active_milliwatts: active_milliwatts.into(),
        power_source: power_source.into(),
        energy_microjoules: energy.map_or(0, |(microjoules, _)| microjoules),
        energy_source: energy.map_or(PowerSource::Unknown, |(_, source)| source).into(),
        energy_epoch: energy.map_or(0, |_| epoch),
        throttling: view.band == Some(TemperatureBand::Throttling)
            || throttles.iter().any(|throttle| *throttle != Throttle::Other),
        asleep: view.figures.asleep,
        going_away: drain.is_some(),
        going_away_message: drain.map(|drain| drain.message.clone()).unwrap_or_default(),
    }
}

/// Power while a model runs: what the device tells or a model says, else its nameplate.
fn power(device: &Device) -> (u32, PowerSource) {
    let (view, found) = (&device.view, &device.found);
    if let Some((milliwatts, source)) = view.figures.power {
        let source = if found.emulated {
            FigureSource::Modelled
        } else {
            source
        };
        return (milliwatts, source_of(source));
    }
    match (view.milliwatts, found.power.typical_milliwatts) {
        (Some(told), _) if found.emulated => (told, PowerSource::Modelled),
        (Some(told), _) => (told, PowerSource::Measured),
        (None, Some(nameplate)) => (nameplate, PowerSource::Nameplate),
        (None, None) => (0, PowerSource::Unknown),
    }
}

/// The sum of the best source that has one.
fn energy(device: &Device) -> Option<(u64, PowerSource)> {
    FigureSource::ALL.into_iter().find_map(|source| {
        let microjoules = device.view.figures.energy.microjoules(source);
        (microjoules > 0).then(|| (microjoules, source_of(source)))
    })
}

fn source_of(source: FigureSource) -> PowerSource {
    match source {
        FigureSource::Measured => PowerSource::Measured,
        FigureSource::Modelled => PowerSource::Modelled,
        FigureSource::Nameplate => PowerSource::Nameplate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{Field, Reading};
    use crate::energy::meter::Meter;
    use crate::fixtures;
    use crate::health::Judge;
    use crate::paths::Paths;
    use std::path::Path;
    use std::time::Instant;

    fn device() -> Device {
        let paths = Paths::below(Path::new("/nowhere"));
        fixtures::node(&paths).devices.remove("chip-0").unwrap()
    }

    #[test]
    fn a_drained_device_is_going_away_and_still_what_it_is() {
        let mut device = device();
        let mut found = (*device.found).clone();
        found.drained = Some("a fan".into());
        let mut judge = Judge::default();
        let mut tell = |reading| {
            device.view = judge.judge(&found, reading, Instant::now()).view;
            build_state(&device, 7)
        };
        let works = tell(fixtures::well());
        assert_eq!((works.health(), works.reason.as_str()), (Health::Healthy, ""));
        assert!(works.going_away && works.going_away_message.contains("(a fan)"));

        let lost = Reading {
            present: Field::Value(false),
            ..fixtures::well()
        };
        let lost = tell(lost);
        assert_eq!((lost.health(), lost.reason.as_str()), (Health::Unhealthy, "lost"));
        assert!(lost.going_away && lost.message.contains("gone from its bus"));
    }

    #[test]
    fn power_names_its_source() {
        let mut device = device();
        let state = build_state(&device, 7);
        assert_eq!(
            (state.active_milliwatts, state.power_source()),
            (2500, PowerSource::Nameplate)
        );
        assert_eq!((state.energy_microjoules, state.energy_epoch), (0, 0));
        device.view.milliwatts = Some(1800);
        let state = build_state(&device, 7);
        assert_eq!(
            (state.active_milliwatts, state.power_source()),
            (1800, PowerSource::Modelled)
        );
        assert!(state.emulated);
    }

    #[test]
    fn energy_is_summed_and_throttling_said() {
        let mut device = device();
        let mut reading = fixtures::well();
        reading.power = Field::Value(2000);
        reading.telemetry.throttles = Some(vec![Throttle::Power]);
        let mut meter = Meter::default();
        meter.take(&device.found, &reading, Duration::ZERO);
        device.view.figures = meter.take(&device.found, &reading, Duration::from_secs(3));
        let state = build_state(&device, 7);
        assert_eq!((state.energy_microjoules, state.energy_epoch), (6_000_000, 7));
        assert_eq!(state.energy_source(), PowerSource::Modelled);
        assert!(state.throttling && !state.asleep);
    }
}
