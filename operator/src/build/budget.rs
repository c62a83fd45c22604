//! The PodDisruptionBudget of a workload: a drain takes one replica at a time.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use perwatt_crds::workload::PlacementMode;
use perwatt_crds::{InferenceWorkload, names};
use std::collections::BTreeMap;

/// The budget; none for a workload with one replica, whose drain it would block for ever, and none for one
/// that serves each node or site, which no other place can serve instead.
#[must_use]
pub fn build_budget(workload: &InferenceWorkload) -> Option<PodDisruptionBudget> {
    let replicas = i32::try_from(workload.replicas()).unwrap_or(i32::MAX);
    if workload.spec.placement.mode != PlacementMode::Replicas || replicas < 2 {
        return None;
    }
    let name = workload.metadata.name.clone().unwrap_or_default();
    let selector = BTreeMap::from([
        (names::LABEL_WORKLOAD.to_owned(), name.clone()),
        (names::LABEL_TRAFFIC.to_owned(), "true".to_owned()),
    ]);
    Some(PodDisruptionBudget {
        metadata: ObjectMeta {
            labels: Some(super::labels(&name)),
            owner_references: super::owner(workload).map(|owner| vec![owner]),
            namespace: workload.metadata.namespace.clone(),
            name: Some(name),
            ..ObjectMeta::default()
        },
        spec: Some(PodDisruptionBudgetSpec {
            // An integer: a share, or maxUnavailable, needs a controller that the API server knows.
            min_available: Some(IntOrString::Int(replicas - 1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            }),
            // A pod that serves nothing must not hold up a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn workload(replicas: Option<i32>, mode: &str) -> InferenceWorkload {
        serde_json::from_value(json!({
            "apiVersion": "perwatt.dev/v1alpha1", "kind": "InferenceWorkload",
            "metadata": {"name": "w", "namespace": "n", "uid": "u"},
            "spec": {
                "replicas": replicas,
                "model": {"image": "m@sha256:0"},
                "placement": {"mode": mode},
                "variants": [{"name": "cpu", "deviceLess": "CPU", "artifact": {"path": "a.onnx"}}]
            }
        }))
        .unwrap()
    }

    #[test]
    fn all_but_one_replica_stay_and_where_that_would_block_there_is_no_budget() {
        let least = |workload: &InferenceWorkload| build_budget(workload)?.spec?.min_available;
        assert_eq!(least(&workload(Some(3), "Replicas")), Some(IntOrString::Int(2)));
        assert_eq!(least(&workload(Some(1), "Replicas")), None);
        assert_eq!(least(&workload(None, "Replicas")), None);
        assert_eq!(least(&workload(None, "PerNode")), None);
    }
}
