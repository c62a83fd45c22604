//! What a container gets with its devices, and which devices it had better get. Pure.

use super::api::{
    CdiDevice, ContainerAllocateResponse, ContainerPreferredAllocationRequest, Device as WireDevice, Mount,
};
use super::{HEALTHY, UNHEALTHY};
use crate::cdi;
use crate::paths::Paths;
use crate::state::{Device, Node};
use perwatt_crds::inventory::DeviceHealth;
use perwatt_device_socket::{CONTAINER_DIR, DEVICE_ID_ENV, DEVICE_NODE_ENV};

/// Why devices cannot be given to a container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AllocateError {
    /// The kubelet asks for what is not there.
    #[error(
        "profile {profile} has no device {id} on this node; it has {known}; the kubelet's list is out of date and a new pod will do"
    )]
    NoSuchDevice {
        /// The profile asked.
        profile: String,
        /// The device asked for.
        id: String,
        /// What there is.
        known: String,
    },
}

/// The devices of a profile as the kubelet takes them.
#[must_use]
pub fn build_list(profile: &str, node: &Node) -> Vec<WireDevice> {
    node.devices_of(profile)
        .map(|device| WireDevice {
            id: device.found.id.clone(),
            health: if device.view.usable { HEALTHY } else { UNHEALTHY }.to_owned(),
            topology: None,
        })
        .collect()
}

/// What a container gets with the devices `ids`. Health is no reason to refuse: the container
/// carries the variants that work without the device.
///
/// # Errors
/// When a device does not exist.
pub fn build_response(
    paths: &Paths,
    profile: &str,
    node: &Node,
    ids: &[String],
) -> Result<ContainerAllocateResponse, AllocateError> {
    let devices = ids
        .iter()
        .map(|id| find(profile, node, id))
        .collect::<Result<Vec<_>, _>>()?;
    let join = |texts: Vec<String>| texts.join(",");
    let nodes = devices
        .iter()
        .map(|device| device.found.container_node())
        .collect();
    // One device has the folder that runtimes know; of several, each has one named after it too.
    let first = ids.first().map(|id| mount(paths, id, CONTAINER_DIR.to_owned()));
    let each = ids
        .iter()
        .filter(|_| ids.len() > 1)
        .map(|id| mount(paths, id, format!("{CONTAINER_DIR}s/{id}")));
    Ok(ContainerAllocateResponse {
        envs: [
            (DEVICE_ID_ENV.to_owned(), join(ids.to_vec())),
            (DEVICE_NODE_ENV.to_owned(), join(nodes)),
        ]
        .into(),
        mounts: first.into_iter().chain(each).collect(),
        cdi_devices: ids
            .iter()
            .map(|id| CdiDevice {
                name: cdi::device_name(profile, id),
            })
            .collect(),
        ..Default::default()
    })
}

fn find<'a>(profile: &str, node: &'a Node, id: &str) -> Result<&'a Device, AllocateError> {
    node.devices
        .get(id)
        .filter(|device| device.found.profile == profile)
        .ok_or_else(|| {
            let known: Vec<_> = node
                .devices_of(profile)
                .map(|device| device.found.id.as_str())
                .collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            AllocateError::NoSuchDevice {
                profile: profile.to_owned(),
                id: id.to_owned(),
                known,
            }
        })
}

/// Read-only: a socket can be connected to all the same, and a pod puts nothing into our folder.
fn mount(paths: &Paths, id: &str, container_path: String) -> Mount {
    Mount {
        container_path,
        host_path: paths.socket_dir(id).to_string_lossy().into_owned(),
        read_only: true,
    }
}

/// The devices to prefer: those the kubelet insists on, then well before degraded, cool before
/// warm, and by name so that the choice is always the same.
#[must_use]
pub fn choose(node: &Node, request: &ContainerPreferredAllocationRequest) -> Vec<String> {
    let wanted = usize::try_from(request.allocation_size).unwrap_or(0);
    let mut chosen = request.must_include_device_ids.clone();
    let mut rest: Vec<&String> = request
        .available_device_ids
        .iter()
        .filter(|id| !chosen.contains(id))
        .collect();
    rest.sort_by_key(|id| {
        let view = node.devices.get(*id).map(|device| &device.view);
        let well = view.is_some_and(|view| view.health == DeviceHealth::Healthy);
        (!well, view.and_then(|view| view.band), (*id).clone())
    });
    chosen.extend(rest.into_iter().cloned());
    chosen.truncate(wanted);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use perwatt_crds::inventory::TemperatureBand;
    use std::path::Path;

    fn node() -> (Paths, Node) {
        let paths = Paths::below(Path::new("/x"));
        let mut node = fixtures::node(&paths);
        for ordinal in 1..4 {
            let mut device = node.devices["chip-0"].clone();
            let found = std::sync::Arc::make_mut(&mut device.found);
            found.id = format!("chip-{ordinal}");
            node.devices.insert(format!("chip-{ordinal}"), device);
        }
        (paths, node)
    }

    #[test]
    fn a_container_gets_node_name_socket_and_environment() {
        let (paths, node) = node();
        let response = build_response(&paths, "chip", &node, &["chip-0".into()]).unwrap();
        assert_eq!(response.envs["PERWATT_DEVICE_ID"], "chip-0");
        assert_eq!(response.envs["PERWATT_DEVICE_NODE"], "/dev/perwatt/chip-0");
        assert_eq!(response.cdi_devices[0].name, "perwatt.dev/chip=chip-0");
        assert_eq!(response.mounts.len(), 1);
        assert_eq!(response.mounts[0].container_path, "/run/perwatt/device");
        assert_eq!(response.mounts[0].host_path, "/x/run/perwatt/devices/chip-0");
        let two = build_response(&paths, "chip", &node, &["chip-0".into(), "chip-1".into()]).unwrap();
        assert_eq!(two.envs["PERWATT_DEVICE_ID"], "chip-0,chip-1");
        let mounted: Vec<_> = two
            .mounts
            .iter()
            .map(|mount| mount.container_path.as_str())
            .collect();
        assert_eq!(
            mounted,
            [
                "/run/perwatt/device",
                "/run/perwatt/devices/chip-0",
                "/run/perwatt/devices/chip-1"
            ]
        );
    }

    #[test]
    fn an_unhealthy_device_is_given_and_an_unknown_one_is_not() {
        let (paths, mut node) = node();
        let view = &mut node.devices.get_mut("chip-0").unwrap().view;
        (view.health, view.usable) = (DeviceHealth::Unhealthy, false);
        assert_eq!(build_list("chip", &node)[0].health, UNHEALTHY);
        assert!(build_response(&paths, "chip", &node, &["chip-0".into()]).is_ok());
        let error = build_response(&paths, "chip", &node, &["other-0".into()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("other-0") && error.contains("chip-0, chip-1"),
            "{error}"
        );
    }

    #[test]
    fn well_and_cool_devices_come_first() {
        let (_, mut node) = node();
        node.devices.get_mut("chip-0").unwrap().view.health = DeviceHealth::Degraded;
        node.devices.get_mut("chip-1").unwrap().view.band = Some(TemperatureBand::Warm);
        let mut request = ContainerPreferredAllocationRequest {
            available_device_ids: node.devices.keys().cloned().collect(),
            must_include_device_ids: vec![],
            allocation_size: 3,
        };
        assert_eq!(choose(&node, &request), ["chip-2", "chip-3", "chip-1"]);
        request.must_include_device_ids = vec!["chip-0".into()];
        assert_eq!(choose(&node, &request), ["chip-0", "chip-2", "chip-3"]);
    }
}
