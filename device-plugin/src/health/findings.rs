//! What is not well with a device, one finding for each dimension.

use super::bus::Trouble;
use super::heat::{Edges, Heat};
use crate::bus::Bus;
use crate::constants::VENDOR_PROBE;
use crate::discovery::{Fault, Field, Found};
use crate::firmware;
use crate::telemetry::{Telemetry, Throttle};
use crate::vendor::VendorReport;
use perwatt_crds::inventory::{DeviceHealth, HealthDimension, HealthReason, Recovery};
use perwatt_crds::text::tidy;

/// What a device tells, settled.
pub(super) struct Facts {
    pub(super) node: Result<Option<(u32, u32)>, String>,
    pub(super) present: Field<bool>,
    pub(super) health: Field<DeviceHealth>,
    pub(super) temperature: Field<i32>,
    pub(super) power: Field<u32>,
    pub(super) firmware: Field<String>,
    pub(super) telemetry: Telemetry,
    pub(super) bus: Bus,
    pub(super) faults: Vec<Fault>,
    pub(super) vendor: Option<VendorReport>,
    /// What of the bus has lasted long enough to count.
    pub(super) trouble: Vec<Trouble>,
    /// Set when a sensor that told something has fallen silent.
    pub(super) silent: Option<String>,
    pub(super) stale: Option<String>,
}

impl Facts {
    /// The firmware that the device tells, or else its vendor's probe.
    pub(super) fn firmware(&self) -> Option<&str> {
        let vendor = || self.vendor.as_ref().and_then(|report| report.firmware.as_ref());
        value(&self.firmware).or_else(vendor).map(String::as_str)
    }
}

/// What a field holds.
pub(super) fn value<T>(field: &Field<T>) -> Option<&T> {
    match field {
        Field::Value(value) => Some(value),
        _ => None,
    }
}

/// A health that one dimension alone would give the device, and why.
pub(super) type Finding = (DeviceHealth, HealthReason);

fn finding(health: DeviceHealth, dimension: HealthDimension, message: impl Into<String>) -> Finding {
    ends_by(Recovery::Itself, health, dimension, message)
}

fn ends_by(
    recovery: Recovery,
    health: DeviceHealth,
    dimension: HealthDimension,
    message: impl Into<String>,
) -> Finding {
    let message = tidy(&message.into(), 1024);
    (
        health,
        HealthReason {
            dimension,
            message,
            recovery,
        },
    )
}

/// At most one finding for each dimension, the worst of it; gone or silent hides the rest.
pub(super) fn determine_findings(found: &Found, facts: &Facts, heat: Option<Heat>) -> Vec<Finding> {
    if let Some(text) = &facts.stale {
        return vec![finding(DeviceHealth::Unknown, HealthDimension::Unmonitored, text)];
    }
    if let Some(lost) = check_lost(found, facts) {
        return vec![lost];
    }
    let mut findings: Vec<Finding> = Vec::new();
    let faults = facts.faults.iter().map(|fault| check_reported(found, fault));
    let trouble = facts.trouble.iter().map(|trouble| check_bus(found, trouble));
    let checks = [
        check_fault(found, facts),
        check_vendor(found, facts),
        check_heat(found, facts, heat),
        check_throttled(found, facts),
        check_power(found, facts),
        check_firmware(found, facts),
        check_driver(found, facts),
        check_monitored(found, facts),
        check_silent(found, facts),
    ];
    for next in checks.into_iter().flatten().chain(faults).chain(trouble) {
        match findings
            .iter_mut()
            .find(|(_, reason)| reason.dimension == next.1.dimension)
        {
            Some(before) if super::rank(next.0) > super::rank(before.0) => *before = next,
            Some(_) => {}
            None => findings.push(next),
        }
    }
    findings
}

fn check_lost(found: &Found, facts: &Facts) -> Option<Finding> {
    let recovery = if found.emulated {
        Recovery::Itself
    } else {
        Recovery::Replug
    };
    let (recovery, text) = match (&facts.node, value(&facts.present), facts.faults.first()) {
        // Who could tell why it is lost knows best what brings it back.
        (_, Some(false), Some(fault)) => (fault.recovery, format!("device {} {}", found.id, fault.text)),
        (Err(text), ..) => (recovery, text.clone()),
        (_, Some(false), _) if found.emulated => {
            let text = format!(
                "device {} is gone from its bus: its control file present says false",
                found.id
            );
            (recovery, text)
        }
        (_, Some(false), _) => {
            let text = format!(
                "device {} is gone from its bus: plug it in again, or look into the node's kernel log for why it left",
                found.id
            );
            (recovery, text)
        }
        _ => return None,
    };
    Some(ends_by(
        recovery,
        DeviceHealth::Unhealthy,
        HealthDimension::Lost,
        text,
    ))
}

fn check_fault(found: &Found, facts: &Facts) -> Option<Finding> {
    let stated = *value(&facts.health)?;
    let then = match stated {
        DeviceHealth::Healthy | DeviceHealth::Unknown => return None,
        DeviceHealth::Degraded => "it keeps working, slower than it should",
        DeviceHealth::Unhealthy => "it is used again once it reports Healthy",
    };
    let message = format!("device {} reports itself {}; {then}", found.id, stated.as_str());
    Some(finding(stated, HealthDimension::Fault, message))
}

fn check_reported(found: &Found, fault: &Fault) -> Finding {
    let message = format!("device {} {}", found.id, fault.text);
    ends_by(fault.recovery, fault.health, HealthDimension::Fault, message)
}

fn check_vendor(found: &Found, facts: &Facts) -> Option<Finding> {
    let report = facts.vendor.as_ref()?;
    let (_, _, expires) = VENDOR_PROBE;
    if report.age > expires {
        let message = format!(
            "device {}: its vendor's probe has not answered for {} s",
            found.id,
            report.age.as_secs()
        );
        return Some(finding(
            DeviceHealth::Unknown,
            HealthDimension::Unmonitored,
            message,
        ));
    }
    let message = format!("device {}: its vendor's probe says: {}", found.id, report.message);
    match report.health {
        DeviceHealth::Healthy => None,
        // A probe that cannot tell says nothing against the device's own word.
        DeviceHealth::Unknown => Some(finding(
            DeviceHealth::Degraded,
            HealthDimension::Unmonitored,
            message,
        )),
        health => Some(finding(health, HealthDimension::Fault, message)),
    }
}

fn check_heat(found: &Found, facts: &Facts, heat: Option<Heat>) -> Option<Finding> {
    let degrees = f64::from(*value(&facts.temperature)?) / 1000.0;
    let edges = Edges::of(
        found.rules.thermal.as_ref(),
        facts.telemetry.critical_millicelsius,
    );
    let (health, text) = match heat? {
        Heat::Critical => (
            DeviceHealth::Unhealthy,
            format!(
                "hotter than the {} °C that it stands; let it cool down",
                edges.critical / 1000
            ),
        ),
        Heat::Throttling => (
            DeviceHealth::Degraded,
            format!(
                "throttling from {} °C on; improve its cooling or give it less work",
                edges.throttle / 1000
            ),
        ),
        _ => return None,
    };
    let message = format!("device {} is at {degrees} °C, {text}", found.id);
    Some(finding(health, HealthDimension::Thermal, message))
}

/// A device at its power limit works as it was built to; one that is too hot, or whose supply
/// gives way, does not.
fn check_throttled(found: &Found, facts: &Facts) -> Option<Finding> {
    let throttles = facts.telemetry.throttles.as_deref()?;
    let (dimension, text) = if throttles.contains(&Throttle::Thermal) {
        (
            HealthDimension::Thermal,
            "slows itself down because of heat; improve its cooling or give it less work",
        )
    } else if throttles.contains(&Throttle::Current) {
        (
            HealthDimension::Power,
            "slows itself down because its supply gives too little; check the power supply of the node",
        )
    } else {
        return None;
    };
    let message = format!("device {} {text}", found.id);
    Some(finding(DeviceHealth::Degraded, dimension, message))
}

fn check_power(found: &Found, facts: &Facts) -> Option<Finding> {
    let drawn = *value(&facts.power)?;
    let most = found.power.max_milliwatts.filter(|most| drawn > *most)?;
    let message = format!(
        "device {} draws {drawn} mW, more than the {most} mW of its profile {}; check the device and maxMilliwatts",
        found.id, found.profile
    );
    Some(finding(DeviceHealth::Degraded, HealthDimension::Power, message))
}

fn check_firmware(found: &Found, facts: &Facts) -> Option<Finding> {
    // Asleep it is not asked; garbage has a finding of its own.
    if facts.telemetry.asleep || matches!(facts.firmware, Field::Invalid(_)) {
        return None;
    }
    let policy = found.rules.firmware.as_ref()?;
    let violation = firmware::check(policy, facts.firmware(), facts.bus.driver_version.as_deref())?;
    let health = if violation.forbidden {
        DeviceHealth::Unhealthy
    } else {
        DeviceHealth::Degraded
    };
    let message = format!("device {}: {}", found.id, violation.text);
    Some(ends_by(
        Recovery::Person,
        health,
        HealthDimension::Firmware,
        message,
    ))
}

fn check_driver(found: &Found, facts: &Facts) -> Option<Finding> {
    if facts.bus.driver != Some(None) {
        return None;
    }
    let message = format!(
        "device {} has no driver: install the driver of its vendor and load it, or see the node's kernel log for why it refused",
        found.id
    );
    Some(ends_by(
        Recovery::Person,
        DeviceHealth::Unhealthy,
        HealthDimension::Driver,
        message,
    ))
}

fn check_bus(found: &Found, trouble: &Trouble) -> Finding {
    let (recovery, health, text) = match trouble {
        Trouble::Fatal(count) => (
            Recovery::Replug,
            DeviceHealth::Unhealthy,
            format!(
                "had {count} fatal errors on its bus since it was found there: plug it in again, or restart the node, which begins the count anew"
            ),
        ),
        Trouble::Nonfatal(count) => (
            Recovery::Itself,
            DeviceHealth::Degraded,
            format!(
                "lost transactions on its bus ({count} since it was found there): check its seat and cable"
            ),
        ),
        Trouble::Correctable(count) => (
            Recovery::Itself,
            DeviceHealth::Degraded,
            format!(
                "had a burst of mended errors on its bus ({count} since it was found there): check its seat and cable"
            ),
        ),
        Trouble::Narrow { lanes, of } => (
            Recovery::Replug,
            DeviceHealth::Degraded,
            format!("runs on {lanes} of {of} lanes: seat it anew"),
        ),
        Trouble::Slow { speed, of } => (
            Recovery::Replug,
            DeviceHealth::Degraded,
            format!(
                "has a link of {} GT/s where both ends can do {}: seat it anew, and check its cable",
                f64::from(*speed) / 1000.0,
                f64::from(*of) / 1000.0
            ),
        ),
    };
    let message = format!("device {} {text}", found.id);
    ends_by(recovery, health, HealthDimension::Link, message)
}

/// What a device does not tell although it must, or tells in a way that nobody understands.
fn check_monitored(found: &Found, facts: &Facts) -> Option<Finding> {
    let grave = |text: &str| Some(finding(DeviceHealth::Unknown, HealthDimension::Unmonitored, text));
    let slight = |text: &str| {
        Some(finding(
            DeviceHealth::Degraded,
            HealthDimension::Unmonitored,
            text,
        ))
    };
    match (
        &facts.health,
        &facts.present,
        &facts.temperature,
        &facts.power,
        &facts.firmware,
    ) {
        (Field::Invalid(text), ..) | (_, Field::Invalid(text), ..) => grave(text),
        // Of a real device nobody expects a statement about itself.
        (Field::Absent, ..) if found.emulated => grave(&format!(
            "device {} tells no health: its control file health is missing; set it with the node agent's command `emulate`",
            found.id
        )),
        (_, _, Field::Invalid(text), ..)
        | (_, _, _, Field::Invalid(text), _)
        | (_, _, _, _, Field::Invalid(text)) => slight(text),
        _ => {
            let complaints = facts.telemetry.complaints.iter().chain(&facts.bus.complaints);
            let text: Vec<_> = complaints.take(4).map(String::as_str).collect();
            if text.is_empty() {
                None
            } else {
                slight(&text.join("; "))
            }
        }
    }
}

fn check_silent(found: &Found, facts: &Facts) -> Option<Finding> {
    let text = facts.silent.as_ref()?;
    let message = format!("device {} {text}", found.id);
    Some(finding(
        DeviceHealth::Degraded,
        HealthDimension::Unmonitored,
        message,
    ))
}
