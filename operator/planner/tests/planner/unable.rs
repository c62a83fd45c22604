//! A device that is well, and a model that its runtime cannot run there.

use crate::build::{key, node, on_cpu, on_profile, with_devices, workload};
use crate::history::{Event, node_name, over_histories, settle};
use crate::lab::{SLOT, changes, cluster, gate, on, served_by, serving, story};
use crate::properties::{happen, is_settled};
use crate::sim::Sim;
use jiff::ToSpan;
use perwatt_planner::outcome::{Change, ReasonCode};
use perwatt_planner::unavailable::{COOL_DOWN_FIRST, COOL_DOWN_LONGEST, Inability};
use perwatt_planner::world::Workload;
use proptest::prelude::*;
use std::time::Duration;

fn breaks(sim: &mut Sim, node: &str, device: usize) {
    sim.unloadable.insert((node.to_owned(), device, "npu".to_owned()));
}

/// A chip, and a slot on it whose model can be run no more; a second has passed.
fn broken(chips: usize) -> Sim {
    let mut sim = serving(chips);
    breaks(&mut sim, "edge-a", 0);
    sim.tick();
    sim
}

/// How often the model could not be run, by the pods that there are.
fn times(sim: &Sim) -> Vec<u32> {
    let known = sim.owned().flat_map(|(_, owned)| &owned.unavailable);
    known.map(|known| known.times).collect()
}

#[test]
fn a_slot_settles_on_its_fallback_after_a_minute_and_says_why() {
    let mut sim = broken(1);
    let said = sim.now;
    let plan = sim.plan();
    assert_eq!((plan.changes, plan.wake_at), (vec![], Some(said + 60.seconds())));
    let degraded = plan.slots[0].degraded.clone().unwrap();
    assert_eq!(degraded.code, ReasonCode::RuntimeFallback);
    sim.seconds(59);
    assert_eq!(changes(&sim), [""; 0]);
    sim.seconds(1);
    let plan = sim.plan();
    let Change::Create(pod) = &plan.changes[0] else {
        panic!("{plan:?}")
    };
    let known = &pod.unavailable[0];
    assert_eq!((known.reason, known.times), (Inability::LoadFailed, 1));
    assert_eq!(known.device.as_deref(), Some("chip-0"));
    assert_eq!(known.until, sim.now + COOL_DOWN_FIRST);
    assert!(pod.moved, "the move breaker counts it");
    assert!(pod.decision.contains("LoadFailed"), "{}", pod.decision);
    let degraded = pod.degraded.clone().unwrap();
    assert_eq!(degraded.code, ReasonCode::ModelUnavailable);
    let words = "could not run npu on the chip of edge-a, though that is well (LoadFailed)";
    assert!(degraded.message.contains(words), "{}", degraded.message);
    sim.apply(&plan);
    sim.seconds(8);
    assert_eq!(changes(&sim), ["-npu>cpu"]);
    let plan = sim.plan();
    sim.apply(&plan);
    sim.seconds(8);
    assert_eq!(served_by(&sim), on("cpu", "edge-a"));
    let plan = sim.plan();
    assert_eq!((plan.changes, plan.wake_at), (vec![], Some(known.until)));
    assert_eq!(plan.slots[0].best_variant.as_deref(), Some("npu"));
}

#[test]
fn the_device_that_it_leaves_is_others_to_have() {
    let mut sim = broken(1);
    sim.seconds(60);
    story(&mut sim);
    let variants = vec![on_profile("asr", "chip"), on_cpu("cpu")];
    let other = Workload {
        variants,
        ..workload()
    };
    sim.world.workloads.insert(key("other"), other);
    story(&mut sim);
    assert_eq!(sim.ready(&key("other"), SLOT), on("asr", "edge-a"));
}

#[test]
fn another_device_of_the_node_is_taken_where_one_is_free() {
    let mut sim = broken(2);
    sim.seconds(60);
    assert_eq!(story(&mut sim), ["+npu", "-npu>npu"]);
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!((slot.degraded, slot.problem), (None, None));
    breaks(&mut sim, "edge-a", 1);
    sim.seconds(62);
    assert_eq!(story(&mut sim), ["+cpu", "-npu>cpu"], "neither will do");
}

#[test]
fn another_node_or_profile_is_taken_where_one_is_free() {
    let mut sim = broken(1);
    let other = with_devices(node(1000), "chip", 1);
    sim.world.nodes.insert("edge-b".to_owned(), other);
    sim.seconds(60);
    sim.seconds(60);
    assert_eq!(story(&mut sim), ["+npu", "-npu>npu"]);
    assert_eq!(served_by(&sim), on("npu", "edge-b"));
    breaks(&mut sim, "edge-b", 0);
    let board = with_devices(node(1000), "board", 1);
    sim.world.nodes.insert("edge-c".to_owned(), board);
    gate(&mut sim).variants.insert(1, on_profile("gpu", "board"));
    sim.seconds(62);
    story(&mut sim);
    assert_eq!(served_by(&sim), on("gpu", "edge-c"));
    assert_eq!(times(&sim), [1, 1], "both places are known");
}

#[test]
fn a_model_that_runs_in_no_place_is_tried_in_three() {
    let mut sim = broken(1);
    for name in ["edge-b", "edge-c", "edge-d"] {
        let other = with_devices(node(1000), "chip", 1);
        sim.world.nodes.insert(name.to_owned(), other);
        breaks(&mut sim, name, 0);
    }
    for _ in 0..4 {
        sim.seconds(62);
        story(&mut sim);
    }
    assert_eq!(sim.ready(&key("gate"), SLOT)[0].0, "cpu");
    assert_eq!(times(&sim), [1, 1, 1]);
    let degraded = sim.slot(&key("gate"), SLOT).degraded.unwrap();
    let words = "could not run npu on chip in 3 places";
    assert!(degraded.message.contains(words), "{}", degraded.message);
}

#[test]
fn it_is_tried_again_later_and_later() {
    let mut sim = broken(1);
    sim.seconds(60);
    let mut wait = COOL_DOWN_FIRST;
    for tried in 1..=9 {
        story(&mut sim);
        assert_eq!(served_by(&sim), on("cpu", "edge-a"));
        assert_eq!(times(&sim), [tried]);
        let until = sim.plan().wake_at.unwrap();
        let kept_away = Duration::try_from(until.duration_since(sim.now)).unwrap();
        assert!(
            wait - kept_away < Duration::from_secs(130),
            "{wait:?} {kept_away:?}"
        );
        sim.now = until;
        assert_eq!(changes(&sim), ["+npu"]);
        assert_eq!(story(&mut sim)[..2], ["+npu", "-cpu>npu"]);
        sim.seconds(62);
        wait = (wait * 2).min(COOL_DOWN_LONGEST);
    }
}

#[test]
fn a_model_that_runs_again_stays_and_what_was_is_forgotten() {
    let mut sim = broken(1);
    sim.seconds(60);
    story(&mut sim);
    sim.unloadable.clear();
    sim.now = sim.plan().wake_at.unwrap();
    assert_eq!(story(&mut sim), ["+npu", "-cpu>npu"]);
    assert_eq!(sim.slot(&key("gate"), SLOT).degraded, None);
    sim.now += 2 * COOL_DOWN_FIRST;
    breaks(&mut sim, "edge-a", 0);
    sim.seconds(62);
    story(&mut sim);
    assert_eq!(times(&sim), [1], "it is the first time again");
}

#[test]
fn a_new_revision_is_tried_at_once() {
    let mut sim = broken(1);
    sim.seconds(60);
    story(&mut sim);
    sim.unloadable.clear();
    gate(&mut sim).revision = "bb02".to_owned();
    story(&mut sim);
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn a_slot_that_nothing_else_serves_leaves_for_a_device_that_does() {
    let mut world = cluster(1);
    world.workloads.get_mut(&key("gate")).unwrap().variants.pop();
    let mut sim = Sim::new(world);
    breaks(&mut sim, "edge-a", 0);
    for _ in 0..10 {
        let plan = sim.plan();
        sim.apply(&plan);
        sim.tick();
    }
    assert_eq!(served_by(&sim), []);
    let other = with_devices(node(1000), "chip", 1);
    sim.world.nodes.insert("edge-b".to_owned(), other);
    sim.seconds(60);
    story(&mut sim);
    assert_eq!(served_by(&sim), on("npu", "edge-b"));
}

#[test]
fn in_every_history_models_that_fail_leave_no_gap_and_all_settle_when_they_run_again() {
    over_histories(|mut sim, events| {
        for (number, event) in events.iter().enumerate() {
            let node = node_name(number % sim.world.nodes.len());
            for variant in ["npu", "gpu"] {
                let place = (node.clone(), number % 3, variant.to_owned());
                sim.unloadable.insert(place);
            }
            happen(&mut sim, event)?;
            happen(&mut sim, &Event::Seconds(5))?;
        }
        sim.unloadable.clear();
        for slot in settle(&mut sim)?.slots {
            is_settled(&sim, &slot)?;
        }
        prop_assert_eq!(sim.plan().changes, vec![]);
        Ok(())
    });
}

#[test]
fn what_a_predecessor_said_is_not_held_against_its_successor() {
    let mut sim = broken(2);
    sim.seconds(60);
    story(&mut sim);
    let (_, owned) = sim.owned().next().unwrap();
    let since = owned.unavailable[0].since;
    let pod = sim.world.pods[0].owned.as_mut().unwrap();
    let active = pod.active.as_mut().unwrap();
    (active.name, active.reason, active.since) = ("cpu".to_owned(), "LoadFailed".to_owned(), Some(since));
    assert_eq!(changes(&sim), [""; 0]);
}

#[test]
fn a_slot_that_settles_on_another_node_is_degraded_all_the_same() {
    let mut sim = broken(1);
    sim.world.nodes.get_mut("edge-a").unwrap().allocatable.cpu_millis = 90;
    sim.world.nodes.insert("edge-b".to_owned(), node(1000));
    sim.seconds(60);
    story(&mut sim);
    assert_eq!(served_by(&sim), on("cpu", "edge-b"));
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!(slot.best_variant.as_deref(), Some("npu"));
    assert_eq!(slot.degraded.unwrap().code, ReasonCode::ModelUnavailable);
}

#[test]
fn a_device_that_was_unhealthy_a_moment_ago_is_not_taken_yet() {
    let mut sim = broken(1);
    let mut other = with_devices(node(1000), "chip", 1);
    other.devices[0].health_since = sim.now + 50.seconds();
    sim.world.nodes.insert("edge-b".to_owned(), other);
    sim.seconds(60);
    assert_eq!(changes(&sim), ["+cpu"]);
}

#[test]
fn a_runtime_that_serves_from_the_planned_variant_is_believed() {
    let mut sim = serving(1);
    let since = Some(sim.now);
    let active = sim.world.pods[0].owned.as_mut().unwrap().active.as_mut().unwrap();
    (active.reason, active.since) = ("BreakerOpen".to_owned(), since);
    sim.now += 5.hours();
    assert_eq!(changes(&sim), [""; 0]);
}

#[test]
fn other_reasons_of_a_runtime_move_nothing() {
    for reason in ["DeviceRecovering", "Busy", "the breaker is open"] {
        let mut sim = serving(1);
        let since = Some(sim.now);
        let active = sim.world.pods[0].owned.as_mut().unwrap().active.as_mut().unwrap();
        (active.name, active.reason, active.since) = ("cpu".to_owned(), reason.to_owned(), since);
        sim.now += 5.hours();
        assert_eq!(changes(&sim), [""; 0], "{reason}");
    }
}
