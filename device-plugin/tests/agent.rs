//! The agent against a kubelet that the test plays, in a folder of its own.
//!
//! Device nodes need root; without it these tests say so and pass.

// A test that cannot go on ends; its helpers are not tests in the eyes of the lints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use perwatt_crds::inventory::{DeviceHealth, HealthDimension};
use perwatt_device_plugin::agent::{Agent, AgentError};
use perwatt_device_plugin::emulate;
use perwatt_device_plugin::kubelet::api::{AllocateRequest, ContainerAllocateRequest};
use perwatt_device_plugin::lock::LockError;
use perwatt_device_socket::{Health, ReportRequest, WatchRequest};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use support::{Bench, Kubelet, eventually, known};

macro_rules! needs_root {
    () => {
        if !support::can_make_nodes() {
            return;
        }
    };
}

#[tokio::test]
async fn devices_are_registered_listed_and_given() {
    needs_root!();
    let bench = Bench::start(&[("chip", 2)]).await;
    let registration = bench.kubelet.registration().await;
    assert_eq!(registration.version, "v1beta1");
    assert_eq!(registration.resource_name, "perwatt.dev/chip");
    assert_eq!(registration.endpoint, "perwatt-chip.sock");
    let mut plugin = bench.kubelet.dial(&registration).await;
    let mut list = Kubelet::watch(&mut plugin).await;
    assert_eq!(
        list.next().await,
        [("chip-0", "Healthy"), ("chip-1", "Healthy")].map(support::owned)
    );

    let container_requests = vec![ContainerAllocateRequest {
        device_ids: vec!["chip-1".into()],
    }];
    let response = plugin
        .allocate(AllocateRequest { container_requests })
        .await
        .unwrap()
        .into_inner();
    let container = &response.container_responses[0];
    assert_eq!(container.envs["PERWATT_DEVICE_ID"], "chip-1");
    assert_eq!(container.envs["PERWATT_DEVICE_NODE"], "/dev/perwatt/chip-1");
    assert_eq!(container.cdi_devices[0].name, "perwatt.dev/chip=chip-1");
    assert!(
        std::path::Path::new(&container.mounts[0].host_path)
            .join("agent.sock")
            .exists()
    );
    let spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bench.paths.cdi_spec("chip")).unwrap()).unwrap();
    let node = &spec["devices"][1]["containerEdits"]["deviceNodes"][0];
    let host_path = node["hostPath"].as_str().unwrap();
    assert!(std::fs::metadata(host_path).unwrap().file_type().is_char_device());

    let container_requests = vec![ContainerAllocateRequest {
        device_ids: vec!["chip-9".into()],
    }];
    let refused = plugin
        .allocate(AllocateRequest { container_requests })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    assert!(refused.message().contains("chip-0, chip-1"), "{refused}");
    bench.end().await;
}

#[tokio::test]
async fn a_fault_and_its_end_reach_the_kubelet() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    let mut list = bench.kubelet.watch_first().await;
    assert_eq!(list.next().await, [support::owned(("chip-0", "Healthy"))]);
    bench.set("chip-0", "health=Unhealthy");
    assert_eq!(list.next().await, [support::owned(("chip-0", "Unhealthy"))]);
    let since = bench.agent.shared.now().devices["chip-0"].since;
    bench.set("chip-0", "health=Healthy");
    assert_eq!(list.next().await, [support::owned(("chip-0", "Healthy"))]);
    assert!(bench.agent.shared.now().devices["chip-0"].since > since);
    // Degraded keeps its pods: the kubelet hears nothing of it.
    bench.set("chip-0", "temperature=97");
    bench.wait_for_health("chip-0", DeviceHealth::Degraded).await;
    bench.set("chip-0", "present=false");
    assert_eq!(list.next().await, [support::owned(("chip-0", "Unhealthy"))]);
    bench.end().await;
}

#[tokio::test]
async fn garbage_in_a_control_file_is_a_reason_and_a_deleted_device_is_lost() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    let health = bench.paths.control("chip-0").join("health");
    std::fs::write(&health, b"\xff\x00garbage").unwrap();
    bench.wait_for_health("chip-0", DeviceHealth::Unknown).await;
    let reason = bench.reason("chip-0");
    assert_eq!(reason.dimension, HealthDimension::Unmonitored);
    assert!(reason.message.contains("control/health"), "{}", reason.message);
    assert!(
        reason.message.contains("Healthy, Degraded or Unhealthy"),
        "{}",
        reason.message
    );
    std::fs::write(&health, "Healthy").unwrap();
    bench.wait_for_health("chip-0", DeviceHealth::Healthy).await;

    std::fs::remove_dir_all(bench.paths.emulated_device("chip-0")).unwrap();
    bench.wait_for_health("chip-0", DeviceHealth::Unhealthy).await;
    assert_eq!(bench.reason("chip-0").dimension, HealthDimension::Lost);
    // A container that restarts must find the CDI name all the same, without the node.
    eventually("the CDI spec has no node", || {
        let spec = std::fs::read_to_string(bench.paths.cdi_spec("chip")).unwrap();
        spec.contains("chip-0") && !spec.contains("deviceNodes")
    })
    .await;
    bench.set("chip-0", "present=true");
    bench.wait_for_health("chip-0", DeviceHealth::Healthy).await;
    bench.end().await;
}

#[tokio::test]
async fn a_kubelet_that_restarts_is_registered_with_again() {
    needs_root!();
    let mut bench = Bench::start(&[("chip", 1)]).await;
    let mut list = bench.kubelet.watch_first().await;
    list.next().await;
    for _ in 0..3 {
        bench.kubelet.restart().await;
        let mut list = bench.kubelet.watch_first().await;
        assert_eq!(list.next().await, [support::owned(("chip-0", "Healthy"))]);
    }
    bench.end().await;
}

#[tokio::test]
async fn a_deleted_plugin_socket_is_made_again() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    bench.kubelet.registration().await;
    std::fs::remove_file(bench.paths.plugin_socket("chip")).unwrap();
    let mut list = bench.kubelet.watch_first().await;
    assert_eq!(list.next().await, [support::owned(("chip-0", "Healthy"))]);
    bench.end().await;
}

#[tokio::test]
async fn without_a_kubelet_the_agent_says_what_it_waits_for() {
    needs_root!();
    let mut bench = Bench::start_without_kubelet(&[("chip", 1)]).await;
    eventually("the agent says that it waits", || {
        bench
            .agent
            .readiness
            .blockers()
            .iter()
            .any(|line| line.contains("kubelet.sock: it does not exist"))
    })
    .await;
    bench.kubelet.restart().await;
    bench.kubelet.watch_first().await;
    eventually("the agent is ready", || {
        bench.agent.readiness.blockers().is_empty()
    })
    .await;
    bench.end().await;
}

#[tokio::test]
async fn a_second_agent_is_refused_and_touches_nothing() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    bench.kubelet.registration().await;
    let (_sender, updates) = tokio::sync::mpsc::channel(1);
    let Err(error) = Agent::start(bench.paths.clone(), "edge-test", updates).await else {
        panic!("the second agent was let in");
    };
    assert!(
        matches!(error, AgentError::Lock(LockError::Taken { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("another node agent"), "{error}");
    assert!(bench.paths.plugin_socket("chip").exists());
    bench.end().await;
}

#[tokio::test]
async fn a_profile_that_goes_takes_its_plugin_and_leaves_an_empty_list() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1), ("gpu", 1)]).await;
    let mut list = bench.kubelet.watch_resource("perwatt.dev/chip").await;
    list.next().await;
    bench.update(known(&[("gpu", 1)])).await;
    assert_eq!(list.next().await, []);
    assert!(list.ended().await);
    eventually("the plugin's socket is gone", || {
        !bench.paths.plugin_socket("chip").exists()
    })
    .await;
    assert!(bench.paths.plugin_socket("gpu").exists());
    eventually("the device's folder is gone", || {
        !bench.paths.emulated_device("chip-0").exists()
    })
    .await;
    bench.end().await;
}

#[tokio::test]
async fn an_agent_that_restarts_without_api_server_serves_what_it_knew() {
    needs_root!();
    let mut bench = Bench::start(&[("chip", 2)]).await;
    let mut list = bench.kubelet.watch_first().await;
    list.next().await;
    bench.set("chip-1", "health=Unhealthy");
    assert_eq!(
        list.next().await,
        [("chip-0", "Healthy"), ("chip-1", "Unhealthy")].map(support::owned)
    );
    let since = bench.agent.shared.now().devices["chip-1"].since;
    bench.restart_agent().await;
    // The list that ends says nothing new: what happens to the devices is the kubelet's matter.
    assert!(list.ended().await);
    let mut list = bench.kubelet.watch_first().await;
    assert_eq!(
        list.next().await,
        [("chip-0", "Healthy"), ("chip-1", "Unhealthy")].map(support::owned)
    );
    assert_eq!(bench.agent.shared.now().devices["chip-1"].since, since);
    bench.end().await;
}

#[tokio::test]
async fn a_runtime_hears_of_a_fault_and_its_report_is_kept_while_it_is_there() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    bench.kubelet.registration().await;
    let dir = bench.paths.socket_dir("chip-0");
    let mode = std::fs::metadata(dir.join("agent.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o666);
    let mut client = perwatt_device_socket::connect(&dir).unwrap();
    let mut states = client.watch(WatchRequest {}).await.unwrap().into_inner();
    let first = states.message().await.unwrap().unwrap();
    assert_eq!((first.id.as_str(), first.health()), ("chip-0", Health::Healthy));
    assert!(first.emulated);
    let request = ReportRequest {
        workload: "speech-gate".into(),
        namespace: "audio".into(),
        active_variant: "npu".into(),
        ..Default::default()
    };
    client.report(request).await.unwrap();
    let report = bench.agent.shared.now().devices["chip-0"].report.clone().unwrap();
    assert_eq!(
        (report.workload.as_str(), report.active_variant.as_str()),
        ("speech-gate", "npu")
    );

    bench.set("chip-0", "health=Unhealthy");
    let second = states.message().await.unwrap().unwrap();
    assert_eq!(
        (second.reason.as_str(), second.health()),
        ("fault", Health::Unhealthy)
    );
    drop((states, client));
    eventually("the report is forgotten", || {
        bench.agent.shared.now().devices["chip-0"].report.is_none()
    })
    .await;
    bench.end().await;
}

#[tokio::test]
async fn a_report_outlives_the_agent_and_a_crowd_at_the_socket_is_turned_away() {
    needs_root!();
    let mut bench = Bench::start(&[("chip", 1)]).await;
    bench.kubelet.registration().await;
    let dir = bench.paths.socket_dir("chip-0");
    let mut client = perwatt_device_socket::connect(&dir).unwrap();
    let request = ReportRequest {
        workload: "speech-gate".into(),
        ..Default::default()
    };
    client.report(request).await.unwrap();
    eventually("the checkpoint has the report", || {
        std::fs::read_to_string(bench.paths.checkpoint())
            .unwrap()
            .contains("speech-gate")
    })
    .await;
    bench.restart_agent().await;
    let report = || {
        bench
            .agent
            .shared
            .now()
            .devices
            .get("chip-0")
            .and_then(|d| d.report.clone())
    };
    eventually("the report is there again", || report().is_some()).await;
    // The runtime finds the new socket at the same path, and its watch is enough to be there.
    let mut states = client.watch(WatchRequest {}).await.unwrap().into_inner();
    assert_eq!(states.message().await.unwrap().unwrap().id, "chip-0");

    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(
            tokio::net::UnixStream::connect(dir.join("agent.sock"))
                .await
                .unwrap(),
        );
    }
    bench.set("chip-0", "health=Degraded");
    assert_eq!(
        states.message().await.unwrap().unwrap().health(),
        Health::Degraded
    );
    assert!(report().is_some());
    bench.end().await;
}

#[tokio::test]
async fn a_flood_of_faults_ends_in_the_last_state() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    let mut list = bench.kubelet.watch_first().await;
    list.next().await;
    let paths = bench.paths.clone();
    let flood = move || {
        for health in ["health=Unhealthy", "health=Healthy"].repeat(100) {
            emulate::run(&paths, Some("chip-0"), &[health.to_owned()]).unwrap();
        }
    };
    tokio::task::spawn_blocking(flood).await.unwrap();
    bench.set("chip-0", "health=Unhealthy");
    bench.wait_for_health("chip-0", DeviceHealth::Unhealthy).await;
    bench.set("chip-0", "health=Healthy");
    bench.wait_for_health("chip-0", DeviceHealth::Healthy).await;
    let mut last = list.next().await;
    while last != [support::owned(("chip-0", "Healthy"))] {
        last = list.next().await;
    }
    bench.end().await;
}

#[tokio::test]
async fn a_profile_that_changes_keeps_its_devices_and_adds_to_them() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    let mut list = bench.kubelet.watch_first().await;
    list.next().await;
    let mut known = known(&[("chip", 2)]);
    known.profiles.get_mut("chip").unwrap().device_group = Some(4711);
    bench.update(known).await;
    assert_eq!(
        list.next().await,
        [("chip-0", "Healthy"), ("chip-1", "Healthy")].map(support::owned)
    );
    use std::os::unix::fs::MetadataExt;
    eventually("the node belongs to the new group", || {
        std::fs::metadata(bench.paths.emulated_node("chip-0"))
            .unwrap()
            .gid()
            == 4711
    })
    .await;
    bench.end().await;
}

#[tokio::test]
async fn a_clean_end_leaves_no_sockets() {
    needs_root!();
    let bench = Bench::start(&[("chip", 1)]).await;
    bench.kubelet.registration().await;
    let paths = bench.paths.clone();
    let _dir = bench.end().await;
    assert!(!paths.plugin_socket("chip").exists());
    assert!(!paths.socket_dir("chip-0").join("agent.sock").exists());
    assert!(paths.emulated_node("chip-0").exists());
    assert!(paths.cdi_spec("chip").exists());
}
