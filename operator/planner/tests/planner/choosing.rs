//! Which variant and node a slot gets, and what is said of the others.

use crate::build::{
    MIB, at, foreign_pod, key, node, on_cpu, on_profile, variant, with_devices, workload, world,
};
use crate::sim::Sim;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::profile::{DeviceClass, NodeLabels};
use perwatt_crds::workload::PlacementMode;
use perwatt_planner::outcome::{Change, PodPlan, ReasonCode};
use perwatt_planner::world::{Liveness, Needs, Variant};
use perwatt_planner::{World, plan};

fn one_node(chips: usize) -> World {
    let mut world = world();
    world
        .nodes
        .insert("edge-a".to_owned(), with_devices(node(1000), "chip", chips));
    world.workloads.insert(key("gate"), workload());
    world
}

fn creates(world: &World) -> Vec<PodPlan> {
    let changes = plan(world, at(0)).changes.into_iter();
    changes
        .map(|change| match change {
            Change::Create(pod) => pod,
            Change::Delete(pod) => panic!("unexpected delete of {}", pod.name),
        })
        .collect()
}

fn rejection(world: &World, variant: &str) -> (ReasonCode, String) {
    let plan = plan(world, at(0));
    let candidate = plan.slots[0]
        .candidates
        .iter()
        .find(|candidate| candidate.variant == variant)
        .unwrap();
    let reason = candidate
        .rejected
        .clone()
        .unwrap_or_else(|| panic!("{variant} was not rejected"));
    (reason.code, reason.message)
}

#[test]
fn a_slot_takes_the_first_variant_whose_device_is_free() {
    let pods = creates(&one_node(1));
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].assignment.variant, "npu");
    assert_eq!(pods[0].assignment.profile.as_deref(), Some("chip"));
    assert_eq!(pods[0].slot, "replica-0");
    assert_eq!(pods[0].stand_ins, ["cpu"]);
    assert_eq!(pods[0].degraded, None);
    assert_eq!(pods[0].decision, "npu on chip at edge-a");
}

#[test]
fn a_slot_that_never_had_a_device_is_not_degraded_on_the_cpu() {
    let world = one_node(0);
    let slot = &plan(&world, at(0)).slots[0];
    assert_eq!(creates(&world)[0].assignment.variant, "cpu");
    assert_eq!(slot.best_variant.as_deref(), Some("cpu"));
    assert_eq!(slot.degraded, None);
    assert_eq!(
        rejection(&world, "npu"),
        (ReasonCode::NoSuchDevice, "edge-a has no chip".to_owned())
    );
}

#[test]
fn a_device_in_use_by_a_foreign_pod_is_busy_and_that_is_no_degradation() {
    let mut world = one_node(1);
    world
        .pods
        .push(foreign_pod("rival", "edge-a", 10, Some("perwatt.dev/chip")));
    let slot = &plan(&world, at(0)).slots[0];
    assert_eq!(slot.target.as_ref().unwrap().variant, "cpu");
    assert_eq!(slot.degraded, None);
    assert_eq!(
        rejection(&world, "npu"),
        (
            ReasonCode::DeviceBusy,
            "1 of 1 chip on edge-a in use or promised".to_owned()
        )
    );
}

#[test]
fn an_unhealthy_device_degrades_its_slot_and_the_reason_names_it() {
    let mut sim = Sim::new(one_node(1));
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    let slot = sim.slot(&key("gate"), "replica-0");
    assert_eq!(slot.best_variant.as_deref(), Some("npu"));
    let degraded = slot.degraded.unwrap();
    assert_eq!(degraded.code, ReasonCode::DeviceUnhealthy);
    assert_eq!(
        degraded.message,
        "chip-0 on edge-a is Unhealthy: it does not answer"
    );
    let pods = creates(&sim.world);
    assert_eq!(
        pods[0].degraded.as_ref().unwrap().code,
        ReasonCode::DeviceUnhealthy
    );
    assert!(
        pods[0]
            .decision
            .starts_with("cpu at edge-a; not npu on chip: chip-0 on edge-a is Unhealthy")
    );
}

#[test]
fn degraded_and_unknown_devices_attract_no_pods() {
    for health in [DeviceHealth::Degraded, DeviceHealth::Unknown] {
        let mut sim = Sim::new(one_node(1));
        sim.set_health("edge-a", 0, health);
        assert_eq!(creates(&sim.world)[0].assignment.variant, "cpu", "{health:?}");
        assert_eq!(rejection(&sim.world, "npu").0, ReasonCode::DeviceUnhealthy);
    }
}

#[test]
fn one_healthy_and_one_degraded_device_take_one_pod_though_the_kubelet_offers_two() {
    let mut world = one_node(2);
    world.workloads.get_mut(&key("gate")).unwrap().replicas = 2;
    let mut sim = Sim::new(world);
    sim.set_health("edge-a", 1, DeviceHealth::Degraded);
    assert_eq!(
        sim.world.nodes["edge-a"].allocatable.extended["perwatt.dev/chip"],
        2
    );
    let variants: Vec<_> = creates(&sim.world)
        .into_iter()
        .map(|pod| pod.assignment.variant)
        .collect();
    assert_eq!(variants, ["npu", "cpu"]);
}

#[test]
fn what_the_kubelet_does_not_offer_is_not_used() {
    let mut sim = Sim::new(one_node(1));
    sim.agents_down.insert("edge-a".to_owned());
    sim.tick();
    assert_eq!(creates(&sim.world)[0].assignment.variant, "cpu");
    let (code, message) = rejection(&sim.world, "npu");
    assert_eq!(code, ReasonCode::DeviceUnhealthy);
    assert!(
        message.contains("the kubelet on edge-a offers 0 perwatt.dev/chip"),
        "{message}"
    );
}

#[test]
fn a_device_without_an_inventory_is_not_used() {
    let mut world = one_node(1);
    world.nodes.get_mut("edge-a").unwrap().devices.clear();
    let (code, message) = rejection(&world, "npu");
    assert_eq!(code, ReasonCode::NoSuchDevice);
    assert_eq!(
        message,
        "edge-a offers 1 perwatt.dev/chip, but its agent reports no device of chip"
    );
}

#[test]
fn for_another_plugins_devices_the_kubelets_word_is_enough() {
    let mut world = one_node(0);
    world.workloads.get_mut(&key("gate")).unwrap().variants =
        vec![on_profile("gpu", "foreign"), on_cpu("cpu")];
    assert_eq!(rejection(&world, "gpu").0, ReasonCode::NoSuchDevice);
    let offered = &mut world.nodes.get_mut("edge-a").unwrap().allocatable.extended;
    offered.insert("perwatt.dev/foreign".to_owned(), 1);
    assert_eq!(creates(&world)[0].assignment.variant, "gpu");
    world
        .pods
        .push(foreign_pod("rival", "edge-a", 10, Some("perwatt.dev/foreign")));
    assert_eq!(rejection(&world, "gpu").0, ReasonCode::DeviceBusy);
}

#[test]
fn a_profile_that_does_not_exist_is_named_with_what_to_do() {
    let mut world = one_node(1);
    world.workloads.get_mut(&key("gate")).unwrap().variants =
        vec![on_cpu("cpu"), on_profile("npu", "hailo-9")];
    let (code, message) = rejection(&world, "npu");
    assert_eq!(code, ReasonCode::ProfileNotFound);
    assert!(
        message.contains("`hailo-9`") && message.contains("kubectl get hardwareprofiles"),
        "{message}"
    );
    assert_eq!(creates(&world)[0].assignment.variant, "cpu");
}

#[test]
fn a_class_means_every_profile_of_it_by_name() {
    let mut world = one_node(0);
    let gpu = variant("gpu", Needs::Class(DeviceClass::Gpu));
    world.workloads.get_mut(&key("gate")).unwrap().variants = vec![gpu, on_cpu("cpu")];
    let profiles = |world: &World| -> Vec<_> {
        let slot = plan(world, at(0)).slots.remove(0);
        slot.candidates
            .into_iter()
            .filter_map(|candidate| candidate.profile)
            .collect()
    };
    assert_eq!(profiles(&world), ["board", "foreign"]);
    world
        .nodes
        .insert("edge-b".to_owned(), with_devices(node(1000), "board", 1));
    let pods = creates(&world);
    assert_eq!(pods[0].assignment.profile.as_deref(), Some("board"));
    assert_eq!(pods[0].assignment.node, "edge-b");
    world
        .profiles
        .retain(|_, profile| profile.class != DeviceClass::Gpu);
    assert_eq!(rejection(&world, "gpu").0, ReasonCode::ProfileNotFound);
}

#[test]
fn what_is_less_accurate_than_the_minimum_never_serves() {
    let mut world = one_node(1);
    let workload = world.workloads.get_mut(&key("gate")).unwrap();
    workload.minimum_accuracy_permille = Some(900);
    workload.variants[0].accuracy_permille = Some(899);
    workload.variants.push(Variant {
        accuracy_permille: Some(10),
        ..on_cpu("tiny")
    });
    let pods = creates(&world);
    assert_eq!(pods[0].assignment.variant, "cpu");
    assert!(pods[0].stand_ins.is_empty());
    let (code, message) = rejection(&world, "npu");
    assert_eq!(code, ReasonCode::BelowMinimumAccuracy);
    assert!(message.contains("899") && message.contains("900"), "{message}");
    assert_eq!(rejection(&world, "tiny").0, ReasonCode::BelowMinimumAccuracy);
}

#[test]
fn a_full_node_is_described_in_numbers() {
    let mut world = one_node(0);
    world.pods.push(foreign_pod("big", "edge-a", 980, None));
    let slot = &plan(&world, at(0)).slots[0];
    assert_eq!(slot.target, None);
    let problem = slot.problem.as_ref().unwrap();
    assert_eq!(problem.code, ReasonCode::NoFeasibleVariant);
    assert!(
        problem.message.contains("cpu: needs 50m CPU, 20m free on edge-a"),
        "{}",
        problem.message
    );
    assert!(
        problem.message.contains("npu on chip: edge-a has no chip"),
        "{}",
        problem.message
    );

    world.pods[0].requests.cpu_millis = 0;
    world.pods[0].requests.memory_bytes = 1000 * MIB;
    assert_eq!(
        rejection(&world, "cpu").1,
        "needs 64Mi memory, 24Mi free on edge-a"
    );
    world.pods[0].requests.memory_bytes = 0;
    world.nodes.get_mut("edge-a").unwrap().allocatable.pods = 1;
    assert_eq!(rejection(&world, "cpu").1, "needs 1 pod place, 0 free on edge-a");
}

#[test]
fn pods_that_stop_still_count_and_pods_that_ended_do_not() {
    let mut world = one_node(1);
    world
        .pods
        .push(foreign_pod("stops", "edge-a", 10, Some("perwatt.dev/chip")));
    assert_eq!(creates(&world)[0].assignment.variant, "cpu");
    world.pods[0].holds_resources = false;
    assert_eq!(creates(&world)[0].assignment.variant, "npu");
}

#[test]
fn nodes_that_admit_nothing_new_get_nothing_new() {
    let cases: [(&str, ReasonCode); 4] = [
        ("cordoned", ReasonCode::NodeCordoned),
        ("tainted", ReasonCode::NodeTainted),
        ("not ready", ReasonCode::NodeNotReady),
        ("silent", ReasonCode::NodeNotReady),
    ];
    for (case, code) in cases {
        let mut world = one_node(1);
        let node = world.nodes.get_mut("edge-a").unwrap();
        match case {
            "cordoned" => node.unschedulable = true,
            "tainted" => node.foreign_taints.push("dedicated".to_owned()),
            "not ready" => node.liveness = Liveness::NotReady,
            _ => node.liveness = Liveness::Silent { since: at(-5) },
        }
        let plan = plan(&world, at(0));
        assert_eq!(plan.changes, [], "{case}");
        assert_eq!(plan.slots[0].problem.as_ref().unwrap().code, code, "{case}");
        assert_eq!(rejection(&world, "npu").0, code, "{case}");
    }
}

#[test]
fn a_selector_that_matches_no_node_says_so() {
    let mut world = one_node(1);
    let labels = [("sensor".to_owned(), "microphone".to_owned())].into();
    world.workloads.get_mut(&key("gate")).unwrap().nodes = NodeLabels { match_labels: labels };
    let slot = &plan(&world, at(0)).slots[0];
    assert_eq!(slot.problem.as_ref().unwrap().code, ReasonCode::NoNodeMatches);
}

#[test]
fn older_workloads_choose_first() {
    let mut world = one_node(1);
    let mut older = workload();
    older.created = at(-2000);
    world.workloads.insert(key("zulu"), older);
    let pods = creates(&world);
    assert_eq!(
        (
            pods[0].workload.name.as_str(),
            pods[0].assignment.variant.as_str()
        ),
        ("zulu", "npu")
    );
    assert_eq!(
        (
            pods[1].workload.name.as_str(),
            pods[1].assignment.variant.as_str()
        ),
        ("gate", "cpu")
    );
    let order: Vec<_> = plan(&world, at(0))
        .slots
        .into_iter()
        .map(|slot| slot.workload.name)
        .collect();
    assert_eq!(
        order,
        ["gate", "zulu"],
        "slots are listed by workload, whoever chose first"
    );
}

#[test]
fn replicas_go_where_most_devices_are_free_then_where_least_cpu_is_requested() {
    let mut world = one_node(1);
    world
        .nodes
        .insert("edge-b".to_owned(), with_devices(node(1000), "chip", 2));
    world.nodes.insert("edge-c".to_owned(), node(1000));
    world.pods.push(foreign_pod("load", "edge-a", 500, None));
    world.pods.push(foreign_pod("more", "edge-b", 400, None));
    world.workloads.get_mut(&key("gate")).unwrap().replicas = 5;
    let places: Vec<_> = creates(&world)
        .into_iter()
        .map(|pod| (pod.assignment.variant, pod.assignment.node))
        .collect();
    let expected = [
        ("npu", "edge-b"),
        ("npu", "edge-b"),
        ("npu", "edge-a"),
        ("cpu", "edge-c"),
        ("cpu", "edge-c"),
    ];
    let expected: Vec<_> = expected
        .map(|(variant, node)| (variant.to_owned(), node.to_owned()))
        .into();
    // edge-b has less CPU requested once a replica is there, and two free devices before.
    assert_eq!(places.iter().filter(|(variant, _)| variant == "npu").count(), 3);
    assert_eq!(places[0], expected[0]);
    assert_eq!(places[3..], expected[3..]);
}

#[test]
fn every_chosen_node_is_a_slot_in_mode_per_node() {
    let mut world = one_node(1);
    world.nodes.insert("edge-b".to_owned(), node(1000));
    let mut other = node(1000);
    other.labels.insert("kind".to_owned(), "hub".to_owned());
    world.nodes.insert("hub".to_owned(), other);
    for node in ["edge-a", "edge-b"] {
        world
            .nodes
            .get_mut(node)
            .unwrap()
            .labels
            .insert("kind".to_owned(), "edge".to_owned());
    }
    let workload = world.workloads.get_mut(&key("gate")).unwrap();
    workload.mode = PlacementMode::PerNode;
    workload.nodes = NodeLabels {
        match_labels: [("kind".to_owned(), "edge".to_owned())].into(),
    };
    let pods = creates(&world);
    let slots: Vec<_> = pods
        .iter()
        .map(|pod| (pod.slot.as_str(), pod.assignment.variant.as_str()))
        .collect();
    assert_eq!(slots, [("edge-a", "npu"), ("edge-b", "cpu")]);
    let slot = &plan(&world, at(0)).slots[1];
    assert_eq!(
        slot.candidates[0].node.as_deref(),
        Some("edge-b"),
        "the reason is the node's own"
    );
}

#[test]
fn reasons_on_many_nodes_are_counted() {
    let mut world = one_node(1);
    for name in ["edge-b", "edge-c", "edge-d", "edge-e"] {
        world
            .nodes
            .insert(name.to_owned(), with_devices(node(1000), "chip", 1));
    }
    world.nodes.insert("hub".to_owned(), node(1000));
    for name in ["edge-a", "edge-b", "edge-c", "edge-d", "edge-e"] {
        world.pods.push(foreign_pod(
            &format!("on-{name}"),
            name,
            10,
            Some("perwatt.dev/chip"),
        ));
    }
    let (code, message) = rejection(&world, "npu");
    assert_eq!(code, ReasonCode::DeviceBusy);
    assert_eq!(
        message,
        "5 nodes: device busy (edge-a, edge-b, edge-c, …); hub has no chip"
    );
    let candidates = &plan(&world, at(0)).slots[0].candidates;
    assert_eq!(
        candidates.len(),
        2,
        "one for each variant and profile, not for each node"
    );
    assert_eq!(candidates[0].node, None);
}
