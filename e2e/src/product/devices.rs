//! The devices of one profile on one node: changed by their control files, and seen as the kubelet and the agent tell
//! of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use perwatt_crds::DeviceInventory;
use perwatt_crds::inventory::{DeviceHealth, DeviceStatus};
use perwatt_device_plugin::emulated::control::{self, Key};
use perwatt_device_plugin::podresources;
use serde::Deserialize;

use super::{Error, Result};
use crate::cluster::{Cluster, Node};

/// Emulated devices of one profile on one node.
#[derive(Clone, Debug)]
pub struct NodeDevices<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    view: View,
}

/// How what kubelet and agent tell of them is read.
#[derive(Clone, Debug)]
pub struct View {
    profile: String,
    checkpoints: PathBuf,
}

/// How many devices the kubelet tells the API server of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// All.
    pub capacity: usize,
    /// Those that pods may use.
    pub allocatable: usize,
}

/// A device, and the pod to which the kubelet gave it.
pub type Given = (String, String);

impl<'a> NodeDevices<'a> {
    /// Those of `profile`, whose resource has the name that it has by default.
    ///
    /// # Errors
    /// When the cluster has no such node.
    pub fn new(cluster: &'a Cluster, node: &str, profile: &str) -> Result<Self> {
        let node = cluster.node(node)?;
        let view = View {
            profile: profile.to_owned(),
            checkpoints: node.kubelet_dir().join("device-plugins"),
        };
        Ok(Self { cluster, node, view })
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &'a Node {
        self.node
    }

    /// How they are read, for who needs no cluster.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Id of the device with this number.
    #[must_use]
    pub fn id(&self, number: usize) -> String {
        format!("{}-{number}", self.view.profile)
    }

    /// Where this machine sees a device's control files.
    #[must_use]
    pub fn control(&self, device: &str) -> PathBuf {
        self.node
            .agent_dir()
            .join("emulated")
            .join(device)
            .join("control")
    }

    /// Has a device say this of its health.
    ///
    /// # Errors
    /// When its control file cannot be written.
    pub fn set_health(&self, device: &str, health: DeviceHealth) -> Result<()> {
        let control = self.control(device);
        control::write(&control, Key::Health, health.as_str())
            .map_err(|error| Error::Client(format!("{}: {error}", control.display())))
    }

    /// The devices as the agent's inventory tells of them now; none where there is no inventory.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn inventory(&self) -> Result<Vec<DeviceStatus>> {
        let api: Api<DeviceInventory> = Api::all(self.cluster.client()?);
        Ok(self.view.of_inventory(api.get_opt(self.node.name()).await?))
    }

    /// What the node's status offers now.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn offered(&self) -> Result<Offered> {
        let api: Api<NodeObject> = Api::all(self.cluster.client()?);
        Ok(self.view.of_node(&api.get(self.node.name()).await?))
    }

    /// What the kubelet has given to pods, by its PodResources API.
    ///
    /// # Errors
    /// When the kubelet does not answer.
    pub async fn given(&self) -> Result<Vec<Given>> {
        let socket = self.node.kubelet_dir().join("pod-resources/kubelet.sock");
        let listed = podresources::list(&socket).await;
        let pods = listed.map_err(|error| Error::Client(error.to_string()))?;
        let resource = self.view.resource();
        let mut given = Vec::new();
        for pod in &pods {
            let devices = pod.containers.iter().flat_map(|container| &container.devices);
            let ours = devices.filter(|devices| devices.resource_name == resource);
            given.extend(
                ours.flat_map(|devices| &devices.device_ids)
                    .map(|id| (id.clone(), pod.name.clone())),
            );
        }
        Ok(given)
    }
}

impl View {
    /// Name of their extended resource.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("perwatt.dev/{}", self.profile)
    }

    /// The devices of the profile in an inventory.
    #[must_use]
    pub fn of_inventory(&self, inventory: Option<DeviceInventory>) -> Vec<DeviceStatus> {
        let status = inventory.and_then(|inventory| inventory.status);
        let mut devices = status.unwrap_or_default().devices;
        devices.retain(|device| device.profile == self.profile);
        devices
    }

    /// What a node's status offers.
    #[must_use]
    pub fn of_node(&self, node: &NodeObject) -> Offered {
        let resource = self.resource();
        let count = |amounts: Option<&BTreeMap<String, Quantity>>| {
            let amount = amounts.and_then(|amounts| amounts.get(&resource));
            amount.and_then(|amount| amount.0.parse().ok()).unwrap_or(0)
        };
        let status = node.status.as_ref();
        Offered {
            capacity: count(status.and_then(|status| status.capacity.as_ref())),
            allocatable: count(status.and_then(|status| status.allocatable.as_ref())),
        }
    }

    /// Folder in which the kubelet keeps its checkpoint.
    #[must_use]
    pub fn checkpoints(&self) -> &Path {
        &self.checkpoints
    }

    /// Ids that the kubelet may give to pods, by its checkpoint: it writes one whenever a plugin tells of its devices.
    /// Nothing where the checkpoint is not there or half written.
    #[must_use]
    pub fn usable(&self) -> Option<BTreeSet<String>> {
        let path = self.checkpoints.join("kubelet_internal_checkpoint");
        let checkpoint: Checkpoint = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        checkpoint
            .data
            .registered_devices
            .and_then(|mut devices| devices.remove(&self.resource()))
            .map(BTreeSet::from_iter)
    }
}

/// What matters to us of the kubelet's checkpoint.
#[derive(Deserialize)]
struct Checkpoint {
    #[serde(rename = "Data")]
    data: CheckpointData,
}

#[derive(Deserialize)]
struct CheckpointData {
    #[serde(rename = "RegisteredDevices")]
    registered_devices: Option<BTreeMap<String, Vec<String>>>,
}
