//! `kubectl-perwatt drain-device` and `uncordon-device`: takes a device out of use, and puts it back.
//!
//! The wish is an annotation of the Node, which no GitOps tool owns and which outlives the agent; that node's agent
//! obeys it, and the operator moves what the device serves as it does from any device that must not be used.

use crate::explain::{ExplainError, connect};
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use perwatt_crds::DeviceInventory;
use perwatt_crds::names::ANNOTATION_DRAIN;
use std::str::FromStr;

/// Arguments of `drain-device`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The device, as NODE/DEVICE
    pub device: DeviceName,
    /// Why, for whoever sees it out of use
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Context of the kubeconfig; default: the current one
    #[arg(long)]
    pub context: Option<String>,
}

/// Arguments of `uncordon-device`.
#[derive(Debug, Args)]
pub struct UncordonArgs {
    /// The device, as NODE/DEVICE
    pub device: DeviceName,
    /// Context of the kubeconfig; default: the current one
    #[arg(long)]
    pub context: Option<String>,
}

/// A device of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    node: String,
    id: String,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((node, id)) if !node.is_empty() && !id.is_empty() && !id.contains('/') => Ok(Self {
                node: node.to_owned(),
                id: id.to_owned(),
            }),
            _ => Err("write NODE/DEVICE, such as edge-a/hailo-8-01-00.0: `kubectl get deviceinventories` lists them".into()),
        }
    }
}

/// Why a device was not drained or put back.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// No cluster.
    #[error(transparent)]
    Connect(#[from] ExplainError),
    /// The node has no such device.
    #[error("node {node} has no device {id}; its devices: {known}")]
    NoDevice {
        /// Its node.
        node: String,
        /// Its id.
        id: String,
        /// The devices that it has.
        known: String,
    },
    /// The API server said no.
    #[error("cannot {what} node {node}: {source}")]
    Kube {
        /// What was tried.
        what: &'static str,
        /// The node.
        node: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The runtime of this program could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Takes a device out of use; returns what to print.
///
/// # Errors
/// When there is no such device, or its node cannot be annotated.
pub fn drain(arguments: &DrainArgs) -> Result<String, DrainError> {
    let DeviceName { node, id } = &arguments.device;
    let reason = Some(arguments.reason.as_str());
    annotate(arguments.context.as_deref(), &arguments.device, reason)?;
    Ok(format!(
        "device {id} of node {node} is taken out of use: `kubectl get deviceinventory {node}` shows it, \
         `kubectl perwatt uncordon-device {node}/{id}` puts it back\n"
    ))
}

/// Puts a device back to use; returns what to print.
///
/// # Errors
/// When its node cannot be annotated.
pub fn uncordon(arguments: &UncordonArgs) -> Result<String, DrainError> {
    let DeviceName { node, id } = &arguments.device;
    annotate(arguments.context.as_deref(), &arguments.device, None)?;
    Ok(format!(
        "device {id} of node {node} is back in use as far as it is well\n"
    ))
}

fn annotate(context: Option<&str>, device: &DeviceName, reason: Option<&str>) -> Result<(), DrainError> {
    let work = async {
        let (client, _) = connect(context).await?;
        let failed = |what| {
            move |source| DrainError::Kube {
                what,
                node: device.node.clone(),
                source: Box::new(source),
            }
        };
        // A device that is gone may still be put back.
        if reason.is_some() {
            let inventories: Api<DeviceInventory> = Api::all(client.clone());
            let inventory = inventories.get_opt(&device.node).await;
            check_known(device, inventory.map_err(failed("read the inventory of"))?)?;
        }
        let nodes: Api<Node> = Api::all(client);
        let patch = Patch::Merge(build_patch(&device.id, reason));
        let patched = nodes
            .patch_metadata(&device.node, &PatchParams::default(), &patch)
            .await;
        patched.map(drop).map_err(failed("annotate"))
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn check_known(device: &DeviceName, inventory: Option<DeviceInventory>) -> Result<(), DrainError> {
    let status = inventory
        .and_then(|inventory| inventory.status)
        .unwrap_or_default();
    let ids: Vec<_> = status.devices.into_iter().map(|device| device.id).collect();
    if ids.contains(&device.id) {
        return Ok(());
    }
    Err(DrainError::NoDevice {
        node: device.node.clone(),
        id: device.id.clone(),
        known: if ids.is_empty() {
            "none".to_owned()
        } else {
            ids.join(", ")
        },
    })
}

/// The annotation with its reason; without one the annotation goes.
fn build_patch(id: &str, reason: Option<&str>) -> serde_json::Value {
    serde_json::json!({"metadata": {"annotations": {format!("{ANNOTATION_DRAIN}{id}"): reason}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_with_its_node() {
        let device: DeviceName = "edge-x/chip-01-00.0".parse().unwrap();
        assert_eq!(
            (device.node.as_str(), device.id.as_str()),
            ("edge-x", "chip-01-00.0")
        );
        for wrong in ["chip-0", "/chip-0", "edge-x/", "edge-x/a/b"] {
            assert!(wrong.parse::<DeviceName>().unwrap_err().contains("NODE/DEVICE"));
        }
    }

    #[test]
    fn the_wish_is_one_annotation_and_its_end_removes_it() {
        let name = "drain.perwatt.dev/chip-0";
        let drained = build_patch("chip-0", Some("a fan"));
        assert_eq!(drained["metadata"]["annotations"][name], "a fan");
        let back = build_patch("chip-0", None);
        assert!(back["metadata"]["annotations"].as_object().unwrap()[name].is_null());
    }

    #[test]
    fn a_device_that_nobody_has_is_refused_and_the_others_are_named() {
        let device: DeviceName = "edge-x/chip-9".parse().unwrap();
        let error = check_known(&device, None).unwrap_err().to_string();
        assert_eq!(error, "node edge-x has no device chip-9; its devices: none");
    }
}
