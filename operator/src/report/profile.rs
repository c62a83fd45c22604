//! Status of a profile: where its devices are, summed over the nodes' inventories.

use super::summary;
use crate::observe::snapshot::Snapshot;
use jiff::Timestamp;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::{HardwareProfile, HardwareProfileStatus};
use perwatt_planner::silent_agents;
use std::collections::{BTreeMap, BTreeSet};

/// Counts of one profile.
#[derive(Default)]
struct Counts {
    nodes: u32,
    devices: u32,
    healthy: u32,
}

/// The status of every profile, by name.
#[must_use]
pub fn compute(snapshot: &Snapshot, now: Timestamp) -> BTreeMap<String, HardwareProfileStatus> {
    let mut counts = BTreeMap::<&str, Counts>::new();
    let silent: BTreeSet<_> = silent_agents(&snapshot.world, now)
        .map(|(node, _)| node)
        .collect();
    for (node, inventory) in &snapshot.inventories {
        let mut here = BTreeMap::<&str, Counts>::new();
        for device in inventory.status.iter().flat_map(|status| &status.devices) {
            let entry = here.entry(&device.profile).or_default();
            entry.devices += 1;
            // Of devices whose agent is silent nobody knows.
            let healthy = device.health == DeviceHealth::Healthy && !silent.contains(node.as_str());
            entry.healthy += u32::from(healthy);
        }
        for (profile, local) in here {
            let entry = counts.entry(profile).or_default();
            entry.nodes += 1;
            entry.devices += local.devices;
            entry.healthy += local.healthy;
        }
    }
    let users = users(snapshot);
    let none = Counts::default();
    let statuses = snapshot.profiles.iter().map(|(name, profile)| {
        let counts = counts.get(name.as_str()).unwrap_or(&none);
        let users = users.get(name.as_str()).into_iter().flatten().map(String::as_str);
        (name.clone(), status(profile, counts, &summary::names(users)))
    });
    statuses.collect()
}

fn status(profile: &HardwareProfile, counts: &Counts, used_by: &str) -> HardwareProfileStatus {
    HardwareProfileStatus {
        observed_generation: profile.metadata.generation,
        resource_name: profile.resource_name(),
        emulated: profile.is_emulated(),
        nodes: counts.nodes,
        devices: counts.devices,
        healthy_devices: counts.healthy,
        healthy: format!("{}/{}", counts.healthy, counts.devices),
        used_by: used_by.to_owned(),
    }
}

/// Workloads with a pod on a device, by profile.
fn users(snapshot: &Snapshot) -> BTreeMap<&str, Vec<String>> {
    let mut users = BTreeMap::<&str, Vec<String>>::new();
    for pod in &snapshot.world.pods {
        let Some(owned) = pod.owned.as_ref().filter(|_| pod.holds_resources) else {
            continue;
        };
        if let Some(profile) = &owned.profile {
            users.entry(profile).or_default().push(owned.workload.to_string());
        }
    }
    users
}
