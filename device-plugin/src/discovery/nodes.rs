//! Which device nodes a container gets with a device, and the groups that may open them. Pure.

use super::rules::{ACCEL, path_fits};
use super::sighting::{Bus, HostNode, Sighting};
use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::discovery::DeviceNodeChoice;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A device node as a container gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Path, the same on the host and in the container.
    pub path: String,
    /// Major and minor number.
    pub numbers: (u32, u32),
    /// Group that may open it.
    pub group: u32,
}

/// The host's groups by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(BTreeMap<String, u32>);

impl Groups {
    /// From the text of `/etc/group`; lines that are none are left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let group = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((name, fields.nth(1)?.parse().ok()?))
        };
        Self(text.lines().filter_map(group).collect())
    }

    fn get(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }
}

/// The nodes of a device that its profile gives to containers, in the profile's order and each
/// once, and what the profile asks for and the device has not.
#[must_use]
pub fn choose(
    spec: &HardwareProfileSpec,
    sighting: &Sighting,
    host: &[HostNode],
    groups: &Groups,
    default_group: u32,
) -> (Vec<DeviceNode>, Option<String>) {
    let default_group = spec.device_group.unwrap_or(default_group);
    let mut nodes: Vec<DeviceNode> = Vec::new();
    let mut missing = Vec::new();
    let mut add = |found: Vec<&HostNode>, group: u32| {
        for node in found {
            if nodes.iter().all(|known| known.path != node.path) {
                nodes.push(DeviceNode {
                    path: node.path.clone(),
                    numbers: node.numbers,
                    group,
                });
            }
        }
    };
    if spec.device_nodes.is_empty() {
        add(own_nodes(spec, sighting), default_group);
    }
    for choice in &spec.device_nodes {
        let found = find(choice, sighting, host);
        if found.is_empty() {
            missing.push(describe(choice));
        }
        let group = choice.group.as_ref().and_then(|name| groups.get(name));
        add(found, group.unwrap_or(default_group));
    }
    let missing = (!missing.is_empty()).then(|| missing.join(" and "));
    (nodes, missing)
}

/// The nodes by which the device was found.
fn own_nodes<'a>(spec: &HardwareProfileSpec, sighting: &'a Sighting) -> Vec<&'a HostNode> {
    let accel = spec
        .discovery
        .as_ref()
        .is_some_and(|discovery| !discovery.accel.is_empty());
    let own = |node: &&HostNode| match sighting.bus {
        Bus::Usb | Bus::Node => node.sysfs == sighting.sysfs,
        Bus::Pci | Bus::Platform => accel && node.class == ACCEL,
    };
    sighting.nodes.iter().filter(own).collect()
}

fn find<'a>(choice: &DeviceNodeChoice, sighting: &'a Sighting, host: &'a [HostNode]) -> Vec<&'a HostNode> {
    if let Some(class) = &choice.sysfs_class {
        return sighting
            .nodes
            .iter()
            .filter(|node| node.class == *class)
            .collect();
    }
    let Some(path) = &choice.path else {
        return Vec::new();
    };
    let own: Vec<_> = sighting
        .nodes
        .iter()
        .filter(|node| path_fits(path, &node.path))
        .collect();
    if !own.is_empty() || path.contains('*') {
        return own;
    }
    host.iter().filter(|node| node.path == *path).collect()
}

fn describe(choice: &DeviceNodeChoice) -> String {
    match (&choice.sysfs_class, &choice.path) {
        (Some(class), _) => format!("of class {class}"),
        (None, Some(path)) => path.clone(),
        (None, None) => "that is named".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::sighting::Identity;
    use serde_json::{Value, json};

    fn node(path: &str, class: &str, minor: u32) -> HostNode {
        HostNode {
            path: path.into(),
            class: class.into(),
            numbers: (226, minor),
            sysfs: format!("/sys/gpu/{class}/x").into(),
        }
    }

    fn gpu() -> Sighting {
        Sighting {
            bus: Bus::Platform,
            address: "gpu".into(),
            sysfs: "/sys/gpu".into(),
            driver: None,
            numa_node: None,
            identity: Identity::Platform {
                name: "gpu".into(),
                compatible: vec![],
            },
            nodes: vec![
                node("/dev/dri/card0", "drm", 0),
                node("/dev/dri/renderD128", "drm", 128),
                node("/dev/i2c-4", "i2c-dev", 4),
            ],
        }
    }

    fn chosen(choices: Value) -> (Vec<(String, u32)>, Option<String>) {
        let spec: HardwareProfileSpec = serde_json::from_value(json!({
            "class": "GPU", "deviceGroup": 1000, "deviceNodes": choices
        }))
        .unwrap();
        let groups = Groups::parse("root:x:0:\nrender:x:105:alice\ngarbage\nvideo:x:no:\n");
        let host = [
            node("/dev/heap", "dma_heap", 1),
            node("/dev/dri/renderD129", "drm", 129),
        ];
        let (nodes, missing) = choose(&spec, &gpu(), &host, &groups, 44_210);
        let nodes = nodes.into_iter().map(|node| (node.path, node.group)).collect();
        (nodes, missing)
    }

    #[test]
    fn nodes_are_chosen_by_class_or_path_and_only_the_devices_own_by_a_star() {
        let (nodes, missing) = chosen(json!([{"path": "/dev/dri/renderD*", "group": "render"}]));
        assert_eq!(nodes, [("/dev/dri/renderD128".to_owned(), 105)]);
        assert_eq!(missing, None);
        let (nodes, _) = chosen(json!([{"sysfsClass": "drm", "group": "video"}, {"path": "/dev/heap"}]));
        let expected = [
            ("/dev/dri/card0", 1000),
            ("/dev/dri/renderD128", 1000),
            ("/dev/heap", 1000),
        ];
        assert_eq!(nodes, expected.map(|(path, group)| (path.to_owned(), group)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (nodes, missing) = chosen(json!([{"sysfsClass": "accel"}, {"path": "/dev/none"}]));
        assert_eq!(nodes, []);
        assert_eq!(missing.unwrap(), "of class accel and /dev/none");
    }
}
