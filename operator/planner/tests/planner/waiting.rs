//! Pods that fail or cannot start.

use crate::build::{at, key, node, with_devices, workload, world};
use crate::sim::Sim;
use jiff::ToSpan;
use perwatt_crds::workload::PlacementMode;
use perwatt_planner::outcome::{Change, PodPlan, ReasonCode};
use perwatt_planner::world::{Liveness, PodState, Role};
use perwatt_planner::{Assignment, pod_name, slot_hash};

const SLOT: &str = "replica-0";

fn started() -> Sim {
    let mut world = world();
    world
        .nodes
        .insert("edge-a".to_owned(), with_devices(node(1000), "chip", 1));
    world.workloads.insert(key("gate"), workload());
    let mut sim = Sim::new(world);
    let plan = sim.plan();
    sim.apply(&plan);
    sim
}

fn fail(sim: &mut Sim) {
    let name = sim.owned().last().unwrap().0.name.clone();
    let (reason, message) = ("UnexpectedAdmissionError".to_owned(), "no device left".to_owned());
    let at = sim.now;
    sim.set_state(&name, PodState::Failed { reason, message, at });
}

fn created(sim: &Sim) -> Option<PodPlan> {
    sim.plan().changes.into_iter().find_map(|change| match change {
        Change::Create(pod) => Some(pod),
        Change::Delete(_) => None,
    })
}

#[test]
fn a_failed_pod_is_tried_again_later_and_later() {
    let mut sim = started();
    for (attempt, wait) in [(1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300)] {
        fail(&mut sim);
        let plan = sim.plan();
        let problem = plan.slots[0].problem.as_ref().unwrap();
        assert_eq!(problem.code, ReasonCode::BackOff);
        assert!(
            problem
                .message
                .contains("UnexpectedAdmissionError: no device left"),
            "{}",
            problem.message
        );
        assert_eq!(plan.wake_at, Some(sim.now + i64::from(wait).seconds()));
        assert_eq!(plan.changes, []);
        sim.now += i64::from(wait - 1).seconds();
        assert_eq!(created(&sim), None);
        sim.now += 1.seconds();
        let next = created(&sim).unwrap();
        assert_eq!(next.attempt, attempt);
        assert!(next.name.ends_with(&format!("-{attempt}")));
        let plan = sim.plan();
        sim.apply(&plan);
        let plan = sim.plan();
        sim.apply(&plan);
        assert_eq!(
            sim.owned().count(),
            1,
            "the failed pod goes once its successor is seen"
        );
    }
}

#[test]
fn a_pod_that_lived_long_before_it_failed_starts_the_waits_anew() {
    let mut sim = started();
    sim.world.pods[0].owned.as_mut().unwrap().attempt = 9;
    sim.now = at(700);
    fail(&mut sim);
    assert_eq!(sim.plan().wake_at, Some(at(710)));
}

#[test]
fn a_pod_that_cannot_start_is_waited_for_and_says_why() {
    let mut sim = started();
    let name = sim.owned().next().unwrap().0.name.clone();
    for reason in [
        "ErrImagePull",
        "ImagePullBackOff",
        "CreateContainerConfigError",
        "CrashLoopBackOff",
    ] {
        let message = "not found: registry.example/speech".to_owned();
        sim.set_state(
            &name,
            PodState::Starting {
                reason: reason.to_owned(),
                message,
            },
        );
        let plan = sim.plan();
        assert_eq!(plan.changes, []);
        let problem = plan.slots[0].problem.as_ref().unwrap();
        assert_eq!(problem.code, ReasonCode::PodCannotStart);
        assert!(problem.message.contains(reason) && problem.message.contains("not found"));
    }
}

#[test]
fn an_unschedulable_pod_whose_room_is_there_is_waited_for() {
    let mut sim = started();
    let name = sim.owned().next().unwrap().0.name.clone();
    let state = PodState::Starting {
        reason: "Unschedulable".to_owned(),
        message: String::new(),
    };
    sim.set_state(&name, state);
    sim.now = at(1000);
    assert_eq!(sim.plan().changes, []);
}

#[test]
fn a_slot_whose_pod_starts_says_so_until_it_serves() {
    let mut sim = started();
    let slot = sim.slot(&key("gate"), SLOT);
    assert!(slot.changing);
    assert_eq!(slot.problem.unwrap().code, ReasonCode::PodStarting);
    assert!(matches!(slot.serving.unwrap().state, PodState::Starting { .. }));
    sim.converge();
    assert_eq!(sim.slot(&key("gate"), SLOT).problem, None);
}

#[test]
fn a_repeated_plan_names_the_same_pod() {
    let mut sim = started();
    let first = sim.owned().next().unwrap().0.name.clone();
    sim.world.pods.clear();
    assert_eq!(created(&sim).unwrap().name, first);
}

#[test]
fn names_fit_and_differ_in_whatever_they_are_a_function_of() {
    let assignment = |revision: &str, variant: &str, node: &str| Assignment {
        node: node.to_owned(),
        variant: variant.to_owned(),
        profile: None,
        revision: revision.to_owned(),
    };
    let name = |slot: &str, role, attempt| pod_name("gate", slot, &assignment("r", "v", "n"), role, attempt);
    let base = name("s", Role::Serving, 0);
    let others = [
        name("t", Role::Serving, 0),
        name("s", Role::Bridge, 0),
        name("s", Role::Serving, 1),
        pod_name("gate", "s", &assignment("r2", "v", "n"), Role::Serving, 0),
        pod_name("gate", "s", &assignment("r", "v2", "n"), Role::Serving, 0),
        pod_name("gate", "s", &assignment("r", "v", "n2"), Role::Serving, 0),
    ];
    assert!(others.iter().all(|other| *other != base));
    let longest = pod_name(
        &"w".repeat(48),
        "s",
        &assignment("r", "v", "n"),
        Role::Serving,
        99_999,
    );
    assert!(longest.len() <= 63, "{longest}");
    assert_eq!(slot_hash("replica-0").len(), 10);
    assert_ne!(slot_hash("replica-0"), slot_hash("replica-1"));
}

#[test]
fn a_pod_that_never_got_its_room_is_looked_at_again_on_a_silent_node_too() {
    let mut sim = started();
    sim.world.workloads.get_mut(&key("gate")).unwrap().mode = PlacementMode::PerSite;
    sim.world.pods.clear();
    sim.agents_down.insert("edge-a".to_owned());
    let plan = sim.plan();
    sim.apply(&plan);
    sim.tick();
    let since = sim.now;
    sim.world.nodes.get_mut("edge-a").unwrap().liveness = Liveness::Silent { since };
    assert_eq!(sim.plan().changes, []);
    assert_eq!(sim.plan().wake_at, Some(at(60)));
    sim.converge();
    assert_eq!(sim.owned().count(), 0);
}
