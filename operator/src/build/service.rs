//! The Service of a workload: its name, port 8080, to every pod that may receive requests.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use perwatt_crds::workload::Traffic;
use perwatt_crds::{InferenceWorkload, names};
use std::collections::BTreeMap;

/// The Service of a workload.
#[must_use]
pub fn build_service(workload: &InferenceWorkload) -> Service {
    let name = workload.metadata.name.clone().unwrap_or_default();
    let labels = BTreeMap::from([
        (names::LABEL_WORKLOAD.to_owned(), name.clone()),
        (
            "app.kubernetes.io/managed-by".to_owned(),
            names::MANAGED_BY.to_owned(),
        ),
    ]);
    let selector = BTreeMap::from([
        (names::LABEL_WORKLOAD.to_owned(), name.clone()),
        (names::LABEL_TRAFFIC.to_owned(), "true".to_owned()),
    ]);
    let (internal, distribution) = match workload.spec.service.traffic {
        Traffic::Local => ("Local", None),
        Traffic::PreferLocal => ("Cluster", Some("PreferSameNode".to_owned())),
        Traffic::Cluster => ("Cluster", None),
    };
    Service {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: workload.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: super::owner(workload).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(selector),
            internal_traffic_policy: Some(internal.to_owned()),
            traffic_distribution: distribution,
            ports: Some(vec![ServicePort {
                name: Some("rest".to_owned()),
                port: names::PORT_REST,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::Int(names::PORT_REST)),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
