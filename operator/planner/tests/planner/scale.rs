//! A large cluster: the plan stays right and its words stay few.

use crate::build::{at, key, node, on_cpu, on_profile, with_devices, workload, world};
use perwatt_crds::workload::PlacementMode;
use perwatt_planner::outcome::Change;
use perwatt_planner::world::{OwnedPod, Pod, PodState, Resources, Workload};
use perwatt_planner::{Plan, World, plan};
use std::time::Instant;

const NODES: usize = 5000;

fn large() -> World {
    let mut world = world();
    for number in 0..NODES {
        let profile = if number % 2 == 0 { "chip" } else { "board" };
        world
            .nodes
            .insert(format!("edge-{number:04}"), with_devices(node(2000), profile, 2));
    }
    let variants = vec![
        on_profile("npu", "chip"),
        on_profile("gpu", "board"),
        on_cpu("cpu"),
    ];
    let per_node = Workload {
        mode: PlacementMode::PerNode,
        variants: variants.clone(),
        ..workload()
    };
    world.workloads.insert(key("everywhere"), per_node);
    for number in 0..49 {
        let replicas = if number == 0 { 1000 } else { 20 };
        let one = Workload {
            replicas,
            variants: variants.clone(),
            created: at(-900 + number),
            ..workload()
        };
        world.workloads.insert(key(&format!("some-{number:02}")), one);
    }
    world
}

/// Every pod that a plan makes, ready.
fn carry_out(world: &mut World, plan: &Plan) {
    for change in &plan.changes {
        let Change::Create(pod) = change else {
            panic!("unexpected {change:?}")
        };
        let workload = &world.workloads[&pod.workload];
        let profile = pod.assignment.profile.as_ref().map(|name| &world.profiles[name]);
        let extended = profile
            .map(|profile| (profile.resource.clone(), 1))
            .into_iter()
            .collect();
        world.pods.push(Pod {
            namespace: pod.workload.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.name.clone(),
            node: Some(pod.assignment.node.clone()),
            holds_resources: true,
            requests: Resources {
                extended,
                ..workload.requests.clone()
            },
            owned: Some(OwnedPod {
                workload: pod.workload.clone(),
                slot: pod.slot.clone(),
                revision: pod.assignment.revision.clone(),
                variant: pod.assignment.variant.clone(),
                profile: pod.assignment.profile.clone(),
                role: pod.role,
                attempt: pod.attempt,
                state: PodState::Ready,
                created: at(0),
                active: None,
                unavailable: Vec::new(),
                moved: pod.moved,
            }),
        });
    }
}

fn timed(what: &str, world: &World) -> Plan {
    let start = Instant::now();
    let plan = plan(world, at(10));
    println!(
        "{what}: {} slots, {} changes in {:?}",
        plan.slots.len(),
        plan.changes.len(),
        start.elapsed()
    );
    plan
}

#[test]
fn five_thousand_nodes_and_fifty_workloads_are_planned_in_one_pass_and_stay() {
    let mut world = large();
    let first = timed("from nothing", &world);
    assert_eq!(first.slots.len(), NODES + 1000 + 48 * 20);
    assert_eq!(first.changes.len(), first.slots.len());
    let fully = |slot: &perwatt_planner::SlotPlan| slot.target.is_some();
    assert!(first.slots.iter().all(fully));
    carry_out(&mut world, &first);
    let settled = timed("settled", &world);
    assert_eq!(settled.changes, []);

    for workload in world.workloads.values_mut() {
        workload.revision = "bb02".to_owned();
    }
    let moved = timed("new revision of all", &world);
    assert!(moved.changes.len() >= moved.slots.len());

    for node in world.nodes.values_mut() {
        node.devices
            .iter_mut()
            .for_each(|device| device.health = perwatt_crds::inventory::DeviceHealth::Unhealthy);
    }
    let dark = timed("new revision, every device dead", &world);
    assert!(
        dark.slots
            .iter()
            .all(|slot| slot.target.as_ref().is_some_and(|target| target.variant == "cpu"))
    );
    let words = |slot: &perwatt_planner::SlotPlan| {
        let rejected = slot
            .candidates
            .iter()
            .filter_map(|candidate| candidate.rejected.as_ref());
        rejected
            .map(|reason| reason.message.len())
            .max()
            .unwrap_or_default()
    };
    assert!(
        dark.slots
            .iter()
            .all(|slot| slot.candidates.len() == 3 && words(slot) <= 1024)
    );
}
