//! How a slot moves: never a gap.

use crate::build::{key, node, on_cpu, on_profile, with_devices};
use crate::lab::{SLOT, changes, cluster, gate, on, served_by, serving, story};
use crate::sim::Sim;
use jiff::ToSpan;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::workload::OnGap;
use perwatt_planner::outcome::{Change, ReasonCode};
use perwatt_planner::world::{PodState, Role};
use std::time::Duration;

#[test]
fn a_dead_device_moves_its_slot_to_the_next_variant_without_a_gap() {
    let mut sim = serving(1);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    assert_eq!(story(&mut sim), ["+cpu", "-npu>cpu"]);
    assert_eq!(served_by(&sim), on("cpu", "edge-a"));
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!(slot.degraded.unwrap().code, ReasonCode::DeviceUnhealthy);
    assert_eq!(slot.best_variant.as_deref(), Some("npu"));
}

#[test]
fn a_slot_returns_when_its_device_has_been_healthy_for_long_enough() {
    let mut sim = serving(1);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    story(&mut sim);
    let recovered = sim.now;
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    assert_eq!(plan.wake_at, Some(recovered + 60.seconds()));
    assert_eq!(
        plan.slots[0].degraded.as_ref().unwrap().code,
        ReasonCode::DeviceRecovering
    );
    sim.seconds(59);
    assert_eq!(changes(&sim), [""; 0]);
    sim.seconds(1);
    assert_eq!(story(&mut sim), ["+npu", "-cpu>npu"]);
    assert_eq!(sim.slot(&key("gate"), SLOT).degraded, None);
}

#[test]
fn with_two_devices_and_one_dead_under_its_pod_the_slot_is_bridged_to_the_other() {
    let mut sim = serving(2);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    // The kubelet offers one device, and the scheduler counts the pod on the dead one against it.
    assert_eq!(
        sim.world.nodes["edge-a"].allocatable.extended["perwatt.dev/chip"],
        1
    );
    assert_eq!(story(&mut sim), ["+cpu bridge", "-npu>cpu", "+npu", "-cpu>npu"]);
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    assert_eq!(sim.slot(&key("gate"), SLOT).degraded, None);
}

#[test]
fn a_bridge_is_degraded_and_says_where_it_leads() {
    let mut sim = serving(2);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    let plan = sim.plan();
    let Change::Create(bridge) = &plan.changes[0] else {
        panic!("{plan:?}")
    };
    assert_eq!(bridge.degraded.as_ref().unwrap().code, ReasonCode::Moving);
    assert_eq!(bridge.decision, "cpu bridges the move to npu on chip at edge-a");
    sim.apply(&plan);
    sim.seconds(4);
    let plan = sim.plan();
    sim.apply(&plan);
    sim.seconds(1);
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!(slot.serving.as_ref().unwrap().role, Role::Bridge);
    assert_eq!(slot.degraded.unwrap().code, ReasonCode::Moving);
    assert!(slot.changing);
}

#[test]
fn a_new_revision_on_the_same_device_is_bridged() {
    let mut sim = serving(1);
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(story(&mut sim), ["+cpu bridge", "-npu>cpu", "+npu", "-cpu>npu"]);
    assert!(sim.owned().all(|(_, owned)| owned.revision == "bb02"));
}

#[test]
fn a_new_revision_of_what_fits_beside_the_old_replaces_it_directly() {
    let mut sim = serving(0);
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(story(&mut sim), ["+cpu", "-cpu>cpu"]);
}

#[test]
fn where_no_bridge_fits_what_serves_is_kept() {
    let mut world = cluster(1);
    world.nodes.get_mut("edge-a").unwrap().allocatable.cpu_millis = 90;
    let mut sim = Sim::new(world);
    sim.converge();
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(changes(&sim), [""; 0]);
    let slot = sim.slot(&key("gate"), SLOT);
    let problem = slot.problem.unwrap();
    assert_eq!(problem.code, ReasonCode::CannotBridge);
    assert!(problem.message.contains("onGap"), "{}", problem.message);
    assert!(!slot.changing);

    gate(&mut sim).on_gap = OnGap::Allow;
    assert_eq!(story(&mut sim), ["-npu>nothing", "+npu"]);
}

#[test]
fn a_gap_is_not_worth_a_pod_that_serves_no_better() {
    let mut world = cluster(1);
    world.nodes.get_mut("edge-a").unwrap().allocatable.cpu_millis = 90;
    world.workloads.get_mut(&key("gate")).unwrap().on_gap = OnGap::Allow;
    let mut sim = Sim::new(world);
    sim.converge();
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    sim.tick();
    assert_eq!(
        changes(&sim),
        [""; 0],
        "the pod serves from its stand-in, and no other fits beside it"
    );
    assert_eq!(
        sim.slot(&key("gate"), SLOT).problem.unwrap().code,
        ReasonCode::CannotBridge
    );
}

#[test]
fn a_replica_may_be_bridged_from_another_node() {
    let mut world = cluster(1);
    world.nodes.get_mut("edge-a").unwrap().allocatable.cpu_millis = 90;
    world.nodes.insert("edge-b".to_owned(), node(100));
    let mut sim = Sim::new(world);
    sim.converge();
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(story(&mut sim), ["+cpu bridge", "-npu>cpu", "+npu", "-cpu>npu"]);
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn where_no_device_less_variant_is_declared_nothing_can_bridge() {
    let mut sim = serving(1);
    gate(&mut sim).variants.pop();
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(
        sim.slot(&key("gate"), SLOT).problem.unwrap().code,
        ReasonCode::CannotBridge
    );
    assert_eq!(changes(&sim), [""; 0]);
}

#[test]
fn a_replica_that_cannot_be_bridged_takes_another_node_where_it_fits_at_once() {
    let mut world = cluster(1);
    world.nodes.get_mut("edge-a").unwrap().allocatable.cpu_millis = 90;
    let mut sim = Sim::new(world);
    sim.converge();
    sim.world
        .nodes
        .insert("edge-b".to_owned(), with_devices(node(1000), "chip", 1));
    assert_eq!(
        changes(&sim),
        [""; 0],
        "the same variant elsewhere is no reason to move"
    );
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(story(&mut sim), ["+npu", "-npu>npu"]);
    assert_eq!(served_by(&sim), on("npu", "edge-b"));
}

#[test]
fn a_slot_that_nothing_serves_takes_a_recovering_device_at_once() {
    let mut world = cluster(1);
    world.workloads.get_mut(&key("gate")).unwrap().variants.pop();
    let mut sim = Sim::new(world);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    assert_eq!(
        sim.slot(&key("gate"), SLOT).problem.unwrap().code,
        ReasonCode::NoFeasibleVariant
    );
    sim.tick();
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    assert_eq!(changes(&sim), ["+npu"]);
}

#[test]
fn a_slot_moves_to_a_better_device_elsewhere_and_comes_back() {
    let mut world = cluster(1);
    world
        .nodes
        .insert("edge-b".to_owned(), with_devices(node(1000), "board", 1));
    let variants = vec![
        on_profile("npu", "chip"),
        on_profile("gpu", "board"),
        on_cpu("cpu"),
    ];
    world.workloads.get_mut(&key("gate")).unwrap().variants = variants;
    let mut sim = Sim::new(world);
    sim.converge();
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    assert_eq!(story(&mut sim), ["+gpu", "-npu>gpu"]);
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn a_slot_wakes_for_the_second_best_device_while_the_best_is_dead() {
    let mut world = cluster(1);
    world
        .nodes
        .insert("edge-b".to_owned(), with_devices(node(1000), "board", 1));
    let variants = vec![
        on_profile("npu", "chip"),
        on_profile("gpu", "board"),
        on_cpu("cpu"),
    ];
    world.workloads.get_mut(&key("gate")).unwrap().variants = variants;
    let mut sim = Sim::new(world);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    sim.set_health("edge-b", 0, DeviceHealth::Unhealthy);
    story(&mut sim);
    sim.set_health("edge-b", 0, DeviceHealth::Healthy);
    assert_eq!(sim.plan().wake_at, Some(sim.now + 60.seconds()));
    sim.converge();
    assert_eq!(served_by(&sim), on("gpu", "edge-b"));
}

#[test]
fn a_pod_that_answers_from_its_stand_in_survives_until_its_replacement_is_ready() {
    let mut sim = serving(1);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    sim.tick();
    assert_eq!(served_by(&sim), on("npu", "edge-a"), "ready, by its stand-in");
    let plan = sim.plan();
    sim.apply(&plan);
    sim.tick();
    assert_eq!(changes(&sim), [""; 0], "the replacement starts");
}

#[test]
fn a_fallback_inside_the_pod_is_degraded_with_the_runtimes_words() {
    let mut sim = serving(1);
    let pod = sim.world.pods[0].owned.as_mut().unwrap();
    pod.active.as_mut().unwrap().name = "cpu".to_owned();
    pod.active.as_mut().unwrap().reason = "the breaker is open".to_owned();
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    let degraded = plan.slots[0].degraded.as_ref().unwrap();
    assert_eq!(degraded.code, ReasonCode::RuntimeFallback);
    assert!(
        degraded.message.contains("the breaker is open"),
        "{}",
        degraded.message
    );
}

#[test]
fn a_crashing_pod_of_an_old_revision_gives_way_at_once() {
    let mut sim = serving(1);
    let name = sim.world.pods[0].name.clone();
    let crash = PodState::Starting {
        reason: "CrashLoopBackOff".to_owned(),
        message: "exit 1".to_owned(),
    };
    sim.set_state(&name, crash);
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(changes(&sim), ["-npu>nothing"]);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn a_pod_that_starts_for_an_older_target_is_dropped() {
    let mut sim = Sim::new(cluster(0));
    let plan = sim.plan();
    sim.apply(&plan);
    sim.world
        .nodes
        .insert("edge-b".to_owned(), with_devices(node(1000), "chip", 1));
    assert_eq!(changes(&sim), ["+npu", "-cpu>nothing"]);
}

#[test]
fn a_bridge_that_becomes_the_best_there_is_stays() {
    let mut sim = serving(1);
    gate(&mut sim).revision = "bb02".to_owned();
    for _ in 0..4 {
        let plan = sim.plan();
        sim.apply(&plan);
        sim.tick();
    }
    assert!(
        sim.owned()
            .any(|(_, owned)| owned.role == Role::Bridge && owned.state == PodState::Ready)
    );
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    sim.converge();
    assert_eq!(served_by(&sim), on("cpu", "edge-a"));
    assert_eq!(sim.owned().count(), 1);
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn what_starts_on_a_device_bridges_the_move_to_a_better_one() {
    let mut world = cluster(1);
    let home = with_devices(world.nodes["edge-a"].clone(), "board", 1);
    world.nodes.insert("edge-a".to_owned(), home);
    world.nodes.get_mut("edge-a").unwrap().allocatable.cpu_millis = 100;
    let variants = vec![
        on_profile("npu", "chip"),
        on_profile("gpu", "board"),
        on_cpu("cpu"),
    ];
    let gate_of = world.workloads.get_mut(&key("gate")).unwrap();
    (gate_of.variants, gate_of.stable_for) = (variants, Duration::ZERO);
    let mut sim = Sim::new(world);
    sim.converge();
    gate(&mut sim).revision = "bb02".to_owned();
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    assert_eq!(changes(&sim), ["+gpu"]);
    let plan = sim.plan();
    sim.apply(&plan);
    sim.seconds(1);
    // The chip is back before the board serves, and no CPU is left for a bridge.
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    assert_eq!(story(&mut sim), ["-npu>gpu", "+npu", "-gpu>npu"]);
}
