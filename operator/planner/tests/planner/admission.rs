//! Power budgets while pods change places: what is planned keeps them, and comes to rest.

use crate::build::{at, key, node, on_cpu, on_profile, with_devices, workload, world};
use crate::history::{Event, any_world, disturb, heal, over_histories, settle};
use crate::lab::{SLOT, changes, gate, on, served_by, story};
use crate::letters::over;
use crate::sim::Sim;
use crate::watts::{declared, powered};
use perwatt_crds::profile::NodeLabels;
use perwatt_crds::workload::Objective;
use perwatt_planner::World;
use perwatt_planner::outcome::ReasonCode;
use perwatt_planner::world::{Earlier, Site, Workload};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A site of all nodes, each of which may draw so much.
fn limit_nodes(world: &mut World, milliwatts: u64) {
    let site = Site {
        nodes: Some(NodeLabels::default()),
        site_milliwatts: None,
        node_milliwatts: Some(milliwatts),
    };
    world.sites.insert("plant".to_owned(), site);
}

/// Two small nodes: the second draws 4,000 mW at rest.
fn small_nodes() -> World {
    let mut world = powered(world());
    world.nodes.insert("edge-a".to_owned(), node(60));
    world
        .nodes
        .insert("edge-b".to_owned(), with_devices(node(60), "board", 1));
    world
}

/// Served on the CPU alone, where it draws so much.
fn on_cpu_alone(milliwatts: u64) -> Workload {
    Workload {
        expected_rate_per_minute: Some(60),
        variants: vec![declared(on_cpu("cpu"), milliwatts * 1000, 8)],
        ..workload()
    }
}

#[test]
fn a_bridge_on_a_node_above_its_budget_serves_until_the_target_does() {
    let mut world = small_nodes();
    world.workloads.insert(key("gate"), on_cpu_alone(250));
    limit_nodes(&mut world, 1_000);
    let mut sim = Sim::new(world);
    sim.converge();
    // No two pods fit on the one node that has watts left: the bridge is on the other.
    gate(&mut sim).revision = "bb02".to_owned();
    assert_eq!(story(&mut sim), ["+cpu bridge", "-cpu>cpu", "+cpu", "-cpu>cpu"]);
    assert_eq!(served_by(&sim), on("cpu", "edge-a"));
}

#[test]
fn moves_whose_bridges_pass_a_budget_end_one_after_the_other() {
    let mut world = powered(world());
    world
        .nodes
        .insert("edge-a".to_owned(), with_devices(node(1000), "chip", 3));
    // 600 mW each on a chip, 5,000 mW on the CPU.
    let three = Workload {
        replicas: 3,
        expected_rate_per_minute: Some(60),
        variants: vec![
            declared(on_profile("npu", "chip"), 100_000, 8),
            declared(on_cpu("cpu"), 5_000_000, 8),
        ],
        ..workload()
    };
    world.workloads.insert(key("gate"), three);
    limit_nodes(&mut world, 300 + 3 * 600);
    let mut sim = Sim::new(world);
    sim.converge();
    gate(&mut sim).revision = "bb02".to_owned();
    let settled = sim.converge();
    assert!(settled.sites[0].exceeded.is_none(), "{settled:?}");
    for slot in ["replica-0", "replica-1", "replica-2"] {
        assert_eq!(sim.ready(&key("gate"), slot), on("npu", "edge-a"));
    }
    assert!(sim.owned().all(|(_, owned)| owned.revision == "bb02"));
}

#[test]
fn a_move_that_adds_nothing_ends_though_the_budget_shrinks() {
    let mut sim = shrinking(250, 250);
    assert_eq!(story(&mut sim), ["-cpu>cpu"]);
    assert!(sim.owned().all(|(_, owned)| owned.revision == "bb02"));
}

#[test]
fn a_move_for_which_no_watts_are_left_is_taken_back() {
    let mut sim = shrinking(250, 500);
    assert_eq!(story(&mut sim), ["-cpu>cpu"]);
    assert!(sim.owned().all(|(_, owned)| owned.revision == "aa01"));
    let problem = sim.slot(&key("gate"), SLOT).problem.unwrap();
    assert_eq!(problem.code, ReasonCode::NoFeasibleVariant);
}

/// A slot on its way from a revision that draws so much to one that draws so much, on a node that has
/// watts for neither any more.
fn shrinking(before: u64, after: u64) -> Sim {
    let mut world = powered(world());
    world.nodes.insert("edge-a".to_owned(), node(1000));
    world.workloads.insert(key("gate"), on_cpu_alone(before));
    limit_nodes(&mut world, 10_000);
    let mut sim = Sim::new(world);
    sim.converge();
    let earlier = gate(&mut sim).clone();
    *gate(&mut sim) = Workload {
        revision: "bb02".to_owned(),
        earlier: Some(Box::new(Earlier {
            workload: earlier,
            open: [SLOT.to_owned()].into(),
        })),
        ..on_cpu_alone(after)
    };
    assert_eq!(changes(&sim), ["+cpu"]);
    let plan = sim.plan();
    sim.apply(&plan);
    sim.seconds(4);
    limit_nodes(&mut sim.world, before - 1);
    sim
}

#[test]
fn what_a_slot_keeps_while_it_looks_for_less_counts_for_the_others() {
    let mut world = small_nodes();
    world
        .nodes
        .insert("edge-a".to_owned(), with_devices(node(1000), "chip", 1));
    let on_chip = Workload {
        objective: Objective::Order,
        variants: vec![
            declared(on_profile("npu", "chip"), 2_400_000, 8),
            declared(on_cpu("cpu"), 1_500_000, 8),
        ],
        ..on_cpu_alone(0)
    };
    let older = Workload {
        created: at(-2000),
        ..on_cpu_alone(1_500)
    };
    world.workloads.insert(key("gate"), on_chip);
    world.workloads.insert(key("older"), older);
    limit_nodes(&mut world, 100_000);
    let mut sim = Sim::new(world);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    assert_eq!(sim.ready(&key("older"), SLOT), on("cpu", "edge-a"));
    // One of the two may stay on the CPU of edge-a, and edge-b has no watts at all.
    limit_nodes(&mut sim.world, 100 + 1_500 + 100);
    assert_eq!(changes(&sim), [""; 0]);
    let problem = sim.slot(&key("gate"), SLOT).problem.unwrap();
    assert_eq!(problem.code, ReasonCode::PowerBudgetExceeded);
}

/// What each node draws: devices at rest, and what pods add. Worked out anew, from the README alone.
fn drawn(world: &World, resting: bool) -> BTreeMap<&str, u64> {
    let at_rest = |profile: &str| match profile {
        "chip" => 100,
        "board" => 4_000,
        _ => 0,
    };
    let mut drawn: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, node) in &world.nodes {
        let devices: u64 = node.devices.iter().map(|device| at_rest(&device.profile)).sum();
        drawn.insert(name, devices);
    }
    for pod in world.pods.iter().filter(|pod| !resting && pod.holds_resources) {
        let owned = pod.owned.as_ref().unwrap();
        let workload = &world.workloads[&owned.workload];
        let variant = workload
            .variants
            .iter()
            .find(|variant| variant.name == owned.variant);
        let performance = variant.unwrap().performance.as_ref();
        let profile = owned.profile.as_deref();
        let energy = performance.and_then(|known| known.microjoules).or_else(|| {
            let typical = match profile? {
                "chip" => 2_500,
                "board" => 15_000,
                _ => return None,
            };
            let p99 = performance?.p99?;
            Some(typical * u64::try_from(p99.as_millis()).unwrap())
        });
        let work = workload.expected_rate_per_minute.zip(energy);
        let work = work.map(|(rate, energy)| u64::from(rate) * energy / 60);
        let adds = match (profile, work) {
            (Some("chip"), Some(work)) => (500_000 + work).div_ceil(1000).min(4_900),
            (Some("chip"), None) => 2_400,
            (Some("board"), Some(work)) => work.div_ceil(1000).min(26_000),
            (Some("board"), None) => 11_000,
            (Some(_), work) => work.unwrap_or_default().div_ceil(1000),
            (None, Some(work)) => work.div_ceil(1000),
            (None, None) => 250,
        };
        *drawn.get_mut(pod.node.as_deref().unwrap()).unwrap() += adds;
    }
    drawn
}

/// J: no node and no site draws more than it may, but for what its devices draw at rest.
fn keeps_the_budgets(sim: &Sim) -> Result<(), TestCaseError> {
    let Some(site) = sim.world.sites.get("plant") else {
        return Ok(());
    };
    let (now, resting) = (drawn(&sim.world, false), drawn(&sim.world, true));
    for (node, milliwatts) in &now {
        let most = site.node_milliwatts.unwrap_or(u64::MAX).max(resting[node]);
        prop_assert!(*milliwatts <= most, "{node} draws {milliwatts} of {most}");
    }
    let (all, at_rest): (u64, u64) = (now.values().sum(), resting.values().sum());
    let most = site.site_milliwatts.unwrap_or(u64::MAX).max(at_rest);
    prop_assert!(all <= most, "the site draws {all} of {most}");
    let said = sim.plan().sites[0].planned_milliwatts;
    prop_assert_eq!(said, all, "and says so");
    Ok(())
}

#[test]
fn j_admission_never_exceeds_a_budget() {
    over(&any_world(), |world| {
        let mut sim = Sim::new(world);
        settle(&mut sim)?;
        keeps_the_budgets(&sim)
    });
}

/// Faults, moves and a new revision may pass a budget on their way, and none ends above one: nobody
/// else draws anything here, and the budgets stay as they are.
#[test]
fn j_no_history_ends_above_a_budget() {
    over_histories(|mut sim, events| {
        let by_others = |event: &&Event| matches!(event, Event::ForeignCome { .. } | Event::Budget(_));
        for event in events.iter().filter(|event| !by_others(event)) {
            disturb(&mut sim, event);
            let plan = sim.plan();
            sim.apply(&plan);
            sim.tick();
        }
        for workload in sim.world.workloads.values_mut() {
            workload.revision = "next".to_owned();
        }
        heal(&mut sim);
        settle(&mut sim)?;
        keeps_the_budgets(&sim)
    });
}
