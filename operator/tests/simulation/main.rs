//! The real planner, pass, apply and report against an API server in memory, under faults from a seed.
//!
//! `PERWATT_SIMULATION_SEED=N` runs one schedule again; a failure says its seed. `make soak NAME=simulation` runs 100,000.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod bug;
mod disturb;
mod kubelet;
mod operator;
mod require;
mod schedule;
mod server;
mod soak;
mod views;

use bug::Bug;
use schedule::{Outcome, Simulation};
use server::Key;

/// Schedules of every run of the tests.
const SCHEDULES: u64 = 100;
/// Seeds that found something once, and what; it is mended.
const FOUND: [(u64, &str); 8] = [
    (106, OLDER),
    (108, OLDER),
    (114, OLDER),
    (134, OLDER),
    (178, OLDER),
    (
        463,
        "the first pass of a process did not know what the one before it had written",
    ),
    (
        455,
        "a pod whose create was carried out, and its answer lost, was not known",
    ),
    (
        22,
        "a pod that was made and gone between two passes was waited for without end",
    ),
];
const OLDER: &str =
    "a pass planned on pods older than what the one before had written, and booked a device twice";
/// Seeds within which every planted bug must be caught.
const BUG_SEEDS: u64 = 40;
/// The extended resource of the one kind of device.
const RESOURCE: &str = "perwatt.dev/asic";
/// The nodes, with one device each.
const NODES: [&str; 2] = ["edge-a", "edge-b"];
/// The workloads, which want the same devices.
const WORKLOADS: [&str; 2] = ["gate", "lane"];

fn key(plural: &str, namespace: &str, name: &str) -> Key {
    (plural.into(), namespace.into(), name.into())
}

fn simulate(seed: u64, bug: Option<Bug>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { Simulation::new(seed, bug).run().await })
}

#[test]
fn the_product_holds_every_invariant_in_every_schedule() {
    let one: Option<u64> = std::env::var("PERWATT_SIMULATION_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let found = FOUND.into_iter().map(|(seed, _)| seed);
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed],
        None => (0..SCHEDULES).chain(found).collect(),
    };
    for seed in seeds {
        if let Err(violation) = simulate(seed, None) {
            panic!("PERWATT_SIMULATION_SEED={seed}: {violation}");
        }
    }
}

#[test]
fn every_planted_bug_is_caught() {
    for bug in bug::ALL {
        let caught = (0..BUG_SEEDS).find_map(|seed| Some((seed, simulate(seed, Some(bug)).err()?)));
        let Some((seed, violation)) = caught else {
            panic!("{bug:?} is not caught")
        };
        println!("{bug:?}: seed {seed}: {violation}");
    }
}

#[test]
#[ignore = "minutes: `make soak NAME=simulation`"]
fn the_product_holds_in_a_hundred_thousand_schedules() {
    soak::run();
}
