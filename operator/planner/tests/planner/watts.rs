//! What is chosen by figures: watts, latency, quality; and what rules a way out.

use crate::build::{MIB, at, key, node, on_cpu, on_profile, with_devices, workload, world};
use crate::lab::{SLOT, gate, on, served_by};
use crate::sim::Sim;
use perwatt_crds::inventory::TemperatureBand;
use perwatt_crds::performance::FigureSource;
use perwatt_crds::profile::{Power, Precision};
use perwatt_crds::workload::{Locality, Objective};
use perwatt_planner::outcome::{Candidate, ReasonCode};
use perwatt_planner::world::{Declared, Found, Variant};
use perwatt_planner::{Plan, World, plan};
use std::time::Duration;

pub fn declared(variant: Variant, microjoules: u64, p99_milliseconds: u64) -> Variant {
    Variant {
        performance: Some(Declared {
            p99: Some(Duration::from_millis(p99_milliseconds)),
            microjoules: Some(microjoules),
            source: FigureSource::Nameplate,
        }),
        ..variant
    }
}

/// `chip` can sleep, `board` cannot.
pub fn powered(mut world: World) -> World {
    let power = |sleep, idle, typical, max| Power {
        sleep_milliwatts: sleep,
        idle_milliwatts: Some(idle),
        typical_milliwatts: Some(typical),
        max_milliwatts: Some(max),
    };
    world.profiles.get_mut("chip").unwrap().power = power(Some(100), 600, 2500, 5000);
    world.profiles.get_mut("board").unwrap().power = power(None, 4000, 15_000, 30_000);
    world
}

/// A node with a chip and a board; one request a second; the list says CPU first.
pub fn mixed(microjoules: [u64; 3]) -> World {
    let [cpu, board, chip] = microjoules;
    let mut world = powered(world());
    let node = with_devices(with_devices(node(1000), "chip", 1), "board", 1);
    world.nodes.insert("edge-a".to_owned(), node);
    let mut gate = workload();
    gate.expected_rate_per_minute = Some(60);
    gate.variants = vec![
        declared(on_cpu("cpu"), cpu, 40),
        declared(on_profile("gpu", "board"), board, 4),
        declared(on_profile("npu", "chip"), chip, 8),
    ];
    world.workloads.insert(key("gate"), gate);
    world
}

fn target(plan: &Plan) -> &str {
    plan.slots[0]
        .target
        .as_ref()
        .map_or("nothing", |target| &target.variant)
}

fn candidate(world: &World, variant: &str) -> Candidate {
    let plan = plan(world, at(0));
    let mut candidates = plan.slots[0].candidates.iter();
    candidates
        .find(|candidate| candidate.variant == variant)
        .unwrap()
        .clone()
}

fn why(world: &World, variant: &str) -> (ReasonCode, String) {
    let reason = candidate(world, variant).rejected.unwrap();
    (reason.code, reason.message)
}

#[test]
fn the_slot_goes_where_it_costs_the_fewest_watts_whatever_the_order() {
    // One inference a second: a microjoule is a microwatt. The chip is kept awake for 500 mW.
    for (microjoules, best) in [
        ([900_000, 700_000, 100_000], "npu"),
        ([900_000, 550_000, 100_000], "gpu"),
        ([500_000, 700_000, 100_000], "cpu"),
    ] {
        let world = mixed(microjoules);
        assert_eq!(target(&plan(&world, at(0))), best, "{microjoules:?}");
    }
}

#[test]
fn idle_power_counts_where_the_device_could_sleep_and_is_sunk_where_it_cannot() {
    let world = mixed([900_000, 700_000, 100_000]);
    let chip = candidate(&world, "npu").expected;
    assert_eq!((chip.awake_milliwatts, chip.microwatts), (500, Some(600_000)));
    let board = candidate(&world, "gpu").expected;
    assert_eq!((board.awake_milliwatts, board.microwatts), (0, Some(700_000)));
    let slot = &plan(&world, at(0)).slots[0];
    assert_eq!(slot.expected.unwrap().microwatts, Some(600_000));
}

#[test]
fn what_was_measured_counts_before_what_is_declared() {
    let mut world = mixed([900_000, 700_000, 100_000]);
    let found = |microjoules, source| Found {
        variant: "npu".to_owned(),
        profile: Some("chip".to_owned()),
        microjoules: Some(microjoules),
        source,
        ..Found::default()
    };
    let found_by =
        |world: &mut World, found| world.workloads.get_mut(&key("gate")).unwrap().found = vec![found];
    found_by(&mut world, found(300_000, FigureSource::Measured));
    assert_eq!(target(&plan(&world, at(0))), "gpu");
    let figure = candidate(&world, "npu").expected.microjoules.unwrap();
    assert_eq!(figure.words(), "measured");
    // The nameplate's power over a measured time is no better than what somebody declares.
    found_by(&mut world, found(300_000, FigureSource::Nameplate));
    assert_eq!(target(&plan(&world, at(0))), "npu");
}

#[test]
fn a_nameplate_and_a_latency_make_a_figure_of_last_resort() {
    let mut world = mixed([900_000, 700_000, 100_000]);
    let npu = &mut world.workloads.get_mut(&key("gate")).unwrap().variants[2];
    npu.performance.as_mut().unwrap().microjoules = None;
    let figure = candidate(&world, "npu").expected.microjoules.unwrap();
    // 2,500 mW for 8 ms.
    assert_eq!((figure.value, figure.words()), (20_000, "nameplate".to_owned()));
    assert_eq!(target(&plan(&world, at(0))), "npu");
}

#[test]
fn without_a_rate_or_a_figure_the_order_of_variants_decides() {
    let mut world = mixed([900_000, 700_000, 100_000]);
    world
        .workloads
        .get_mut(&key("gate"))
        .unwrap()
        .expected_rate_per_minute = None;
    assert_eq!(target(&plan(&world, at(0))), "cpu");

    // The one without a figure keeps its place, and nothing passes it.
    let mut world = mixed([900_000, 700_000, 100_000]);
    world.workloads.get_mut(&key("gate")).unwrap().variants[1].performance = None;
    assert_eq!(target(&plan(&world, at(0))), "cpu");
    world.workloads.get_mut(&key("gate")).unwrap().variants.swap(1, 2);
    assert_eq!(
        target(&plan(&world, at(0))),
        "npu",
        "npu and cpu stand side by side now"
    );
}

#[test]
fn other_objectives_choose_by_their_own_figures() {
    let mut world = mixed([1, 700_000, 100_000]);
    let gate = world.workloads.get_mut(&key("gate")).unwrap();
    for (variant, accuracy) in gate.variants.iter_mut().zip([900, 950, 990]) {
        variant.accuracy_permille = Some(accuracy);
    }
    for (objective, best) in [
        (Objective::Energy, "cpu"),
        (Objective::Latency, "gpu"),
        (Objective::Quality, "npu"),
        (Objective::Order, "cpu"),
    ] {
        world.workloads.get_mut(&key("gate")).unwrap().objective = objective;
        assert_eq!(target(&plan(&world, at(0))), best, "{objective:?}");
    }
}

#[test]
fn a_slot_that_serves_moves_only_for_more_than_a_tenth() {
    let mut sim = Sim::new(mixed([2_000_000, 700_000, 400_000]));
    sim.converge();
    assert_eq!(served_by(&sim), on("gpu", "edge-a"));
    // 700 mW against 500 + 131 mW: better, by less than a tenth.
    gate(&mut sim).variants[2]
        .performance
        .as_mut()
        .unwrap()
        .microjoules = Some(131_000);
    assert_eq!(sim.plan().changes, []);
    assert_eq!(why(&sim.world, "npu").0, ReasonCode::GainTooSmall);
    assert_eq!(sim.slot(&key("gate"), SLOT).degraded, None);
    gate(&mut sim).variants[2]
        .performance
        .as_mut()
        .unwrap()
        .microjoules = Some(129_000);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn a_move_of_a_few_milliwatts_is_not_worth_a_pod() {
    let mut sim = Sim::new(mixed([9_000, 8_000, 100_000]));
    sim.converge();
    assert_eq!(served_by(&sim), on("gpu", "edge-a"));
    gate(&mut sim).variants[0]
        .performance
        .as_mut()
        .unwrap()
        .microjoules = Some(3_500);
    assert_eq!(sim.plan().changes, []);
    gate(&mut sim).variants[0]
        .performance
        .as_mut()
        .unwrap()
        .microjoules = Some(2_000);
    sim.converge();
    assert_eq!(served_by(&sim), on("cpu", "edge-a"));
}

#[test]
fn a_bridge_never_becomes_the_choice_because_the_difference_is_small() {
    let mut sim = Sim::new(mixed([640_000, 900_000, 100_000]));
    sim.world
        .workloads
        .get_mut(&key("gate"))
        .unwrap()
        .variants
        .remove(1);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    gate(&mut sim).revision = "bb02".to_owned();
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn what_misses_the_latency_target_is_ruled_out_in_numbers() {
    let mut world = mixed([900_000, 700_000, 100_000]);
    world.workloads.get_mut(&key("gate")).unwrap().latency_p99 = Some(Duration::from_millis(5));
    assert_eq!(target(&plan(&world, at(0))), "gpu");
    assert_eq!(
        why(&world, "npu"),
        (
            ReasonCode::LatencyTargetMissed,
            "p99 is 8ms (declared (nameplate)), placement.latency.p99 asks for 5ms".to_owned()
        )
    );
}

#[test]
fn a_pod_that_serves_leaves_when_the_target_is_missed_by_more_than_a_tenth() {
    let mut sim = Sim::new(mixed([900_000, 700_000, 100_000]));
    gate(&mut sim).latency_p99 = Some(Duration::from_millis(8));
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    let found = |microseconds| Found {
        variant: "npu".to_owned(),
        profile: Some("chip".to_owned()),
        p99_microseconds: Some(microseconds),
        ..Found::default()
    };
    gate(&mut sim).found = vec![found(8_500)];
    assert_eq!(sim.plan().changes, []);
    gate(&mut sim).found = vec![found(12_000)];
    sim.converge();
    assert_eq!(served_by(&sim), on("gpu", "edge-a"));
}

#[test]
fn precision_memory_and_locality_rule_out_in_words() {
    let mut world = mixed([900_000, 700_000, 100_000]);
    let chip = world.profiles.get_mut("chip").unwrap();
    (chip.precisions, chip.memory_bytes) = (vec![Precision::Int8], Some(32 * MIB));
    let of = |world: &mut World, change: &dyn Fn(&mut Variant)| {
        change(&mut world.workloads.get_mut(&key("gate")).unwrap().variants[2]);
    };
    of(&mut world, &|npu| {
        (npu.precision, npu.memory_bytes) = (Some(Precision::Int8), Some(32 * MIB));
    });
    assert_eq!(target(&plan(&world, at(0))), "npu");
    of(&mut world, &|npu| npu.precision = Some(Precision::Float16));
    assert_eq!(
        why(&world, "npu"),
        (
            ReasonCode::PrecisionNotSupported,
            "it computes in float16, chip in int8".to_owned()
        )
    );
    of(&mut world, &|npu| {
        (npu.precision, npu.memory_bytes) = (None, Some(32 * MIB + 1))
    });
    assert_eq!(why(&world, "npu").0, ReasonCode::DeviceMemoryTooSmall);
    of(&mut world, &|npu| (npu.memory_bytes, npu.remote) = (None, true));
    assert_eq!(target(&plan(&world, at(0))), "npu");
    world.workloads.get_mut(&key("gate")).unwrap().locality = Locality::Site;
    assert_eq!(why(&world, "npu").0, ReasonCode::LocalityForbids);
}

#[test]
fn a_device_whose_support_ended_keeps_what_it_serves_and_gets_nothing_new() {
    let mut sim = Sim::new(mixed([900_000, 700_000, 100_000]));
    sim.world.profiles.get_mut("chip").unwrap().supported_until = Some(at(3600));
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    let slot = sim.slot(&key("gate"), SLOT);
    let note = slot.candidates[0].note.clone().unwrap();
    assert!(note.contains("support of chip ends"), "{note}");
    sim.world.profiles.get_mut("chip").unwrap().supported_until = Some(at(-3600));
    assert_eq!(sim.plan().changes, []);
    sim.world.pods.clear();
    let slot = sim.slot(&key("gate"), SLOT);
    assert_eq!(slot.target.unwrap().variant, "gpu");
}

#[test]
fn hot_and_refused_devices_get_nothing_new_and_keep_what_they_serve() {
    type Unwell = fn(&mut perwatt_planner::world::Device);
    let hot: Unwell = |device| device.temperature = Some(TemperatureBand::NearThrottle);
    let refused: Unwell = |device| device.firmware_refused = Some("firmware 4.18.1 is blocked".to_owned());
    for (unwell, code, words) in [
        (hot, ReasonCode::ThermalHeadroom, "near its throttling"),
        (refused, ReasonCode::FirmwareRefused, "4.18.1"),
    ] {
        let mut world = mixed([900_000, 700_000, 100_000]);
        unwell(&mut world.nodes.get_mut("edge-a").unwrap().devices[0]);
        let (found, message) = why(&world, "npu");
        assert_eq!(found, code);
        assert!(message.contains(words), "{message}");
        let slot = &plan(&world, at(0)).slots[0];
        assert_eq!(slot.degraded.as_ref().unwrap().code, code, "and that is seen");

        let mut sim = Sim::new(mixed([900_000, 700_000, 100_000]));
        sim.converge();
        unwell(&mut sim.world.nodes.get_mut("edge-a").unwrap().devices[0]);
        assert_eq!(sim.plan().changes, []);
    }
}

#[test]
fn a_device_that_throttles_for_a_minute_is_left() {
    let mut sim = Sim::new(mixed([900_000, 700_000, 100_000]));
    sim.converge();
    let now = sim.now;
    let device = &mut sim.world.nodes.get_mut("edge-a").unwrap().devices[0];
    device.throttling_since = Some(now);
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    assert_eq!(plan.wake_at, Some(now + perwatt_planner::THROTTLING_PATIENCE));
    sim.converge();
    assert_eq!(served_by(&sim), on("gpu", "edge-a"));
    let degraded = sim.slot(&key("gate"), SLOT).degraded.unwrap();
    assert_eq!(degraded.code, ReasonCode::ThermalHeadroom);
    let device = &mut sim.world.nodes.get_mut("edge-a").unwrap().devices[0];
    device.throttling_since = None;
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn device_less_variants_stand_in_whatever_their_place_in_the_list() {
    let world = mixed([900_000, 700_000, 100_000]);
    let mut gate = world.workloads[&key("gate")].clone();
    assert_eq!(perwatt_planner::stand_ins(&gate, "npu"), ["cpu"]);
    gate.objective = Objective::Order;
    assert!(perwatt_planner::stand_ins(&gate, "npu").is_empty());
}

#[test]
fn workloads_of_higher_priority_choose_first() {
    let mut world = mixed([900_000, 700_000, 100_000]);
    let late = perwatt_planner::world::Workload {
        priority: 10,
        created: at(5),
        ..world.workloads[&key("gate")].clone()
    };
    world.workloads.insert(key("late"), late);
    let plan = plan(&world, at(10));
    let of = |name: &str| {
        let slot = plan.slots.iter().find(|slot| slot.workload == key(name));
        slot.unwrap().target.as_ref().unwrap().variant.clone()
    };
    assert_eq!((of("late"), of("gate")), ("npu".to_owned(), "gpu".to_owned()));
}

/// `gate` serves on the only chip; `vip` of higher priority comes.
fn contested(gate_has_cpu: bool) -> Sim {
    let mut world = mixed([900_000, 700_000, 100_000]);
    let gate = world.workloads.get_mut(&key("gate")).unwrap();
    gate.variants.remove(1);
    if !gate_has_cpu {
        gate.variants.remove(0);
    }
    let mut sim = Sim::new(world);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    let vip = perwatt_planner::world::Workload {
        priority: 10,
        created: at(5),
        variants: vec![
            declared(on_cpu("cpu"), 900_000, 40),
            declared(on_profile("npu", "chip"), 100_000, 8),
        ],
        ..sim.world.workloads[&key("gate")].clone()
    };
    sim.world.workloads.insert(key("vip"), vip);
    sim
}

#[test]
fn higher_priority_takes_a_device_and_the_loser_is_served_all_the_while() {
    let mut sim = contested(true);
    for _ in 0..60 {
        let plan = sim.plan();
        sim.apply(&plan);
        sim.tick();
        assert!(!served_by(&sim).is_empty(), "the loser has no gap");
    }
    assert_eq!(sim.converge().changes, []);
    assert_eq!(served_by(&sim), on("cpu", "edge-a"));
    assert_eq!(sim.ready(&key("vip"), SLOT), on("npu", "edge-a"));
    assert_eq!(sim.slot(&key("gate"), SLOT).degraded, None);
}

#[test]
fn a_workload_with_nothing_else_to_serve_from_keeps_its_device() {
    let mut sim = contested(false);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
    assert_eq!(sim.ready(&key("vip"), SLOT), on("cpu", "edge-a"));
}

#[test]
fn equal_priority_takes_nothing() {
    let mut sim = contested(true);
    sim.world.workloads.get_mut(&key("vip")).unwrap().priority = 0;
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}
