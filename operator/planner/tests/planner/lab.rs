//! One workload, `gate`, on a simulated cluster, and short words for what happens to it.

use crate::build::{key, node, with_devices, workload, world};
use crate::sim::Sim;
use perwatt_planner::World;
use perwatt_planner::outcome::Change;
use perwatt_planner::world::{Role, Workload};

pub const SLOT: &str = "replica-0";

pub fn cluster(chips: usize) -> World {
    let mut world = world();
    world
        .nodes
        .insert("edge-a".to_owned(), with_devices(node(1000), "chip", chips));
    world.workloads.insert(key("gate"), workload());
    world
}

pub fn serving(chips: usize) -> Sim {
    let mut sim = Sim::new(cluster(chips));
    sim.converge();
    sim
}

pub fn gate(sim: &mut Sim) -> &mut Workload {
    sim.world.workloads.get_mut(&key("gate")).unwrap()
}

pub fn served_by(sim: &Sim) -> Vec<(String, String)> {
    sim.ready(&key("gate"), SLOT)
}

pub fn on(variant: &str, node: &str) -> Vec<(String, String)> {
    vec![(variant.to_owned(), node.to_owned())]
}

/// Changes in short: `+variant` or `+variant bridge` for a create, `-variant>survivor` for a delete.
pub fn changes(sim: &Sim) -> Vec<String> {
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
pub fn story(sim: &mut Sim) -> Vec<String> {
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
