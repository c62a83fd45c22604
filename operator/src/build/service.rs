//! The Service of a workload: its name, ports 8080 and 8081, to every pod that may receive requests.

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
            labels: Some(super::labels(&name)),
            name: Some(name),
            namespace: workload.metadata.namespace.clone(),
            owner_references: super::owner(workload).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(selector),
            internal_traffic_policy: Some(internal.to_owned()),
            traffic_distribution: distribution,
            ports: Some(vec![
                port("rest", names::PORT_REST, None),
                // What a proxy or gateway in between must speak.
                port("grpc", names::PORT_GRPC, Some("kubernetes.io/h2c")),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: i32, protocol: Option<&str>) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        app_protocol: protocol.map(str::to_owned),
        target_port: Some(IntOrString::Int(number)),
        ..ServicePort::default()
    }
}
