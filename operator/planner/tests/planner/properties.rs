//! Properties over generated clusters and histories. The letters are those of the README.

use crate::build::{MIB, at, foreign_pod, key, node, on_cpu, on_profile, with_devices, workload, world};
use crate::sim::Sim;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::workload::{OnGap, PlacementMode};
use perwatt_planner::outcome::{Change, ReasonCode, SlotPlan};
use perwatt_planner::world::{Liveness, Needs, Pod, PodState, Resources, Workload, WorkloadKey};
use perwatt_planner::{Plan, World, plan};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Something happens to the cluster.
#[derive(Clone, Debug)]
enum Event {
    Health {
        node: usize,
        device: usize,
        health: DeviceHealth,
    },
    AgentDown(usize),
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

fn any_event() -> impl Strategy<Value = Event> {
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
        2 => (0..4_usize).prop_map(Event::AgentUp),
        1 => (0..4_usize).prop_map(Event::Silent),
        2 => (0..4_usize).prop_map(Event::Heard),
        1 => (0..4_usize).prop_map(Event::Cordoned),
        2 => (0..4_usize).prop_map(Event::Uncordoned),
        1 => (0..4_usize, 0..200_i64, any::<bool>())
            .prop_map(|(node, cpu_millis, device)| Event::ForeignCome { node, cpu_millis, device }),
        1 => Just(Event::ForeignGo),
        2 => (0..3_usize).prop_map(Event::Revision),
        2 => (0..3_usize, 0..4_u32).prop_map(|(workload, replicas)| Event::Scale { workload, replicas }),
        1 => (0..8_usize).prop_map(Event::PodFails),
        2 => (0..8_usize).prop_map(Event::PodStumbles),
        2 => (0..3_usize).prop_map(Event::Crash),
        2 => (1..10_usize).prop_map(Event::Stale),
        8 => (1..15_usize).prop_map(Event::Seconds),
    ]
}

fn any_workload() -> impl Strategy<Value = Workload> {
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
    let mode = prop_oneof![2 => Just(PlacementMode::Replicas), 1 => Just(PlacementMode::PerNode)];
    let on_gap = prop_oneof![4 => Just(OnGap::Hold), 1 => Just(OnGap::Allow)];
    let chain = prop::sample::select(chains);
    (
        chain,
        mode,
        on_gap,
        0..4_u32,
        prop::sample::select(vec![0_u64, 5, 60]),
        -3..3_i64,
    )
        .prop_map(
            |(variants, mode, on_gap, replicas, stable_seconds, created)| Workload {
                variants,
                mode,
                on_gap,
                replicas,
                stable_for: Duration::from_secs(stable_seconds),
                autonomy: Duration::from_secs(30),
                created: at(created),
                ..workload()
            },
        )
}

fn any_world() -> impl Strategy<Value = World> {
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
    (nodes, workloads).prop_map(|(nodes, workloads)| {
        let mut world = world();
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

fn node_name(number: usize) -> String {
    format!("edge-{number}")
}

fn workload_key(number: usize) -> WorkloadKey {
    key(&format!("model-{number}"))
}

fn any_history() -> impl Strategy<Value = (World, u64, u64, bool, Vec<Event>)> {
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
fn over_histories(property: impl Fn(Sim, Vec<Event>) -> Result<(), TestCaseError>) {
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

fn heal(sim: &mut Sim) {
    sim.agents_down.clear();
    for name in sim.world.nodes.keys().cloned().collect::<Vec<_>>() {
        for device in 0..sim.world.nodes[&name].devices.len() {
            sim.set_health(&name, device, DeviceHealth::Healthy);
        }
        let node = sim.world.nodes.get_mut(&name).unwrap();
        (node.liveness, node.unschedulable) = (Liveness::Ready, false);
    }
}

fn settle(sim: &mut Sim) -> Result<Plan, TestCaseError> {
    sim.try_converge()
        .map_err(|story| TestCaseError::fail(format!("it never settles: {story:#?}")))
}

/// Lets an event happen; the operator does its pass after most of them.
fn happen(sim: &mut Sim, event: &Event) -> Result<(), TestCaseError> {
    match event {
        Event::Crash(after) => {
            let changes = sim.plan().changes;
            let seen = sim.world.clone();
            sim.apply_changes(&changes[..changes.len().min(*after)], &seen);
            sim.tick();
            return Ok(());
        }
        Event::Stale(seconds) => {
            let seen = sim.seen(*seconds);
            let plan = plan(&seen, sim.now);
            let before = served_slots(&sim.world);
            sim.apply_changes(&plan.changes, &seen);
            lost_none(&before, &sim.world)?;
            sim.tick();
            return Ok(());
        }
        Event::Seconds(count) => {
            for _ in 0..*count {
                pass(sim)?;
            }
        }
        other => disturb(sim, other),
    }
    pass(sim)
}

fn disturb(sim: &mut Sim, event: &Event) {
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
            sim.agents_down.insert(name);
        }
        Event::AgentUp(node) => {
            let name = name(node);
            sim.agents_down.remove(&name);
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

/// A pass of the operator on what is, with everything checked that must hold of every plan.
fn pass(sim: &mut Sim) -> Result<(), TestCaseError> {
    let plan = sim.plan();
    books_nothing_twice(&sim.world, &plan)?;
    gives_up_nothing_that_serves(&sim.world, &plan)?;
    says_little(&plan)?;
    let before = served_slots(&sim.world);
    sim.apply(&plan);
    lost_none(&before, &sim.world)?;
    sim.tick();
    Ok(())
}

/// A: what a plan creates fits into what is free.
fn books_nothing_twice(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let mut made = Vec::new();
    let mut slots = BTreeSet::new();
    for change in &plan.changes {
        let Change::Create(pod) = change else { continue };
        let node = &world.nodes[&pod.assignment.node];
        let workload = &world.workloads[&pod.workload];
        prop_assert!(node.liveness == Liveness::Ready && !node.unschedulable, "{pod:?}");
        prop_assert!(
            slots.insert((&pod.workload, &pod.slot)),
            "two pods at once for {}",
            pod.slot
        );
        prop_assert!(
            world.pods.iter().all(|other| other.name != pod.name),
            "{} exists",
            pod.name
        );
        let resource = pod
            .assignment
            .profile
            .as_ref()
            .map(|name| world.profiles[name].resource.clone());
        let extended: BTreeMap<_, _> = resource.map(|resource| (resource, 1)).into_iter().collect();
        let requests = Resources {
            extended,
            pods: 1,
            ..workload.requests.clone()
        };
        made.push(Pod {
            requests,
            ..foreign_pod(&pod.name, &pod.assignment.node, 0, None)
        });
    }
    let lacking = lacks(world, &made);
    prop_assert!(lacking.is_empty(), "the plan lacks {lacking:?}");
    Ok(())
}

/// What the nodes of new pods would lack, in what the new pods request.
fn lacks(world: &World, made: &[Pod]) -> Vec<String> {
    let mut lacking = Vec::new();
    for pod in made {
        let name = pod.node.as_ref().unwrap();
        let offered = &world.nodes[name].allocatable;
        let on_node = world.pods.iter().chain(made);
        let on_node: Vec<&Pod> = on_node
            .filter(|other| other.node.as_ref() == Some(name) && other.holds_resources)
            .collect();
        let sum = |of: &dyn Fn(&Pod) -> i64| on_node.iter().map(|other| of(other)).sum::<i64>();
        let mut check = |what: &str, asked: i64, sum: i64, offered: i64| {
            if asked > 0 && sum > offered {
                lacking.push(format!("{what} on {name}: {sum} of {offered}"));
            }
        };
        check(
            "cpu",
            pod.requests.cpu_millis,
            sum(&|p| p.requests.cpu_millis),
            offered.cpu_millis,
        );
        check(
            "memory",
            pod.requests.memory_bytes,
            sum(&|p| p.requests.memory_bytes),
            offered.memory_bytes,
        );
        check("pods", 1, sum(&|_| 1), offered.pods);
        for (resource, asked) in &pod.requests.extended {
            let of = |p: &Pod| p.requests.extended.get(resource).copied().unwrap_or(0);
            let all = offered.extended.get(resource).copied().unwrap_or(0);
            check(resource, *asked, sum(&of), all);
        }
    }
    lacking
}

/// B: no ready pod goes without another ready pod of its slot, unless the slot is no more or
/// `onGap: Allow` says so.
fn gives_up_nothing_that_serves(world: &World, plan: &Plan) -> Result<(), TestCaseError> {
    let deleted: BTreeSet<&str> = plan.changes.iter().filter_map(deleted_name).collect();
    for change in &plan.changes {
        let Change::Delete(delete) = change else { continue };
        let pod = world.pods.iter().find(|pod| pod.uid == delete.uid).unwrap();
        let owned = pod.owned.as_ref().unwrap();
        let may_gap = world.workloads[&owned.workload].on_gap == OnGap::Allow;
        let slot_exists = plan
            .slots
            .iter()
            .any(|s| s.workload == owned.workload && s.slot == owned.slot);
        if owned.state != PodState::Ready || !slot_exists || (may_gap && delete.survivor.is_none()) {
            continue;
        }
        let survivor = delete.survivor.as_deref().unwrap_or_default();
        let other = world.pods.iter().find(|other| other.name == survivor);
        let other = other.and_then(|other| other.owned.as_ref());
        let survives = other.is_some_and(|other| {
            other.state == PodState::Ready && other.slot == owned.slot && other.workload == owned.workload
        });
        prop_assert!(
            survives && !deleted.contains(survivor),
            "{} goes, and no survivor",
            pod.name
        );
    }
    Ok(())
}

fn deleted_name(change: &Change) -> Option<&str> {
    match change {
        Change::Delete(delete) => Some(&delete.name),
        Change::Create(_) => None,
    }
}

/// Messages fit into conditions and events, and reasons do not grow with the cluster.
fn says_little(plan: &Plan) -> Result<(), TestCaseError> {
    for slot in &plan.slots {
        let rejected = slot
            .candidates
            .iter()
            .filter_map(|candidate| candidate.rejected.as_ref());
        for reason in rejected.chain(&slot.degraded).chain(&slot.problem) {
            prop_assert!(
                reason.message.len() <= 1024 && !reason.message.is_empty(),
                "{reason:?}"
            );
        }
        prop_assert!(
            slot.candidates
                .iter()
                .filter(|candidate| candidate.chosen)
                .count()
                <= 1
        );
    }
    Ok(())
}

/// Slots of workloads that hold, which a ready pod serves.
fn served_slots(world: &World) -> BTreeSet<(WorkloadKey, String)> {
    let owned = world.pods.iter().filter_map(|pod| pod.owned.as_ref());
    let ready = owned.filter(|owned| owned.state == PodState::Ready);
    ready
        .map(|owned| (owned.workload.clone(), owned.slot.clone()))
        .collect()
}

/// B, as it happens: applying a plan, a stale one too, leaves no served slot without a ready pod.
fn lost_none(before: &BTreeSet<(WorkloadKey, String)>, world: &World) -> Result<(), TestCaseError> {
    let after = served_slots(world);
    for (workload, slot) in before.difference(&after) {
        let wanted = exists(world, workload, slot) && world.workloads[workload].on_gap == OnGap::Hold;
        prop_assert!(!wanted, "{workload} {slot} was served, and is not any more");
    }
    Ok(())
}

fn exists(world: &World, workload: &WorkloadKey, slot: &str) -> bool {
    let plan = plan(world, at(0));
    plan.slots
        .iter()
        .any(|found| found.workload == *workload && found.slot == slot)
}

#[test]
fn every_plan_of_every_history_books_nothing_twice_and_gives_up_nothing_that_serves() {
    over_histories(|mut sim, events| {
        for event in &events {
            happen(&mut sim, event)?;
        }
        Ok(())
    });
}

#[test]
fn after_quiet_the_plan_has_no_changes_and_every_slot_that_can_be_served_is() {
    over_histories(|mut sim, events| {
        for event in &events {
            happen(&mut sim, event)?;
        }
        let settled = settle(&mut sim)?;
        prop_assert_eq!(&settled.changes, &vec![]);
        for slot in &settled.slots {
            is_settled(&sim, slot)?;
        }
        for _ in 0..100 {
            sim.tick();
            prop_assert_eq!(sim.plan().changes, vec![], "it stays so");
        }
        Ok(())
    });
}

/// C: one pod serves the slot, the target's own, or there is a reason.
fn is_settled(sim: &Sim, slot: &SlotPlan) -> Result<(), TestCaseError> {
    let ready = sim.ready(&slot.workload, &slot.slot);
    let held = slot
        .problem
        .as_ref()
        .is_some_and(|problem| problem.code == ReasonCode::CannotBridge);
    let alone = slot.offline
        || slot
            .problem
            .as_ref()
            .is_some_and(|p| p.code == ReasonCode::NodeNotReady);
    if alone {
        return Ok(());
    }
    // Its device is there, healthy, and not offered: its agent is down.
    let awaits_agent = slot
        .problem
        .as_ref()
        .is_some_and(|p| p.code == ReasonCode::DeviceUnhealthy);
    match &slot.target {
        Some(_) if awaits_agent => {
            prop_assert!(!ready.is_empty() && !sim.agents_down.is_empty(), "{slot:?}");
        }
        Some(_) if held => prop_assert!(!ready.is_empty(), "held, and nothing serves: {slot:?}"),
        Some(target) => {
            prop_assert_eq!(
                &ready,
                &vec![(target.variant.clone(), target.node.clone())],
                "{:?}",
                slot
            );
            prop_assert!(!slot.changing && slot.problem.is_none(), "{slot:?}");
        }
        None => {
            prop_assert!(slot.problem.is_some());
            let has_device_less = device_less_fits(&sim.world, slot);
            prop_assert!(
                !ready.is_empty() || !has_device_less,
                "a CPU variant would fit: {slot:?}"
            );
        }
    }
    Ok(())
}

/// Whether some node would take a device-less pod of the slot.
fn device_less_fits(world: &World, slot: &SlotPlan) -> bool {
    let workload = &world.workloads[&slot.workload];
    let mut variants = workload.variants.iter();
    let has = variants.any(|variant| variant.needs == Needs::Nothing);
    let may = |name: &String| workload.mode == PlacementMode::Replicas || *name == slot.slot;
    has && world.nodes.iter().any(|(name, node)| {
        let pod = Pod {
            requests: workload.requests.clone(),
            ..foreign_pod("probe", name, 0, None)
        };
        may(name)
            && node.liveness == Liveness::Ready
            && !node.unschedulable
            && lacks(world, &[pod]).is_empty()
    })
}

#[test]
fn a_plan_depends_on_nothing_but_the_world_and_the_time() {
    over_histories(|mut sim, events| {
        for event in &events {
            happen(&mut sim, event)?;
            let mut shuffled = sim.world.clone();
            shuffled.pods.reverse();
            prop_assert_eq!(sim.plan(), plan(&shuffled, sim.now));
            prop_assert_eq!(sim.plan(), sim.plan());
        }
        Ok(())
    });
}

#[test]
fn repeating_a_plan_changes_nothing_more() {
    over_histories(|mut sim, events| {
        for event in &events {
            happen(&mut sim, event)?;
            let seen = sim.world.clone();
            let changes = sim.plan().changes;
            sim.apply_changes(&changes, &seen);
            let names = |sim: &Sim| -> Vec<_> { sim.owned().map(|(pod, _)| pod.uid.clone()).collect() };
            let once = names(&sim);
            sim.apply_changes(&changes, &seen);
            prop_assert_eq!(names(&sim), once);
        }
        Ok(())
    });
}

#[test]
fn served_slots_keep_their_assignment_when_nothing_is_wrong() {
    over_histories(|mut sim, events| {
        for event in &events {
            happen(&mut sim, event)?;
        }
        heal(&mut sim);
        settle(&mut sim)?;
        let newcomer = Workload {
            created: at(-50_000),
            replicas: 3,
            ..workload()
        };
        sim.world.workloads.insert(key("newcomer"), newcomer);
        let nodes: Vec<_> = sim.world.nodes.keys().cloned().collect();
        sim.agents_down.extend(nodes);
        sim.tick();
        for change in sim.plan().changes {
            let is_harmless = match &change {
                Change::Create(pod) => pod.workload == key("newcomer"),
                Change::Delete(pod) => sim.owned().any(|(other, owned)| {
                    other.uid == pod.uid && matches!(owned.state, PodState::Failed { .. })
                }),
            };
            prop_assert!(is_harmless, "{change:?}");
        }
        Ok(())
    });
}

#[test]
fn a_new_revision_reaches_every_slot_that_serves_without_a_gap() {
    over_histories(|mut sim, events| {
        for event in &events {
            happen(&mut sim, event)?;
        }
        settle(&mut sim)?;
        for workload in sim.world.workloads.values_mut() {
            workload.revision = "next".to_owned();
        }
        let before = served_slots(&sim.world);
        for _ in 0..120 {
            let plan = sim.plan();
            sim.apply(&plan);
            sim.tick();
            lost_none(&before, &sim.world)?;
        }
        let settled = settle(&mut sim)?;
        for slot in settled
            .slots
            .iter()
            .filter(|slot| slot.target.is_some() && !slot.offline)
        {
            is_settled(&sim, slot)?;
        }
        Ok(())
    });
}
