//! The status of the node's DeviceInventory, built from the shared picture. Pure.

use crate::state::{Device, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use perwatt_crds::inventory::{DeviceHealth, DeviceInventoryStatus, DeviceStatus, InventorySummary};
use perwatt_crds::text::cut;
use std::collections::BTreeSet;

/// Entries of a summary column before it says how many more there are.
const FEW: usize = 3;

/// Bytes of the problem column.
const PROBLEM_BYTES: usize = 200;

/// The most devices that the API takes for one node.
const MOST_DEVICES: usize = 256;

/// What the API server should say of this node.
#[must_use]
pub fn build_status(node: &Node) -> DeviceInventoryStatus {
    DeviceInventoryStatus {
        devices: node
            .devices
            .values()
            .take(MOST_DEVICES)
            .map(build_device)
            .collect(),
        summary: build_summary(node),
    }
}

fn build_device(device: &Device) -> DeviceStatus {
    let (found, view) = (&device.found, &device.view);
    DeviceStatus {
        id: found.id.clone(),
        profile: found.profile.clone(),
        class: found.class,
        emulated: found.emulated,
        health: view.health,
        reasons: view.reasons.clone(),
        last_transition_time: Time(device.since),
        firmware: view.firmware.clone(),
        driver: view
            .driver
            .clone()
            .or_else(|| found.driver.clone())
            .map(|driver| cut(driver, 64)),
        numa_node: found.numa_node,
        temperature: view.band,
        pod: device.holders.first().cloned(),
        runtime: device.report.clone(),
    }
}

fn build_summary(node: &Node) -> InventorySummary {
    let devices: Vec<_> = node.devices.values().collect();
    let healthy = devices
        .iter()
        .filter(|device| device.view.health == DeviceHealth::Healthy)
        .count();
    let firmware: BTreeSet<_> = devices
        .iter()
        .filter_map(|device| device.view.firmware.clone())
        .collect();
    let profiles: BTreeSet<_> = devices
        .iter()
        .map(|device| device.found.profile.clone())
        .collect();
    let classes: BTreeSet<_> = devices.iter().map(|device| device.found.class.as_str()).collect();
    let drivers: BTreeSet<_> = devices
        .iter()
        .filter_map(|device| device.found.driver.clone())
        .collect();
    let hottest = devices.iter().filter_map(|device| device.view.band).max();
    InventorySummary {
        devices: first_few(devices.iter().map(|device| device.found.id.clone())),
        healthy: format!("{healthy}/{}", devices.len()),
        serving: first_few(devices.iter().filter_map(|device| serving(device))),
        problem: problem(&devices),
        profiles: first_few(profiles),
        classes: first_few(classes.into_iter().map(str::to_owned)),
        drivers: first_few(drivers),
        firmware: first_few(firmware),
        temperature: hottest.map(|band| format!("{band:?}")).unwrap_or_default(),
    }
}

fn serving(device: &Device) -> Option<String> {
    let report = device
        .report
        .as_ref()
        .filter(|report| !report.active_variant.is_empty())?;
    Some(format!("{}:{}", report.workload, report.active_variant))
}

/// The first device that is not healthy; the gravest comes first.
fn problem(devices: &[&Device]) -> String {
    let gravity = |health| match health {
        DeviceHealth::Unhealthy => 3,
        DeviceHealth::Unknown => 2,
        DeviceHealth::Degraded => 1,
        DeviceHealth::Healthy => 0,
    };
    let first = devices
        .iter()
        .filter(|device| device.view.health != DeviceHealth::Healthy)
        .min_by_key(|device| -gravity(device.view.health));
    first
        .map(|device| cut(problem_of(device), PROBLEM_BYTES))
        .unwrap_or_default()
}

fn problem_of(device: &Device) -> String {
    let (id, health) = (&device.found.id, device.view.health.as_str());
    match device.view.reasons.first() {
        Some(reason) => {
            // The column has named the device already.
            let prefix = format!("device {id} ");
            let message = reason.message.strip_prefix(&prefix).unwrap_or(&reason.message);
            format!("{id}: {health} ({}): {message}", reason.dimension.as_str())
        }
        None => format!("{id}: {health}"),
    }
}

fn first_few(texts: impl IntoIterator<Item = String>) -> String {
    let texts: Vec<_> = texts.into_iter().collect();
    let shown = texts.iter().take(FEW).cloned().collect::<Vec<_>>().join(", ");
    match texts.len().checked_sub(FEW) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// Whether two statuses say the same, whenever it began.
#[must_use]
pub fn say_the_same(one: &DeviceInventoryStatus, other: &DeviceInventoryStatus) -> bool {
    without_times(one) == without_times(other)
}

fn without_times(status: &DeviceInventoryStatus) -> DeviceInventoryStatus {
    let mut status = status.clone();
    for device in &mut status.devices {
        device.last_transition_time = Time(jiff::Timestamp::UNIX_EPOCH);
        if let Some(report) = &mut device.runtime {
            report.since = Time(jiff::Timestamp::UNIX_EPOCH);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::paths::Paths;
    use perwatt_crds::inventory::{HealthDimension, HealthReason, RuntimeReport};
    use std::path::Path;

    fn node() -> Node {
        let mut node = fixtures::node(&Paths::below(Path::new("/nowhere")));
        let second = node.devices["chip-0"].clone();
        node.devices.insert("chip-1".into(), second);
        let device = node.devices.get_mut("chip-1").unwrap();
        std::sync::Arc::make_mut(&mut device.found).id = "chip-1".into();
        device.view.health = DeviceHealth::Unhealthy;
        device.view.reasons = vec![HealthReason {
            dimension: HealthDimension::Fault,
            message: "device chip-1 broke".into(),
            recovery: Default::default(),
        }];
        device.report = Some(RuntimeReport {
            namespace: "audio".into(),
            workload: "speech-gate".into(),
            slot: "replica-0".into(),
            revision: "6f1c2b".into(),
            active_variant: "cpu".into(),
            degraded: true,
            reason: "DeviceUnhealthy".into(),
            since: Time(jiff::Timestamp::UNIX_EPOCH),
        });
        node
    }

    #[test]
    fn the_summary_answers_what_where_how_well() {
        let summary = build_status(&node()).summary;
        assert_eq!(summary.devices, "chip-0, chip-1");
        assert_eq!(summary.healthy, "1/2");
        assert_eq!(summary.serving, "speech-gate:cpu");
        assert_eq!(summary.problem, "chip-1: Unhealthy (fault): broke");
        assert_eq!(
            (summary.firmware.as_str(), summary.temperature.as_str()),
            ("1.0.0", "Cool")
        );
    }

    #[test]
    fn time_alone_is_no_change() {
        let before = build_status(&node());
        let mut later = node();
        for device in later.devices.values_mut() {
            device.since = jiff::Timestamp::MAX;
        }
        assert!(say_the_same(&before, &build_status(&later)));
        later.devices.get_mut("chip-0").unwrap().view.firmware = Some("2".into());
        assert!(!say_the_same(&before, &build_status(&later)));
    }

    #[test]
    fn many_are_counted_not_listed() {
        let texts = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(first_few(texts(3)), "0, 1, 2");
        assert_eq!(first_few(texts(5)), "0, 1, 2 and 2 more");
        assert_eq!(first_few(texts(0)), "");
    }
}
