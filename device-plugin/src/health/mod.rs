//! From what a device tells to what it is: pure, with the time as an argument.
//!
//! Three steps. *Settling*: a value that is gone or cannot be understood counts only once it has
//! stayed so for a moment, for a file may be seen half written. *Verdict*: the worst of all dimensions,
//! with one reason each. *Damping*: worse counts at once, better only once it has lasted.

mod findings;
mod heat;

pub use findings::clip;

use crate::constants::{GARBAGE_SETTLES, RECOVERY_STABLE, UNKNOWN_GRACE};
use crate::discovery::{Field, Found, Reading};
use findings::{Facts, Finding, determine_findings, value};
use heat::Heat;
use perwatt_crds::inventory::{DeviceHealth, HealthReason, TemperatureBand};
use std::time::{Duration, Instant};

/// What a device is, after settling and damping.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Whether it may be used.
    pub health: DeviceHealth,
    /// One for each dimension that is not well.
    pub reasons: Vec<HealthReason>,
    /// Whether the kubelet may give it to new pods.
    pub usable: bool,
    /// Firmware version.
    pub firmware: Option<String>,
    /// Thousandths of a degree Celsius.
    pub millicelsius: Option<i32>,
    /// The same as a band that does not flicker.
    pub band: Option<TemperatureBand>,
    /// Power now, in milliwatts, where the device tells it.
    pub milliwatts: Option<u32>,
    /// Major and minor number of the device node; none while there is none.
    pub node: Option<(u32, u32)>,
}

/// Judges one device over time.
#[derive(Debug, Default)]
pub struct Judge {
    present: Settler<bool>,
    health: Settler<DeviceHealth>,
    temperature: Settler<i32>,
    power: Settler<u32>,
    firmware: Settler<String>,
    heat: Option<Heat>,
    node: Option<(u32, u32)>,
    shown: Option<Shown>,
    usable_before: bool,
}

#[derive(Debug)]
struct Shown {
    health: DeviceHealth,
    reasons: Vec<HealthReason>,
    usable: bool,
    better_since: Option<Instant>,
    unknown_since: Option<Instant>,
}

/// What a reading leads to, and when to look again although nothing changed.
#[derive(Debug)]
pub struct Judgement {
    /// What the device is now.
    pub view: View,
    /// When the same reading would be judged differently.
    pub again: Option<Duration>,
}

impl Judge {
    /// Judges what a device tells at `now`.
    pub fn judge(&mut self, found: &Found, reading: Reading, now: Instant) -> Judgement {
        let mut again = Again::default();
        let facts = match reading.stale {
            Some(text) => Facts::stale(text, self.node),
            None => self.settle(reading, now, &mut again),
        };
        self.heat = value(&facts.temperature).map(|millicelsius| Heat::of(*millicelsius, self.heat));
        self.node = facts.node.clone().ok().flatten();
        let findings = determine_findings(found, &facts, self.heat);
        let shown = Shown::next(self.shown.take(), self.usable_before, findings, now, &mut again);
        let view = View {
            health: shown.health,
            reasons: shown.reasons.clone(),
            usable: shown.usable,
            firmware: value(&facts.firmware).cloned(),
            millicelsius: value(&facts.temperature).copied(),
            band: self.heat.map(Heat::band),
            milliwatts: value(&facts.power).copied(),
            node: self.node,
        };
        self.shown = Some(shown);
        Judgement { view, again: again.0 }
    }

    fn settle(&mut self, reading: Reading, now: Instant, again: &mut Again) -> Facts {
        Facts {
            node: reading.node.map(Some),
            present: self.present.settle(reading.present, now, again),
            health: self.health.settle(reading.health, now, again),
            temperature: self.temperature.settle(reading.temperature, now, again),
            power: self.power.settle(reading.power, now, again),
            firmware: self.firmware.settle(reading.firmware, now, again),
            stale: None,
        }
    }

    /// Goes on from what the kubelet was told last, so that a restart of the agent does not take
    /// a device from the kubelet that is merely unknown for a moment.
    #[must_use]
    pub fn resume(usable: bool) -> Self {
        Self {
            usable_before: usable,
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct Again(Option<Duration>);

impl Again {
    fn within(&mut self, wait: Duration) {
        self.0 = Some(self.0.map_or(wait, |other| other.min(wait)));
    }
}

/// The last good value, and since when there is none.
#[derive(Debug)]
struct Settler<T> {
    good: Option<T>,
    doubtful_since: Option<Instant>,
}

impl<T> Default for Settler<T> {
    fn default() -> Self {
        Self {
            good: None,
            doubtful_since: None,
        }
    }
}

impl<T: Clone> Settler<T> {
    fn settle(&mut self, field: Field<T>, now: Instant, again: &mut Again) -> Field<T> {
        if let Field::Value(value) = &field {
            self.doubtful_since = None;
            self.good = Some(value.clone());
            return field;
        }
        let since = *self.doubtful_since.get_or_insert(now);
        let waited = now.saturating_duration_since(since);
        match &self.good {
            Some(good) if waited < GARBAGE_SETTLES => {
                again.within(GARBAGE_SETTLES - waited);
                Field::Value(good.clone())
            }
            _ => {
                self.good = None;
                field
            }
        }
    }
}

fn rank(health: DeviceHealth) -> u8 {
    match health {
        DeviceHealth::Healthy => 0,
        DeviceHealth::Degraded => 1,
        DeviceHealth::Unknown => 2,
        DeviceHealth::Unhealthy => 3,
    }
}

impl Shown {
    fn next(
        before: Option<Self>,
        usable: bool,
        findings: Vec<Finding>,
        now: Instant,
        again: &mut Again,
    ) -> Self {
        let health = findings
            .iter()
            .map(|(health, _)| *health)
            .max_by_key(|health| rank(*health));
        let health = health.unwrap_or(DeviceHealth::Healthy);
        let reasons: Vec<_> = findings.into_iter().map(|(_, reason)| reason).collect();
        let mut shown = match before {
            None => Self {
                health,
                reasons,
                usable,
                better_since: None,
                unknown_since: None,
            },
            Some(mut shown) => {
                shown.damp(health, reasons, now, again);
                shown
            }
        };
        shown.decide_use(now, again);
        shown
    }

    fn damp(&mut self, health: DeviceHealth, reasons: Vec<HealthReason>, now: Instant, again: &mut Again) {
        if rank(health) < rank(self.health) {
            let since = *self.better_since.get_or_insert(now);
            let waited = now.saturating_duration_since(since);
            if waited < RECOVERY_STABLE {
                again.within(RECOVERY_STABLE - waited);
                return;
            }
        }
        self.better_since = None;
        self.health = health;
        self.reasons = reasons;
    }

    fn decide_use(&mut self, now: Instant, again: &mut Again) {
        if self.health != DeviceHealth::Unknown {
            self.unknown_since = None;
            self.usable = matches!(self.health, DeviceHealth::Healthy | DeviceHealth::Degraded);
            return;
        }
        let since = *self.unknown_since.get_or_insert(now);
        let waited = now.saturating_duration_since(since);
        if waited >= UNKNOWN_GRACE {
            self.usable = false;
        } else if self.usable {
            again.within(UNKNOWN_GRACE - waited);
        }
    }
}

#[cfg(test)]
mod tests;
