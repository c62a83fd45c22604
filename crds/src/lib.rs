//! API types of Perwatt: group `perwatt.dev`, version `v1alpha1`.
//!
//! Here live the custom resources, the names on objects that the parts agree on,
//! and the conditions. No I/O: whoever reads or writes the cluster is elsewhere.
//! The doc comments of the fields are what `kubectl explain` prints.

pub mod conditions;
pub mod discovery;
pub mod inventory;
pub mod names;
pub mod performance;
pub mod profile;
pub mod quantity;
pub mod render;
pub mod rollout;
pub mod schema;
pub mod site;
pub mod text;
pub mod workload;
mod workload_status;

pub use inventory::{DeviceInventory, DeviceInventoryStatus};
pub use profile::{HardwareProfile, HardwareProfileSpec, HardwareProfileStatus};
pub use rollout::{RolloutApproval, RolloutApprovalSpec, RolloutPolicy, RolloutPolicySpec};
pub use site::{EdgeSite, EdgeSiteSpec, EdgeSiteStatus};
pub use workload::{InferenceWorkload, InferenceWorkloadSpec, InferenceWorkloadStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Every custom resource definition of the project, in the order to apply them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        HardwareProfile::crd(),
        EdgeSite::crd(),
        InferenceWorkload::crd(),
        DeviceInventory::crd(),
        RolloutPolicy::crd(),
        RolloutApproval::crd(),
    ]
}
