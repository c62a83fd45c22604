//! NVIDIA's GPUs from the machine's tree and a management library that this test builds to what the
//! inventory and the metrics say: found, read, slowed down, lost, hung.

// A test that cannot go on ends; its helpers are not tests in the eyes of the lints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Not every file of tests needs every helper.
#[path = "support/nvml.rs"]
mod nvml;
#[allow(dead_code)]
mod support;
#[allow(dead_code)]
#[path = "support/tree.rs"]
mod tree;

use nvml::{Fake, WELL};
use perwatt_crds::inventory::HealthDimension::{Fault, Lost, Power, Thermal, Unmonitored};
use perwatt_crds::inventory::{DeviceHealth, DeviceStatus, HealthDimension, Recovery, TemperatureBand};
use perwatt_device_plugin::discovery::catalogue;
use perwatt_device_plugin::inventory::build_status;
use serde_json::json;
use std::collections::BTreeMap;
use support::{Bench, eventually};
use tree::Tree;

const FIRST: &str = "nvidia-gpu-01-00.0";
const SECOND: &str = "nvidia-gpu-02-00.0";

const MACHINE: &str = "
pci:
- {at: 'pci0000:00/0000:00:01.0/0000:01:00.0', ids: '10de:2704', class: '030000', driver: nvidia, numa: 0}
- {at: 'pci0000:00/0000:00:02.0/0000:02:00.0', ids: '10de:2704', class: '030000', driver: nvidia, numa: 0}
";

/// An agent on a machine with two GPUs, which the shipped profile finds.
async fn start() -> Bench {
    let bench = Bench::start(&[]).await;
    Tree::parse(MACHINE).build(&bench.paths.host);
    let mut known = support::known(&[]);
    known.profiles = catalogue::profiles().unwrap();
    bench.update(known).await;
    eventually("both GPUs are found", || {
        let node = bench.agent.shared.now();
        node.devices.keys().collect::<Vec<_>>() == [FIRST, SECOND]
    })
    .await;
    bench
}

fn status(bench: &Bench, id: &str) -> DeviceStatus {
    let devices = build_status(&bench.agent.shared.now()).devices;
    devices.into_iter().find(|device| device.id == id).unwrap()
}

/// Waits until the first GPU is in that state, for that reason alone; gives the reason's recovery and
/// message.
async fn becomes(bench: &Bench, health: DeviceHealth, dimension: HealthDimension) -> (Recovery, String) {
    eventually(&format!("the GPU is {health:?}: {dimension:?}"), || {
        let seen = status(bench, FIRST);
        let dimensions: Vec<_> = seen.reasons.iter().map(|reason| reason.dimension).collect();
        seen.health == health && dimensions == [dimension]
    })
    .await;
    let reason = status(bench, FIRST).reasons.remove(0);
    (reason.recovery, reason.message)
}

async fn is_well(bench: &Bench) {
    eventually("both GPUs are well", || {
        [FIRST, SECOND]
            .iter()
            .all(|id| status(bench, id).health == DeviceHealth::Healthy)
    })
    .await;
}

#[tokio::test]
async fn a_gpu_is_read_by_a_library_that_came_after_the_agent() {
    let bench = start().await;
    let bare = status(&bench, FIRST);
    assert_eq!((bare.health, bare.temperature), (DeviceHealth::Healthy, None));
    Fake::build(bench.paths.services.nvml.as_ref().unwrap(), WELL);
    eventually("the library is asked", || {
        status(&bench, FIRST).temperature == Some(TemperatureBand::Warm)
    })
    .await;
    let told = status(&bench, FIRST);
    assert_eq!(told.driver.as_deref(), Some("nvidia 535.104.05"));
    assert_eq!(told.firmware.as_deref(), Some("96.00.61.00.01"));
    let metrics = bench.agent.metrics.render(&bench.agent.shared).unwrap();
    for (name, value) in [
        ("power_watts", "4.5"),
        ("temperature_celsius", "61.0"),
        ("utilisation_ratio", "0.37"),
        ("clock_hertz", "1410000000.0"),
        ("memory_used_bytes", "1048576.0"),
    ] {
        let start = format!("perwatt_device_{name}{{device=\"{FIRST}\"");
        let line = metrics.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("{name} is missing:\n{metrics}"));
        assert!(line.contains("source=\"measured\""), "{line}");
        assert!(line.ends_with(&format!(" {value}")), "{line}");
    }
    // NVIDIA's own plugin registers them.
    assert!(bench.agent.shared.now().profiles.is_empty());
    bench.end().await;
}

#[tokio::test]
async fn what_happens_to_a_gpu_is_told_with_what_ends_it_and_leaves_the_other_alone() {
    let bench = start().await;
    let fake = Fake::build(bench.paths.services.nvml.as_ref().unwrap(), WELL);
    let first = |line: &str| fake.holds(&format!("{WELL}0.{line}\n"));
    use DeviceHealth::{Degraded, Unhealthy};

    // Bits of nvml.h: power cap 0x4, heat told by hardware 0x40, power brake 0x80.
    first("throttle 64");
    let (recovery, message) = becomes(&bench, Degraded, Thermal).await;
    assert!(recovery.is_itself() && message.contains("heat"), "{message}");
    first("throttle 128");
    let (_, message) = becomes(&bench, Degraded, Power).await;
    assert!(message.contains("supply"), "{message}");
    first("throttle 4");
    is_well(&bench).await;
    let held =
        format!("perwatt_device_throttled{{device=\"{FIRST}\",profile=\"nvidia-gpu\",reason=\"power\"}} 1");
    eventually("the power limit is a metric", || {
        bench
            .agent
            .metrics
            .render(&bench.agent.shared)
            .unwrap()
            .contains(&held)
    })
    .await;

    first("temperature 110");
    becomes(&bench, Unhealthy, Thermal).await;
    first("ecc 3");
    let (recovery, message) = becomes(&bench, Degraded, Fault).await;
    assert_eq!(recovery, Recovery::Reboot);
    assert!(message.contains("3 memory errors"), "{message}");

    first("lost 1");
    let (recovery, message) = becomes(&bench, Unhealthy, Lost).await;
    assert_eq!(recovery, Recovery::Reboot);
    assert!(message.contains("GPU_IS_LOST"), "{message}");
    assert_eq!(status(&bench, SECOND).health, DeviceHealth::Healthy);
    fake.holds(WELL);
    is_well(&bench).await;

    first("gone 1");
    let (recovery, _) = becomes(&bench, Unhealthy, Lost).await;
    assert_eq!(recovery, Recovery::Replug);
    fake.holds(WELL);
    is_well(&bench).await;

    // One GPU that hangs hangs the library, so of the other nothing is known either.
    first("hang 1");
    let (_, message) = becomes(&bench, DeviceHealth::Unknown, Unmonitored).await;
    assert!(message.contains("did not answer"), "{message}");
    fake.holds(WELL);
    is_well(&bench).await;

    first("xid 79");
    let (recovery, message) = becomes(&bench, Unhealthy, Fault).await;
    assert_eq!(recovery, Recovery::Reboot);
    assert!(message.contains("XID 79"), "{message}");
    assert_eq!(status(&bench, SECOND).health, DeviceHealth::Healthy);
    bench.end().await;
}

/// A profile of one's own registers its GPUs, and then the kubelet is told too.
#[tokio::test]
async fn a_gpu_that_is_lost_is_unhealthy_to_the_kubelet_until_it_is_back() {
    let bench = Bench::start(&[]).await;
    let fake = Fake::build(bench.paths.services.nvml.as_ref().unwrap(), WELL);
    Tree::parse(
        "pci: [{at: \"pci0000:00/0000:01:00.0\", ids: \"10de:2684\", class: \"030000\", driver: nvidia, \
         nodes: [{class: gpus, name: nvidia3, numbers: \"195:3\"}]}]",
    )
    .build(&bench.paths.host);
    let spec = json!({"class": "GPU", "discovery": {"nvml": {}}, "deviceNodes": [{"sysfsClass": "gpus"}]});
    let mut known = support::known(&[]);
    known.profiles = BTreeMap::from([("gpu".to_owned(), serde_json::from_value(spec).unwrap())]);
    bench.update(known).await;
    let mut list = bench.kubelet.watch_resource("perwatt.dev/gpu").await;
    let is = |health| [support::owned(("gpu-01-00.0", health))];
    assert_eq!(list.next().await, is("Healthy"));
    fake.holds(&format!("{WELL}0.lost 1\n"));
    assert_eq!(list.next().await, is("Unhealthy"));
    fake.holds(WELL);
    assert_eq!(list.next().await, is("Healthy"));
    bench.end().await;
}
