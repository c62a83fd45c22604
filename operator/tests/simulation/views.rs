//! What the operator sees of the server: each kind as old as its watch is.

use crate::server::{Bug, Server};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use perwatt_crds::{DeviceInventory, EdgeSite, HardwareProfile, InferenceWorkload};
use perwatt_operator::observe::Stores;
use serde::de::DeserializeOwned;

/// The writing ends of the operator's stores.
#[derive(Default)]
pub struct Views {
    nodes: Writer<Node>,
    pods: Writer<Pod>,
    services: Writer<Service>,
    budgets: Writer<PodDisruptionBudget>,
    revisions: Writer<ControllerRevision>,
    workloads: Writer<InferenceWorkload>,
    profiles: Writer<HardwareProfile>,
    inventories: Writer<DeviceInventory>,
    sites: Writer<EdgeSite>,
    priority_classes: Writer<PriorityClass>,
}

impl Views {
    /// Views that have just listed everything.
    pub fn new(server: &Server) -> Self {
        let mut views = Self::default();
        views.list_workloads(server);
        views.list_inventories(server);
        views.observe(server, || true);
        views
    }

    /// The reading ends.
    pub fn stores(&self) -> Stores {
        Stores {
            nodes: self.nodes.as_reader(),
            pods: self.pods.as_reader(),
            services: self.services.as_reader(),
            budgets: self.budgets.as_reader(),
            revisions: self.revisions.as_reader(),
            workloads: self.workloads.as_reader(),
            profiles: self.profiles.as_reader(),
            inventories: self.inventories.as_reader(),
            sites: self.sites.as_reader(),
            priority_classes: self.priority_classes.as_reader(),
        }
    }

    /// How many replicas the operator sees wanted.
    pub fn replicas(&self) -> u32 {
        let workloads = self.workloads.as_reader().state();
        workloads.iter().map(|workload| workload.replicas()).sum()
    }

    /// Lists anew each kind for which `fresh` says so; the others stay as old as they are.
    pub fn observe(&mut self, server: &Server, mut fresh: impl FnMut() -> bool) {
        list(&mut self.nodes, server, "nodes", fresh());
        list(&mut self.pods, server, "pods", fresh());
        let services = fresh() && server.bug != Some(Bug::MissServices);
        list(&mut self.services, server, "services", services);
        list(&mut self.budgets, server, "poddisruptionbudgets", fresh());
        list(&mut self.revisions, server, "controllerrevisions", fresh());
        list(&mut self.profiles, server, "hardwareprofiles", fresh());
        list(&mut self.sites, server, "edgesites", fresh());
        list(&mut self.priority_classes, server, "priorityclasses", fresh());
        if fresh() && server.bug != Some(Bug::MissWorkloads) {
            self.list_workloads(server);
        }
        if fresh() && server.bug != Some(Bug::MissDevices) {
            self.list_inventories(server);
        }
    }

    fn list_workloads(&mut self, server: &Server) {
        list(&mut self.workloads, server, "inferenceworkloads", true);
    }

    fn list_inventories(&mut self, server: &Server) {
        list(&mut self.inventories, server, "deviceinventories", true);
    }
}

fn list<K>(writer: &mut Writer<K>, server: &Server, plural: &str, fresh: bool)
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    if !fresh {
        return;
    }
    writer.apply_watcher_event(&Event::Init);
    for object in server.list(plural) {
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
}
