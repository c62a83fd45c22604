//! Temperature in steps that do not flicker.

use crate::constants::{TEMPERATURE_BANDS, TEMPERATURE_MARGIN};
use perwatt_crds::inventory::TemperatureBand;

/// How hot a device is, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heat {
    Cool,
    Warm,
    NearThrottle,
    Throttling,
    Critical,
}

impl Heat {
    pub(super) fn of(millicelsius: i32, before: Option<Self>) -> Self {
        let plain = Self::step(millicelsius);
        match before {
            // On the way down the edge lies lower, so that a device at an edge does not flicker.
            Some(before) if plain < before => {
                Self::step(millicelsius.saturating_add(TEMPERATURE_MARGIN * 1000)).min(before)
            }
            _ => plain,
        }
    }

    fn step(millicelsius: i32) -> Self {
        let [warm, near, throttle, critical] = TEMPERATURE_BANDS.map(|degrees| degrees * 1000);
        match millicelsius {
            t if t >= critical => Self::Critical,
            t if t >= throttle => Self::Throttling,
            t if t >= near => Self::NearThrottle,
            t if t >= warm => Self::Warm,
            _ => Self::Cool,
        }
    }

    pub(super) fn band(self) -> TemperatureBand {
        match self {
            Self::Cool => TemperatureBand::Cool,
            Self::Warm => TemperatureBand::Warm,
            Self::NearThrottle => TemperatureBand::NearThrottle,
            Self::Throttling | Self::Critical => TemperatureBand::Throttling,
        }
    }
}
