//! What is free on each node, kept up to date while a pass books what it decides.
//!
//! free = allocatable − requests of every pod that holds resources, foreign and terminating ones
//! included. The kubelet leaves unhealthy devices out of allocatable but still counts the pod that
//! sits on one, so free can be negative.

use crate::index::{Index, NodeId, OwnPod};
use crate::power::Meter;
use crate::world::{Node, Pod, Resources};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// CPU, memory and pod places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amounts {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub pods: i64,
}

impl Amounts {
    pub fn of(resources: &Resources) -> Self {
        Self {
            cpu_millis: resources.cpu_millis,
            memory_bytes: resources.memory_bytes,
            pods: resources.pods,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            pods: self.pods.saturating_add(other.pods),
        }
    }

    pub fn minus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            pods: self.pods.saturating_sub(other.pods),
        }
    }

    fn at_least_nothing(self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(0),
            memory_bytes: self.memory_bytes.max(0),
            pods: self.pods.max(0),
        }
    }
}

/// One extended resource on one node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extended {
    /// What the kubelet offers.
    pub allocatable: i64,
    /// What pods request, with what this pass booked.
    pub requested: i64,
    /// How many devices a runtime says that it holds, where a pod of its slot is there.
    pub named: i64,
    /// What slots wait for until a device is well again.
    pub wished: i64,
}

/// What pods give back when they go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Release<'w> {
    pub amounts: Amounts,
    pub extended: Vec<(&'w str, i64)>,
    pub milliwatts: i64,
}

impl<'w> Release<'w> {
    /// What these pods give back on one node.
    pub fn of<'a>(pods: impl Iterator<Item = &'a OwnPod<'w>>) -> Self
    where
        'w: 'a,
    {
        let mut release = Self::default();
        for own in pods.filter(|own| own.pod.holds_resources) {
            let pod = own.pod;
            release.milliwatts = release.milliwatts.saturating_add(own.load.milliwatts);
            release.amounts = release.amounts.plus(pod_amounts(pod));
            release.extended.extend(
                pod.requests
                    .extended
                    .iter()
                    .map(|(name, count)| (name.as_str(), *count)),
            );
        }
        release
    }

    pub fn of_resource(&self, resource: &str) -> i64 {
        self.extended
            .iter()
            .filter(|(name, _)| *name == resource)
            .map(|(_, count)| count)
            .sum()
    }
}

/// What is asked of a node for one pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand<'w> {
    pub amounts: Amounts,
    pub resource: Option<&'w str>,
    pub milliwatts: i64,
}

impl<'w> Demand<'w> {
    /// What a pod of a workload with these requests asks for, with what runs beside the runtime.
    pub fn new(
        requests: &Resources,
        beside: Option<&Resources>,
        resource: Option<&'w str>,
        milliwatts: i64,
    ) -> Self {
        let beside = beside.map(Amounts::of).unwrap_or_default();
        let amounts = Amounts {
            pods: 1,
            ..Amounts::of(requests).plus(beside)
        };
        Self {
            amounts,
            resource,
            milliwatts,
        }
    }
}

struct Row<'w> {
    allocatable_cpu_millis: i64,
    free: Amounts,
    extended: BTreeMap<&'w str, Extended>,
    /// For each device of the node, whether its `held_by` is to be believed.
    held: Vec<bool>,
}

/// Free amounts of every node.
pub(crate) struct Ledger<'w> {
    rows: Vec<Row<'w>>,
    /// What nodes and sites draw.
    pub meter: Meter,
    /// Nodes in the order in which they were booked, so that a survey can catch up.
    pub touched: Vec<NodeId>,
}

impl<'w> Ledger<'w> {
    pub fn new(index: &Index<'w>, now: Timestamp) -> Self {
        let mut rows: Vec<_> = index.nodes.iter().map(|(_, node)| Row::new(node)).collect();
        for (pod, node) in index.world.pods.iter().zip(&index.pod_nodes) {
            let Some(row) = node.filter(|_| pod.holds_resources).map(|id| &mut rows[id]) else {
                continue;
            };
            row.free = row.free.minus(pod_amounts(pod));
            for (resource, count) in &pod.requests.extended {
                row.extended.entry(resource).or_default().requested += count;
            }
        }
        for (id, row) in rows.iter_mut().enumerate() {
            row.believe_holders(index, id);
        }
        Self {
            rows,
            meter: Meter::new(index, now),
            touched: Vec::new(),
        }
    }

    pub fn free(&self, node: NodeId) -> Amounts {
        self.rows[node].free
    }

    pub fn extended(&self, node: NodeId, resource: &str) -> Extended {
        self.rows[node]
            .extended
            .get(resource)
            .copied()
            .unwrap_or_default()
    }

    /// Devices of each resource that are offered and that nobody requested.
    pub fn free_devices(&self) -> BTreeMap<&'w str, i64> {
        let mut free = BTreeMap::new();
        for (resource, row) in self.rows.iter().flat_map(|row| &row.extended) {
            *free.entry(*resource).or_insert(0) += (row.allocatable - row.requested).max(0);
        }
        free
    }

    /// Whether the `held_by` of a node's device is to be believed.
    pub fn is_held(&self, node: NodeId, device: usize) -> bool {
        self.rows[node].held.get(device).copied().unwrap_or_default()
    }

    /// Thousandths of a node's CPU that are requested.
    pub fn cpu_share_permille(&self, node: NodeId) -> i64 {
        let row = &self.rows[node];
        let all = row.allocatable_cpu_millis.max(1);
        (row.allocatable_cpu_millis.saturating_sub(row.free.cpu_millis)).saturating_mul(1000) / all
    }

    /// Whether more is requested of a node than it offers, in what this pod requests.
    pub fn is_overbooked(&self, node: NodeId, requests: &Resources) -> bool {
        let free = self.free(node);
        let lacks = |requested: i64, free: i64| requested > 0 && free < 0;
        lacks(requests.cpu_millis, free.cpu_millis)
            || lacks(requests.memory_bytes, free.memory_bytes)
            || free.pods < 0
            || requests.extended.iter().any(|(resource, count)| {
                let row = self.extended(node, resource);
                lacks(*count, row.allocatable - row.requested)
            })
    }

    /// Books a pod that is made now.
    pub fn book(&mut self, node: NodeId, demand: Demand<'w>) {
        let row = &mut self.rows[node];
        row.free = row.free.minus(demand.amounts);
        if let Some(resource) = demand.resource {
            row.extended.entry(resource).or_default().requested += 1;
        }
        self.meter.book(node, demand.milliwatts);
        self.touched.push(node);
    }

    /// Books what a pod will need beyond what its slot's own pods give back first.
    pub fn reserve(&mut self, node: NodeId, demand: Demand<'w>, release: &Release<'_>) {
        let beyond = demand.amounts.minus(release.amounts).at_least_nothing();
        let row = &mut self.rows[node];
        row.free = row.free.minus(beyond);
        if let Some(resource) = demand
            .resource
            .filter(|resource| release.of_resource(resource) < 1)
        {
            row.extended.entry(resource).or_default().requested += 1;
        }
        self.meter
            .book(node, (demand.milliwatts - release.milliwatts).max(0));
        self.touched.push(node);
    }

    /// Takes a pod out of what slots draw at the least.
    pub fn lift(&mut self, own: Option<&OwnPod<'_>>) {
        self.shift_lightest(own, -1);
    }

    /// Puts a pod back in, that its slot stays with.
    pub fn put_back(&mut self, own: Option<&OwnPod<'_>>) {
        self.shift_lightest(own, 1);
    }

    fn shift_lightest(&mut self, own: Option<&OwnPod<'_>>, sign: i64) {
        if let Some((own, node)) = own.and_then(|own| Some((own, own.node?))) {
            self.meter.shift_lightest(node, sign * own.load.milliwatts);
            self.touched.push(node);
        }
    }

    /// Notes that a slot waits for a device of a node to be well.
    pub fn wish(&mut self, node: NodeId, resource: &'w str) {
        self.rows[node].extended.entry(resource).or_default().wished += 1;
        self.touched.push(node);
    }
}

impl<'w> Row<'w> {
    fn new(node: &'w Node) -> Self {
        let offered = |(name, count): (&'w String, &i64)| {
            (
                name.as_str(),
                Extended {
                    allocatable: *count,
                    ..Extended::default()
                },
            )
        };
        Self {
            allocatable_cpu_millis: node.allocatable.cpu_millis,
            free: Amounts::of(&node.allocatable),
            extended: node.allocatable.extended.iter().map(offered).collect(),
            held: vec![false; node.devices.len()],
        }
    }

    /// A device is held where the slot that claims it has a pod there that requests such a
    /// device: a claim may outlive its pod.
    fn believe_holders(&mut self, index: &Index<'w>, id: NodeId) {
        for (place, device) in index.node(id).devices.iter().enumerate() {
            let Some((workload, slot)) = &device.held_by else {
                continue;
            };
            let Some(profile) = index.world.profiles.get(&device.profile) else {
                continue;
            };
            let holds = |own: &OwnPod| {
                own.node == Some(id)
                    && own.pod.holds_resources
                    && own.pod.requests.extended.contains_key(&profile.resource)
            };
            if index.pods_of(workload, slot).iter().any(holds) {
                self.held[place] = true;
                self.extended.entry(&profile.resource).or_default().named += 1;
            }
        }
    }
}

fn pod_amounts(pod: &Pod) -> Amounts {
    Amounts {
        pods: 1,
        ..Amounts::of(&pod.requests)
    }
}
