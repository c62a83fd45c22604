//! Desired objects, built from a plan. Nothing here reads or writes the cluster.

pub mod pod;
pub mod service;
pub mod sidecar;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use perwatt_crds::InferenceWorkload;

/// The owner reference by which the garbage collector removes a workload's children.
#[must_use]
pub fn owner(workload: &InferenceWorkload) -> Option<OwnerReference> {
    workload.controller_owner_ref(&())
}
