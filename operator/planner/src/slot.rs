//! A slot and its pods; the slots that a workload has.

use crate::index::{Index, NodeId, OwnPod};
use crate::ledger::{Ledger, Release};
use crate::site::SiteId;
use crate::unavailable::Inabilities;
use crate::world::{Liveness, Node, PodState, Workload, WorkloadKey};
use jiff::Timestamp;
use perwatt_crds::workload::PlacementMode;
use std::time::Duration;

/// How long a pod may wait for room that somebody else took before its slot is planned anew.
pub const UNSCHEDULABLE_PATIENCE: Duration = Duration::from_secs(60);

/// A slot and the pods that were made for it.
#[derive(Clone, Debug)]
pub(crate) struct Slot<'w> {
    pub key: &'w WorkloadKey,
    pub workload: &'w Workload,
    pub name: String,
    /// Place among the workload's slots.
    pub ordinal: usize,
    /// The node, in mode PerNode.
    pub node: Option<NodeId>,
    /// The site, in mode PerSite.
    pub site: Option<SiteId>,
    /// Every pod of it, oldest first.
    pub pods: Vec<OwnPod<'w>>,
    /// Names of pods that will never get the room that they wait for.
    pub stuck: Vec<&'w str>,
    /// It must give watts back: it is out of what slots draw at the least, and none of its pods is kept.
    pub sheds: bool,
    /// The pod that gives its device up to higher priority.
    pub yields: Option<&'w str>,
    /// Where its model cannot be run.
    pub inabilities: Inabilities<'w>,
}

impl<'w> Slot<'w> {
    /// Pods that serve or will.
    pub fn live(&self) -> impl Iterator<Item = &OwnPod<'w>> {
        self.pods
            .iter()
            .filter(|own| own.is_live() && !self.stuck.contains(&own.pod.name.as_str()))
    }

    pub fn ready(&self) -> impl Iterator<Item = &OwnPod<'w>> {
        self.pods.iter().filter(|own| own.is_ready())
    }

    pub fn failed(&self) -> impl Iterator<Item = &OwnPod<'w>> {
        self.pods
            .iter()
            .filter(|own| matches!(own.owned.state, PodState::Failed { .. }))
    }

    pub fn stopping(&self) -> impl Iterator<Item = &OwnPod<'w>> {
        self.pods
            .iter()
            .filter(|own| own.owned.state == PodState::Terminating)
    }

    /// Its move has begun: a bridge serves, or an old pod is on its way out.
    pub fn is_in_transit(&self) -> bool {
        self.live().any(OwnPod::is_bridge) || self.stopping().next().is_some()
    }

    /// Nodes of its pods: those that serve first, then bridges, then those that stop.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut pods: Vec<_> = self.pods.iter().filter(|own| own.pod.holds_resources).collect();
        pods.sort_by_key(|own| (!own.is_live(), own.is_bridge(), !own.is_ready()));
        let mut nodes = Vec::new();
        for node in pods.iter().filter_map(|own| own.node) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        nodes
    }

    /// What all its pods on a node give back when they go.
    pub fn release_on(&self, node: NodeId) -> Release<'w> {
        self.release_but(node, None)
    }

    /// The same, while the bridges that serve stay.
    pub fn release_but_bridges(&self, node: NodeId) -> Release<'w> {
        let goes = |own: &&OwnPod<'w>| own.node == Some(node) && !(own.is_bridge() && own.is_ready());
        self.release(self.pods.iter().filter(goes))
    }

    /// The same, while one pod stays.
    pub fn release_but(&self, node: NodeId, stays: Option<&str>) -> Release<'w> {
        let goes = |own: &&OwnPod<'w>| own.node == Some(node) && Some(own.name()) != stays;
        self.release(self.pods.iter().filter(goes))
    }

    fn release<'a>(&self, pods: impl Iterator<Item = &'a OwnPod<'w>>) -> Release<'w>
    where
        'w: 'a,
    {
        let release = Release::of(pods);
        Release {
            milliwatts: if self.sheds { 0 } else { release.milliwatts },
            ..release
        }
    }

    /// What its pods on the site of a node give back when they go.
    pub fn milliwatts_on_site(&self, index: &Index<'_>, node: NodeId) -> i64 {
        let site = index.sites.of(node);
        let there = |own: &&OwnPod<'_>| own.node.is_some_and(|node| index.sites.of(node) == site);
        self.release(self.pods.iter().filter(there)).milliwatts
    }
}

/// The slots that a workload has, in order.
pub(crate) fn slots_of<'w>(index: &Index<'w>, key: &'w WorkloadKey, workload: &'w Workload) -> Vec<Slot<'w>> {
    let build = |name: String, place| build_slot(index, key, workload, name, place);
    match workload.mode {
        PlacementMode::Replicas => {
            let count = usize::try_from(workload.replicas).unwrap_or_default();
            (0..count)
                .map(|ordinal| build(format!("replica-{ordinal}"), Place::Any(ordinal)))
                .collect()
        }
        PlacementMode::PerNode => {
            let nodes = matching_nodes(index, workload);
            nodes
                .into_iter()
                .map(|node| build(index.name(node).to_owned(), Place::Node(node)))
                .collect()
        }
        PlacementMode::PerSite => {
            let sites = index.sites.all.iter().enumerate();
            sites
                .filter(|(site, _)| has_chosen_node(index, workload, *site))
                .map(|(site, (name, _))| build((*name).to_owned(), Place::Site(site)))
                .collect()
        }
    }
}

/// The slot of this name, if the workload has it.
pub(crate) fn slot_named<'w>(
    index: &Index<'w>,
    key: &'w WorkloadKey,
    workload: &'w Workload,
    name: &str,
) -> Option<Slot<'w>> {
    let place = place_named(index, workload, name)?;
    Some(build_slot(index, key, workload, name.to_owned(), place))
}

/// Where the slot of this name may be served; none where the workload has no such slot.
pub(crate) fn place_named(index: &Index<'_>, workload: &Workload, name: &str) -> Option<Place> {
    match workload.mode {
        PlacementMode::Replicas => {
            let ordinal: u32 = name.strip_prefix("replica-")?.parse().ok()?;
            let is_canonical = name.len() == "replica-".len() + digits(ordinal);
            let place = usize::try_from(ordinal).ok()?;
            (ordinal < workload.replicas && is_canonical).then_some(Place::Any(place))
        }
        PlacementMode::PerNode => {
            let node = index.id(name)?;
            let matches = workload.nodes.matches(&index.node(node).labels);
            matches.then_some(Place::Node(node))
        }
        PlacementMode::PerSite => {
            let site = index
                .sites
                .all
                .binary_search_by_key(&name, |(name, _)| name)
                .ok()?;
            has_chosen_node(index, workload, site).then_some(Place::Site(site))
        }
    }
}

/// `replica-01` is no slot's name.
fn digits(ordinal: u32) -> usize {
    ordinal
        .checked_ilog10()
        .map_or(1, |log| usize::try_from(log).unwrap_or_default() + 1)
}

/// Where a slot may be served.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Anywhere: a replica, with its number.
    Any(usize),
    Node(NodeId),
    Site(SiteId),
}

fn build_slot<'w>(
    index: &Index<'w>,
    key: &'w WorkloadKey,
    workload: &'w Workload,
    name: String,
    place: Place,
) -> Slot<'w> {
    let (ordinal, node, site) = match place {
        Place::Any(ordinal) => (ordinal, None, None),
        Place::Node(node) => (node, Some(node), None),
        Place::Site(site) => (site, None, Some(site)),
    };
    let mut slot = Slot {
        pods: index.pods_of(key, &name).to_vec(),
        stuck: Vec::new(),
        sheds: false,
        yields: None,
        key,
        workload: workload.of_slot(&name),
        name,
        ordinal,
        node,
        site,
        inabilities: Inabilities::default(),
    };
    slot.inabilities = Inabilities::find(index, &slot, index.now);
    slot
}

fn has_chosen_node(index: &Index<'_>, workload: &Workload, site: SiteId) -> bool {
    let mut nodes = index.sites.nodes(site).iter();
    nodes.any(|node| workload.nodes.matches(&index.node(*node).labels))
}

/// Nodes that may serve a workload, by name.
pub(crate) fn matching_nodes(index: &Index<'_>, workload: &Workload) -> Vec<NodeId> {
    (0..index.nodes.len())
        .filter(|id| workload.nodes.matches(&index.node(*id).labels))
        .collect()
}

/// Finds the pods whose room was taken by somebody else or whose node admits nothing any more,
/// and returns when to look again at those that may yet become such.
pub(crate) fn find_stuck(
    slot: &mut Slot<'_>,
    index: &Index<'_>,
    ledger: &Ledger<'_>,
    now: Timestamp,
) -> Option<Timestamp> {
    let mut look_again: Option<Timestamp> = None;
    for own in &slot.pods {
        let PodState::Starting { reason, .. } = &own.owned.state else {
            continue;
        };
        let Some(node) = own.node.filter(|_| reason == "Unschedulable") else {
            continue;
        };
        let admits = index.node(node).admits_new_pods();
        if admits && !ledger.is_overbooked(node, &own.pod.requests) {
            continue;
        }
        let until = own
            .owned
            .created
            .saturating_add(UNSCHEDULABLE_PATIENCE)
            .unwrap_or(Timestamp::MAX);
        if until <= now {
            slot.stuck.push(own.pod.name.as_str());
        } else {
            look_again = look_again.into_iter().chain([until]).min();
        }
    }
    look_again
}

impl Node {
    fn admits_new_pods(&self) -> bool {
        !self.unschedulable && self.foreign_taints.is_empty() && self.liveness == Liveness::Ready
    }
}
