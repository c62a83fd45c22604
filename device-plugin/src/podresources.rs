//! Which pod holds which device, as the kubelet's PodResources API says.
//!
//! The API has no watch, so it is asked now and then, and only while there are devices. What
//! the kubelet said last stays while it is away: its pods keep running, and their devices with
//! them.

use crate::constants::POD_RESOURCES;
use crate::known::resource_name;
use crate::kubelet::connect;
use crate::kubelet::replicas::device_of;
use crate::quiet::{Quiet, root_cause};
use crate::state::{Node, Shared};
use api::pod_resources_lister_client::PodResourcesListerClient;
use api::{ListPodResourcesRequest, PodResources};
use perwatt_crds::inventory::PodRef;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The API as it goes over the wire, generated from `proto/podresources.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod api {
    tonic::include_proto!("v1");
}

/// The most that the kubelet's answer may be long: a thousand pods take a hundredth of it.
const MOST_BYTES: usize = 16 << 20;

/// Why nobody knows who holds the devices.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot ask the kubelet at {path} which pods hold the devices: {text}; energy is not attributed to pods until it answers"
)]
pub struct PodResourcesError {
    /// The kubelet's socket.
    pub path: PathBuf,
    /// What happened.
    pub text: String,
}

/// Asks the kubelet for as long as the agent runs.
pub async fn follow(socket: PathBuf, shared: Shared) {
    let mut quiet = Quiet::default();
    loop {
        let resources = resources(&shared.now());
        if !resources.is_empty() {
            match list(&socket).await {
                Ok(pods) => {
                    if quiet.clear() {
                        tracing::info!("the kubelet tells again which pods hold the devices");
                    }
                    shared.set_holders(holders(&pods, &resources));
                }
                Err(error) if quiet.is_news(&error.to_string()) => tracing::warn!("{error}"),
                Err(_) => {}
            }
        }
        tokio::time::sleep(POD_RESOURCES.0).await;
    }
}

/// The resources that this node serves. Other plugins may have devices of the same id.
fn resources(node: &Node) -> BTreeSet<String> {
    node.profiles
        .iter()
        .map(|(name, spec)| resource_name(name, spec))
        .collect()
}

/// What the kubelet says now.
///
/// # Errors
/// When it does not answer, or not in time.
pub async fn list(socket: &Path) -> Result<Vec<PodResources>, PodResourcesError> {
    let failed = |text: String| PodResourcesError {
        path: socket.to_owned(),
        text,
    };
    let call = async {
        let channel = connect(socket)
            .await
            .map_err(|error| failed(root_cause(&error)))?;
        PodResourcesListerClient::new(channel)
            .max_decoding_message_size(MOST_BYTES)
            .list(ListPodResourcesRequest {})
            .await
            .map(|response| response.into_inner().pod_resources)
            .map_err(|status| failed(status.message().chars().take(200).collect()))
    };
    tokio::time::timeout(POD_RESOURCES.1, call)
        .await
        .unwrap_or_else(|_| {
            Err(failed(format!(
                "no answer within {} s",
                POD_RESOURCES.1.as_secs()
            )))
        })
}

/// The pods of each device of these resources; a shared device has those of all its replicas. A name that the API server would not take is
/// none: whoever holds the socket is not trusted further than that.
fn holders(pods: &[PodResources], resources: &BTreeSet<String>) -> BTreeMap<String, Vec<PodRef>> {
    let mut found: BTreeMap<String, Vec<PodRef>> = BTreeMap::new();
    for pod in pods
        .iter()
        .filter(|pod| is_name(&pod.namespace, 63) && is_name(&pod.name, 253))
    {
        let devices = pod.containers.iter().flat_map(|container| &container.devices);
        for id in devices
            .filter(|devices| resources.contains(&devices.resource_name))
            .flat_map(|devices| &devices.device_ids)
        {
            let pod = PodRef {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
            };
            found.entry(device_of(id).to_owned()).or_default().push(pod);
        }
    }
    found
}

fn is_name(text: &str, most: usize) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= most && text.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ContainerDevices, ContainerResources};

    fn pod(name: &str, resource: &str, ids: &[&str]) -> PodResources {
        let devices = ContainerDevices {
            resource_name: resource.into(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let container = ContainerResources {
            name: "main".into(),
            devices: vec![devices],
        };
        PodResources {
            name: name.into(),
            namespace: "audio".into(),
            containers: vec![container],
        }
    }

    #[test]
    fn only_our_resources_and_real_names_count() {
        let pods = [
            pod("gate-1", "perwatt.dev/chip", &["chip-0", "chip-1"]),
            pod("other", "nvidia.com/gpu", &["chip-1"]),
            pod("Bad\nName", "perwatt.dev/chip", &["chip-2"]),
            pod(&"x".repeat(254), "perwatt.dev/chip", &["chip-3"]),
        ];
        let found = holders(&pods, &BTreeSet::from(["perwatt.dev/chip".to_owned()]));
        let names: Vec<_> = found
            .iter()
            .map(|(id, pods)| (id.as_str(), pods.len(), pods[0].name.as_str()))
            .collect();
        assert_eq!(names, [("chip-0", 1, "gate-1"), ("chip-1", 1, "gate-1")]);
    }

    #[test]
    fn a_shared_device_is_held_by_the_pods_of_all_its_replicas() {
        let pods = [
            pod("one", "perwatt.dev/chip", &["chip-0"]),
            pod("two", "perwatt.dev/chip", &["chip-0::1"]),
        ];
        let found = holders(&pods, &BTreeSet::from(["perwatt.dev/chip".to_owned()]));
        assert_eq!(found.keys().collect::<Vec<_>>(), ["chip-0"]);
        let names: Vec<_> = found["chip-0"].iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[tokio::test]
    async fn without_a_kubelet_it_says_where_it_looked() {
        let error = list(Path::new("/nowhere/kubelet.sock"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nowhere/kubelet.sock") && error.contains("not attributed"),
            "{error}"
        );
    }
}
