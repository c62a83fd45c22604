//! Properties over generated clusters and histories. The letters are those of the README.

use crate::build::{at, foreign_pod, key, workload};
use crate::history::{Event, disturb, heal, over_histories, settle};
use crate::sim::Sim;
use perwatt_crds::workload::{OnGap, PlacementMode};
use perwatt_planner::outcome::{Change, ReasonCode, SlotPlan};
use perwatt_planner::world::{Liveness, Needs, Pod, PodState, Resources, Workload, WorkloadKey};
use perwatt_planner::{Plan, World, plan, silent_agents};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Lets an event happen; the operator does its pass after most of them.
pub fn happen(sim: &mut Sim, event: &Event) -> Result<(), TestCaseError> {
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
pub fn lacks(world: &World, made: &[Pod]) -> Vec<String> {
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
pub fn is_settled(sim: &Sim, slot: &SlotPlan) -> Result<(), TestCaseError> {
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
        .is_some_and(|p| matches!(p.code, ReasonCode::DeviceUnhealthy | ReasonCode::AgentSilent));
    // It draws too much, and has nowhere to go.
    let is_excess = slot
        .problem
        .as_ref()
        .is_some_and(|problem| problem.code == ReasonCode::PowerBudgetExceeded);
    let is_exceeded = || sim.plan().sites.iter().any(|site| site.exceeded.is_some());
    let agent_is_away = !sim.agents_down.is_empty() || silent_agents(&sim.world, sim.now).next().is_some();
    match &slot.target {
        Some(_) if awaits_agent => {
            prop_assert!(!ready.is_empty() && agent_is_away, "{slot:?}");
        }
        Some(_) if held => prop_assert!(!ready.is_empty(), "held, and nothing serves: {slot:?}"),
        Some(target) => {
            prop_assert_eq!(
                &ready,
                &vec![(target.variant.clone(), target.node.clone())],
                "{:?}",
                slot
            );
            prop_assert!(!slot.changing, "{slot:?}");
            prop_assert!(slot.problem.is_none() || (is_excess && is_exceeded()), "{slot:?}");
        }
        None => {
            prop_assert!(slot.problem.is_some());
            prop_assert!(ready.len() <= 1, "nothing may serve, and two do: {slot:?}");
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
    let ruled_out = |name: &str| {
        slot.candidates.iter().any(|candidate| {
            let code = candidate.rejected.as_ref().map(|reason| reason.code);
            let by_figures = [
                ReasonCode::LatencyTargetMissed,
                ReasonCode::NodePowerBudget,
                ReasonCode::SitePowerBudget,
            ];
            candidate.variant == name && code.is_some_and(|code| by_figures.contains(&code))
        })
    };
    let mut variants = workload.variants.iter();
    let has = variants.any(|variant| variant.needs == Needs::Nothing && !ruled_out(&variant.name));
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
