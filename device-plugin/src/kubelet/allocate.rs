//! What a container gets with its devices. Pure.

use super::api::{CdiDevice, ContainerAllocateResponse, Device as WireDevice, Mount, NumaNode, TopologyInfo};
use super::replicas::{devices_of, replica_ids, replicas_of};
use super::{HEALTHY, UNHEALTHY};
use crate::cdi;
use crate::paths::Paths;
use crate::state::{Device, Node};
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
    let replicas = replicas_of(profile, node);
    node.devices_of(profile)
        .flat_map(|device| {
            replica_ids(&device.found.id, replicas).map(|id| WireDevice {
                id,
                health: if device.view.usable { HEALTHY } else { UNHEALTHY }.to_owned(),
                topology: device.found.numa_node.map(topology),
            })
        })
        .collect()
}

fn topology(numa_node: u32) -> TopologyInfo {
    TopologyInfo {
        nodes: vec![NumaNode { id: numa_node.into() }],
    }
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
    let ids = &devices_of(ids);
    let devices = ids
        .iter()
        .map(|id| find(profile, node, id))
        .collect::<Result<Vec<_>, _>>()?;
    let join = |texts: Vec<String>| texts.join(",");
    let nodes = devices
        .iter()
        .filter_map(|device| device.found.container_node())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use perwatt_crds::inventory::DeviceHealth;
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
    fn a_shared_device_is_several_to_the_kubelet_and_one_to_a_container() {
        let (paths, mut node) = node();
        let mut spec = fixtures::profile(1);
        spec.sharing = Some(perwatt_crds::discovery::Sharing {
            replicas: 3,
            multi_model: true,
        });
        node.profiles.insert("chip".into(), spec.into());
        let listed = build_list("chip", &node);
        assert_eq!(listed.len(), 12);
        assert_eq!(listed[2].id, "chip-0::2");
        let ids = ["chip-0::2".to_owned(), "chip-0".to_owned()];
        let response = build_response(&paths, "chip", &node, &ids).unwrap();
        assert_eq!(response.envs["PERWATT_DEVICE_ID"], "chip-0");
        assert_eq!(response.cdi_devices.len(), 1);
        assert_eq!(response.mounts.len(), 1);
    }

    #[test]
    fn a_real_device_tells_its_own_node_and_its_numa_node() {
        let (paths, mut node) = node();
        let found = std::sync::Arc::make_mut(&mut node.devices.get_mut("chip-0").unwrap().found);
        found.place = Some(fixtures::place());
        found.numa_node = Some(1);
        let response = build_response(&paths, "chip", &node, &["chip-0".into()]).unwrap();
        assert_eq!(response.envs["PERWATT_DEVICE_NODE"], "/dev/dri/card0");
        let topology = build_list("chip", &node)[0].topology.clone().unwrap();
        assert_eq!(topology.nodes[0].id, 1);
        assert_eq!(build_list("chip", &node)[1].topology, None);
    }
}
