//! "Why is this not on the NPU?": one row for each constraint, with the sentence that answers.

use crate::build::{MIB, at, foreign_pod, key, node};
use crate::lab::cluster;
use perwatt_crds::inventory::{DeviceHealth, TemperatureBand};
use perwatt_crds::performance::FigureSource;
use perwatt_crds::profile::{NodeLabels, Power, Precision};
use perwatt_crds::workload::Locality;
use perwatt_planner::outcome::ReasonCode;
use perwatt_planner::world::{Declared, Device, Liveness, Needs, Node, Profile, Site, Variant, Workload};
use perwatt_planner::{World, plan};
use std::time::Duration;

fn gate(world: &mut World) -> &mut Workload {
    world.workloads.get_mut(&key("gate")).unwrap()
}

fn npu(world: &mut World) -> &mut Variant {
    &mut gate(world).variants[0]
}

fn chip(world: &mut World) -> &mut Profile {
    world.profiles.get_mut("chip").unwrap()
}

fn edge(world: &mut World) -> &mut Node {
    world.nodes.get_mut("edge-a").unwrap()
}

fn device(world: &mut World) -> &mut Device {
    &mut edge(world).devices[0]
}

/// A site of all nodes; the chip draws 500 mW at rest and 2,500 mW at work.
fn with_budget(world: &mut World, site_milliwatts: Option<u64>, node_milliwatts: Option<u64>) {
    chip(world).power = Power {
        idle_milliwatts: Some(500),
        typical_milliwatts: Some(2500),
        ..Power::default()
    };
    let site = Site {
        nodes: Some(NodeLabels::default()),
        site_milliwatts,
        node_milliwatts,
    };
    world.sites.insert("plant".to_owned(), site);
}

/// What rules the NPU out, and the answer.
type Row = (fn(&mut World), ReasonCode, &'static str);

const OF_THE_VARIANT: [Row; 9] = [
    (
        |world| {
            npu(world).accuracy_permille = Some(880);
            gate(world).minimum_accuracy_permille = Some(900);
        },
        ReasonCode::BelowMinimumAccuracy,
        "accuracy is 880 per mille, fallback.minimumAccuracyPermille asks for 900",
    ),
    (
        |world| {
            npu(world).performance = Some(Declared {
                p99: Some(Duration::from_millis(12)),
                microjoules: None,
                source: FigureSource::Measured,
            });
            gate(world).latency_p99 = Some(Duration::from_millis(10));
        },
        ReasonCode::LatencyTargetMissed,
        "p99 is 12ms (declared (measured)), placement.latency.p99 asks for 10ms",
    ),
    (
        |world| {
            npu(world).precision = Some(Precision::Int8);
            chip(world).precisions = vec![Precision::Float16];
        },
        ReasonCode::PrecisionNotSupported,
        "it computes in int8, chip in float16",
    ),
    (
        |world| {
            npu(world).memory_bytes = Some(64 * MIB);
            chip(world).memory_bytes = Some(32 * MIB);
        },
        ReasonCode::DeviceMemoryTooSmall,
        "it takes 64Mi of device memory, chip has 32Mi",
    ),
    (
        |world| {
            npu(world).remote = true;
            gate(world).locality = Locality::Node;
        },
        ReasonCode::LocalityForbids,
        "it sends data to a server elsewhere, and placement.locality is Node",
    ),
    (
        |world| {
            npu(world).remote = true;
            gate(world).locality = Locality::Site;
        },
        ReasonCode::LocalityForbids,
        "it sends data to a server elsewhere, and placement.locality is Site",
    ),
    (
        |world| chip(world).supported_until = Some(at(-3600)),
        ReasonCode::SupportEnded,
        "support of chip ended 2027-01-15T07:00:00Z: it keeps what it serves, and gets nothing new",
    ),
    (
        |world| gate(world).priority_refused = Some("PriorityClass `pushy` preempts".to_owned()),
        ReasonCode::PriorityClassRefused,
        "PriorityClass `pushy` preempts",
    ),
    (
        |world| npu(world).needs = Needs::Profiles(vec!["other".to_owned()]),
        ReasonCode::ProfileNotFound,
        "there is no HardwareProfile `other`: `kubectl get hardwareprofiles` lists what there is",
    ),
];

const OF_THE_DEVICE: [Row; 9] = [
    (
        |world| edge(world).devices.clear(),
        ReasonCode::NoSuchDevice,
        "edge-a offers 1 perwatt.dev/chip, but its agent reports no device of chip",
    ),
    (
        |world| {
            let rival = foreign_pod("rival", "edge-a", 10, Some("perwatt.dev/chip"));
            world.pods.push(rival);
        },
        ReasonCode::DeviceBusy,
        "1 of 1 chip on edge-a in use or promised",
    ),
    (
        |world| {
            edge(world)
                .allocatable
                .extended
                .insert("perwatt.dev/chip".to_owned(), 0);
        },
        ReasonCode::DeviceUnhealthy,
        "the kubelet on edge-a offers 0 perwatt.dev/chip, 0 requested, though a device is there",
    ),
    (
        |world| {
            device(world).health = DeviceHealth::Unhealthy;
            device(world).health_message = "lost: gone from its bus".to_owned();
        },
        ReasonCode::DeviceUnhealthy,
        "chip-0 on edge-a is Unhealthy: lost: gone from its bus",
    ),
    (
        |world| {
            device(world).health = DeviceHealth::Unhealthy;
            device(world).firmware_refused = Some("firmware 4.18.1 is blocked".to_owned());
        },
        ReasonCode::FirmwareRefused,
        "chip-0 on edge-a: firmware 4.18.1 is blocked",
    ),
    (
        |world| device(world).firmware_refused = Some("driver 4.17 does not match".to_owned()),
        ReasonCode::FirmwareRefused,
        "chip-0 on edge-a: driver 4.17 does not match",
    ),
    (
        |world| edge(world).agent_silent_since = Some(at(-300)),
        ReasonCode::AgentSilent,
        "chip on edge-a is Unknown: the agent of edge-a is silent since 2027-01-15T07:55:00Z: its device-plugin pod is \
         not ready",
    ),
    (
        |world| device(world).temperature = Some(TemperatureBand::NearThrottle),
        ReasonCode::ThermalHeadroom,
        "chip-0 on edge-a is near its throttling: it keeps what it serves",
    ),
    (
        |world| device(world).throttling_since = Some(at(-30)),
        ReasonCode::ThermalHeadroom,
        "chip-0 on edge-a throttles since 2027-01-15T07:59:30Z",
    ),
];

const OF_THE_NODE_AND_SITE: [Row; 10] = [
    (
        |world| edge(world).allocatable.cpu_millis = 40,
        ReasonCode::NodeFull,
        "needs 50m CPU, 40m free on edge-a",
    ),
    (
        |world| edge(world).allocatable.memory_bytes = 32 * MIB,
        ReasonCode::NodeFull,
        "needs 64Mi memory, 32Mi free on edge-a",
    ),
    (
        |world| edge(world).allocatable.pods = 0,
        ReasonCode::NodeFull,
        "needs 1 pod place, 0 free on edge-a",
    ),
    (
        |world| edge(world).unschedulable = true,
        ReasonCode::NodeCordoned,
        "edge-a is cordoned: `kubectl uncordon edge-a` admits new pods",
    ),
    (
        |world| edge(world).foreign_taints = vec!["lab".to_owned()],
        ReasonCode::NodeTainted,
        "edge-a has the taint lab",
    ),
    (
        |world| edge(world).liveness = Liveness::NotReady,
        ReasonCode::NodeNotReady,
        "edge-a is not ready",
    ),
    (
        |world| edge(world).liveness = Liveness::Silent { since: at(-60) },
        ReasonCode::NodeNotReady,
        "edge-a is silent since 2027-01-15T07:59:00Z",
    ),
    (
        |world| {
            let labels = [("line".to_owned(), "7".to_owned())];
            gate(world).nodes.match_labels = labels.into();
        },
        ReasonCode::NoNodeMatches,
        "no node matches placement.nodes: `kubectl get nodes --show-labels` lists them",
    ),
    (
        |world| with_budget(world, None, Some(1000)),
        ReasonCode::NodePowerBudget,
        "adds 2000 mW to the 500 mW of edge-a, whose nodeMilliwatts is 1000",
    ),
    (
        |world| with_budget(world, Some(1000), None),
        ReasonCode::SitePowerBudget,
        "adds 2000 mW to the 500 mW of site plant, whose siteMilliwatts is 1000",
    ),
];

#[test]
fn every_constraint_says_why_the_model_is_not_on_the_npu_and_what_would_change_it() {
    let rows = OF_THE_VARIANT
        .iter()
        .chain(&OF_THE_DEVICE)
        .chain(&OF_THE_NODE_AND_SITE);
    for (rule_out, code, sentence) in rows {
        let mut world = cluster(1);
        rule_out(&mut world);
        let slot = plan(&world, at(0)).slots.remove(0);
        let npu = slot.candidates.iter().find(|way| way.variant == "npu").unwrap();
        let reason = npu
            .rejected
            .as_ref()
            .unwrap_or_else(|| panic!("not ruled out: {sentence}"));
        assert_eq!((reason.code, reason.message.as_str()), (*code, *sentence));
        assert!(!code.remedy().is_empty(), "nothing would change: {sentence}");
        assert!(!npu.chosen, "{sentence}");
    }
}

#[test]
fn one_reason_that_speaks_of_the_workload_is_said_once() {
    let mut world = cluster(1);
    gate(&mut world).priority_refused = Some("PriorityClass `pushy` preempts".to_owned());
    let plan = plan(&world, at(0));
    let problem = plan.slots[0].problem.as_ref().unwrap();
    assert_eq!(problem.code, ReasonCode::PriorityClassRefused);
    assert_eq!(problem.message, "PriorityClass `pushy` preempts");
    assert!(plan.changes.is_empty());
}

#[test]
fn on_many_nodes_the_answer_counts_them() {
    let mut world = cluster(1);
    edge(&mut world).unschedulable = true;
    for name in ["edge-b", "edge-c"] {
        world.nodes.insert(name.to_owned(), node(1000));
    }
    let plan = plan(&world, at(0));
    let reason = plan.slots[0].candidates[0].rejected.as_ref().unwrap();
    assert_eq!(
        reason.message,
        "edge-a is cordoned: `kubectl uncordon edge-a` admits new pods; 2 nodes: no such device (edge-b, edge-c)"
    );
}

#[test]
fn of_many_nodes_over_the_sites_budget_three_are_named() {
    let mut world = cluster(1);
    for name in ["edge-b", "edge-c", "edge-d", "edge-e"] {
        let node = world.nodes["edge-a"].clone();
        world.nodes.insert(name.to_owned(), node);
    }
    with_budget(&mut world, Some(2_600), None);
    let plan = plan(&world, at(0));
    let reason = plan.slots[0].candidates[0].rejected.as_ref().unwrap();
    assert_eq!(reason.code, ReasonCode::SitePowerBudget);
    let words = "5 nodes: over the site's power budget (edge-a, edge-b, edge-c, …), such as: adds 2000 mW";
    assert!(reason.message.starts_with(words), "{}", reason.message);
}
