//! Pods that hold devices, as a played kubelet tells of them, and what runtimes and the
//! inventory learn of it.
//!
//! Device nodes need root; without it these tests say so and pass.

// A test that cannot go on ends; its helpers are not tests in the eyes of the lints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// Not every file of tests needs every helper.
#[allow(dead_code)]
mod support;

use perwatt_crds::inventory::HealthDimension;
use perwatt_device_plugin::inventory::build_status;
use perwatt_device_plugin::podresources::api::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use perwatt_device_plugin::podresources::api::{
    ContainerDevices, ContainerResources, ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};
use perwatt_device_socket::{DeviceState, Health, PowerSource, WatchRequest};
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::{Bench, eventually, owned};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// The pod that holds each device.
#[derive(Clone, Default)]
struct Pods(Arc<Mutex<Vec<(String, String)>>>);

#[tonic::async_trait]
impl PodResourcesLister for Pods {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pods = self.0.lock().unwrap();
        let pod_resources = pods
            .iter()
            .map(|(pod, device)| pod_resources(pod, device))
            .collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }
}

fn pod_resources(pod: &str, device: &str) -> PodResources {
    let devices = vec![ContainerDevices {
        resource_name: "perwatt.dev/chip".into(),
        device_ids: vec![device.into()],
    }];
    let containers = vec![ContainerResources {
        name: "runtime".into(),
        devices,
    }];
    PodResources {
        name: pod.into(),
        namespace: "audio".into(),
        containers,
    }
}

impl Pods {
    fn serve(&self, socket: &Path) {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(PodResourcesListerServer::new(self.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
    }

    fn hold(&self, pods: &[(&str, &str)]) {
        let owned = pods.iter().map(|(pod, device)| ((*pod).into(), (*device).into()));
        *self.0.lock().unwrap() = owned.collect();
    }
}

#[tokio::test]
async fn the_pod_that_holds_a_device_is_named_and_its_energy_counted() {
    if !support::can_make_nodes() {
        return;
    }
    let bench = Bench::start(&[("chip", 2)]).await;
    let pods = Pods::default();
    pods.hold(&[("gate-1", "chip-0")]);
    pods.serve(&bench.paths.services.pod_resources);
    bench.set("chip-0", "power=2000");
    let shared = bench.agent.shared.clone();
    let holder = |device: usize| {
        let status = build_status(&shared.now());
        status.devices[device]
            .pod
            .as_ref()
            .map(|pod| format!("{}/{}", pod.namespace, pod.name))
    };
    eventually("the inventory names the pod", || {
        holder(0).as_deref() == Some("audio/gate-1")
    })
    .await;
    assert_eq!(holder(1), None);
    let metrics = || bench.agent.metrics.render(&shared).unwrap();
    eventually("the pod's energy is counted", || {
        metrics().contains("perwatt_device_pod_energy_joules_total{device=\"chip-0\",profile=\"chip\",namespace=\"audio\",pod=\"gate-1\"")
    })
    .await;

    // The runtime on the device hears of the energy too, and that it is modelled.
    let mut client = perwatt_device_socket::connect(&bench.paths.socket_dir("chip-0")).unwrap();
    let mut states = client.watch(WatchRequest {}).await.unwrap().into_inner();
    loop {
        let state = states.message().await.unwrap().unwrap();
        if state.energy_microjoules > 0 {
            assert_eq!(state.energy_source(), PowerSource::Modelled);
            assert!(state.emulated && state.energy_epoch > 0);
            break;
        }
    }

    // Two containers of other pods share it: each is told its part.
    pods.hold(&[
        ("gate-1", "chip-0"),
        ("gate-2", "chip-0::1"),
        ("gate-2", "chip-0::2"),
    ]);
    eventually("the energy of who shares the device is counted", || {
        metrics().contains("perwatt_device_pod_energy_joules_total{device=\"chip-0\",profile=\"chip\",namespace=\"audio\",pod=\"gate-2\"")
    })
    .await;

    pods.hold(&[]);
    eventually("the device is free", || holder(0).is_none()).await;
    // A profile that goes tells the runtime before its stream ends.
    bench.update(support::known(&[])).await;
    let mut last = None;
    while let Ok(Some(state)) = states.message().await {
        last = Some(state);
    }
    assert!(last.unwrap().going_away);
    bench.end().await;
}

#[tokio::test]
async fn a_drained_device_is_taken_from_the_kubelet_and_its_runtime_told_until_it_is_put_back() {
    if !support::can_make_nodes() {
        return;
    }
    let mut bench = Bench::start(&[("chip", 2)]).await;
    let mut list = bench.kubelet.watch_first().await;
    let both = |first| [owned(("chip-0", first)), owned(("chip-1", "Healthy"))];
    assert_eq!(list.next().await, both("Healthy"));
    let mut client = perwatt_device_socket::connect(&bench.paths.socket_dir("chip-0")).unwrap();
    let mut states = client.watch(WatchRequest {}).await.unwrap().into_inner();
    assert!(!states.message().await.unwrap().unwrap().going_away);

    let mut known = support::known(&[("chip", 2)]);
    let drained = ("chip-0".to_owned(), "its fan is changed".to_owned());
    known.node.drained = [drained].into();
    bench.update(known).await;
    assert_eq!(list.next().await, both("Unhealthy"));
    let reason = bench.reason("chip-0");
    assert_eq!(reason.dimension, HealthDimension::Drained);
    assert!(reason.message.contains("its fan is changed"), "{reason:?}");
    let mut told = async |what: fn(&DeviceState) -> bool| loop {
        let state = states.message().await.unwrap().unwrap();
        if what(&state) {
            break state;
        }
    };
    let state = told(|state| state.going_away).await;
    assert_eq!((state.health(), state.reason.as_str()), (Health::Healthy, ""));
    assert!(state.going_away_message.contains("its fan is changed"));
    bench.set("chip-0", "health=Unhealthy");
    let state = told(|state| state.health() == Health::Unhealthy).await;
    assert!(state.going_away && state.reason == "fault", "{state:?}");
    bench.set("chip-0", "health=Healthy");

    // The wish outlives the agent, even while no API server repeats it.
    let checkpoint = bench.paths.checkpoint();
    eventually("the checkpoint has it", || {
        std::fs::read_to_string(&checkpoint).is_ok_and(|text| text.contains("its fan is changed"))
    })
    .await;
    bench.restart_agent().await;
    let mut list = bench.kubelet.watch_first().await;
    assert_eq!(list.next().await, both("Unhealthy"));
    bench.update(support::known(&[("chip", 2)])).await;
    assert_eq!(list.next().await, both("Healthy"));
    bench.end().await;
}
