//! Worlds in few words.

use jiff::Timestamp;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::profile::{DeviceClass, NodeLabels, Power};
use perwatt_crds::workload::{Locality, Objective, OnGap, PlacementMode};
use perwatt_planner::World;
use perwatt_planner::world::{Device, Needs, Node, Pod, Profile, Resources, Variant, Workload, WorkloadKey};
use std::time::Duration;

pub const MIB: i64 = 1024 * 1024;

/// Seconds after the start of the test's time.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub fn key(name: &str) -> WorkloadKey {
    WorkloadKey {
        namespace: "audio".to_owned(),
        name: name.to_owned(),
    }
}

/// A cluster whose profiles are `chip` (ASIC), `board` (GPU) and `foreign` (GPU, another plugin's).
pub fn world() -> World {
    let profile = |class, name: &str, external| Profile {
        class,
        resource: format!("perwatt.dev/{name}"),
        external,
        beside: Resources::default(),
        power: Power::default(),
        precisions: Vec::new(),
        memory_bytes: None,
        supported_until: None,
    };
    let mut world = World::default();
    world
        .profiles
        .insert("chip".to_owned(), profile(DeviceClass::Asic, "chip", false));
    world
        .profiles
        .insert("board".to_owned(), profile(DeviceClass::Gpu, "board", false));
    world
        .profiles
        .insert("foreign".to_owned(), profile(DeviceClass::Gpu, "foreign", true));
    world
}

pub fn node(cpu_millis: i64) -> Node {
    Node {
        allocatable: Resources {
            cpu_millis,
            memory_bytes: 1024 * MIB,
            pods: 30,
            ..Resources::default()
        },
        ..Node::default()
    }
}

/// Adds healthy devices of a profile, which the agent has told the kubelet of.
pub fn with_devices(mut node: Node, profile: &str, count: usize) -> Node {
    for number in 0..count {
        node.devices.push(Device {
            id: format!("{profile}-{number}"),
            profile: profile.to_owned(),
            health: DeviceHealth::Healthy,
            health_message: String::new(),
            health_since: at(-100_000),
            held_by: None,
            temperature: None,
            throttling_since: None,
            firmware_refused: None,
            draw: None,
        });
    }
    let offered = i64::try_from(count).unwrap();
    node.allocatable
        .extended
        .insert(format!("perwatt.dev/{profile}"), offered);
    node
}

pub fn on_profile(name: &str, profile: &str) -> Variant {
    variant(name, Needs::Profiles(vec![profile.to_owned()]))
}

pub fn on_cpu(name: &str) -> Variant {
    variant(name, Needs::Nothing)
}

pub fn variant(name: &str, needs: Needs) -> Variant {
    Variant {
        name: name.to_owned(),
        needs,
        accuracy_permille: None,
        performance: None,
        precision: None,
        memory_bytes: None,
        remote: false,
    }
}

/// One replica, on `chip`, else on the CPU; 50m and 64Mi; devices trusted after a minute.
pub fn workload() -> Workload {
    Workload {
        created: at(-1000),
        deleting: false,
        revision: "aa01".to_owned(),
        mode: PlacementMode::Replicas,
        replicas: 1,
        nodes: NodeLabels::default(),
        priority: 0,
        priority_refused: None,
        objective: Objective::default(),
        expected_rate_per_minute: None,
        latency_p99: None,
        locality: Locality::default(),
        found: Vec::new(),
        on_gap: OnGap::Hold,
        autonomy: Duration::from_secs(3600),
        minimum_accuracy_permille: None,
        stable_for: Duration::from_secs(60),
        variants: vec![on_profile("npu", "chip"), on_cpu("cpu")],
        requests: Resources {
            cpu_millis: 50,
            memory_bytes: 64 * MIB,
            pods: 1,
            ..Resources::default()
        },
        earlier: None,
    }
}

/// Somebody else's pod.
pub fn foreign_pod(name: &str, node: &str, cpu_millis: i64, resource: Option<&str>) -> Pod {
    let extended = resource
        .map(|resource| (resource.to_owned(), 1))
        .into_iter()
        .collect();
    Pod {
        namespace: "other".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        node: Some(node.to_owned()),
        holds_resources: true,
        requests: Resources {
            cpu_millis,
            memory_bytes: MIB,
            pods: 1,
            extended,
        },
        owned: None,
    }
}
