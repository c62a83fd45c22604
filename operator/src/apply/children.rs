//! A workload's children other than its pods: Service, disruption budget, history.

use super::records::{Histories, histories};
use super::{ApplyError, covers};
use crate::build::budget::build_budget;
use crate::build::history::{Step, build_entry, determine_steps};
use crate::build::service::build_service;
use crate::observe::Stores;
use crate::observe::snapshot::Snapshot;
use crate::observe::spec::sidecars;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use perwatt_crds::{InferenceWorkload, names};
use perwatt_planner::world::WorkloadKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

/// What the children of every workload are compared with.
pub struct Children<'a> {
    client: &'a Client,
    stores: &'a Stores,
    snapshot: &'a Snapshot,
    runtime_image: &'a str,
    histories: Histories,
    running: BTreeMap<&'a WorkloadKey, BTreeSet<&'a str>>,
}

impl<'a> Children<'a> {
    /// The children that are there now.
    #[must_use]
    pub fn new(
        client: &'a Client,
        stores: &'a Stores,
        snapshot: &'a Snapshot,
        runtime_image: &'a str,
    ) -> Self {
        let mut running = BTreeMap::<_, BTreeSet<_>>::new();
        for owned in snapshot.world.pods.iter().filter_map(|pod| pod.owned.as_ref()) {
            running
                .entry(&owned.workload)
                .or_default()
                .insert(owned.revision.as_str());
        }
        Self {
            client,
            stores,
            snapshot,
            runtime_image,
            histories: histories(&stores.revisions.state()),
            running,
        }
    }

    /// Brings one workload's children up to date; gives what could not be done.
    pub async fn apply(&self, key: &WorkloadKey, workload: &InferenceWorkload) -> Vec<ApplyError> {
        let service = self.apply_service(workload).await;
        let budget = self.apply_budget(workload).await;
        let history = self.apply_history(key, workload).await;
        [service, budget, history]
            .into_iter()
            .filter_map(Result::err)
            .collect()
    }

    async fn apply_service(&self, workload: &InferenceWorkload) -> Result<(), ApplyError> {
        let observed = observed(&self.stores.services, workload);
        apply_child(self.client, &build_service(workload), observed.as_deref()).await
    }

    async fn apply_budget(&self, workload: &InferenceWorkload) -> Result<(), ApplyError> {
        let observed = observed(&self.stores.budgets, workload);
        match (build_budget(workload), observed) {
            (Some(wanted), observed) => apply_child(self.client, &wanted, observed.as_deref()).await,
            (None, Some(superfluous)) => remove_child(self.client, &*superfluous).await,
            (None, None) => Ok(()),
        }
    }

    async fn apply_history(&self, key: &WorkloadKey, workload: &InferenceWorkload) -> Result<(), ApplyError> {
        let Some(planned) = self.snapshot.world.workloads.get(key) else {
            return Ok(());
        };
        let history = self.histories.get(key).map_or(&[][..], Vec::as_slice);
        let none = BTreeSet::new();
        let running = self.running.get(key).unwrap_or(&none);
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &key.namespace);
        for step in determine_steps(history, &planned.revision, running) {
            match step {
                Step::Add(number) => {
                    let sidecars = sidecars(&workload.spec, &self.snapshot.profiles);
                    let entry =
                        build_entry(workload, &planned.revision, number, self.runtime_image, &sidecars);
                    add(&api, &entry).await?;
                }
                Step::Renumber { name, number } => renumber(&api, &name, number).await?,
                Step::Remove { name, uid } => remove(&api, &name, uid).await?,
            }
        }
        Ok(())
    }
}

/// The child that bears its workload's name.
fn observed<K>(store: &Store<K>, workload: &InferenceWorkload) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let namespace = workload.namespace().unwrap_or_default();
    store.get(&ObjectRef::new(&workload.name_any()).within(&namespace))
}

/// Applies a child where it is not as it should be.
async fn apply_child<K>(client: &Client, wanted: &K, observed: Option<&K>) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    if observed.is_some_and(|observed| covers(&as_json(observed), &as_json(wanted))) {
        return Ok(());
    }
    let name = wanted.name_any();
    let api: Api<K> = Api::namespaced(client.clone(), &wanted.namespace().unwrap_or_default());
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    let applied = api.patch(&name, &parameters, &Patch::Apply(wanted)).await;
    applied
        .map(|_| ())
        .map_err(|source| failed::<K>("apply", &name, source))
}

async fn remove_child<K>(client: &Client, child: &K) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &child.namespace().unwrap_or_default());
    remove(&api, &child.name_any(), child.uid().unwrap_or_default()).await
}

/// An entry that is there already was added on an older snapshot.
async fn add(api: &Api<ControllerRevision>, entry: &ControllerRevision) -> Result<(), ApplyError> {
    let parameters = PostParams {
        field_manager: Some(names::FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    match api.create(&parameters, entry).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => Err(failed::<ControllerRevision>("create", &entry.name_any(), source)),
    }
}

async fn renumber(api: &Api<ControllerRevision>, name: &str, number: i64) -> Result<(), ApplyError> {
    let patch = Patch::Merge(json!({"revision": number}));
    let parameters = PatchParams {
        field_manager: Some(names::FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let patched = api.patch(name, &parameters, &patch).await;
    patched
        .map(|_| ())
        .map_err(|source| failed::<ControllerRevision>("renumber", name, source))
}

async fn remove<K>(api: &Api<K>, name: &str, uid: String) -> Result<(), ApplyError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let preconditions = Preconditions {
        uid: Some(uid),
        resource_version: None,
    };
    let parameters = DeleteParams::default().preconditions(preconditions);
    match api.delete(name, &parameters).await {
        Ok(_) => Ok(()),
        // Gone, or another one of its name by now.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(source) => Err(failed::<K>("delete", name, source)),
    }
}

fn failed<K: Resource<DynamicType = ()>>(action: &str, name: &str, source: kube::Error) -> ApplyError {
    ApplyError::Api {
        action: format!("{action} {} {name}", K::kind(&())),
        source,
    }
}

fn as_json<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}
