//! Temperature in steps that do not flicker.

use crate::constants::{TEMPERATURE_BANDS, TEMPERATURE_MARGIN};
use perwatt_crds::inventory::TemperatureBand;
use perwatt_crds::profile::Thermal;

/// How hot a device is, in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heat {
    Cool,
    Warm,
    NearThrottle,
    Throttling,
    Critical,
}

/// Where a device's steps begin, in thousandths of a degree Celsius.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edges {
    warm: i32,
    near: i32,
    pub(super) throttle: i32,
    resume: i32,
    pub(super) critical: i32,
}

impl Edges {
    /// By the profile; where it does not say, too hot is what the device's own sensor calls
    /// critical, and the rest our own table. The lower edges keep their distance from throttling.
    pub(super) fn of(thermal: Option<&Thermal>, critical: Option<i32>) -> Self {
        let [warm, near, throttle, too_hot] = TEMPERATURE_BANDS.map(|degrees| degrees * 1000);
        let Some(thermal) = thermal else {
            // A sensor whose limit lies below our edges moves them all.
            let critical = critical.unwrap_or(too_hot);
            return Self::around(critical.min(too_hot) - (too_hot - throttle), critical);
        };
        let edge = thermal.throttle_celsius * 1000;
        let critical = thermal.critical_celsius.map(|degrees| degrees * 1000);
        Self {
            warm: edge - (throttle - warm),
            near: edge - (throttle - near),
            resume: thermal
                .resume_celsius
                .map_or(edge - TEMPERATURE_MARGIN * 1000, |degrees| degrees * 1000),
            ..Self::around(edge, critical.unwrap_or(edge + too_hot - throttle))
        }
    }

    fn around(edge: i32, critical: i32) -> Self {
        let [warm, near, throttle, _] = TEMPERATURE_BANDS.map(|degrees| degrees * 1000);
        Self {
            warm: edge - (throttle - warm),
            near: edge - (throttle - near),
            throttle: edge,
            resume: edge - TEMPERATURE_MARGIN * 1000,
            critical,
        }
    }
}

impl Heat {
    pub(super) fn of(millicelsius: i32, edges: &Edges, before: Option<Self>) -> Self {
        let plain = Self::step(millicelsius, edges);
        let Some(before) = before.filter(|before| plain < *before) else {
            return plain;
        };
        // On the way down the edge lies lower, so that a device at an edge does not flicker.
        let margin = Self::step(millicelsius.saturating_add(TEMPERATURE_MARGIN * 1000), edges).min(before);
        if before >= Self::Throttling && millicelsius > edges.resume {
            return margin.max(Self::Throttling);
        }
        margin
    }

    fn step(millicelsius: i32, edges: &Edges) -> Self {
        match millicelsius {
            t if t >= edges.critical => Self::Critical,
            t if t >= edges.throttle => Self::Throttling,
            t if t >= edges.near => Self::NearThrottle,
            t if t >= edges.warm => Self::Warm,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_moves_the_edges_and_says_when_it_is_over() {
        let thermal = Thermal {
            throttle_celsius: 80,
            resume_celsius: Some(70),
            critical_celsius: None,
        };
        let edges = Edges::of(Some(&thermal), Some(999_000));
        let mut heat = None;
        let mut at = |degrees: i32| {
            heat = Some(Heat::of(degrees * 1000, &edges, heat));
            heat.unwrap()
        };
        assert_eq!(at(44), Heat::Cool);
        assert_eq!(at(45), Heat::Warm);
        assert_eq!(at(70), Heat::NearThrottle);
        assert_eq!(at(80), Heat::Throttling);
        assert_eq!(
            at(71),
            Heat::Throttling,
            "it has not cooled down to where it resumes"
        );
        assert_eq!(at(70), Heat::NearThrottle);
        assert_eq!(at(90), Heat::Critical);
        assert_eq!(at(86), Heat::Throttling);
    }

    #[test]
    fn without_a_profile_a_sensor_says_what_is_critical() {
        let plain = Edges::of(None, None);
        assert_eq!((plain.throttle, plain.critical), (95_000, 105_000));
        let low = Edges::of(None, Some(90_000));
        assert_eq!((low.throttle, low.critical, low.resume), (80_000, 90_000, 77_000));
        assert_eq!(Edges::of(None, Some(120_000)).critical, 120_000);
    }
}
