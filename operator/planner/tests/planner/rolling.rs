//! Slots that a rollout has reached run the present revision, all others the earlier one.

use crate::build::{key, on_cpu};
use crate::lab::{gate, serving};
use crate::sim::Sim;
use perwatt_planner::slot_places;
use perwatt_planner::world::{Earlier, Liveness};
use std::collections::BTreeSet;

/// Three replicas of revision aa01, and revision bb02 that is open to the slots named.
fn rolling(open: &[&str]) -> Sim {
    let mut sim = serving(3);
    gate(&mut sim).replicas = 3;
    sim.converge();
    roll(&mut sim, open);
    sim
}

fn roll(sim: &mut Sim, open: &[&str]) {
    let present = gate(sim);
    let mut earlier = present.clone();
    earlier.revision = "aa01".to_owned();
    earlier.earlier = None;
    present.revision = "bb02".to_owned();
    present.earlier = Some(Box::new(Earlier {
        workload: earlier,
        open: open.iter().map(|name| (*name).to_owned()).collect(),
    }));
    sim.converge();
}

/// Revisions of the pods that are ready, by slot.
fn revisions(sim: &Sim) -> Vec<(String, String)> {
    let mut found: Vec<_> = sim
        .owned()
        .map(|(_, owned)| (owned.slot.clone(), owned.revision.clone()))
        .collect();
    found.sort();
    found
}

fn expect(sim: &Sim, revisions_of: [&str; 3]) {
    let expected: Vec<_> = revisions_of
        .iter()
        .enumerate()
        .map(|(number, revision)| (format!("replica-{number}"), (*revision).to_owned()))
        .collect();
    assert_eq!(revisions(sim), expected);
}

#[test]
fn only_open_slots_get_the_present_revision() {
    let mut sim = rolling(&[]);
    expect(&sim, ["aa01", "aa01", "aa01"]);
    roll(&mut sim, &["replica-1"]);
    expect(&sim, ["aa01", "bb02", "aa01"]);
    roll(&mut sim, &["replica-0", "replica-1", "replica-2"]);
    expect(&sim, ["bb02", "bb02", "bb02"]);
}

#[test]
fn a_rejected_revision_goes_back_everywhere_without_a_gap() {
    let mut sim = rolling(&["replica-0", "replica-2"]);
    let present = gate(&mut sim);
    present.earlier.as_mut().unwrap().open.clear();
    for _ in 0..30 {
        let plan = sim.plan();
        sim.apply(&plan);
        sim.tick();
        for slot in ["replica-0", "replica-1", "replica-2"] {
            assert!(!sim.ready(&key("gate"), slot).is_empty(), "{slot} is served");
        }
    }
    expect(&sim, ["aa01", "aa01", "aa01"]);
}

#[test]
fn a_slot_that_is_not_open_is_made_again_as_it_was() {
    let mut sim = rolling(&["replica-0"]);
    // The present revision has no variant on a chip; the earlier one still has.
    let present = gate(&mut sim);
    present.variants = vec![on_cpu("cpu")];
    sim.converge();
    gate(&mut sim).replicas = 4;
    sim.converge();
    let variants: Vec<_> = (0..4)
        .map(|number| {
            let ready = sim.ready(&key("gate"), &format!("replica-{number}"));
            ready[0].0.clone()
        })
        .collect();
    assert_eq!(variants, ["cpu", "npu", "npu", "npu"]);
    let slot = sim.slot(&key("gate"), "replica-3");
    assert_eq!(
        slot.target.unwrap().revision,
        "aa01",
        "a newcomer waits for its cohort"
    );
}

#[test]
fn slots_are_told_with_their_node_and_site() {
    let mut sim = rolling(&[]);
    let places = |sim: &Sim| slot_places(&sim.world, sim.now, [&key("gate")])[0].1.clone();
    let found = places(&sim);
    let names: BTreeSet<_> = found.iter().map(|place| place.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["replica-0", "replica-1", "replica-2"]));
    for place in &found {
        assert_eq!(place.node.as_deref(), Some("edge-a"));
        assert_eq!(place.site.as_deref(), Some("default"));
        assert!(!place.offline);
    }
    sim.world.nodes.get_mut("edge-a").unwrap().liveness = Liveness::NotReady;
    assert!(places(&sim).iter().all(|place| place.offline));
}
