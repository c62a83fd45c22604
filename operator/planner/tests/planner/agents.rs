//! Nodes whose agent is silent: nothing new goes there, and nothing leaves.

use crate::build::{at, key, node, on_profile, with_devices, workload};
use crate::lab::{SLOT, changes, cluster, gate, on, served_by, serving, story};
use crate::sim::Sim;
use jiff::{Timestamp, ToSpan};
use perwatt_crds::inventory::DeviceHealth;
use perwatt_planner::outcome::ReasonCode;
use perwatt_planner::silent_agents;
use perwatt_planner::world::{Liveness, Workload};
use std::time::Duration;

/// The agent of a node is not ready from now on, though the kubelet still offers its devices: it hangs.
fn fall_silent(sim: &mut Sim, node: &str) -> Timestamp {
    sim.world.agent_grace = Duration::from_secs(120);
    sim.world.nodes.get_mut(node).unwrap().agent_silent_since = Some(sim.now);
    sim.now
}

#[test]
fn a_silent_agent_moves_nothing_and_is_told() {
    let mut sim = serving(1);
    let since = fall_silent(&mut sim, "edge-a");
    let plan = sim.plan();
    assert_eq!(plan.wake_at, Some(since + 120.seconds()));
    let note = |sim: &Sim| sim.slot(&key("gate"), SLOT).candidates[0].note.clone();
    assert_eq!(note(&sim), None, "it may restart");
    sim.now = since + 120.seconds();
    assert_eq!(changes(&sim), [""; 0]);
    let told = note(&sim).unwrap();
    assert!(
        told.contains("agent of edge-a is silent since 2027-01-15T08:00:"),
        "{told}"
    );
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!((slot.degraded, slot.problem), (None, None));
    let silent: Vec<_> = silent_agents(&sim.world, sim.now).collect();
    assert_eq!(silent, [("edge-a", since)]);
}

#[test]
fn nothing_new_is_placed_on_the_devices_of_a_silent_agent_until_it_is_back() {
    let mut sim = Sim::new(cluster(1));
    let since = fall_silent(&mut sim, "edge-a");
    assert_eq!(changes(&sim), ["+npu"], "within its grace it is believed");
    sim.now = since + 120.seconds();
    assert_eq!(changes(&sim), ["+cpu"]);
    sim.converge();
    let degraded = sim.slot(&key("gate"), SLOT).degraded.unwrap();
    assert_eq!(degraded.code, ReasonCode::AgentSilent);
    assert!(
        degraded.message.contains("chip on edge-a is Unknown"),
        "{}",
        degraded.message
    );
    sim.world.nodes.get_mut("edge-a").unwrap().agent_silent_since = None;
    assert_eq!(story(&mut sim), ["+npu", "-cpu>npu"]);
}

#[test]
fn a_slot_goes_to_a_node_whose_agent_is_heard() {
    let mut sim = Sim::new(cluster(2));
    let other = with_devices(node(1000), "chip", 1);
    sim.world.nodes.insert("edge-b".to_owned(), other);
    let since = fall_silent(&mut sim, "edge-a");
    sim.now = since + 500.seconds();
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-b"));
}

#[test]
fn a_new_revision_waits_for_an_agent_that_hangs() {
    let mut sim = serving(1);
    let since = fall_silent(&mut sim, "edge-a");
    sim.now = since + 500.seconds();
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(
        changes(&sim),
        [""; 0],
        "its kubelet would refuse the pod after the old one is gone"
    );
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!(slot.target.unwrap().variant, "npu");
    let problem = slot.problem.unwrap();
    assert_eq!(problem.code, ReasonCode::AgentSilent);
    assert!(problem.message.contains("agent of edge-a"), "{}", problem.message);
    sim.world.nodes.get_mut("edge-a").unwrap().agent_silent_since = None;
    assert_eq!(story(&mut sim), ["+cpu bridge", "-npu>cpu", "+npu", "-cpu>npu"]);
}

#[test]
fn what_is_dead_by_the_agents_last_word_is_left_all_the_same() {
    let mut sim = serving(1);
    sim.set_health("edge-a", 0, DeviceHealth::Unhealthy);
    let since = fall_silent(&mut sim, "edge-a");
    sim.now = since + 500.seconds();
    assert_eq!(story(&mut sim), ["+cpu", "-npu>cpu"]);
    let degraded = sim.slot(&key("gate"), SLOT).degraded.unwrap();
    assert_eq!(degraded.code, ReasonCode::DeviceUnhealthy);
}

#[test]
fn devices_of_other_plugins_have_no_agent_to_fall_silent() {
    let mut world = cluster(0);
    let foreign = with_devices(node(1000), "foreign", 1);
    world.nodes.insert("edge-a".to_owned(), foreign);
    let variants = vec![on_profile("gpu", "foreign")];
    let wants_it = Workload {
        variants,
        ..workload()
    };
    world.workloads.insert(key("gate"), wants_it);
    let mut sim = Sim::new(world);
    let since = fall_silent(&mut sim, "edge-a");
    sim.now = since + 500.seconds();
    assert_eq!(changes(&sim), ["+gpu"]);
}

#[test]
fn a_node_that_is_not_ready_is_not_called_one_with_a_silent_agent() {
    let mut sim = serving(1);
    let since = fall_silent(&mut sim, "edge-a");
    sim.now = since + 500.seconds();
    let node = sim.world.nodes.get_mut("edge-a").unwrap();
    node.liveness = Liveness::Silent { since: at(0) };
    assert_eq!(silent_agents(&sim.world, sim.now).count(), 0);
}
