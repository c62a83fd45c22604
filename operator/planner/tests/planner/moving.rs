//! How a slot moves: never a gap, never for nothing.

use crate::build::{at, foreign_pod, key, node, on_cpu, on_profile, with_devices, workload, world};
use crate::sim::Sim;
use jiff::ToSpan;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::profile::NodeLabels;
use perwatt_crds::workload::{OnGap, PlacementMode};
use perwatt_planner::World;
use perwatt_planner::outcome::{Change, ReasonCode};
use perwatt_planner::world::{Liveness, PodState, Role, Workload};

const SLOT: &str = "replica-0";

fn cluster(chips: usize) -> World {
    let mut world = world();
    world
        .nodes
        .insert("edge-a".to_owned(), with_devices(node(1000), "chip", chips));
    world.workloads.insert(key("gate"), workload());
    world
}

fn serving(chips: usize) -> Sim {
    let mut sim = Sim::new(cluster(chips));
    sim.converge();
    sim
}

fn gate(sim: &mut Sim) -> &mut Workload {
    sim.world.workloads.get_mut(&key("gate")).unwrap()
}

fn served_by(sim: &Sim) -> Vec<(String, String)> {
    sim.ready(&key("gate"), SLOT)
}

fn on(variant: &str, node: &str) -> Vec<(String, String)> {
    vec![(variant.to_owned(), node.to_owned())]
}

/// Changes in short: `+variant` or `+variant bridge` for a create, `-variant>survivor` for a delete.
fn changes(sim: &Sim) -> Vec<String> {
    let variant = |name: &str| {
        let found = sim.owned().find(|(pod, _)| pod.name == name);
        found.map_or_else(|| "?".to_owned(), |(_, owned)| owned.variant.clone())
    };
    let short = |change: &Change| match change {
        Change::Create(pod) if pod.role == Role::Bridge => format!("+{} bridge", pod.assignment.variant),
        Change::Create(pod) => format!("+{}", pod.assignment.variant),
        Change::Delete(pod) => {
            let survivor = pod
                .survivor
                .as_deref()
                .map_or_else(|| "nothing".to_owned(), variant);
            format!("-{}>{survivor}", variant(&pod.name))
        }
    };
    sim.plan().changes.iter().map(short).collect()
}

/// Carries out one plan after another; every distinct list of changes on the way.
fn story(sim: &mut Sim) -> Vec<String> {
    let mut story: Vec<String> = Vec::new();
    for _ in 0..60 {
        let step = changes(sim).join(" ");
        if !step.is_empty() && story.last() != Some(&step) {
            story.push(step);
        }
        let plan = sim.plan();
        sim.apply(&plan);
        sim.tick();
    }
    story
}

#[test]
fn a_slot_that_serves_has_no_changes() {
    let sim = serving(1);
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!((slot.degraded, slot.problem, slot.changing), (None, None, false));
    assert_eq!(sim.plan().changes, []);
    assert_eq!(slot.serving.unwrap().state, PodState::Ready);
}

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
fn a_device_that_flaps_back_in_time_keeps_its_pod() {
    let mut sim = serving(1);
    let pod = sim.slot(&key("gate"), SLOT).serving.unwrap().name;
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    let plan = sim.plan();
    sim.apply(&plan);
    sim.tick();
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    assert_eq!(story(&mut sim), ["-cpu>npu"]);
    assert_eq!(sim.slot(&key("gate"), SLOT).serving.unwrap().name, pod);
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
fn an_agent_that_restarts_moves_nothing() {
    let mut sim = serving(1);
    sim.agents_down.insert("edge-a".to_owned());
    sim.tick();
    assert_eq!(
        sim.world.nodes["edge-a"].allocatable.extended["perwatt.dev/chip"],
        0
    );
    assert_eq!(sim.plan().changes, []);
    sim.world.nodes.get_mut("edge-a").unwrap().devices.clear();
    assert_eq!(sim.plan().changes, [], "nor does a missing inventory");
}

#[test]
fn a_new_revision_waits_for_an_agent_that_restarts() {
    let mut sim = serving(1);
    sim.agents_down.insert("edge-a".to_owned());
    sim.tick();
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(sim.plan().changes, []);
    assert_eq!(sim.slot(&key("gate"), SLOT).target.unwrap().variant, "npu");
    sim.agents_down.clear();
    assert_eq!(story(&mut sim), ["+cpu bridge", "-npu>cpu", "+npu", "-cpu>npu"]);
}

#[test]
fn unknown_and_degraded_devices_keep_their_pods() {
    for health in [DeviceHealth::Unknown, DeviceHealth::Degraded] {
        let mut sim = serving(2);
        sim.set_health("edge-a", 0, health);
        assert_eq!(sim.plan().changes, [], "{health:?}");
    }
}

#[test]
fn where_nobody_says_which_device_died_only_the_death_of_all_moves_a_pod() {
    let mut sim = Sim::new(cluster(2));
    sim.runtimes_report = false;
    sim.converge();
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    assert_eq!(sim.plan().changes, []);
    sim.set_health("edge-a", 1, DeviceHealth::Unhealthy);
    assert_eq!(changes(&sim), ["+cpu"]);
}

#[test]
fn a_pod_that_never_said_which_device_it_holds_is_given_a_minute_after_one_died() {
    let mut world = cluster(2);
    world.workloads.get_mut(&key("gate")).unwrap().variants.pop();
    let mut sim = Sim::new(world);
    let plan = sim.plan();
    sim.apply(&plan);
    sim.tick();
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    let died = sim.now;
    sim.tick();
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    assert_eq!(plan.wake_at, Some(died + 60.seconds()));
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
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
fn a_recovering_device_is_kept_for_the_slot_that_returns_to_it() {
    let mut sim = serving(1);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    story(&mut sim);
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    let younger = Workload {
        created: at(500),
        ..workload()
    };
    sim.world.workloads.insert(key("young"), younger);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    assert_eq!(sim.ready(&key("young"), SLOT), on("cpu", "edge-a"));
}

#[test]
fn a_newcomer_that_has_nothing_else_does_not_wait_for_a_return() {
    let mut sim = serving(1);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    story(&mut sim);
    sim.set_health("edge-a", 0, DeviceHealth::Healthy);
    let variants = vec![on_profile("npu", "chip")];
    sim.world.workloads.insert(
        key("young"),
        Workload {
            created: at(500),
            variants,
            ..workload()
        },
    );
    sim.converge();
    assert_eq!(sim.ready(&key("young"), SLOT), on("npu", "edge-a"));
    assert_eq!(served_by(&sim), on("cpu", "edge-a"));
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
fn cordoned_nodes_keep_what_they_have() {
    let mut sim = serving(1);
    sim.world.nodes.get_mut("edge-a").unwrap().unschedulable = true;
    assert_eq!(sim.plan().changes, []);
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(sim.plan().changes, []);
    assert_eq!(
        sim.slot(&key("gate"), SLOT).problem.unwrap().code,
        ReasonCode::NodeCordoned
    );
}

#[test]
fn a_pod_pinned_to_a_node_that_was_cordoned_before_it_was_bound_gives_up() {
    let mut sim = Sim::new(cluster(0));
    let plan = sim.plan();
    sim.apply(&plan);
    sim.world.nodes.get_mut("edge-a").unwrap().unschedulable = true;
    sim.world.nodes.insert("edge-b".to_owned(), node(1000));
    sim.tick();
    assert_eq!(sim.plan().changes, []);
    sim.converge();
    assert_eq!(served_by(&sim), on("cpu", "edge-b"));
}

#[test]
fn per_node_slots_on_silent_nodes_are_left_alone_whatever_changes() {
    let mut sim = serving(1);
    gate(&mut sim).mode = PlacementMode::PerNode;
    sim.converge();
    let since = sim.now;
    sim.world.nodes.get_mut("edge-a").unwrap().liveness = Liveness::Silent { since };
    gate(&mut sim).revision = "bb02".to_owned();
    sim.now += 1000.hours();
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    let slot = &plan.slots[0];
    assert!(slot.offline && slot.problem.is_none() && slot.degraded.is_none());
    sim.world.nodes.get_mut("edge-a").unwrap().liveness = Liveness::NotReady;
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    assert!(!plan.slots[0].offline);
}

#[test]
fn a_replica_leaves_a_silent_node_after_its_autonomy() {
    let mut sim = serving(1);
    sim.world.nodes.insert("edge-b".to_owned(), node(1000));
    let since = sim.now;
    sim.world.nodes.get_mut("edge-a").unwrap().liveness = Liveness::Silent { since };
    sim.tick();
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    assert!(plan.slots[0].offline);
    assert_eq!(plan.wake_at, Some(since + 3600.seconds()));
    sim.now = since + 3600.seconds();
    assert_eq!(changes(&sim), ["+cpu"]);
    sim.converge();
    assert_eq!(served_by(&sim), on("cpu", "edge-b"));
    assert!(!sim.slot(&key("gate"), SLOT).offline);
}

#[test]
fn scaling_down_deletes_the_highest_replicas() {
    let mut sim = serving(0);
    gate(&mut sim).replicas = 4;
    sim.converge();
    gate(&mut sim).replicas = 2;
    let plan = sim.plan();
    sim.apply(&plan);
    sim.converge();
    let mut slots: Vec<_> = sim.owned().map(|(_, owned)| owned.slot.clone()).collect();
    slots.sort();
    assert_eq!(slots, ["replica-0", "replica-1"]);
    gate(&mut sim).replicas = 0;
    sim.converge();
    assert_eq!(sim.owned().count(), 0);
}

#[test]
fn a_replica_leaves_a_node_that_is_no_longer_chosen_without_a_gap() {
    let mut sim = serving(1);
    let mut other = node(1000);
    other.labels.insert("kind".to_owned(), "edge".to_owned());
    sim.world.nodes.insert("edge-b".to_owned(), other);
    gate(&mut sim).nodes = NodeLabels {
        match_labels: [("kind".to_owned(), "edge".to_owned())].into(),
    };
    assert_eq!(story(&mut sim), ["+cpu", "-npu>cpu"]);
    assert_eq!(served_by(&sim), on("cpu", "edge-b"));
}

#[test]
fn a_per_node_slot_goes_with_its_nodes_label() {
    let mut sim = serving(0);
    gate(&mut sim).mode = PlacementMode::PerNode;
    sim.converge();
    assert_eq!(sim.ready(&key("gate"), "edge-a"), on("cpu", "edge-a"));
    gate(&mut sim).nodes = NodeLabels {
        match_labels: [("kind".to_owned(), "edge".to_owned())].into(),
    };
    sim.converge();
    assert_eq!(sim.owned().count(), 0);
}

#[test]
fn a_workload_that_is_being_deleted_is_not_touched() {
    let mut sim = serving(1);
    gate(&mut sim).deleting = true;
    gate(&mut sim).replicas = 0;
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(sim.plan().changes, []);
    sim.world.workloads.clear();
    assert_eq!(sim.plan().changes, [], "the garbage collector has its pods");
}

#[test]
fn two_ready_pods_of_one_slot_become_one() {
    let mut sim = serving(0);
    let mut copy = sim.world.pods[0].clone();
    copy.name = "gate-copy".to_owned();
    copy.uid = "uid-copy".to_owned();
    sim.world.pods.push(copy);
    let plan = sim.plan();
    assert_eq!(plan.changes.len(), 1);
    let Change::Delete(delete) = &plan.changes[0] else {
        panic!("{plan:?}")
    };
    assert!(delete.survivor.is_some() && delete.survivor.as_deref() != Some(&delete.name));
}

#[test]
fn a_younger_slot_does_not_take_the_device_that_a_move_needs() {
    let mut sim = serving(1);
    sim.world.workloads.insert(
        key("old"),
        Workload {
            created: at(-5000),
            ..workload()
        },
    );
    sim.converge();
    assert_eq!(
        sim.ready(&key("old"), SLOT),
        on("cpu", "edge-a"),
        "it came later, and does not rob"
    );
    gate(&mut sim).revision = "bb02".to_owned();
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    assert_eq!(sim.ready(&key("old"), SLOT), on("cpu", "edge-a"));
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
fn a_foreign_pod_that_takes_the_room_has_the_slot_planned_anew() {
    let mut sim = Sim::new(cluster(0));
    sim.world.nodes.insert("edge-b".to_owned(), node(1000));
    let plan = sim.plan();
    sim.apply(&plan);
    sim.world.pods.push(foreign_pod("big", "edge-a", 990, None));
    sim.tick();
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    assert_eq!(
        plan.slots[0].problem.as_ref().unwrap().code,
        ReasonCode::PodCannotStart
    );
    assert_eq!(plan.wake_at, Some(at(60)));
    sim.seconds(60);
    sim.converge();
    assert_eq!(served_by(&sim), on("cpu", "edge-b"));
}
