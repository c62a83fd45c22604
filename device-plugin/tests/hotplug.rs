//! Real devices that come, go and change under a running agent: a tree that the test alters, and a
//! kubelet that it plays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code, reason = "the helpers serve the tests of emulated devices too")]

mod support;
#[path = "support/tree.rs"]
mod tree;

use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::inventory::{DeviceHealth, HealthDimension};
use perwatt_device_plugin::known::{Known, NodeFacts};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use support::{Bench, eventually, owned};
use tree::Tree;

fn profiles(profiles: Value) -> Known {
    let profiles: std::collections::BTreeMap<String, HardwareProfileSpec> =
        serde_json::from_value(profiles).unwrap();
    Known {
        node: NodeFacts {
            name: "edge-test".into(),
            uid: Some("uid-1".into()),
            labels: Default::default(),
            drained: Default::default(),
        },
        profiles,
    }
}

fn chip() -> Known {
    profiles(json!({"chip": {
        "class": "ASIC",
        "discovery": {"pci": [{"vendor": "1e60", "device": "2864"}]},
        "deviceNodes": [{"sysfsClass": "chips"}]
    }}))
}

const FOLDER: &str = "pci0000:00/0000:00:1c.0/0000:01:00.0";

fn card(minor: u32) -> Tree {
    Tree::parse(&format!(
        "pci: [{{at: \"{FOLDER}\", ids: \"1e60:2864\", class: \"0b4000\", driver: chip, numa: 1, \
         nodes: [{{class: chips, name: chip0, numbers: \"235:{minor}\"}}]}}]"
    ))
}

fn pull(host: &Path, folder: &str, bus: &str, numbers: &str) {
    let name = folder.rsplit('/').next().unwrap();
    fs::remove_file(host.join("sys/bus").join(bus).join("devices").join(name)).unwrap();
    fs::remove_file(host.join("sys/dev/char").join(numbers)).unwrap();
    fs::remove_dir_all(host.join("sys/devices").join(folder)).unwrap();
}

/// The entry of a device in its profile's CDI spec.
fn edits(bench: &Bench, profile: &str, id: &str) -> Value {
    let bytes = fs::read(bench.paths.cdi_spec(profile)).unwrap();
    let spec: Value = serde_json::from_slice(&bytes).unwrap();
    let devices = spec["devices"].as_array().unwrap();
    let device = devices.iter().find(|device| device["name"] == id).unwrap();
    device["containerEdits"].clone()
}

#[tokio::test]
async fn a_device_that_goes_is_lost_and_comes_back_as_itself() {
    let id = "chip-01-00.0";
    let mut bench = Bench::start(&[]).await;
    bench.update(chip()).await;
    card(0).build(&bench.paths.host);
    let mut list = bench.kubelet.watch_resource("perwatt.dev/chip").await;
    assert_eq!(list.next().await, [owned((id, "Healthy"))]);
    let found = bench.agent.shared.now().devices[id].found.clone();
    assert_eq!(
        (found.driver.as_deref(), found.numa_node),
        (Some("chip"), Some(1))
    );
    assert_eq!(edits(&bench, "chip", id)["deviceNodes"][0]["path"], "/dev/chip0");

    pull(&bench.paths.host, FOLDER, "pci", "235:0");
    assert_eq!(list.next().await, [owned((id, "Unhealthy"))]);
    let reason = bench.reason(id);
    assert_eq!(reason.dimension, HealthDimension::Lost);
    assert!(reason.message.contains("pci 0000:01:00.0"), "{}", reason.message);
    eventually("the CDI entry is there without the node", || {
        edits(&bench, "chip", id).get("deviceNodes").is_none()
    })
    .await;

    // Neither a restart nor an API server that is away makes it forgotten.
    eventually("the checkpoint has the place", || {
        fs::read_to_string(bench.paths.checkpoint())
            .unwrap()
            .contains("0000:01:00.0")
    })
    .await;
    bench.restart_agent().await;
    let mut list = bench.kubelet.watch_resource("perwatt.dev/chip").await;
    assert_eq!(list.next().await, [owned((id, "Unhealthy"))]);

    card(7).build(&bench.paths.host);
    assert_eq!(list.next().await, [owned((id, "Healthy"))]);
    eventually("the CDI entry has the new number", || {
        edits(&bench, "chip", id)["deviceNodes"][0]["minor"] == 7
    })
    .await;
    bench.end().await;
}

#[tokio::test]
async fn a_device_that_loads_its_firmware_is_one_device() {
    let id = "stick-00-14.0-usb3";
    let stick = |bus: u32, ids: &str, devnum: u32, peer: &str| {
        Tree::parse(&format!(
            "usb: [{{at: \"pci0000:00/0000:00:14.0/usb{bus}/{bus}-3\", ids: \"{ids}\", devnum: {devnum}, peer: \"{peer}\"}}]"
        ))
    };
    let bench = Bench::start(&[]).await;
    bench
        .update(profiles(json!({"stick": {
            "class": "ASIC",
            "discovery": {"usb": [{
                "vendor": "18d1", "product": "9302", "before": [{"vendor": "1a6e", "product": "089a"}]
            }]}
        }})))
        .await;
    stick(1, "1a6e:089a", 4, "usb2-port3").build(&bench.paths.host);
    let mut list = bench.kubelet.watch_resource("perwatt.dev/stick").await;
    assert_eq!(list.next().await, [owned((id, "Healthy"))]);
    // It comes back on the port's other, faster side.
    pull(
        &bench.paths.host,
        "pci0000:00/0000:00:14.0/usb1/1-3",
        "usb",
        "189:3",
    );
    stick(2, "18d1:9302", 5, "usb1-port3").build(&bench.paths.host);
    eventually("the device has its new node", || {
        let now = bench.agent.shared.now();
        assert_eq!(now.devices.keys().collect::<Vec<_>>(), [id]);
        now.devices[id].found.container_node().as_deref() == Some("/dev/bus/usb/002/005")
    })
    .await;
    bench.wait_for_health(id, DeviceHealth::Healthy).await;
    bench.end().await;
}

#[tokio::test]
async fn a_device_of_another_plugin_is_seen_and_never_registered() {
    let mut bench = Bench::start(&[]).await;
    let mut known = chip();
    known.profiles.extend(
        profiles(json!({"gpu": {
            "class": "GPU", "provider": "External", "resourceName": "nvidia.com/gpu",
            "discovery": {"nvml": {}}
        }}))
        .profiles,
    );
    Tree::parse(
        "pci: [{at: \"pci0000:00/0000:02:00.0\", ids: \"10de:2684\", class: \"030000\", driver: nvidia}]",
    )
    .build(&bench.paths.host);
    bench.update(known).await;
    eventually("the GPU is seen", || {
        bench.agent.shared.now().devices.contains_key("gpu-02-00.0")
    })
    .await;
    bench.wait_for_health("gpu-02-00.0", DeviceHealth::Healthy).await;
    // The chip comes later: by its registration one sees that there was none before.
    card(0).build(&bench.paths.host);
    assert_eq!(
        bench.kubelet.registration().await.resource_name,
        "perwatt.dev/chip"
    );
    assert!(!bench.paths.plugin_socket("gpu").exists());
    assert!(!bench.paths.socket_dir("gpu-02-00.0").exists());
    assert!(!bench.paths.cdi_spec("gpu").exists());
    bench.kubelet.restart().await;
    assert_eq!(
        bench.kubelet.registration().await.resource_name,
        "perwatt.dev/chip"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_device_whose_driver_is_not_loaded_is_told_so() {
    let id = "chip-01-00.0";
    let bench = Bench::start(&[]).await;
    let bare = format!("pci: [{{at: \"{FOLDER}\", ids: \"1e60:2864\", class: \"0b4000\"}}]");
    Tree::parse(&bare).build(&bench.paths.host);
    bench.update(chip()).await;
    let mut list = bench.kubelet.watch_resource("perwatt.dev/chip").await;
    assert_eq!(list.next().await, [owned((id, "Unhealthy"))]);
    let message = bench.reason(id).message;
    assert!(
        message.contains("no device node of class chips (driver: none)"),
        "{message}"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_profile_that_goes_takes_its_lost_devices_along() {
    let bench = Bench::start(&[]).await;
    card(0).build(&bench.paths.host);
    bench.update(chip()).await;
    let mut list = bench.kubelet.watch_resource("perwatt.dev/chip").await;
    list.next().await;
    pull(&bench.paths.host, FOLDER, "pci", "235:0");
    assert_eq!(list.next().await, [owned(("chip-01-00.0", "Unhealthy"))]);
    bench.update(profiles(json!({}))).await;
    assert_eq!(list.next().await, []);
    assert!(list.ended().await);
    bench.end().await;
}

#[tokio::test]
async fn a_device_that_flaps_stays_one_device() {
    let id = "chip-01-00.0";
    let bench = Bench::start(&[]).await;
    card(0).build(&bench.paths.host);
    bench.update(chip()).await;
    bench.kubelet.registration().await;
    for minor in 1..6 {
        pull(&bench.paths.host, FOLDER, "pci", &format!("235:{}", minor - 1));
        if minor % 2 == 0 {
            bench.wait_for_health(id, DeviceHealth::Unhealthy).await;
        }
        card(minor).build(&bench.paths.host);
    }
    eventually("the device is well with its last number", || {
        let node = bench.agent.shared.now();
        assert_eq!(node.devices.keys().collect::<Vec<_>>(), [id]);
        let place = node.devices[id].found.place.clone().unwrap();
        node.devices[id].view.health == DeviceHealth::Healthy && place.nodes[0].numbers == (235, 5)
    })
    .await;
    bench.end().await;
}

#[tokio::test]
async fn profiles_whose_devices_are_nowhere_register_nothing() {
    let bench = Bench::start(&[]).await;
    Tree::default().build(&bench.paths.host);
    let mut known = profiles(json!({}));
    known.profiles = perwatt_device_plugin::discovery::catalogue::profiles().unwrap();
    bench.update(known.clone()).await;
    eventually("the agent knows the catalogue", || {
        bench.agent.known.borrow().as_ref() == Some(&known)
    })
    .await;
    assert!(bench.agent.shared.now().profiles.is_empty());
    let files: Vec<_> = fs::read_dir(&bench.paths.kubelet)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files, ["kubelet.sock"]);
    assert!(bench.agent.readiness.blockers().is_empty());
    bench.end().await;
}
