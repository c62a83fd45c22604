//! What moves nothing, and who keeps what: restarts, silence, cordons, scale, neighbours.

use crate::build::{at, foreign_pod, key, node, on_profile, workload};
use crate::lab::{SLOT, changes, cluster, gate, on, served_by, serving, story};
use crate::sim::Sim;
use jiff::ToSpan;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::profile::NodeLabels;
use perwatt_crds::workload::{Locality, PlacementMode};
use perwatt_planner::outcome::{Change, ReasonCode};
use perwatt_planner::world::{Liveness, PodState, Workload};

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

#[test]
fn a_refused_priority_class_keeps_what_serves_even_of_an_older_revision() {
    let mut sim = serving(1);
    gate(&mut sim).priority_refused = Some("PriorityClass `pushy` preempts".to_owned());
    assert_eq!(story(&mut sim), [""; 0]);
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(story(&mut sim), [""; 0]);
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn what_serves_leaves_a_variant_that_may_not_serve_any_more() {
    let less_accurate: fn(&mut Workload) = |gate| {
        gate.variants[0].accuracy_permille = Some(899);
        gate.minimum_accuracy_permille = Some(900);
    };
    let too_far: fn(&mut Workload) = |gate| {
        gate.variants[0].remote = true;
        gate.locality = Locality::Site;
    };
    for forbid in [less_accurate, too_far] {
        let mut sim = serving(1);
        forbid(gate(&mut sim));
        assert_eq!(story(&mut sim), ["+cpu", "-npu>cpu"]);
    }
}
