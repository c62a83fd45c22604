//! Generated clusters, and what happens to them.

use crate::build::{MIB, at, foreign_pod, key, node, on_cpu, on_profile, with_devices, workload, world};
use crate::properties::lacks;
use crate::sim::Sim;
use crate::watts::powered;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::performance::FigureSource;
use perwatt_crds::profile::NodeLabels;
use perwatt_crds::workload::{Objective, OnGap, PlacementMode};
use perwatt_planner::world::{Declared, Liveness, PodState, Site, Variant, Workload, WorkloadKey};
use perwatt_planner::{Plan, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::time::Duration;

/// Something happens to the cluster.
#[derive(Clone, Debug)]
pub enum Event {
    Health {
        node: usize,
        device: usize,
        health: DeviceHealth,
    },
    AgentDown(usize),
    /// The agent of a node is not heard, and the kubelet goes on offering its devices.
    AgentHangs(usize),
    AgentUp(usize),
    Silent(usize),
    Heard(usize),
    Cordoned(usize),
    Uncordoned(usize),
    ForeignCome {
        node: usize,
        cpu_millis: i64,
        device: bool,
    },
    ForeignGo,
    /// What the site and each of its nodes may draw from now on.
    Budget(Site),
    Revision(usize),
    Scale {
        workload: usize,
        replicas: u32,
    },
    PodFails(usize),
    PodStumbles(usize),
    /// The operator dies after so many of its changes.
    Crash(usize),
    /// The operator acts on what it saw so many seconds ago.
    Stale(usize),
    Seconds(usize),
}

pub fn any_event() -> impl Strategy<Value = Event> {
    let health = prop_oneof![
        3 => Just(DeviceHealth::Unhealthy),
        4 => Just(DeviceHealth::Healthy),
        1 => Just(DeviceHealth::Degraded),
        1 => Just(DeviceHealth::Unknown),
    ];
    prop_oneof![
        6 => (0..4_usize, 0..4_usize, health)
            .prop_map(|(node, device, health)| Event::Health { node, device, health }),
        1 => (0..4_usize).prop_map(Event::AgentDown),
        1 => (0..4_usize).prop_map(Event::AgentHangs),
        2 => (0..4_usize).prop_map(Event::AgentUp),
        1 => (0..4_usize).prop_map(Event::Silent),
        2 => (0..4_usize).prop_map(Event::Heard),
        1 => (0..4_usize).prop_map(Event::Cordoned),
        2 => (0..4_usize).prop_map(Event::Uncordoned),
        1 => (0..4_usize, 0..200_i64, any::<bool>())
            .prop_map(|(node, cpu_millis, device)| Event::ForeignCome { node, cpu_millis, device }),
        1 => Just(Event::ForeignGo),
        1 => any_budget().prop_map(Event::Budget),
        2 => (0..3_usize).prop_map(Event::Revision),
        2 => (0..3_usize, 0..4_u32).prop_map(|(workload, replicas)| Event::Scale { workload, replicas }),
        1 => (0..8_usize).prop_map(Event::PodFails),
        2 => (0..8_usize).prop_map(Event::PodStumbles),
        2 => (0..3_usize).prop_map(Event::Crash),
        2 => (1..10_usize).prop_map(Event::Stale),
        8 => (1..15_usize).prop_map(Event::Seconds),
    ]
}

pub fn any_workload() -> impl Strategy<Value = Workload> {
    let chains = vec![
        vec![on_profile("npu", "chip"), on_cpu("cpu")],
        vec![
            on_profile("npu", "chip"),
            on_profile("gpu", "board"),
            on_cpu("cpu"),
        ],
        vec![on_profile("npu", "chip")],
        vec![on_cpu("cpu")],
        vec![
            on_profile("gpu", "foreign"),
            on_profile("npu", "chip"),
            on_cpu("cpu"),
        ],
        vec![on_cpu("cpu"), on_profile("ghost", "no-such-profile")],
    ];
    let mode = prop_oneof![
        4 => Just(PlacementMode::Replicas),
        2 => Just(PlacementMode::PerNode),
        1 => Just(PlacementMode::PerSite),
    ];
    let on_gap = prop_oneof![4 => Just(OnGap::Hold), 1 => Just(OnGap::Allow)];
    let chain = prop::sample::select(chains);
    (
        chain,
        mode,
        on_gap,
        0..4_u32,
        prop::sample::select(vec![0_u64, 5, 60]),
        -3..3_i64,
        any_figures(),
    )
        .prop_map(
            |(variants, mode, on_gap, replicas, stable_seconds, created, figures)| Workload {
                variants: figures.declare(variants),
                mode,
                on_gap,
                replicas,
                stable_for: Duration::from_secs(stable_seconds),
                autonomy: Duration::from_secs(30),
                created: at(created),
                objective: figures.objective,
                expected_rate_per_minute: figures.rate,
                latency_p99: figures.target.map(Duration::from_millis),
                ..workload()
            },
        )
}

/// What is known of a workload's variants.
#[derive(Clone, Debug)]
pub struct Figures {
    objective: Objective,
    rate: Option<u32>,
    target: Option<u64>,
    /// Microjoules and milliseconds of each variant.
    each: Vec<(Option<u64>, Option<u64>)>,
}

impl Figures {
    fn declare(&self, variants: Vec<Variant>) -> Vec<Variant> {
        let declare =
            |(variant, (microjoules, milliseconds)): (Variant, &(Option<u64>, Option<u64>))| Variant {
                performance: Some(Declared {
                    p99: milliseconds.map(Duration::from_millis),
                    microjoules: *microjoules,
                    source: FigureSource::Modelled,
                }),
                ..variant
            };
        variants.into_iter().zip(&self.each).map(declare).collect()
    }
}

fn any_figures() -> impl Strategy<Value = Figures> {
    let objective = prop_oneof![
        4 => Just(Objective::Energy),
        1 => Just(Objective::Order),
        1 => Just(Objective::Latency),
        1 => Just(Objective::Quality),
    ];
    let energy = prop::option::weighted(0.8, 1_000..5_000_000_u64);
    let latency = prop::option::weighted(0.5, 1..50_u64);
    let rate = prop::option::weighted(0.7, prop::sample::select(vec![1_u32, 60, 600]));
    let target = prop::option::weighted(0.2, 5..50_u64);
    (
        objective,
        rate,
        target,
        prop::collection::vec((energy, latency), 3),
    )
        .prop_map(|(objective, rate, target, each)| Figures {
            objective,
            rate,
            target,
            each,
        })
}

/// What a site of all nodes may draw.
fn any_budget() -> impl Strategy<Value = Site> {
    let budget = || prop::option::weighted(0.6, 1_000..40_000_u64);
    (budget(), budget()).prop_map(|(site_milliwatts, node_milliwatts)| Site {
        nodes: Some(NodeLabels::default()),
        site_milliwatts,
        node_milliwatts,
    })
}

/// A site of all nodes, or none that is declared.
fn any_site() -> impl Strategy<Value = Option<Site>> {
    prop::option::weighted(0.5, any_budget())
}

pub fn any_world() -> impl Strategy<Value = World> {
    let any_node =
        (60..400_i64, 0..4_usize, 0..2_usize, 0..2_i64).prop_map(|(cpu, chips, boards, foreign)| {
            let mut node = with_devices(with_devices(node(cpu), "chip", chips), "board", boards);
            node.allocatable
                .extended
                .insert("perwatt.dev/foreign".to_owned(), foreign);
            node.allocatable.memory_bytes = 2 * cpu * MIB;
            node
        });
    let nodes = prop::collection::vec(any_node, 1..4);
    let workloads = prop::collection::vec(any_workload(), 1..4);
    (nodes, workloads, any_site()).prop_map(|(nodes, workloads, site)| {
        let mut world = powered(world());
        world.agent_grace = Duration::from_secs(10);
        world.sites = site.map(|site| ("plant".to_owned(), site)).into_iter().collect();
        world.nodes = nodes
            .into_iter()
            .enumerate()
            .map(|(number, node)| (node_name(number), node))
            .collect();
        let named = workloads.into_iter().enumerate();
        world.workloads = named
            .map(|(number, workload)| (workload_key(number), workload))
            .collect();
        world
    })
}

pub fn node_name(number: usize) -> String {
    format!("edge-{number}")
}

pub fn workload_key(number: usize) -> WorkloadKey {
    key(&format!("model-{number}"))
}

pub fn any_history() -> impl Strategy<Value = (World, u64, u64, bool, Vec<Event>)> {
    (
        any_world(),
        0..4_u64,
        0..4_u64,
        any::<bool>(),
        prop::collection::vec(any_event(), 0..40),
    )
}

/// Runs a property over generated histories, the same ones every time unless
/// `PROPTEST_RNG_SEED` and `PROPTEST_CASES` say otherwise.
pub fn over_histories(property: impl Fn(Sim, Vec<Event>) -> Result<(), TestCaseError>) {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(4);
    }
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&any_history(), |(world, start, stop, report, events)| {
        let mut sim = Sim::new(world);
        (sim.start_seconds, sim.stop_seconds, sim.runtimes_report) = (start, stop, report);
        property(sim, events)
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

pub fn heal(sim: &mut Sim) {
    sim.agents_down.clear();
    for name in sim.world.nodes.keys().cloned().collect::<Vec<_>>() {
        for device in 0..sim.world.nodes[&name].devices.len() {
            sim.set_health(&name, device, DeviceHealth::Healthy);
        }
        let node = sim.world.nodes.get_mut(&name).unwrap();
        (node.liveness, node.unschedulable) = (Liveness::Ready, false);
        node.agent_silent_since = None;
    }
}

pub fn settle(sim: &mut Sim) -> Result<Plan, TestCaseError> {
    sim.try_converge()
        .map_err(|story| TestCaseError::fail(format!("it never settles: {story:#?}")))
}

/// No pod of the agent is ready from now on.
fn lose_agent(sim: &mut Sim, node: &str) {
    let now = sim.now;
    let silent = &mut sim.world.nodes.get_mut(node).unwrap().agent_silent_since;
    silent.get_or_insert(now);
}

pub fn disturb(sim: &mut Sim, event: &Event) {
    let name = |number: &usize| node_name(number % sim.world.nodes.len());
    let now = sim.now;
    match event {
        Event::Health { node, device, health } => {
            let name = name(node);
            let count = sim.world.nodes[&name].devices.len();
            if count > 0 {
                sim.set_health(&name, device % count, *health);
            }
        }
        Event::AgentDown(node) => {
            let name = name(node);
            sim.agents_down.insert(name.clone());
            lose_agent(sim, &name);
        }
        Event::AgentHangs(node) => {
            let name = name(node);
            lose_agent(sim, &name);
        }
        Event::AgentUp(node) => {
            let name = name(node);
            sim.agents_down.remove(&name);
            sim.world.nodes.get_mut(&name).unwrap().agent_silent_since = None;
        }
        Event::Silent(number) => {
            let name = name(number);
            let node = sim.world.nodes.get_mut(&name).unwrap();
            if node.liveness == Liveness::Ready {
                node.liveness = Liveness::Silent { since: now };
            }
        }
        Event::Heard(node) => {
            let name = name(node);
            sim.world.nodes.get_mut(&name).unwrap().liveness = Liveness::Ready;
        }
        Event::Cordoned(node) | Event::Uncordoned(node) => {
            let name = name(node);
            sim.world.nodes.get_mut(&name).unwrap().unschedulable = matches!(event, Event::Cordoned(_));
        }
        Event::ForeignCome {
            node,
            cpu_millis,
            device,
        } => {
            let name = name(node);
            let resource = device.then_some("perwatt.dev/chip");
            let pod = foreign_pod(
                &format!("foreign-{}", sim.world.pods.len()),
                &name,
                *cpu_millis,
                resource,
            );
            // The scheduler counts every pod that is bound; ours that wait it does not.
            if lacks(&sim.world, std::slice::from_ref(&pod)).is_empty() {
                sim.world.pods.push(pod);
            }
        }
        Event::ForeignGo => sim.world.pods.retain(|pod| pod.owned.is_some()),
        Event::Budget(budget) => {
            let sites = sim.world.sites.values_mut();
            sites.for_each(|site| site.clone_from(budget));
        }
        Event::Revision(number) => {
            let key = workload_key(number % sim.world.workloads.len());
            let workload = sim.world.workloads.get_mut(&key).unwrap();
            workload.revision = format!("r{}", workload.revision.len() + workload.revision.len() * 7 % 5);
            workload
                .revision
                .push_str(&"x".repeat(workload.revision.len() % 3));
        }
        Event::Scale { workload, replicas } => {
            let key = workload_key(workload % sim.world.workloads.len());
            sim.world.workloads.get_mut(&key).unwrap().replicas = *replicas;
        }
        Event::PodFails(number) | Event::PodStumbles(number) => {
            let live = sim
                .owned()
                .filter(|(_, owned)| matches!(owned.state, PodState::Ready));
            let names: Vec<_> = live.map(|(pod, _)| pod.name.clone()).collect();
            if let Some(name) = (!names.is_empty()).then(|| &names[number % names.len()]) {
                let (reason, message) = ("Evicted".to_owned(), "disk pressure".to_owned());
                sim.set_state(
                    name,
                    match event {
                        Event::PodFails(_) => PodState::Failed {
                            reason,
                            message,
                            at: now,
                        },
                        _ => PodState::Starting {
                            reason: String::new(),
                            message: String::new(),
                        },
                    },
                );
            }
        }
        Event::Crash(_) | Event::Stale(_) | Event::Seconds(_) => {}
    }
}
