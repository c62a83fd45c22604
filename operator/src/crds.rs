//! Applies the custom resource definitions of this version: the chart's upgrade hook.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use perwatt_crds::names;

/// Applies every definition by server-side apply.
///
/// # Errors
/// When the API server refuses one.
pub async fn apply(client: &Client) -> Result<(), kube::Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let parameters = PatchParams::apply(names::FIELD_MANAGER).force();
    for definition in perwatt_crds::definitions() {
        let name = definition.name_any();
        api.patch(&name, &parameters, &Patch::Apply(&definition)).await?;
        tracing::info!(%name, "applied the custom resource definition");
    }
    Ok(())
}
