//! From what was seen to what the planner knows: [`World`] out of the stores, a pure function.

use super::priority::Priorities;
use super::spec::{build_workload, requested};
use super::{Stores, agent, pod};
use crate::evidence::Evidence;
use crate::rollout::Rolling;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::ResourceExt;
use perwatt_crds::inventory::{DeviceHealth, DeviceStatus, HealthDimension, PodRef, TemperatureBand};
use perwatt_crds::profile::Lifecycle;
use perwatt_crds::{DeviceInventory, EdgeSite, HardwareProfile, InferenceWorkload, quantity};
use perwatt_planner::AGENT_GRACE;
use perwatt_planner::world::{
    ActiveVariant, Breaker, Device, Liveness, Node as PlannedNode, OwnedPod, Pod as PlannedPod, Profile,
    Resources, Site, WorkloadKey, World,
};
use perwatt_rollout::Record;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The objects of one moment. Everything that a pass does speaks of these.
pub struct Snapshot {
    /// The workloads, as users wrote them.
    pub workloads: BTreeMap<WorkloadKey, Arc<InferenceWorkload>>,
    /// The profiles.
    pub profiles: BTreeMap<String, Arc<HardwareProfile>>,
    /// The inventories by node.
    pub inventories: BTreeMap<String, Arc<DeviceInventory>>,
    /// The sites.
    pub sites: BTreeMap<String, Arc<EdgeSite>>,
    /// What PriorityClasses mean.
    pub priorities: Priorities,
    /// Every pod that is not gone.
    pub pods: Vec<Arc<Pod>>,
    /// The same as the planner sees it.
    pub world: World,
    /// The rollouts, once they were decided on.
    pub rollouts: BTreeMap<WorkloadKey, Rolling>,
    /// The rollouts of revisions that are not the present ones, as they ended.
    pub past_rollouts: BTreeMap<(WorkloadKey, String), Record>,
}

/// The objects that a snapshot is made of.
#[derive(Default)]
pub struct Objects {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// All pods.
    pub pods: Vec<Arc<Pod>>,
    /// All workloads.
    pub workloads: Vec<Arc<InferenceWorkload>>,
    /// All profiles.
    pub profiles: Vec<Arc<HardwareProfile>>,
    /// All inventories.
    pub inventories: Vec<Arc<DeviceInventory>>,
    /// All sites.
    pub sites: Vec<Arc<EdgeSite>>,
    /// All PriorityClasses.
    pub priority_classes: Vec<Arc<PriorityClass>>,
    /// Where the pods of the agents are; in any namespace where nobody says.
    pub agent_namespace: Option<String>,
}

impl From<&Stores> for Objects {
    fn from(stores: &Stores) -> Self {
        Self {
            nodes: stores.nodes.state(),
            pods: stores.pods.state(),
            workloads: stores.workloads.state(),
            profiles: stores.profiles.state(),
            inventories: stores.inventories.state(),
            sites: stores.sites.state(),
            priority_classes: stores.priority_classes.state(),
            agent_namespace: None,
        }
    }
}

impl Snapshot {
    /// What the planner knows of these objects.
    #[must_use]
    pub fn of(objects: Objects, runtime_image: &str, evidence: &Evidence) -> Self {
        let Objects {
            nodes,
            pods,
            workloads,
            profiles,
            inventories,
            sites,
            priority_classes,
            agent_namespace,
        } = objects;
        let silent = agent::silent_since(&pods, agent_namespace.as_deref());
        let priorities = Priorities::of(&priority_classes);
        let workloads: BTreeMap<_, _> = workloads
            .into_iter()
            .filter_map(|object| Some((key(&object)?, object)))
            .collect();
        let profiles: BTreeMap<_, _> = profiles
            .into_iter()
            .map(|object| (object.name_any(), object))
            .collect();
        let inventories: BTreeMap<_, _> = inventories
            .into_iter()
            .map(|object| (object.name_any(), object))
            .collect();
        let sites: BTreeMap<_, _> = sites
            .into_iter()
            .map(|object| (object.name_any(), object))
            .collect();
        let world = World {
            nodes: nodes
                .iter()
                .map(|node| build_node(node, &inventories, &silent))
                .collect(),
            profiles: profiles
                .iter()
                .map(|(name, profile)| (name.clone(), build_profile(profile)))
                .collect(),
            workloads: workloads
                .iter()
                .map(|(key, workload)| {
                    let planned = build_workload(workload, &profiles, &priorities, runtime_image);
                    (key.clone(), planned)
                })
                .collect(),
            pods: build_pods(&pods, &workloads, &inventories, evidence),
            sites: sites
                .iter()
                .map(|(name, site)| (name.clone(), build_site(site)))
                .collect(),
            breaker: Breaker::default(),
            agent_grace: AGENT_GRACE,
        };
        Self {
            workloads,
            profiles,
            inventories,
            sites,
            priorities,
            pods,
            world,
            rollouts: BTreeMap::new(),
            past_rollouts: BTreeMap::new(),
        }
    }

    /// A pod as it was at the time of the snapshot.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Arc<Pod>> {
        self.pods.iter().find(|pod| {
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.namespace.as_deref() == Some(namespace)
        })
    }
}

/// Namespace and name of a workload.
fn key(workload: &InferenceWorkload) -> Option<WorkloadKey> {
    Some(WorkloadKey {
        namespace: workload.namespace()?,
        name: workload.metadata.name.clone()?,
    })
}

fn build_node(
    node: &Node,
    inventories: &BTreeMap<String, Arc<DeviceInventory>>,
    silent: &BTreeMap<String, Timestamp>,
) -> (String, PlannedNode) {
    let name = node.name_any();
    let spec = node.spec.clone().unwrap_or_default();
    let mut allocatable = Resources::default();
    for (resource, amount) in node
        .status
        .iter()
        .flat_map(|status| status.allocatable.iter().flatten())
    {
        pod::add(&mut allocatable, &pod::single(resource, amount));
    }
    let devices = inventories
        .get(&name)
        .and_then(|inventory| inventory.status.as_ref())
        .map(|status| status.devices.iter().map(build_device).collect())
        .unwrap_or_default();
    let taints = spec.taints.unwrap_or_default();
    let foreign_taints = taints
        .iter()
        .filter(|taint| taint.effect != "PreferNoSchedule" && !taint.key.starts_with("node.kubernetes.io/"))
        .map(|taint| taint.key.clone())
        .collect();
    let planned = PlannedNode {
        labels: node.labels().clone(),
        liveness: liveness(node),
        unschedulable: spec.unschedulable.unwrap_or(false),
        foreign_taints,
        allocatable,
        devices,
        agent_silent_since: silent
            .get(&name)
            .map(|since| agent::node_ready_since(node).map_or(*since, |ready| ready.max(*since))),
    };
    (name, planned)
}

/// The node controller writes `Unknown` when a kubelet falls silent.
fn liveness(node: &Node) -> Liveness {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let Some(ready) = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready")
    else {
        return Liveness::NotReady;
    };
    match ready.status.as_str() {
        "True" => Liveness::Ready,
        "False" => Liveness::NotReady,
        _ => Liveness::Silent {
            since: ready
                .last_transition_time
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        },
    }
}

fn build_device(device: &DeviceStatus) -> Device {
    let messages: Vec<_> = device
        .reasons
        .iter()
        .map(|why| format!("{}: {}", why.dimension.as_str(), why.message))
        .collect();
    Device {
        id: device.id.clone(),
        profile: device.profile.clone(),
        health: device.health,
        health_message: messages.join("; "),
        health_since: device.last_transition_time.0,
        held_by: device.runtime.as_ref().map(|runtime| {
            let key = WorkloadKey {
                namespace: runtime.namespace.clone(),
                name: runtime.workload.clone(),
            };
            (key, runtime.slot.clone())
        }),
        temperature: device.temperature,
        throttling_since: throttling_since(device),
        firmware_refused: firmware_refused(device),
        // No agent writes a measured draw into its inventory, which changes on transitions alone.
        draw: None,
    }
}

/// Why a device's firmware or driver is not one that its profile allows, as its agent found.
fn firmware_refused(device: &DeviceStatus) -> Option<String> {
    let mut reasons = device.reasons.iter();
    let found = reasons.find(|reason| reason.dimension == HealthDimension::Firmware);
    found.map(|reason| reason.message.clone())
}

/// Since when a device has been throttling: while it does, its health changed last because of that.
fn throttling_since(device: &DeviceStatus) -> Option<Timestamp> {
    let mut reasons = device.reasons.iter();
    let throttles = device.temperature == Some(TemperatureBand::Throttling)
        && device.health != DeviceHealth::Healthy
        && reasons.any(|reason| reason.dimension == HealthDimension::Thermal);
    throttles.then_some(device.last_transition_time.0)
}

fn build_site(site: &EdgeSite) -> Site {
    let power = site.spec.power.clone().unwrap_or_default();
    Site {
        nodes: site.spec.nodes.clone(),
        site_milliwatts: power.site_milliwatts,
        node_milliwatts: power.node_milliwatts,
    }
}

fn build_profile(profile: &HardwareProfile) -> Profile {
    let capabilities = &profile.spec.capabilities;
    Profile {
        class: profile.spec.class,
        resource: profile.resource_name(),
        external: profile.spec.provider == perwatt_crds::profile::Provider::External,
        beside: profile
            .sidecar()
            .map(|sidecar| requested(&crate::build::sidecar::resources(sidecar)))
            .unwrap_or_default(),
        power: profile.spec.power.clone().unwrap_or_default(),
        precisions: capabilities.precisions.clone(),
        memory_bytes: capabilities.memory.as_ref().and_then(quantity::units),
        supported_until: profile.spec.lifecycle.as_ref().and_then(support_end),
    }
}

/// The end of the last day on which a device is supported, in UTC.
fn support_end(lifecycle: &Lifecycle) -> Option<Timestamp> {
    let day: Date = lifecycle.supported_until.as_ref()?.parse().ok()?;
    let end = day.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(end.timestamp())
}

/// Workload and slot.
type SlotKey = (WorkloadKey, String);

/// Active variants of a node, as its agent reports them: by workload and slot, and by pod where it knows which of a slot's
/// pods holds the device. The report of a shared device may be of another pod than the one that is named.
#[derive(Default)]
struct Reports {
    by_pod: HashMap<PodRef, (SlotKey, ActiveVariant)>,
    by_slot: HashMap<SlotKey, ActiveVariant>,
}

impl Reports {
    fn of(&self, pod: &PlannedPod, owned: &OwnedPod) -> Option<ActiveVariant> {
        let slot = (owned.workload.clone(), owned.slot.clone());
        let named = PodRef {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        };
        let by_pod = self.by_pod.get(&named).filter(|(of, _)| *of == slot);
        let found = by_pod.map(|(_, active)| active);
        found.or_else(|| self.by_slot.get(&slot)).cloned()
    }
}

fn build_pods(
    pods: &[Arc<Pod>],
    workloads: &BTreeMap<WorkloadKey, Arc<InferenceWorkload>>,
    inventories: &BTreeMap<String, Arc<DeviceInventory>>,
    evidence: &Evidence,
) -> Vec<PlannedPod> {
    let reports: BTreeMap<&String, Reports> = inventories
        .iter()
        .map(|(node, inventory)| (node, reports(inventory)))
        .collect();
    pods.iter()
        .filter_map(|object| {
            let spec = object.spec.as_ref()?;
            let phase = object
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref())
                .unwrap_or_default();
            let mut planned = PlannedPod {
                namespace: object.namespace()?,
                name: object.name_any(),
                uid: object.uid()?,
                node: pod::node(spec),
                holds_resources: phase != "Failed" && phase != "Succeeded",
                requests: pod::requests(spec),
                owned: owner(object, workloads).and_then(|workload| pod::owned(object, workload)),
            };
            let reports = planned.node.as_ref().and_then(|node| reports.get(node));
            let active = planned.owned.as_ref().and_then(|owned| {
                let reported = reports.filter(|_| owned.profile.is_some());
                reported
                    .and_then(|reports| reports.of(&planned, owned))
                    .or_else(|| evidence.active(&planned.uid))
            });
            if let Some(owned) = &mut planned.owned {
                owned.active = active;
            }
            Some(planned)
        })
        .collect()
}

/// The workload that controls a pod, as it exists now.
fn owner<'a>(
    pod: &Pod,
    workloads: &'a BTreeMap<WorkloadKey, Arc<InferenceWorkload>>,
) -> Option<&'a InferenceWorkload> {
    let owner = pod
        .owner_references()
        .iter()
        .find(|owner| owner.controller == Some(true))?;
    let key = WorkloadKey {
        namespace: pod.namespace()?,
        name: owner.name.clone(),
    };
    (owner.kind == "InferenceWorkload")
        .then(|| workloads.get(&key).map(Arc::as_ref))
        .flatten()
}

fn reports(inventory: &DeviceInventory) -> Reports {
    let mut reports = Reports::default();
    for device in inventory.status.iter().flat_map(|status| &status.devices) {
        let Some(runtime) = &device.runtime else {
            continue;
        };
        let active = ActiveVariant {
            name: runtime.active_variant.clone(),
            reason: if runtime.degraded {
                runtime.reason.clone()
            } else {
                String::new()
            },
            since: Some(runtime.since.0),
        };
        let key = WorkloadKey {
            namespace: runtime.namespace.clone(),
            name: runtime.workload.clone(),
        };
        let slot = (key, runtime.slot.clone());
        if let Some(pod) = &device.pod {
            let told = (slot.clone(), active.clone());
            reports.by_pod.insert(pod.clone(), told);
        }
        reports.by_slot.insert(slot, active);
    }
    reports
}

#[cfg(test)]
mod tests;
