//! `planner-quality`: what placements draw, beside the best that there is (small cases, by trying all) and beside
//! the rules of others (large fleets). Of the others only the rule is compared, worked out here: no scheduler runs.

use std::collections::BTreeMap;

use fastrand::Rng;
use perwatt_crds::workload::PlacementMode;
use perwatt_planner::outcome::SlotPlan;
use perwatt_planner::world::{Needs, Variant, Workload, WorkloadKey};
use perwatt_planner::{World, plan};

use super::fleet::{at, fleet};
use crate::bench::figure::Figure;
use crate::product::Result;

/// Small cases.
const CASES: u64 = 500;

/// Share of the optimal watts saved; watts of a fleet by our rule and by others.
pub fn measure() -> Result<Vec<Figure>> {
    let mut figures = vec![Figure::new(
        "share of the optimal watts saved, small cases",
        share_of_optimum(),
        "%",
        usize::try_from(CASES).unwrap_or_default(),
    )];
    let mut world = fleet(200, 50, 3);
    // Budgets bind nobody else's rule.
    world.sites.clear();
    let ours = plan(&world, at(1));
    let costs = Costs::of(&ours.slots);
    let known = |slot: &SlotPlan| slot.expected.and_then(|expected| expected.microwatts);
    let our_watts = watts(ours.slots.iter().filter_map(known).sum());
    let name = "watts of a fleet of 200 nodes and 50 workloads";
    for (peer, rule) in [
        (
            "first fit: variants as listed, first node that fits",
            Rule::FirstFit,
        ),
        (
            "least allocated: variants as listed, kube-scheduler's rule for the node",
            Rule::LeastAllocated,
        ),
    ] {
        figures
            .push(Figure::new(name, our_watts, "W", 1).against(peer, watts(place_by(&world, &costs, rule))));
    }
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn watts(microwatts: u64) -> f64 {
    microwatts as f64 / 1e6
}

/// What every way of a workload draws in microwatts, as the planner itself works it out.
struct Costs(BTreeMap<WorkloadKey, BTreeMap<(String, Option<String>), u64>>);

impl Costs {
    fn of(slots: &[SlotPlan]) -> Self {
        let mut costs: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for slot in slots {
            let of_workload = costs.entry(slot.workload.clone()).or_default();
            for candidate in &slot.candidates {
                let way = (candidate.variant.clone(), candidate.profile.clone());
                if let Some(microwatts) = candidate.expected.microwatts {
                    of_workload.insert(way, microwatts);
                }
            }
        }
        Self(costs)
    }

    /// None where the figure of a way is not known.
    fn get(&self, workload: &WorkloadKey, variant: &str, profile: Option<&str>) -> Option<u64> {
        let way = (variant.to_owned(), profile.map(str::to_owned));
        self.0.get(workload)?.get(&way).copied()
    }
}

#[derive(Clone, Copy)]
enum Rule {
    FirstFit,
    LeastAllocated,
}

/// What is left of a node.
struct Room {
    cpu: (i64, i64),
    memory: (i64, i64),
    devices: BTreeMap<String, i64>,
}

impl Room {
    fn fits(&self, workload: &Workload, profile: Option<&str>) -> bool {
        let has = |profile: &str| self.devices.get(profile).is_some_and(|count| *count > 0);
        self.cpu.0 >= workload.requests.cpu_millis
            && self.memory.0 >= workload.requests.memory_bytes
            && profile.is_none_or(has)
    }

    fn take(&mut self, workload: &Workload, profile: Option<&str>) {
        self.cpu.0 -= workload.requests.cpu_millis;
        self.memory.0 -= workload.requests.memory_bytes;
        if let Some(count) = profile.and_then(|profile| self.devices.get_mut(profile)) {
            *count -= 1;
        }
    }

    /// The mean of what is free of CPU and memory, in thousandths: the most is the least allocated.
    fn free(&self) -> i64 {
        (self.cpu.0 * 1000 / self.cpu.1.max(1) + self.memory.0 * 1000 / self.memory.1.max(1)) / 2
    }
}

fn place_by(world: &World, costs: &Costs, rule: Rule) -> u64 {
    let mut rooms: Vec<(&String, Room)> = world
        .nodes
        .iter()
        .map(|(name, node)| (name, room(node)))
        .collect();
    let mut workloads: Vec<_> = world.workloads.iter().collect();
    workloads.sort_by_key(|(key, workload)| (workload.created, *key));
    let mut sum = 0;
    for (key, workload) in workloads {
        let slots: Vec<Option<&String>> = match workload.mode {
            PlacementMode::PerNode => world.nodes.keys().map(Some).collect(),
            PlacementMode::PerSite | PlacementMode::Replicas => {
                (0..workload.replicas).map(|_| None).collect()
            }
        };
        for node in slots {
            sum += place(&mut rooms, costs, (key, workload), node, rule).unwrap_or_default();
        }
    }
    sum
}

fn room(node: &perwatt_planner::world::Node) -> Room {
    let mut devices = BTreeMap::new();
    for device in &node.devices {
        *devices.entry(device.profile.clone()).or_insert(0) += 1;
    }
    let all = &node.allocatable;
    Room {
        cpu: (all.cpu_millis, all.cpu_millis),
        memory: (all.memory_bytes, all.memory_bytes),
        devices,
    }
}

/// Places one slot by the first variant that fits anywhere; what it draws, where that is known.
fn place(
    rooms: &mut [(&String, Room)],
    costs: &Costs,
    (key, workload): (&WorkloadKey, &Workload),
    only: Option<&String>,
    rule: Rule,
) -> Option<u64> {
    for variant in &workload.variants {
        for profile in profiles(variant) {
            let able = rooms
                .iter_mut()
                .filter(|(name, room)| only.is_none_or(|only| only == *name) && room.fits(workload, profile));
            let chosen = match rule {
                Rule::FirstFit => able.into_iter().next(),
                Rule::LeastAllocated => able.max_by_key(|(_, room)| room.free()),
            };
            if let Some((_, room)) = chosen {
                room.take(workload, profile);
                return costs.get(key, &variant.name, profile);
            }
        }
    }
    None
}

fn profiles(variant: &Variant) -> Vec<Option<&str>> {
    match &variant.needs {
        Needs::Profiles(names) => names.iter().map(|name| Some(name.as_str())).collect(),
        Needs::Class(_) | Needs::Nothing => vec![None],
    }
}

/// Fleets of one to three nodes and two to six slots, beside the best of all their placements.
fn share_of_optimum() -> f64 {
    let (mut ours, mut best) = (0, 0);
    for seed in 0..CASES {
        let mut random = Rng::with_seed(seed);
        let mut world = fleet(random.usize(1..4), random.usize(2..7), seed);
        world.sites.clear();
        for workload in world.workloads.values_mut() {
            (workload.mode, workload.replicas) = (PlacementMode::Replicas, 1);
        }
        let planned = plan(&world, at(1));
        let costs = Costs::of(&planned.slots);
        let mut slots: Vec<BTreeMap<Option<String>, u64>> = Vec::new();
        for (key, workload) in &world.workloads {
            slots.push(ways(&costs, key, workload));
        }
        let Some(on_cpu) = slots.iter().map(|ways| ways.get(&None)).sum::<Option<u64>>() else {
            continue;
        };
        let mut devices = BTreeMap::new();
        for device in world.nodes.values().flat_map(|node| &node.devices) {
            *devices.entry(device.profile.clone()).or_insert(0) += 1;
        }
        let drawn: u64 = planned
            .slots
            .iter()
            .filter_map(|slot| slot.expected?.microwatts)
            .sum();
        ours += on_cpu.saturating_sub(drawn);
        best += on_cpu.saturating_sub(least(&slots, &mut devices));
    }
    watts(ours) / watts(best) * 100.0
}

fn ways(costs: &Costs, key: &WorkloadKey, workload: &Workload) -> BTreeMap<Option<String>, u64> {
    let all = workload.variants.iter().flat_map(|variant| {
        let profiles = profiles(variant).into_iter();
        profiles.map(move |profile| (variant, profile))
    });
    all.filter_map(|(variant, profile)| {
        Some((
            profile.map(str::to_owned),
            costs.get(key, &variant.name, profile)?,
        ))
    })
    .collect()
}

/// The least that slots can draw together, by trying everything.
fn least(slots: &[BTreeMap<Option<String>, u64>], devices: &mut BTreeMap<String, i64>) -> u64 {
    let Some((first, rest)) = slots.split_first() else {
        return 0;
    };
    let mut best = u64::MAX;
    for (profile, cost) in first {
        if let Some(profile) = profile {
            let Some(count) = devices.get_mut(profile).filter(|count| **count > 0) else {
                continue;
            };
            *count -= 1;
        }
        best = best.min(cost.saturating_add(least(rest, devices)));
        if let Some(count) = profile.as_ref().and_then(|profile| devices.get_mut(profile)) {
            *count += 1;
        }
    }
    best
}
