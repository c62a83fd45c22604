//! Properties of choosing by figures, by the letters of the README.

use crate::build::{at, key, node, on_cpu, on_profile, with_devices, workload, world};
use crate::history::{any_world, over_histories};
use crate::lab::{SLOT, gate};
use crate::sim::Sim;
use crate::watts::{declared, mixed, powered};
use perwatt_crds::performance::FigureSource;
use perwatt_crds::workload::Objective;
use perwatt_planner::figure::band;
use perwatt_planner::outcome::Change;
use perwatt_planner::world::{Found, Workload};
use perwatt_planner::{Plan, World, plan};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::time::Duration;

pub fn over<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(7);
    }
    if let Err(failure) = TestRunner::new(config).run(strategy, property) {
        panic!("{failure}");
    }
}

/// Who is served by what where.
fn targets(plan: &Plan) -> Vec<(String, Option<(String, String)>)> {
    plan.slots
        .iter()
        .map(|slot| {
            let target = slot.target.as_ref();
            (
                format!("{} {}", slot.workload, slot.slot),
                target.map(|target| (target.variant.clone(), target.node.clone())),
            )
        })
        .collect()
}

// ---- H: near the optimum ----

/// One node or two, each with at most a chip and a board; one slot of each workload, on CPU, board or chip.
fn any_small() -> impl Strategy<Value = World> {
    let devices = (0..2_usize, 0..2_usize);
    let one = (
        10_000..4_000_000_u64,
        10_000..4_000_000_u64,
        10_000..4_000_000_u64,
        prop::sample::select(vec![6_u32, 60, 300]),
    );
    (
        prop::collection::vec(devices, 1..3),
        prop::collection::vec(one, 1..5),
    )
        .prop_map(|(nodes, workloads)| {
            let mut world = powered(world());
            for (number, (chips, boards)) in nodes.into_iter().enumerate() {
                let node = with_devices(with_devices(node(4000), "chip", chips), "board", boards);
                world.nodes.insert(format!("edge-{number}"), node);
            }
            for (number, (cpu, board, chip, rate)) in workloads.into_iter().enumerate() {
                let one = Workload {
                    expected_rate_per_minute: Some(rate),
                    variants: vec![
                        declared(on_profile("npu", "chip"), chip, 5),
                        declared(on_profile("gpu", "board"), board, 5),
                        declared(on_cpu("cpu"), cpu, 5),
                    ],
                    ..workload()
                };
                world.workloads.insert(key(&format!("model-{number}")), one);
            }
            world
        })
}

/// What a slot draws on chip, board and CPU, in microwatts.
fn costs(workload: &Workload) -> [u64; 3] {
    let rate = u64::from(workload.expected_rate_per_minute.unwrap());
    let work = |place: usize| {
        let performance = workload.variants[place].performance.as_ref().unwrap();
        performance.microjoules.unwrap() * rate / 60
    };
    [work(0) + 500_000, work(1), work(2)]
}

/// The least that all slots can draw together, by trying everything.
fn optimum(costs: &[[u64; 3]], chips: usize, boards: usize) -> u64 {
    let Some((first, rest)) = costs.split_first() else {
        return 0;
    };
    let on_cpu = first[2] + optimum(rest, chips, boards);
    let on_chip = (chips > 0).then(|| first[0] + optimum(rest, chips - 1, boards));
    let on_board = (boards > 0).then(|| first[1] + optimum(rest, chips, boards - 1));
    [Some(on_cpu), on_chip, on_board]
        .into_iter()
        .flatten()
        .min()
        .unwrap()
}

#[test]
fn h_the_watts_saved_are_nearly_those_of_the_optimum() {
    let sums = std::cell::Cell::new((0_u64, 0_u64));
    over(&any_small(), |world| {
        let count = |profile: &str| {
            let devices = world.nodes.values().flat_map(|node| &node.devices);
            devices.filter(|device| device.profile == profile).count()
        };
        let costs: Vec<_> = world.workloads.values().map(costs).collect();
        let all_on_cpu: u64 = costs.iter().map(|costs| costs[2]).sum();
        let best = all_on_cpu - optimum(&costs, count("chip"), count("board"));
        let plan = plan(&world, at(0));
        let drawn = plan
            .slots
            .iter()
            .map(|slot| slot.expected.unwrap().microwatts.unwrap());
        let ours = all_on_cpu.saturating_sub(drawn.sum());
        prop_assert!(ours <= best, "better than the best: {ours} of {best}");
        let (all_ours, all_best) = sums.get();
        sums.set((all_ours + ours, all_best + best));
        Ok(())
    });
    let (ours, best) = sums.get();
    let permille = ours * 1000 / best;
    println!("{permille} per mille of the optimal watts saved");
    assert!(permille >= 990, "{permille} per mille of the optimal watts saved");
}

// ---- I: noise inside a band moves nothing ----

fn with_found(mut world: World, scale: impl Fn(u64) -> u64) -> World {
    for workload in world.workloads.values_mut() {
        let mut found = Vec::new();
        for variant in &workload.variants {
            let microjoules = variant.performance.as_ref().and_then(|known| known.microjoules);
            for profile in [None, Some("chip"), Some("board"), Some("foreign")] {
                found.push(Found {
                    variant: variant.name.clone(),
                    profile: profile.map(str::to_owned),
                    microjoules: microjoules.map(&scale),
                    p99_microseconds: microjoules.map(|energy| scale(energy / 100)),
                    source: FigureSource::Measured,
                    emulated: false,
                });
            }
        }
        workload.found = found;
    }
    world
}

#[test]
fn i_noise_inside_a_band_changes_nothing() {
    over(&(any_world(), 0..1000_u64), |(world, noise)| {
        let wavering = |value: u64| {
            let edge = band(value);
            edge + (edge / 10).saturating_sub(1) * noise / 1000
        };
        let still = with_found(world.clone(), band);
        let noisy = with_found(world, wavering);
        prop_assert_eq!(plan(&still, at(0)), plan(&noisy, at(0)));
        Ok(())
    });
}

// ---- K: what wavers moves a slot at most once ----

#[test]
fn k_figures_that_waver_between_neighbouring_bands_move_a_slot_at_most_once() {
    let energies = (100_000..3_000_000_u64, 100_000..3_000_000_u64);
    let wavers = prop::collection::vec((any::<bool>(), any::<bool>()), 12);
    over(&(energies, wavers), |((cpu, board), wavers)| {
        let mut sim = Sim::new(mixed([cpu, board, 4_000_000]));
        let found = |variant: &str, profile: Option<&str>, energy: u64, up: bool| {
            let edge = band(energy);
            Found {
                variant: variant.to_owned(),
                profile: profile.map(str::to_owned),
                microjoules: Some(if up { edge + edge / 10 } else { edge }),
                ..Found::default()
            }
        };
        let mut moves = Vec::new();
        for (of_cpu, of_board) in wavers {
            let mut of_cpu = found("cpu", None, cpu, of_cpu);
            let mut of_board = found("gpu", Some("board"), board, of_board);
            (of_cpu.source, of_board.source) = (FigureSource::Measured, FigureSource::Measured);
            gate(&mut sim).found = vec![of_cpu, of_board];
            sim.converge();
            let by = sim.ready(&key("gate"), SLOT)[0].0.clone();
            if moves.last() != Some(&by) {
                moves.push(by);
            }
        }
        prop_assert!(moves.len() <= 2, "{moves:?}");
        Ok(())
    });
}

// ---- L: without figures the order decides ----

#[test]
fn l_without_figures_every_objective_is_the_order_of_variants() {
    over(&any_world(), |mut world| {
        for workload in world.workloads.values_mut() {
            workload.expected_rate_per_minute = None;
            for variant in &mut workload.variants {
                variant.performance = None;
            }
        }
        let as_is = targets(&plan(&world, at(0)));
        for workload in world.workloads.values_mut() {
            workload.objective = Objective::Order;
        }
        prop_assert_eq!(as_is, targets(&plan(&world, at(0))));
        Ok(())
    });
}

// ---- M: the move breaker ----

#[test]
fn m_no_window_has_more_moves_than_may_be_and_what_nothing_serves_is_never_held() {
    over_histories(|mut sim, events| {
        sim.world.breaker.moves = 2;
        let mut moves = Vec::new();
        for event in &events {
            crate::history::disturb(&mut sim, event);
            let plan = sim.plan();
            for slot in &plan.slots {
                let held = slot.degraded.as_ref().is_some_and(|reason| {
                    reason.code == perwatt_planner::outcome::ReasonCode::MoveBreakerOpen
                });
                let ready = sim.ready(&slot.workload, &slot.slot);
                prop_assert!(!held || !ready.is_empty(), "{slot:?}");
            }
            let slots: std::collections::BTreeSet<_> = plan
                .changes
                .iter()
                .filter_map(|change| match change {
                    Change::Create(pod) if pod.moved => Some((pod.workload.clone(), pod.slot.clone())),
                    _ => None,
                })
                .collect();
            moves.extend(slots.into_iter().map(|slot| (sim.now, slot)));
            sim.apply(&plan);
            sim.tick();
        }
        // A bridge and the pod that it bridges to are one move: count a slot once in so short a time.
        let window = Duration::from_secs(600);
        for (from, _) in &moves {
            let within = moves
                .iter()
                .filter(|(at, _)| *at >= *from && *at < *from + window);
            let slots: std::collections::BTreeSet<_> = within.map(|(_, slot)| slot).collect();
            prop_assert!(slots.len() <= 2 + events.len() / 10, "{slots:?}");
        }
        Ok(())
    });
}

// ---- E: plan twice ----

#[test]
fn e_what_serves_as_planned_by_figures_stays() {
    over(&any_world(), |world| {
        let mut sim = Sim::new(world);
        let settled = sim
            .try_converge()
            .map_err(|story| TestCaseError::fail(format!("{story:#?}")))?;
        sim.seconds(100);
        prop_assert_eq!(targets(&settled), targets(&sim.plan()));
        prop_assert_eq!(sim.plan().changes, vec![]);
        Ok(())
    });
}

// ---- N: planning what changed ----

/// What must be the same however it was planned: what is known of rejected candidates is of the last
/// time that they were looked at, and waking early does no harm.
fn essence(plan: &Plan) -> Vec<String> {
    let slots = plan.slots.iter().map(|slot| {
        let code =
            |reason: &Option<perwatt_planner::outcome::Reason>| reason.as_ref().map(|reason| reason.code);
        format!(
            "{} {} {:?} {:?} {:?} {:?} {} {} {:?}",
            slot.workload,
            slot.slot,
            slot.target,
            slot.serving,
            code(&slot.degraded),
            code(&slot.problem),
            slot.offline,
            slot.changing,
            slot.best_variant
        )
    });
    let mut changes: Vec<_> = plan
        .changes
        .iter()
        .map(|change| match change {
            Change::Create(pod) => format!("+{} {:?} {:?} {}", pod.name, pod.role, pod.assignment, pod.moved),
            Change::Delete(pod) => format!("-{} {:?}", pod.name, pod.survivor),
        })
        .collect();
    changes.sort();
    slots.chain(changes).collect()
}

#[test]
fn n_planning_what_changed_is_planning_everything() {
    over_histories(|mut sim, events| {
        let mut seen = sim.world.clone();
        let mut last = sim.plan();
        let step = |sim: &mut Sim, last: &mut Plan, seen: &mut World| -> Result<(), TestCaseError> {
            let all = sim.plan();
            let next = match perwatt_planner::Changed::between(seen, &sim.world) {
                Some(changed) => perwatt_planner::replan(&sim.world, sim.now, std::mem::take(last), &changed),
                None => sim.plan(),
            };
            prop_assert_eq!(essence(&next), essence(&all));
            prop_assert_eq!(&next.sites, &all.sites);
            let late =
                next.wake_at.unwrap_or(jiff::Timestamp::MAX) > all.wake_at.unwrap_or(jiff::Timestamp::MAX);
            prop_assert!(!late, "wakes at {:?}, not at {:?}", next.wake_at, all.wake_at);
            *seen = sim.world.clone();
            sim.apply(&next);
            sim.tick();
            *last = next;
            Ok(())
        };
        for event in &events {
            crate::history::disturb(&mut sim, event);
            step(&mut sim, &mut last, &mut seen)?;
        }
        for _ in 0..20 {
            step(&mut sim, &mut last, &mut seen)?;
        }
        Ok(())
    });
}
