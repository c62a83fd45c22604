//! Desired objects, built from a plan. Nothing here reads or writes the cluster.

pub mod budget;
pub mod history;
pub mod pair;
pub mod pod;
pub mod service;
pub mod sidecar;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use perwatt_crds::{InferenceWorkload, names};
use std::collections::BTreeMap;

/// The owner reference by which the garbage collector removes a workload's children.
#[must_use]
pub fn owner(workload: &InferenceWorkload) -> Option<OwnerReference> {
    workload.controller_owner_ref(&())
}

/// Labels of a workload's children other than its pods: whose they are, and that the operator made them.
#[must_use]
pub fn labels(workload: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (names::LABEL_WORKLOAD.to_owned(), workload.to_owned()),
        (
            "app.kubernetes.io/managed-by".to_owned(),
            names::MANAGED_BY.to_owned(),
        ),
    ])
}
