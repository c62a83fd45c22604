//! Energy of an inference, and where the figure comes from.

use perwatt_device_socket::{DeviceState, PowerSource};
use std::time::Duration;

/// Energy of one inference.
#[derive(Debug, Clone, PartialEq)]
pub struct Energy {
    /// Microjoules.
    pub microjoules: f64,
    /// Where the power figure comes from.
    pub source: Source,
    /// Whether the device is emulated.
    pub emulated: bool,
}

/// Where a power figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A sensor.
    Measured,
    /// A model of the device.
    Modelled,
    /// The maker's data sheet.
    Nameplate,
}

impl Source {
    /// The spelling in evidence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Modelled => "modelled",
            Self::Nameplate => "nameplate",
        }
    }
}

impl Energy {
    /// Energy of a model call that took `time` on this device; nothing where its power is unknown.
    ///
    /// Milliwatts times microseconds are nanojoules.
    pub fn of(device: &DeviceState, time: Duration) -> Option<Self> {
        let source = match device.power_source() {
            PowerSource::Measured => Source::Measured,
            PowerSource::Modelled => Source::Modelled,
            PowerSource::Nameplate => Source::Nameplate,
            PowerSource::Unknown => return None,
        };
        if device.active_milliwatts == 0 {
            return None;
        }
        let microjoules = device.active_milliwatts as f64 * time.as_secs_f64() * 1e3;
        Some(Self {
            microjoules,
            source,
            emulated: device.emulated,
        })
    }

    /// The source as replies and metrics spell it.
    pub fn label(&self) -> &'static str {
        match (self.emulated, self.source) {
            (false, source) => source.as_str(),
            (true, Source::Measured) => "emulated measured",
            (true, Source::Modelled) => "emulated modelled",
            (true, Source::Nameplate) => "emulated nameplate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliwatts_times_time() {
        let mut device = DeviceState {
            active_milliwatts: 2500,
            emulated: true,
            ..DeviceState::default()
        };
        assert_eq!(
            Energy::of(&device, Duration::from_millis(1)),
            None,
            "a figure without source is none"
        );
        device.set_power_source(PowerSource::Nameplate);
        let energy = Energy::of(&device, Duration::from_micros(400)).unwrap();
        // 2.5 W for 0.4 ms are 1 mJ.
        assert!((energy.microjoules - 1000.0).abs() < 1e-6, "{energy:?}");
        assert_eq!(energy.label(), "emulated nameplate");
    }
}
