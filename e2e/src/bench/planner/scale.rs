//! `planner-scale`: how long decisions take in large fleets. One thread, so that of one core.

use std::time::{Duration, Instant};

use fastrand::Rng;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_planner::world::PodState;
use perwatt_planner::{Changed, Plan, World, plan, replan};

use super::fleet::{at, carry_out, fleet};
use crate::bench::figure::{Figure, RUNS, median, percentile};
use crate::product::Result;

/// Workloads of every fleet.
const WORKLOADS: usize = 50;
/// Changes of which the 99th percentile is taken.
const CHANGES: usize = 500;

/// Decisions a second from cold, a full pass over a settled fleet, and one change.
pub fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for nodes in [1_000, 5_000] {
        figures.extend(measure_fleet(nodes));
    }
    Ok(figures)
}

fn measure_fleet(nodes: usize) -> Vec<Figure> {
    let mut world = fleet(nodes, WORKLOADS, 1);
    let (first, cold) = timed(|| plan(&world, at(1)));
    let decisions = first.slots.len();
    carry_out(&mut world, &first);
    let (mut settled, full) = timed(|| plan(&world, at(2)));
    for _ in 0..3 {
        carry_out(&mut world, &settled);
        settled = plan(&world, at(2));
    }
    let changes = one_by_one(&mut world, settled);
    let of = |what: &str| format!("{what}, {nodes} nodes with {decisions} slots");
    vec![
        Figure::new(
            &of("decisions a second of one core, from cold"),
            per_second(decisions, cold),
            "1/s",
            RUNS,
        ),
        Figure::new(&of("full pass from cold"), cold, "ms", RUNS),
        Figure::new(&of("full pass over what is settled"), full, "ms", RUNS),
        Figure::new(
            &of("one change, p50"),
            percentile(&changes, 50),
            "ms",
            changes.len(),
        ),
        Figure::new(
            &of("one change, p99"),
            percentile(&changes, 99),
            "ms",
            changes.len(),
        ),
    ]
}

#[allow(clippy::cast_precision_loss, reason = "thousands of slots")]
fn per_second(decisions: usize, milliseconds: f64) -> f64 {
    decisions as f64 / milliseconds * 1e3
}

/// The last plan, and the median time of several.
fn timed(make: impl Fn() -> Plan) -> (Plan, f64) {
    let mut times = Vec::new();
    let mut last = Plan::default();
    for _ in 0..RUNS {
        let began = Instant::now();
        last = make();
        times.push(millis(began.elapsed()));
    }
    (last, median(times))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Each change is planned and carried out before the next: a device dies or is well again, a pod fails, a
/// workload's rate changes. Timed is the planner: the world and what is different in it are given.
fn one_by_one(world: &mut World, mut last: Plan) -> Vec<f64> {
    let mut random = Rng::with_seed(2);
    let mut times = Vec::new();
    let mut dead = Vec::new();
    for second in 0..CHANGES {
        let now = at(100 + i64::try_from(second).unwrap_or_default());
        let before = world.clone();
        change(world, &mut random, &mut dead, second);
        let Some(changed) = Changed::between(&before, world) else {
            continue;
        };
        let began = Instant::now();
        last = replan(world, now, last, &changed);
        times.push(millis(began.elapsed()));
        // Until it is settled again; those passes count too.
        for _ in 0..4 {
            let before = world.clone();
            carry_out(world, &last);
            make_ready(world);
            if before.pods == world.pods {
                break;
            }
            let changed = Changed::between(&before, world).unwrap_or_default();
            let began = Instant::now();
            last = replan(world, now, last, &changed);
            times.push(millis(began.elapsed()));
        }
    }
    times.sort_by(f64::total_cmp);
    times
}

fn change(world: &mut World, random: &mut Rng, dead: &mut Vec<String>, second: usize) {
    let place = random.usize(0..world.nodes.len().max(1));
    match second % 4 {
        0 => {
            if let Some((name, node)) = world.nodes.iter_mut().nth(place) {
                set_health(&mut node.devices, DeviceHealth::Unhealthy);
                dead.push(name.clone());
            }
        }
        1 => {
            let node = dead.pop().and_then(|name| world.nodes.get_mut(&name));
            if let Some(node) = node {
                set_health(&mut node.devices, DeviceHealth::Healthy);
            }
        }
        2 => {
            let place = random.usize(0..world.pods.len().max(1));
            let owned = world.pods.get_mut(place).and_then(|pod| pod.owned.as_mut());
            if let Some(owned) = owned {
                owned.state = PodState::Starting {
                    reason: String::new(),
                    message: String::new(),
                };
            }
        }
        _ => {
            let place = random.usize(1..world.workloads.len().max(2));
            if let Some(workload) = world.workloads.values_mut().nth(place) {
                workload.expected_rate_per_minute = Some([6, 60, 600][random.usize(0..3)]);
            }
        }
    }
}

/// Pods that were not ready are.
fn make_ready(world: &mut World) {
    for owned in world.pods.iter_mut().filter_map(|pod| pod.owned.as_mut()) {
        if matches!(owned.state, PodState::Starting { .. }) {
            owned.state = PodState::Ready;
        }
    }
}

fn set_health(devices: &mut [perwatt_planner::world::Device], health: DeviceHealth) {
    if let Some(device) = devices.first_mut() {
        device.health = health;
    }
}
