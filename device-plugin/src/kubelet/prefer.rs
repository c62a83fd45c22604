//! Which of the free devices a container had better get. Pure.
//!
//! Those that the kubelet insists on come first. The others are then near these, or near each
//! other (NUMA); of these, healthy ones before degraded ones, and cool ones before warm ones.

use super::api::ContainerPreferredAllocationRequest;
use super::replicas::device_of;
use crate::state::{Device, Node};
use perwatt_crds::inventory::{DeviceHealth, TemperatureBand};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How much one device is to be preferred to another: the least comes first.
type Rank = (bool, bool, bool, Option<TemperatureBand>, Reverse<usize>);

/// The ids to prefer, at most as many as are asked for; always the same for the same devices.
#[must_use]
pub fn choose(node: &Node, request: &ContainerPreferredAllocationRequest) -> Vec<String> {
    let wanted = usize::try_from(request.allocation_size).unwrap_or(0);
    let mut chosen = request.must_include_device_ids.clone();
    chosen.truncate(wanted);
    let available = &request.available_device_ids;
    let mut rest: Vec<&String> = available.iter().filter(|id| !chosen.contains(id)).collect();
    rest.sort();
    rest.dedup();
    let near = nearest_numa(node, &chosen, &rest, wanted);
    while chosen.len() < wanted && !rest.is_empty() {
        let held: BTreeSet<&str> = chosen.iter().map(|id| device_of(id)).collect();
        let rank = |id: &&String| -> Rank {
            let device = node.devices.get(device_of(id));
            let view = device.map(|device| &device.view);
            let well = view.is_some_and(|view| view.health == DeviceHealth::Healthy);
            let far = near.is_some() && numa(device) != near;
            let free = rest
                .iter()
                .filter(|other| device_of(other) == device_of(id))
                .count();
            // Two replicas of one device are one device to the container: another one is better.
            let again = held.contains(device_of(id));
            (again, far, !well, view.and_then(|view| view.band), Reverse(free))
        };
        let Some(best) = (0..rest.len()).min_by_key(|index| (rank(&rest[*index]), *index)) else {
            break;
        };
        chosen.push(rest.remove(best).clone());
    }
    chosen
}

fn numa(device: Option<&Device>) -> Option<u32> {
    device.and_then(|device| device.found.numa_node)
}

/// The NUMA node to stay on: that of the devices that are chosen already; else the one that has
/// enough devices, the healthiest and coolest of them first. Nothing where the kernel tells none.
fn nearest_numa(node: &Node, chosen: &[String], rest: &[&String], wanted: usize) -> Option<u32> {
    let device = |id: &str| node.devices.get(device_of(id));
    if let Some(held) = chosen.iter().find_map(|id| numa(device(id))) {
        return Some(held);
    }
    let mut by_numa: BTreeMap<u32, BTreeMap<&str, &Device>> = BTreeMap::new();
    for id in rest {
        if let Some(found) = device(id)
            && let Some(number) = found.found.numa_node
        {
            by_numa.entry(number).or_default().insert(device_of(id), found);
        }
    }
    let missing = wanted.saturating_sub(chosen.len());
    let heat = |devices: &BTreeMap<&str, &Device>| {
        let mut heats: Vec<_> = devices
            .values()
            .map(|device| (device.view.health != DeviceHealth::Healthy, device.view.band))
            .collect();
        heats.sort();
        heats.truncate(missing);
        heats
    };
    by_numa
        .iter()
        .min_by_key(|(number, devices)| {
            let short = missing.saturating_sub(devices.len());
            (short, heat(devices), **number)
        })
        .map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::paths::Paths;
    use std::path::Path;

    /// Devices `chip-0` to `chip-3`, two on each NUMA node.
    fn node() -> Node {
        let mut node = fixtures::node(&Paths::below(Path::new("/x")));
        let first = node.devices.remove("chip-0").unwrap();
        for ordinal in 0..4 {
            let mut device = first.clone();
            let found = std::sync::Arc::make_mut(&mut device.found);
            found.id = format!("chip-{ordinal}");
            found.numa_node = Some(ordinal / 2);
            node.devices.insert(found.id.clone(), device);
        }
        node
    }

    fn request(available: &[&str], must: &[&str], size: i32) -> ContainerPreferredAllocationRequest {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        ContainerPreferredAllocationRequest {
            available_device_ids: owned(available),
            must_include_device_ids: owned(must),
            allocation_size: size,
        }
    }

    const ALL: [&str; 4] = ["chip-0", "chip-1", "chip-2", "chip-3"];

    fn heat(node: &mut Node, id: &str, band: TemperatureBand) {
        node.devices.get_mut(id).unwrap().view.band = Some(band);
    }

    #[test]
    fn devices_of_one_numa_node_go_together_the_coolest_first() {
        let mut node = node();
        heat(&mut node, "chip-0", TemperatureBand::Warm);
        assert_eq!(choose(&node, &request(&ALL, &[], 2)), ["chip-2", "chip-3"]);
        assert_eq!(choose(&node, &request(&ALL, &[], 1)), ["chip-1"]);
        // Only one is free there: two that are near each other are better than the coolest two.
        let three = ["chip-0", "chip-1", "chip-3"];
        assert_eq!(choose(&node, &request(&three, &[], 2)), ["chip-1", "chip-0"]);
    }

    #[test]
    fn what_the_kubelet_insists_on_decides_the_numa_node() {
        let mut node = node();
        heat(&mut node, "chip-3", TemperatureBand::NearThrottle);
        assert_eq!(
            choose(&node, &request(&ALL, &["chip-2"], 2)),
            ["chip-2", "chip-3"]
        );
        assert_eq!(
            choose(&node, &request(&ALL, &["chip-2"], 3)),
            ["chip-2", "chip-3", "chip-0"]
        );
    }

    #[test]
    fn well_devices_come_before_degraded_ones() {
        let mut node = node();
        for device in node.devices.values_mut() {
            std::sync::Arc::make_mut(&mut device.found).numa_node = None;
        }
        node.devices.get_mut("chip-0").unwrap().view.health = DeviceHealth::Degraded;
        heat(&mut node, "chip-1", TemperatureBand::Warm);
        assert_eq!(
            choose(&node, &request(&ALL, &[], 3)),
            ["chip-2", "chip-3", "chip-1"]
        );
        assert_eq!(
            choose(&node, &request(&ALL, &["chip-0"], 3)),
            ["chip-0", "chip-2", "chip-3"]
        );
    }

    #[test]
    fn a_container_gets_two_devices_rather_than_one_twice_and_the_least_used() {
        let node = node();
        let free = ["chip-0", "chip-0::1", "chip-1"];
        assert_eq!(choose(&node, &request(&free, &[], 2)), ["chip-0", "chip-1"]);
        let free = ["chip-0::1", "chip-1", "chip-1::1"];
        assert_eq!(choose(&node, &request(&free, &[], 1)), ["chip-1"]);
    }

    #[test]
    fn more_than_there_is_and_less_than_nothing() {
        let node = node();
        assert_eq!(
            choose(&node, &request(&["chip-0", "unknown"], &[], 9)),
            ["chip-0", "unknown"]
        );
        assert!(choose(&node, &request(&ALL, &[], -1)).is_empty());
    }
}
