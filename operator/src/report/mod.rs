//! What the user sees: status, conditions, events. Computed from a plan by pure functions;
//! [`write`] is the only place that writes a status.

pub mod breaker;
pub mod events;
pub mod figures;
pub mod measured;
pub mod profile;
pub mod rollout;
pub mod site;
pub mod summary;
pub mod workload;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use perwatt_crds::{
    EdgeSite, EdgeSiteStatus, HardwareProfile, HardwareProfileStatus, InferenceWorkload,
    InferenceWorkloadStatus, names,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Writes the status of a workload.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn write_workload(
    client: &Client,
    namespace: &str,
    name: &str,
    status: &InferenceWorkloadStatus,
) -> Result<(), kube::Error> {
    let api: Api<InferenceWorkload> = Api::namespaced(client.clone(), namespace);
    write(&api, "InferenceWorkload", name, status).await
}

/// Writes the status of a profile.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn write_profile(
    client: &Client,
    name: &str,
    status: &HardwareProfileStatus,
) -> Result<(), kube::Error> {
    let api: Api<HardwareProfile> = Api::all(client.clone());
    write(&api, "HardwareProfile", name, status).await
}

/// Writes the status of a site.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn write_site(client: &Client, name: &str, status: &EdgeSiteStatus) -> Result<(), kube::Error> {
    let api: Api<EdgeSite> = Api::all(client.clone());
    write(&api, "EdgeSite", name, status).await
}

async fn write<K, S>(api: &Api<K>, kind: &str, name: &str, status: &S) -> Result<(), kube::Error>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let body = json!({"apiVersion": "perwatt.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "status": status});
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch_status(name, &parameters, &Patch::Apply(&body)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}
