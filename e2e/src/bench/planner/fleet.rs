//! Fleets as the planner sees them, made from a seed.

use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::performance::FigureSource;
use perwatt_crds::profile::{DeviceClass, NodeLabels, Power};
use perwatt_crds::site::ZONE_LABEL;
use perwatt_crds::workload::{Locality, Objective, OnGap, PlacementMode};
use perwatt_planner::outcome::Change;
use perwatt_planner::world::{
    Declared, Device, Needs, Node, OwnedPod, Pod, PodState, Profile, Resources, Site, Variant, Workload,
    WorkloadKey,
};
use perwatt_planner::{Plan, World};

const MIB: i64 = 1024 * 1024;

/// Nodes of a site.
pub const SITE_NODES: usize = 10;

/// A moment of the fleet's time.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap_or(Timestamp::MAX)
}

/// Kinds of device: name, sleeping, idle, typical and most milliwatts.
const KINDS: [(&str, Option<u32>, u32, u32, u32); 4] = [
    ("asic", Some(50), 500, 2_500, 8_000),
    ("gpu", None, 5_000, 15_000, 40_000),
    ("neuromorphic", Some(1), 20, 200, 500),
    ("npu", Some(20), 300, 1_500, 4_000),
];

/// So many nodes with two devices each, in sites of ten with a budget, and so many workloads: a
/// slot on every node of the first, from 5 to 40 replicas of the others. Nine of ten have figures.
pub fn fleet(nodes: usize, workloads: usize, seed: u64) -> World {
    let mut random = Rng::with_seed(seed);
    let mut world = World {
        profiles: KINDS.iter().map(profile).collect(),
        ..World::default()
    };
    for number in 0..nodes {
        world
            .nodes
            .insert(format!("edge-{number:05}"), node(number, &mut random));
    }
    for number in 0..nodes.div_ceil(SITE_NODES) {
        let budget = Site {
            nodes: None,
            site_milliwatts: Some(200_000),
            node_milliwatts: Some(40_000),
        };
        world.sites.insert(format!("site-{number:04}"), budget);
    }
    for number in 0..workloads {
        let mode = if number == 0 {
            PlacementMode::PerNode
        } else {
            PlacementMode::Replicas
        };
        let key = WorkloadKey {
            namespace: "bench".into(),
            name: format!("model-{number:03}"),
        };
        world.workloads.insert(key, workload(number, mode, &mut random));
    }
    world
}

fn profile(kind: &(&str, Option<u32>, u32, u32, u32)) -> (String, Profile) {
    let (name, sleep, idle, typical, most) = *kind;
    let profile = Profile {
        class: DeviceClass::Asic,
        resource: format!("perwatt.dev/{name}"),
        external: false,
        beside: Resources::default(),
        power: Power {
            sleep_milliwatts: sleep,
            idle_milliwatts: Some(idle),
            typical_milliwatts: Some(typical),
            max_milliwatts: Some(most),
        },
        precisions: Vec::new(),
        memory_bytes: None,
        supported_until: None,
    };
    (name.to_owned(), profile)
}

fn node(number: usize, random: &mut Rng) -> Node {
    let mut node = Node {
        allocatable: Resources {
            cpu_millis: 4_000,
            memory_bytes: 4096 * MIB,
            pods: 110,
            ..Resources::default()
        },
        ..Node::default()
    };
    let site = format!("site-{:04}", number / SITE_NODES);
    node.labels.insert(ZONE_LABEL.to_owned(), site);
    for place in 0..2 {
        let kind = KINDS[random.usize(0..KINDS.len())].0;
        node.devices.push(device(kind, place));
        *node
            .allocatable
            .extended
            .entry(format!("perwatt.dev/{kind}"))
            .or_default() += 1;
    }
    node
}

fn device(kind: &str, place: usize) -> Device {
    Device {
        id: format!("{kind}-{place}"),
        profile: kind.to_owned(),
        health: DeviceHealth::Healthy,
        health_message: String::new(),
        health_since: at(-100_000),
        held_by: None,
        temperature: None,
        throttling_since: None,
        firmware_refused: None,
        draw: None,
    }
}

fn workload(number: usize, mode: PlacementMode, random: &mut Rng) -> Workload {
    let has_figures = number % 10 != 9;
    let mut variants: Vec<_> = KINDS
        .iter()
        .map(|kind| variant(kind.0, has_figures, random))
        .collect();
    random.shuffle(&mut variants);
    variants.truncate(2);
    variants.push(Variant {
        name: "cpu".into(),
        needs: Needs::Nothing,
        ..variant("cpu", has_figures, random)
    });
    Workload {
        created: at(-50_000 + i64::try_from(number).unwrap_or_default()),
        deleting: false,
        revision: "r1".into(),
        mode,
        replicas: random.u32(5..=40),
        nodes: NodeLabels::default(),
        priority: 0,
        priority_refused: None,
        objective: Objective::Energy,
        expected_rate_per_minute: Some([6, 60, 600][random.usize(0..3)]),
        latency_p99: None,
        locality: Locality::Any,
        found: Vec::new(),
        on_gap: OnGap::Hold,
        autonomy: Duration::from_secs(86_400),
        minimum_accuracy_permille: None,
        stable_for: Duration::from_secs(60),
        variants,
        requests: Resources {
            cpu_millis: 50,
            memory_bytes: 64 * MIB,
            pods: 1,
            ..Resources::default()
        },
        earlier: None,
    }
}

/// On a CPU an inference costs from one to ten times what it costs on a device.
fn variant(kind: &str, has_figures: bool, random: &mut Rng) -> Variant {
    let on_device = random.u64(1_000..200_000);
    let microjoules = if kind == "cpu" {
        on_device * random.u64(1..10)
    } else {
        on_device
    };
    Variant {
        name: format!("on-{kind}"),
        needs: Needs::Profiles(vec![kind.to_owned()]),
        accuracy_permille: None,
        performance: has_figures.then_some(Declared {
            p99: Some(Duration::from_millis(random.u64(1..40))),
            microjoules: Some(microjoules),
            source: FigureSource::Nameplate,
        }),
        precision: None,
        memory_bytes: None,
        remote: false,
    }
}

/// Every pod that a plan makes is there and serves; what it deletes is gone.
pub fn carry_out(world: &mut World, plan: &Plan) {
    for change in &plan.changes {
        match change {
            Change::Delete(gone) => world.pods.retain(|pod| pod.uid != gone.uid),
            Change::Create(made) => {
                let Some(workload) = world.workloads.get(&made.workload) else {
                    continue;
                };
                let profile = made.assignment.profile.as_ref();
                let resource = profile.map(|name| format!("perwatt.dev/{name}"));
                world.pods.push(Pod {
                    namespace: made.workload.namespace.clone(),
                    name: made.name.clone(),
                    uid: made.name.clone(),
                    node: Some(made.assignment.node.clone()),
                    holds_resources: true,
                    requests: Resources {
                        extended: resource.map(|resource| (resource, 1)).into_iter().collect(),
                        ..workload.requests.clone()
                    },
                    owned: Some(OwnedPod {
                        workload: made.workload.clone(),
                        slot: made.slot.clone(),
                        revision: made.assignment.revision.clone(),
                        variant: made.assignment.variant.clone(),
                        profile: made.assignment.profile.clone(),
                        role: made.role,
                        attempt: made.attempt,
                        state: PodState::Ready,
                        created: at(0),
                        active: None,
                        unavailable: Vec::new(),
                        moved: made.moved,
                    }),
                });
            }
        }
    }
}
