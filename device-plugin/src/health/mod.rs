//! From what a device tells to what it is: pure, with the time as an argument.
//!
//! Three steps. *Settling*: a value that is gone or cannot be understood counts only once it has
//! stayed so for a moment, for a file may be seen half written. *Verdict*: the worst of all dimensions,
//! with one reason each. *Damping*: worse counts at once, better only once it has lasted, over
//! several probes; longer where the device is flapping.

mod bus;
mod damping;
mod drain;
mod findings;
mod heat;

use crate::constants::{GARBAGE_SETTLES, SENSOR_EXPIRES};
use crate::discovery::{Field, Found, Reading};
use crate::energy::meter::Figures;
use bus::BusWatch;
use damping::Shown;
use findings::{Facts, determine_findings, value};
use heat::{Edges, Heat};
use perwatt_crds::inventory::{DeviceHealth, HealthReason, TemperatureBand};
use perwatt_crds::text::cut;
use std::time::{Duration, Instant};

/// What a device is, after settling and damping.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Whether it may be used.
    pub health: DeviceHealth,
    /// The same if nobody drained it.
    pub own_health: DeviceHealth,
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
    /// Driver, and its version where it has one.
    pub driver: Option<String>,
    /// Major and minor number of the device node; none while there is none.
    pub node: Option<(u32, u32)>,
    /// Figures that change with every sample; the judge leaves them to the meter.
    pub figures: Figures,
}

impl View {
    /// Whether it says the same as `other`, whatever the figures are.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let Self {
            health,
            own_health,
            reasons,
            usable,
            firmware,
            millicelsius: _,
            band,
            milliwatts: _,
            driver,
            node,
            figures: _,
        } = self;
        *health == other.health
            && *own_health == other.own_health
            && same_reasons(reasons, &other.reasons)
            && *usable == other.usable
            && *firmware == other.firmware
            && *band == other.band
            && *driver == other.driver
            && *node == other.node
    }
}

/// A message that differs by a figure alone, such as a temperature, is no news.
fn same_reasons(one: &[HealthReason], other: &[HealthReason]) -> bool {
    let plain = |reason: &HealthReason| {
        let words: String = reason
            .message
            .chars()
            .filter(|c| !c.is_ascii_digit() && *c != '.')
            .collect();
        (reason.dimension, reason.recovery, words)
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| plain(one) == plain(other))
}

/// Judges one device over time.
#[derive(Debug, Default)]
pub struct Judge {
    present: Settler<bool>,
    health: Settler<DeviceHealth>,
    temperature: Settler<i32>,
    power: Settler<u32>,
    firmware: Settler<String>,
    bus: BusWatch,
    warm: Option<Instant>,
    heat: Option<Heat>,
    node: Option<(u32, u32)>,
    shown: Option<Shown>,
    usable_before: bool,
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
        let facts = self.settle(found, reading, now, &mut again);
        let edges = Edges::of(
            found.rules.thermal.as_ref(),
            facts.telemetry.critical_millicelsius,
        );
        self.heat = value(&facts.temperature).map(|millicelsius| Heat::of(*millicelsius, &edges, self.heat));
        self.node = facts.node.clone().ok().flatten();
        let findings = determine_findings(found, &facts, self.heat);
        let shown = Shown::next(self.shown.take(), self.usable_before, findings, now, &mut again);
        let view = View {
            health: shown.health,
            own_health: shown.health,
            reasons: shown.reasons.clone(),
            usable: shown.usable,
            firmware: facts.firmware().map(str::to_owned),
            millicelsius: value(&facts.temperature).copied(),
            band: self.heat.map(Heat::band),
            milliwatts: value(&facts.power).copied(),
            driver: driver(&facts.bus),
            node: self.node,
            figures: Figures::default(),
        };
        self.shown = Some(shown);
        Judgement {
            view: drain::drain(found, view),
            again: again.0,
        }
    }

    /// Of a probe that gave no answer nothing is settled: the device node is where it was.
    fn settle(&mut self, found: &Found, reading: Reading, now: Instant, again: &mut Again) -> Facts {
        let stale = reading.stale.is_some();
        let silent = self.check_silent(found, &reading, now, again);
        let trouble = self
            .bus
            .look(&reading.bus, found.class, now, |wait| again.within(wait));
        let mut facts = Facts {
            node: if stale {
                Ok(self.node)
            } else {
                reading.node.map(Some)
            },
            present: reading.present,
            health: reading.health,
            temperature: reading.temperature,
            power: reading.power,
            firmware: reading.firmware,
            telemetry: reading.telemetry,
            bus: reading.bus,
            faults: reading.faults,
            vendor: reading.vendor,
            trouble,
            silent,
            stale: reading.stale,
        };
        if !stale {
            facts.present = self.present.settle(facts.present, now, again);
            facts.health = self.health.settle(facts.health, now, again);
            facts.temperature = self.temperature.settle(facts.temperature, now, again);
            facts.power = self.power.settle(facts.power, now, again);
            facts.firmware = self.firmware.settle(facts.firmware, now, again);
        }
        facts
    }

    /// A sensor that told its value, and then no more, is not one that never did. An emulated
    /// device's files come and go as a person likes.
    fn check_silent(
        &mut self,
        found: &Found,
        reading: &Reading,
        now: Instant,
        again: &mut Again,
    ) -> Option<String> {
        let told = reading.temperature != Field::Absent;
        if told || reading.telemetry.asleep || found.emulated {
            self.warm = told.then_some(now);
            return None;
        }
        let ago = now.saturating_duration_since(self.warm?);
        if reading.stale.is_some() || ago < SENSOR_EXPIRES {
            again.within(SENSOR_EXPIRES.saturating_sub(ago));
            return None;
        }
        Some(format!(
            "has told no temperature for over {} s, and did before: see the node's kernel log",
            SENSOR_EXPIRES.as_secs()
        ))
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

fn driver(bus: &crate::bus::Bus) -> Option<String> {
    let name = bus.driver.as_ref()?.as_deref()?;
    let text = match &bus.driver_version {
        Some(version) => format!("{name} {version}"),
        None => name.to_owned(),
    };
    Some(cut(text, 64))
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

#[cfg(test)]
mod tests;
