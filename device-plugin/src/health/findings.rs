//! What is not well with a device, one finding for each dimension.

use super::heat::Heat;
use crate::constants::TEMPERATURE_BANDS;
use crate::discovery::{Field, Found};
use perwatt_crds::inventory::{DeviceHealth, HealthDimension, HealthReason};

/// What a device tells, settled.
pub(super) struct Facts {
    pub(super) node: Result<Option<(u32, u32)>, String>,
    pub(super) present: Field<bool>,
    pub(super) health: Field<DeviceHealth>,
    pub(super) temperature: Field<i32>,
    pub(super) power: Field<u32>,
    pub(super) firmware: Field<String>,
    pub(super) stale: Option<String>,
}

impl Facts {
    /// Of a probe that gave no answer; the device node is where it was.
    pub(super) fn stale(text: String, node: Option<(u32, u32)>) -> Self {
        Self {
            node: Ok(node),
            present: Field::Absent,
            health: Field::Absent,
            temperature: Field::Absent,
            power: Field::Absent,
            firmware: Field::Absent,
            stale: Some(text),
        }
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
    (
        health,
        HealthReason {
            dimension,
            message: clip(message.into(), 1024),
        },
    )
}

/// Cuts a text to `limit` bytes, the most that the API server takes.
#[must_use]
pub fn clip(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit - 3)
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// At most one finding for each dimension, the worst of it; gone or silent hides the rest.
pub(super) fn determine_findings(found: &Found, facts: &Facts, heat: Option<Heat>) -> Vec<Finding> {
    if let Some(text) = &facts.stale {
        return vec![finding(DeviceHealth::Unknown, HealthDimension::Unmonitored, text)];
    }
    if let Some(lost) = check_lost(found, facts) {
        return vec![lost];
    }
    [
        check_fault(found, facts),
        check_heat(found, facts, heat),
        check_power(found, facts),
        check_monitored(found, facts),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn check_lost(found: &Found, facts: &Facts) -> Option<Finding> {
    let text = match (&facts.node, value(&facts.present)) {
        (Err(text), _) => text.clone(),
        (_, Some(false)) => {
            format!(
                "device {} is gone from its bus: its control file present says false",
                found.id
            )
        }
        _ => return None,
    };
    Some(finding(DeviceHealth::Unhealthy, HealthDimension::Lost, text))
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

fn check_heat(found: &Found, facts: &Facts, heat: Option<Heat>) -> Option<Finding> {
    let degrees = f64::from(*value(&facts.temperature)?) / 1000.0;
    let [_, _, throttle, critical] = TEMPERATURE_BANDS;
    let (health, text) = match heat? {
        Heat::Critical => (
            DeviceHealth::Unhealthy,
            format!("hotter than the {critical} °C that it stands; let it cool down"),
        ),
        Heat::Throttling => (
            DeviceHealth::Degraded,
            format!("throttling from {throttle} °C on; improve its cooling or give it less work"),
        ),
        _ => return None,
    };
    let message = format!("device {} is at {degrees} °C, {text}", found.id);
    Some(finding(health, HealthDimension::Thermal, message))
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
        (Field::Absent, ..) => grave(&format!(
            "device {} tells no health: its control file health is missing; set it with the node agent's command `emulate`",
            found.id
        )),
        (_, _, Field::Invalid(text), ..)
        | (_, _, _, Field::Invalid(text), _)
        | (_, _, _, _, Field::Invalid(text)) => slight(text),
        _ => None,
    }
}
