//! What the operator sees of the server: each kind as old as its watch is.

use crate::bug::Bug;
use crate::server::{Key, Server};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use perwatt_crds::{
    DeviceInventory, EdgeSite, HardwareProfile, InferenceWorkload, RolloutApproval, RolloutPolicy,
};
use perwatt_operator::observe::{Stores, pod};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Passes for which a watch may say nothing.
const LONGEST_SILENCE: u8 = 5;

/// One kind: what its watch has shown.
struct View<K: Resource<DynamicType = ()> + Clone + 'static> {
    plural: &'static str,
    writer: Writer<K>,
    /// Each object as it was shown last, with its resource version.
    shown: BTreeMap<Key, (String, K)>,
    trim: fn(&mut K),
    /// Passes for which it still says nothing.
    silent: u8,
}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static> View<K> {
    fn new(plural: &'static str, trim: fn(&mut K)) -> Self {
        Self {
            plural,
            writer: Writer::default(),
            shown: BTreeMap::new(),
            trim,
            silent: 0,
        }
    }

    /// The watch says what changed, says nothing, or has lost its place and lists anew.
    fn observe(&mut self, server: &Server, random: &mut fastrand::Rng, quiet: bool) {
        if quiet || self.silent == 1 {
            self.silent = 0;
        } else if self.silent > 0 {
            self.silent -= 1;
        } else if random.u8(..4) == 0 {
            self.silent = random.u8(1..=LONGEST_SILENCE);
        }
        if self.silent > 0 {
            return;
        }
        if random.u8(..8) == 0 {
            self.relist(server);
        } else {
            self.follow(server);
        }
    }

    fn follow(&mut self, server: &Server) {
        let gone: Vec<_> = self
            .shown
            .keys()
            .filter(|key| !server.objects.contains_key(*key))
            .cloned()
            .collect();
        for (_, object) in gone.iter().filter_map(|key| self.shown.remove(key)) {
            self.writer.apply_watcher_event(&Event::Delete(object));
        }
        for (key, version) in server.versions_of(self.plural) {
            if self.shown.get(key).is_none_or(|(shown, _)| shown != version) {
                let object = self.show(server, key, version);
                self.writer.apply_watcher_event(&Event::Apply(object));
            }
        }
    }

    fn relist(&mut self, server: &Server) {
        self.writer.apply_watcher_event(&Event::Init);
        self.shown.clear();
        for (key, version) in server.versions_of(self.plural) {
            let object = self.show(server, key, version);
            self.writer.apply_watcher_event(&Event::InitApply(object));
        }
        self.writer.apply_watcher_event(&Event::InitDone);
    }

    fn show(&mut self, server: &Server, key: &Key, version: &str) -> K {
        let mut object: K = K::deserialize(&server.objects[key]).unwrap();
        (self.trim)(&mut object);
        self.shown
            .insert(key.clone(), (version.to_owned(), object.clone()));
        object
    }
}

/// All kinds.
pub struct Views {
    nodes: View<Node>,
    pods: View<Pod>,
    services: View<Service>,
    budgets: View<PodDisruptionBudget>,
    revisions: View<ControllerRevision>,
    workloads: View<InferenceWorkload>,
    profiles: View<HardwareProfile>,
    inventories: View<DeviceInventory>,
    sites: View<EdgeSite>,
    priority_classes: View<PriorityClass>,
    policies: View<RolloutPolicy>,
    approvals: View<RolloutApproval>,
}

impl Views {
    /// Views that have just listed everything.
    pub fn new(server: &Server) -> Self {
        let mut views = Self {
            nodes: View::new("nodes", |_| ()),
            pods: View::new("pods", pod::trim),
            services: View::new("services", |_| ()),
            budgets: View::new("poddisruptionbudgets", |_| ()),
            revisions: View::new("controllerrevisions", |_| ()),
            workloads: View::new("inferenceworkloads", |_| ()),
            profiles: View::new("hardwareprofiles", |_| ()),
            inventories: View::new("deviceinventories", |_| ()),
            sites: View::new("edgesites", |_| ()),
            priority_classes: View::new("priorityclasses", |_| ()),
            policies: View::new("rolloutpolicies", |_| ()),
            approvals: View::new("rolloutapprovals", |_| ()),
        };
        views.nodes.relist(server);
        views.pods.relist(server);
        views.services.relist(server);
        views.budgets.relist(server);
        views.revisions.relist(server);
        views.workloads.relist(server);
        views.profiles.relist(server);
        views.inventories.relist(server);
        views.sites.relist(server);
        views.priority_classes.relist(server);
        views.policies.relist(server);
        views.approvals.relist(server);
        views
    }

    /// The reading ends.
    pub fn stores(&self) -> Stores {
        Stores {
            nodes: self.nodes.writer.as_reader(),
            pods: self.pods.writer.as_reader(),
            services: self.services.writer.as_reader(),
            budgets: self.budgets.writer.as_reader(),
            revisions: self.revisions.writer.as_reader(),
            workloads: self.workloads.writer.as_reader(),
            profiles: self.profiles.writer.as_reader(),
            inventories: self.inventories.writer.as_reader(),
            sites: self.sites.writer.as_reader(),
            priority_classes: self.priority_classes.writer.as_reader(),
            policies: self.policies.writer.as_reader(),
            approvals: self.approvals.writer.as_reader(),
        }
    }

    /// Whether the operator sees that a slot of a workload, by its name and uid, is wanted.
    pub fn wants(&self, uid: Option<&str>, slot: &str) -> bool {
        let workloads = self.workloads.shown.values().map(|(_, workload)| workload);
        let named = |number| slot == format!("replica-{number}");
        workloads
            .filter(|workload| workload.metadata.uid.as_deref() == uid)
            .any(|workload| (0..workload.replicas()).any(named))
    }

    /// Each kind is seen as it is now, or stays as old as it was.
    pub fn observe(&mut self, server: &Server, random: &mut fastrand::Rng, quiet: bool) {
        let sees = |bug| server.bug != Some(bug);
        self.pods.observe(server, random, quiet);
        self.revisions.observe(server, random, quiet);
        self.profiles.observe(server, random, quiet);
        if sees(Bug::MissNodes) {
            self.nodes.observe(server, random, quiet);
        }
        if sees(Bug::MissBudgets) {
            self.budgets.observe(server, random, quiet);
        }
        if sees(Bug::MissServices) {
            self.services.observe(server, random, quiet);
        }
        if sees(Bug::MissWorkloads) {
            self.workloads.observe(server, random, quiet);
        }
        if sees(Bug::MissDevices) {
            self.inventories.observe(server, random, quiet);
        }
    }
}
