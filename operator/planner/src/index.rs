//! The world, indexed once for a pass: nodes by number, our pods by workload and slot, the ways of
//! every workload, the site of every node.

use crate::load::{Load, load_of_pod};
use crate::site::Sites;
use crate::ways::{Way, build_ways};
use crate::world::{Node, OwnedPod, Pod, PodState, Role, Workload, WorkloadKey, World};
use jiff::Timestamp;
use perwatt_crds::workload::PlacementMode;
use std::collections::BTreeMap;

/// A node's place in the order of names.
pub(crate) type NodeId = usize;

/// A pod of ours and what we know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnPod<'w> {
    pub pod: &'w Pod,
    pub owned: &'w OwnedPod,
    pub node: Option<NodeId>,
    /// What it adds to what its node draws; nothing where no site is declared.
    pub load: Load,
}

impl OwnPod<'_> {
    pub fn name(&self) -> &str {
        &self.pod.name
    }

    pub fn is_ready(&self) -> bool {
        self.owned.state == PodState::Ready
    }

    /// Starts or is ready: it will serve, or does.
    pub fn is_live(&self) -> bool {
        matches!(self.owned.state, PodState::Ready | PodState::Starting { .. })
    }

    pub fn is_bridge(&self) -> bool {
        self.owned.role == Role::Bridge
    }
}

/// The world by number and by slot.
pub(crate) struct Index<'w> {
    pub world: &'w World,
    pub now: Timestamp,
    pub nodes: Vec<(&'w str, &'w Node)>,
    /// The sites, where anybody asks for them.
    pub sites: Sites<'w>,
    ids: BTreeMap<&'w str, NodeId>,
    /// The node of every pod of the world, in its order.
    pub pod_nodes: Vec<Option<NodeId>>,
    pods: BTreeMap<&'w WorkloadKey, BTreeMap<&'w str, Vec<OwnPod<'w>>>>,
    ways: BTreeMap<&'w WorkloadKey, Ways<'w>>,
}

/// The ways to serve a workload, and those of its earlier revision.
struct Ways<'w> {
    workload: &'w Workload,
    present: Vec<Way<'w>>,
    earlier: Vec<Way<'w>>,
}

impl<'w> Index<'w> {
    pub fn new(world: &'w World, now: Timestamp) -> Self {
        let nodes: Vec<_> = world
            .nodes
            .iter()
            .map(|(name, node)| (name.as_str(), node))
            .collect();
        let ids: BTreeMap<_, _> = nodes
            .iter()
            .enumerate()
            .map(|(id, (name, _))| (*name, id))
            .collect();
        let mut pods: BTreeMap<&WorkloadKey, BTreeMap<&str, Vec<OwnPod>>> = BTreeMap::new();
        let node_of = |pod: &Pod| pod.node.as_deref().and_then(|name| ids.get(name).copied());
        let pod_nodes: Vec<_> = world.pods.iter().map(node_of).collect();
        for (pod, node) in world.pods.iter().zip(&pod_nodes) {
            let (Some(owned), node) = (&pod.owned, *node) else {
                continue;
            };
            let slots = pods.entry(&owned.workload).or_default();
            slots.entry(&owned.slot).or_default().push(OwnPod {
                pod,
                owned,
                node,
                load: Load::default(),
            });
        }
        // The order in which a watch delivered them must not matter.
        for found in pods.values_mut().flat_map(BTreeMap::values_mut) {
            found.sort_by_key(|own| (own.owned.created, own.name().to_owned()));
        }
        let ways = world.workloads.iter();
        let ways = ways.map(|(key, workload)| {
            let earlier = workload.earlier.as_ref();
            let ways = Ways {
                workload,
                present: build_ways(world, workload, now),
                earlier: earlier.map_or_else(Vec::new, |earlier| build_ways(world, &earlier.workload, now)),
            };
            (key, ways)
        });
        let mut index = Self {
            world,
            now,
            sites: Sites::default(),
            nodes,
            ids,
            pod_nodes,
            pods,
            ways: ways.collect(),
        };
        let mut modes = world.workloads.values().map(|workload| workload.mode);
        if index.is_metered() || modes.any(|mode| mode == PlacementMode::PerSite) {
            index.sites = Sites::find(world, &index.nodes);
        }
        if index.is_metered() {
            index.weigh(now);
        }
        index
    }

    /// Notes what each of our pods adds to what its node draws.
    fn weigh(&mut self, now: Timestamp) {
        let mut pods = std::mem::take(&mut self.pods);
        for own in pods.values_mut().flat_map(BTreeMap::values_mut).flatten() {
            own.load = load_of_pod(self, own, now);
        }
        self.pods = pods;
    }

    /// Whether anybody asks what nodes and sites draw.
    pub fn is_metered(&self) -> bool {
        !self.world.sites.is_empty()
    }

    /// The ways to serve a slot of a workload with the revision that it is to run, best first.
    pub fn ways(&self, workload: &WorkloadKey, slot: &str) -> &[Way<'w>] {
        self.ways.get(workload).map_or(&[], |ways| {
            if std::ptr::eq(ways.workload.of_slot(slot), ways.workload) {
                &ways.present
            } else {
                &ways.earlier
            }
        })
    }

    /// The ways of the revision that a pod runs.
    pub fn ways_of_pod(&self, owned: &OwnedPod) -> &[Way<'w>] {
        self.ways.get(&owned.workload).map_or(&[], |ways| {
            let earlier = ways.workload.earlier.as_ref();
            if earlier.is_some_and(|earlier| earlier.workload.revision == owned.revision) {
                &ways.earlier
            } else {
                &ways.present
            }
        })
    }

    /// The pods of every slot that has some.
    pub fn all_slots(&self) -> impl Iterator<Item = &[OwnPod<'w>]> {
        self.pods
            .values()
            .flat_map(|slots| slots.values())
            .map(Vec::as_slice)
    }

    pub fn id(&self, node: &str) -> Option<NodeId> {
        self.ids.get(node).copied()
    }

    pub fn name(&self, node: NodeId) -> &'w str {
        self.nodes[node].0
    }

    pub fn node(&self, node: NodeId) -> &'w Node {
        self.nodes[node].1
    }

    /// The pods of a slot, oldest first.
    pub fn pods_of(&self, workload: &WorkloadKey, slot: &str) -> &[OwnPod<'w>] {
        self.pods
            .get(workload)
            .and_then(|slots| slots.get(slot))
            .map_or(&[], Vec::as_slice)
    }

    /// Every slot of a workload that has pods, whether it should exist or not.
    pub fn slots_with_pods(&self, workload: &WorkloadKey) -> impl Iterator<Item = (&'w str, &[OwnPod<'w>])> {
        let slots = self.pods.get(workload);
        slots
            .into_iter()
            .flatten()
            .map(|(slot, pods)| (*slot, pods.as_slice()))
    }
}
