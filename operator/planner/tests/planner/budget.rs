//! Sites and what they may draw, slots of sites, and the move breaker.

use crate::build::{at, foreign_pod, key, node, on_cpu, on_profile, with_devices, workload};
use crate::lab::{SLOT, gate, on, served_by};
use crate::sim::Sim;
use crate::watts::{declared, mixed, powered};
use jiff::ToSpan;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::profile::NodeLabels;
use perwatt_crds::site::ZONE_LABEL;
use perwatt_crds::workload::PlacementMode;
use perwatt_planner::outcome::{Change, DrawSource, ReasonCode, SitePlan};
use perwatt_planner::world::{Draw, Liveness, Site, Workload};
use perwatt_planner::{World, plan};

fn site(site_milliwatts: Option<u64>, node_milliwatts: Option<u64>) -> Site {
    Site {
        nodes: None,
        site_milliwatts,
        node_milliwatts,
    }
}

/// The one node in a site that may draw so much. Chip and board draw 4,100 mW while nobody uses them.
fn budgeted(microjoules: [u64; 3], milliwatts: u64) -> World {
    let mut world = mixed(microjoules);
    let labels = &mut world.nodes.get_mut("edge-a").unwrap().labels;
    labels.insert(ZONE_LABEL.to_owned(), "plant".to_owned());
    world
        .sites
        .insert("plant".to_owned(), site(Some(milliwatts), None));
    world
}

fn of_site(world: &World) -> SitePlan {
    plan(world, at(0)).sites.remove(0)
}

fn code_of(world: &World, variant: &str) -> Option<ReasonCode> {
    let plan = plan(world, at(0));
    let mut candidates = plan.slots[0].candidates.iter();
    let found = candidates.find(|candidate| candidate.variant == variant).unwrap();
    found.rejected.as_ref().map(|reason| reason.code)
}

#[test]
fn what_would_exceed_a_budget_is_not_placed() {
    // On the chip it adds 600 mW, on the board 700, on the CPU 900.
    let at_rest = 4_100;
    for (budget, target) in [(at_rest + 600, Some("npu")), (at_rest + 599, None)] {
        let world = budgeted([900_000, 700_000, 100_000], budget);
        let slot = &plan(&world, at(0)).slots[0];
        let found = slot.target.as_ref().map(|target| target.variant.as_str());
        assert_eq!(found, target, "{budget}");
    }
    let world = budgeted([900_000, 700_000, 100_000], at_rest + 599);
    assert_eq!(code_of(&world, "npu"), Some(ReasonCode::SitePowerBudget));
    let problem = plan(&world, at(0)).slots[0].problem.clone().unwrap();
    let words = "adds 600 mW to the 4100 mW of site plant, whose siteMilliwatts is 4699";
    assert!(problem.message.contains(words), "{}", problem.message);
}

#[test]
fn a_node_has_a_budget_of_its_own() {
    let mut world = budgeted([900_000, 700_000, 100_000], 1_000_000);
    world.sites.get_mut("plant").unwrap().node_milliwatts = Some(4_650);
    assert_eq!(code_of(&world, "npu"), Some(ReasonCode::NodePowerBudget));
    world.sites.get_mut("plant").unwrap().node_milliwatts = Some(4_700);
    assert_eq!(code_of(&world, "npu"), None);
}

#[test]
fn foreign_pods_on_devices_count_at_the_devices_maximum() {
    let mut world = budgeted([900_000, 700_000, 100_000], 100_000);
    let rival = foreign_pod("rival", "edge-a", 10, Some("perwatt.dev/board"));
    world.pods.push(rival);
    assert_eq!(of_site(&world).planned_milliwatts, 100 + 30_000);
    assert_eq!(of_site(&world).source, DrawSource::Nameplate);
}

#[test]
fn a_fresh_measurement_stands_in_place_of_all_else() {
    let mut sim = Sim::new(budgeted([900_000, 700_000, 100_000], 100_000));
    sim.converge();
    assert_eq!(of_site(&sim.world).planned_milliwatts, 4_100 + 600);
    let now = sim.now;
    let draw = Some(Draw {
        milliwatts: 2_000,
        at: now,
    });
    sim.world.nodes.get_mut("edge-a").unwrap().devices[0].draw = draw;
    let planned = sim.plan().sites.remove(0).planned_milliwatts;
    assert!((4_000 + 1_800..=4_000 + 2_000).contains(&planned), "{planned}");
    sim.now += perwatt_planner::DRAW_FRESH;
    assert_eq!(sim.plan().sites.remove(0).planned_milliwatts, 4_100 + 600);
}

#[test]
fn when_a_budget_shrinks_the_slot_that_gives_most_for_least_quality_moves() {
    let mut world = budgeted([100_000, 700_000, 3_000_000], 100_000);
    let chips = with_devices(node(1000), "chip", 3);
    let home = world.nodes.get_mut("edge-a").unwrap();
    (home.devices, home.allocatable) = (chips.devices, chips.allocatable);
    for (name, rate, loses) in [("gate", 60, 10), ("dear", 120, 10), ("fine", 120, 300)] {
        let mut variants = vec![
            declared(on_profile("npu", "chip"), 1_000_000, 8),
            declared(on_cpu("cpu"), 200_000, 40),
        ];
        variants[0].accuracy_permille = Some(980);
        variants[1].accuracy_permille = Some(980 - loses);
        let one = Workload {
            // Quality first, so that all are on chips while there is power.
            objective: perwatt_crds::workload::Objective::Quality,
            expected_rate_per_minute: Some(rate),
            variants,
            ..workload()
        };
        world.workloads.insert(key(name), one);
    }
    let mut sim = Sim::new(world);
    sim.converge();
    // Three chips at 100 mW asleep, 500 mW each for being awake, 1 W, 2 W and 2 W for the work.
    assert_eq!(of_site(&sim.world).planned_milliwatts, 300 + 1_500 + 5_000);
    sim.world.sites.get_mut("plant").unwrap().site_milliwatts = Some(6_000);
    let over = of_site(&sim.world).exceeded.unwrap();
    assert_eq!(over.code, ReasonCode::SitePowerBudget);
    let settled = sim.converge();
    let variant = |name: &str| sim.ready(&key(name), SLOT)[0].0.clone();
    assert_eq!(
        (variant("gate"), variant("dear"), variant("fine")),
        ("npu".to_owned(), "cpu".to_owned(), "npu".to_owned())
    );
    assert_eq!(settled.sites[0].exceeded, None);
    sim.world.sites.get_mut("plant").unwrap().site_milliwatts = Some(100_000);
    sim.converge();
    assert_eq!(sim.ready(&key("dear"), SLOT)[0].0, "npu", "and it returns");
}

#[test]
fn a_slot_with_nothing_cheaper_stays_and_says_so() {
    let mut sim = Sim::new(budgeted([900_000, 700_000, 100_000], 100_000));
    sim.converge();
    sim.world.sites.get_mut("plant").unwrap().site_milliwatts = Some(50);
    let plan = sim.plan();
    assert_eq!(plan.changes, []);
    assert!(plan.sites[0].exceeded.is_some());
    assert_eq!(served_by(&sim), on("npu", "edge-a"));
}

#[test]
fn a_replica_leaves_a_node_that_draws_too_much_for_another() {
    let mut world = budgeted([900_000, 700_000, 100_000], 100_000);
    let mut sim = Sim::new({
        world.sites.get_mut("plant").unwrap().node_milliwatts = Some(50_000);
        world
    });
    sim.converge();
    let spare = with_devices(node(1000), "chip", 1);
    sim.world.nodes.insert("edge-b".to_owned(), spare);
    assert_eq!(sim.plan().changes, []);
    sim.world.sites.get_mut("plant").unwrap().node_milliwatts = Some(4_200);
    sim.converge();
    assert_eq!(served_by(&sim), on("npu", "edge-b"));
}

#[test]
fn a_node_is_in_the_site_that_selects_it_else_of_its_zone_label() {
    let mut world = powered(crate::build::world());
    let labelled = |zone: &str, kind: &str| {
        let mut node = node(1000);
        node.labels.insert(ZONE_LABEL.to_owned(), zone.to_owned());
        node.labels.insert("kind".to_owned(), kind.to_owned());
        node
    };
    world.nodes.insert("a".to_owned(), labelled("north", "plain"));
    world.nodes.insert("b".to_owned(), labelled("north", "special"));
    world.nodes.insert("c".to_owned(), node(1000));
    let selects = |value: &str| Site {
        nodes: Some(NodeLabels {
            match_labels: [("kind".to_owned(), value.to_owned())].into(),
        }),
        ..Site::default()
    };
    world.sites.insert("lab".to_owned(), selects("special"));
    let nodes = |world: &World| -> Vec<_> {
        let sites = plan(world, at(0)).sites.into_iter();
        sites.map(|site| (site.name, site.nodes)).collect()
    };
    let expected = [("default", 1), ("lab", 1), ("north", 1)];
    assert_eq!(
        nodes(&world),
        expected.map(|(name, nodes)| (name.to_owned(), nodes))
    );
    world.sites.insert("mill".to_owned(), selects("special"));
    for site in plan(&world, at(0)).sites {
        let claimed = site.claimed_twice.map(|reason| reason.code);
        let twice = ["lab", "mill"].contains(&site.name.as_str());
        assert_eq!(
            claimed,
            twice.then_some(ReasonCode::NodeClaimedTwice),
            "{}",
            site.name
        );
        assert_eq!(site.nodes, usize::from(site.name != "mill"), "{}", site.name);
    }
}

/// Two sites of two nodes, one node without a label.
fn two_sites() -> Sim {
    let mut world = powered(crate::build::world());
    for (name, zone, chips) in [
        ("a1", Some("alpha"), 0),
        ("a2", Some("alpha"), 1),
        ("b1", Some("beta"), 1),
        ("b2", Some("beta"), 1),
        ("c1", None, 0),
    ] {
        let mut node = with_devices(node(1000), "chip", chips);
        node.labels
            .extend(zone.map(|zone| (ZONE_LABEL.to_owned(), zone.to_owned())));
        world.nodes.insert(name.to_owned(), node);
    }
    let per_site = Workload {
        mode: PlacementMode::PerSite,
        ..workload()
    };
    world.workloads.insert(key("gate"), per_site);
    let mut sim = Sim::new(world);
    sim.converge();
    sim
}

#[test]
fn every_site_is_a_slot_in_mode_per_site() {
    let mut sim = two_sites();
    let slots: Vec<_> = sim.plan().slots.into_iter().map(|slot| slot.slot).collect();
    assert_eq!(slots, ["alpha", "beta", "default"]);
    assert_eq!(sim.ready(&key("gate"), "alpha"), on("npu", "a2"));
    assert_eq!(sim.ready(&key("gate"), "beta"), on("npu", "b1"));
    assert_eq!(sim.ready(&key("gate"), "default"), on("cpu", "c1"));
    sim.set_health("b1", 0, DeviceHealth::Unhealthy);
    sim.converge();
    assert_eq!(
        sim.ready(&key("gate"), "beta"),
        on("npu", "b2"),
        "on its own site"
    );
    sim.set_health("a2", 0, DeviceHealth::Unhealthy);
    sim.converge();
    let alpha = sim.slot(&key("gate"), "alpha");
    assert_eq!(alpha.degraded.unwrap().code, ReasonCode::DeviceUnhealthy);
    assert_eq!(sim.ready(&key("gate"), "alpha")[0].0, "cpu");
}

#[test]
fn a_site_that_falls_silent_is_left_alone_for_ever() {
    let mut sim = two_sites();
    let since = sim.now;
    for name in ["b1", "b2"] {
        sim.world.nodes.get_mut(name).unwrap().liveness = Liveness::Silent { since };
    }
    for _ in 0..100 {
        assert_eq!(sim.plan().changes, []);
        sim.now += std::time::Duration::from_secs(3600);
    }
    assert!(sim.slot(&key("gate"), "beta").offline);
}

/// Forty nodes with a chip each, a slot on every one.
fn many() -> Sim {
    let mut world = powered(crate::build::world());
    for number in 0..40 {
        world
            .nodes
            .insert(format!("edge-{number:02}"), with_devices(node(1000), "chip", 1));
    }
    let per_node = Workload {
        mode: PlacementMode::PerNode,
        ..workload()
    };
    world.workloads.insert(key("gate"), per_node);
    let mut sim = Sim::new(world);
    sim.converge();
    sim
}

fn creates(sim: &Sim) -> usize {
    let changes = sim.plan().changes.into_iter();
    changes
        .filter(|change| matches!(change, Change::Create(_)))
        .count()
}

#[test]
fn past_a_fifth_of_the_slots_moves_are_held_and_go_on_when_the_window_ends() {
    let mut sim = many();
    for number in 0..40 {
        sim.set_health(&format!("edge-{number:02}"), 0, DeviceHealth::Unhealthy);
    }
    let first = sim.plan();
    // A fifth of 40 is fewer than the floor.
    assert_eq!(creates(&sim), perwatt_planner::BREAKER_FLOOR);
    assert_eq!((first.breaker.limit, first.breaker.held), (10, 30));
    let held = first.slots.iter().filter_map(|slot| slot.degraded.as_ref());
    let held: Vec<_> = held
        .filter(|reason| reason.code == ReasonCode::MoveBreakerOpen)
        .collect();
    assert_eq!(held.len(), 30);
    assert!(
        held[0].message.contains("10 slots moved within 10 minutes"),
        "{}",
        held[0].message
    );
    for _ in 0..30 {
        let plan = sim.plan();
        sim.apply(&plan);
        sim.tick();
    }
    let plan = sim.plan();
    assert_eq!(
        plan.changes,
        [],
        "a new operator counts the same: it is in the pods"
    );
    let until = plan.breaker.until.unwrap();
    assert_eq!(plan.wake_at, Some(until));
    sim.now = until;
    assert_eq!(creates(&sim), 10);
}

#[test]
fn a_person_lets_moves_go_on() {
    let mut sim = many();
    for number in 0..40 {
        sim.set_health(&format!("edge-{number:02}"), 0, DeviceHealth::Unhealthy);
    }
    for _ in 0..30 {
        let plan = sim.plan();
        sim.apply(&plan);
        sim.tick();
    }
    assert_eq!(creates(&sim), 0);
    sim.world.breaker.reset_at = Some(sim.now);
    assert_eq!(creates(&sim), 10);
}

#[test]
fn a_new_revision_and_a_slot_that_nothing_serves_are_no_moves() {
    let mut sim = many();
    gate(&mut sim).revision = "bb02".to_owned();
    let moved = |change: &Change| matches!(change, Change::Create(pod) if pod.moved);
    for _ in 0..20 {
        let plan = sim.plan();
        assert!(!plan.changes.iter().any(moved));
        assert_eq!(plan.breaker.held, 0);
        sim.apply(&plan);
        sim.tick();
    }
    sim.world.breaker.moves = 0;
    sim.world.pods.clear();
    assert_eq!(creates(&sim), 40);
}

#[test]
fn where_a_person_must_look_moves_are_held_until_one_did() {
    let mut sim = many();
    sim.world.breaker.waits_for_person = true;
    for number in 0..40 {
        sim.set_health(&format!("edge-{number:02}"), 0, DeviceHealth::Unhealthy);
    }
    let opened = sim.now;
    let first = sim.plan();
    assert_eq!((first.breaker.held, first.breaker.until), (30, None));
    sim.apply(&first);
    // The statuses of the workloads tell from now on, whatever becomes of the pods.
    sim.world.breaker.opened_at = Some(opened);
    sim.now += 2.hours();
    let held = sim.plan();
    assert_eq!(creates(&sim), 0);
    assert_eq!(held.breaker.held_since, Some(opened));
    let degraded = held.slots.iter().filter_map(|slot| slot.degraded.as_ref());
    let mut degraded = degraded.filter(|reason| reason.code == ReasonCode::MoveBreakerOpen);
    let why = degraded.next().unwrap();
    assert!(
        why.message.contains("operator.moveBreaker.resetAt"),
        "{}",
        why.message
    );
    sim.world.breaker.reset_at = Some(sim.now);
    assert_eq!(creates(&sim), perwatt_planner::BREAKER_FLOOR);
}
