//! Killing parts of the product and of the node: everything converges, nothing is left over.

use crate::support::{World, settled, uids};
use kube::ResourceExt;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_e2e::demo::{self, WORKLOAD};
use perwatt_e2e::product::install::NAMESPACE;
use perwatt_e2e::product::traffic::{Traffic, now, tally};
use perwatt_e2e::wait::{DEADLINE, until};

/// Kills the processes of a program inside one pod, by pid: its control group names the pod.
pub fn kill(program: &str, pod_uid: &str) {
    perwatt_e2e::product::kill(program, pod_uid).expect("killed");
}

pub async fn operator_uid(world: &World<'_>) -> String {
    world.kubectl(&format!("-n {NAMESPACE} get pod -l app.kubernetes.io/name=perwatt-operator -o jsonpath={{.items[0].metadata.uid}}")).await
}

/// The operator dies while a device is dead, and the slot still moves there and back.
pub async fn operator(world: &World<'_>) {
    world
        .status("served", WORKLOAD, |status| settled(status, "npu"))
        .await;
    let options = demo::stream_options(world.cluster).await.expect("a service");
    let traffic =
        Traffic::start(world.cluster.node("edge-b").expect("a node"), &options).expect("the client starts");
    traffic
        .wait_for("an answer", 0, |_| true)
        .await
        .expect("an answer");
    kill("perwatt-operator", &operator_uid(world).await);
    world
        .product
        .emulate("edge-a", "asic-emulated-0", "health=Unhealthy")
        .await
        .expect("the device fails");
    world
        .status("the GPU serves", WORKLOAD, |status| {
            status.summary.serving == "gpu"
        })
        .await;
    kill("perwatt-operator", &operator_uid(world).await);
    world
        .product
        .emulate("edge-a", "asic-emulated-0", "health=Healthy")
        .await
        .expect("the device recovers");
    world
        .status("the ASIC serves", WORKLOAD, |status| settled(status, "npu"))
        .await;
    let counted = tally(&traffic.stop().await.expect("the client ends"));
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
    assert_eq!(world.pods(WORKLOAD.0, WORKLOAD.1).await.len(), 1, "no orphan");
}

/// The agent dies: the pod on its device stays, the device is offered again, and faults are seen again.
pub async fn agent(world: &World<'_>) {
    world
        .status("served", WORKLOAD, |status| settled(status, "npu"))
        .await;
    let before = uids(&world.pods(WORKLOAD.0, WORKLOAD.1).await);
    let name = world.product.agent("edge-a").await.expect("an agent");
    let uid = world
        .kubectl(&format!(
            "-n {NAMESPACE} get pod {name} -o jsonpath={{.metadata.uid}}"
        ))
        .await;
    let before_kill = restarts(world, NAMESPACE, &name).await;
    kill("perwatt-device-plugin", &uid);
    restarted(world, NAMESPACE, &name, &before_kill).await;
    offered(world).await;
    world
        .product
        .emulate("edge-a", "asic-emulated-0", "health=Degraded")
        .await
        .expect("the device degrades");
    let degraded = |inventory: &perwatt_crds::DeviceInventory| {
        inventory
            .status
            .iter()
            .flat_map(|status| &status.devices)
            .any(|device| device.health == DeviceHealth::Degraded)
    };
    world
        .product
        .wait_for_inventory("the restarted agent sees a fault", "edge-a", degraded)
        .await
        .expect("seen");
    world
        .product
        .emulate("edge-a", "asic-emulated-0", "health=Healthy")
        .await
        .expect("the device recovers");
    world
        .status("served", WORKLOAD, |status| settled(status, "npu"))
        .await;
    assert_eq!(
        uids(&world.pods(WORKLOAD.0, WORKLOAD.1).await),
        before,
        "the pod was not disturbed"
    );
}

/// How often a pod's container was started again, and whether it is ready.
async fn restarts(world: &World<'_>, namespace: &str, pod: &str) -> String {
    let path = "jsonpath={.status.containerStatuses[0].restartCount}/{.status.containerStatuses[0].ready}";
    world
        .kubectl(&format!("-n {namespace} get pod {pod} -o {path}"))
        .await
}

/// Waits until a pod's container was started again since `before`, and is ready.
async fn restarted(world: &World<'_>, namespace: &str, pod: &str, before: &str) {
    let count = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    until("the container is started again", DEADLINE, || async {
        let seen = restarts(world, namespace, pod).await;
        if count(&seen) != count(before) && seen.ends_with("/true") {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until the kubelet offers the ASIC.
async fn offered(world: &World<'_>) {
    offers(world, "1").await;
}

/// Waits until the kubelet offers this many ASICs.
async fn offers(world: &World<'_>, count: &str) {
    until("the kubelet offers the ASIC as it is", DEADLINE, || async {
        let path = "jsonpath={.status.allocatable.perwatt\\.dev/asic-emulated}";
        let seen = world.kubectl(&format!("get node edge-a -o {path}")).await;
        if seen == count {
            Ok(())
        } else {
            Err(format!("allocatable: {seen:?}, not {count}"))
        }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

pub async fn kubelet(world: &World<'_>) {
    world
        .status("served", WORKLOAD, |status| settled(status, "npu"))
        .await;
    let before = uids(&world.pods(WORKLOAD.0, WORKLOAD.1).await);
    let options = demo::stream_options(world.cluster).await.expect("a service");
    let traffic =
        Traffic::start(world.cluster.node("edge-b").expect("a node"), &options).expect("the client starts");
    traffic
        .wait_for("an answer", 0, |_| true)
        .await
        .expect("an answer");
    let node = world.cluster.node("edge-a").expect("a node");
    node.kill_kubelet().await.expect("killed");
    node.start_kubelet().await.expect("started");
    world
        .kubectl("wait --for=condition=Ready node/edge-a --timeout=120s")
        .await;
    offered(world).await;
    world
        .status("served", WORKLOAD, |status| settled(status, "npu"))
        .await;
    assert_eq!(
        uids(&world.pods(WORKLOAD.0, WORKLOAD.1).await),
        before,
        "the pod was not disturbed"
    );
    // The new kubelet hears of faults: the agent registered with it. It serves `exec` once it knows its pods.
    until("the kubelet serves exec", DEADLINE, || async {
        let failed = world
            .product
            .emulate("edge-a", "asic-emulated-0", "health=Unhealthy")
            .await;
        failed.map_err(|error| error.to_string())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    offers(world, "0").await;
    world
        .product
        .emulate("edge-a", "asic-emulated-0", "health=Healthy")
        .await
        .expect("the device recovers");
    offered(world).await;
    world
        .status("served again", WORKLOAD, |status| settled(status, "npu"))
        .await;
    let counted = tally(&traffic.stop().await.expect("the client ends"));
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
}

/// Requests in flight in a killed process are lost; the slot serves again, and nothing is doubled.
pub async fn runtime(world: &World<'_>) {
    world
        .status("served", WORKLOAD, |status| settled(status, "npu"))
        .await;
    let options = demo::stream_options(world.cluster).await.expect("a service");
    let traffic =
        Traffic::start(world.cluster.node("edge-b").expect("a node"), &options).expect("the client starts");
    traffic
        .wait_for("an answer", 0, |_| true)
        .await
        .expect("an answer");
    let pods = world.pods(WORKLOAD.0, WORKLOAD.1).await;
    let pod = pods.first().expect("a pod");
    let name = pod.name_any();
    let epoch = epoch(world, &name).await;
    let before = restarts(world, WORKLOAD.0, &name).await;
    let killed = now();
    kill("perwatt-runtime", &pod.uid().expect("a uid"));
    restarted(world, WORKLOAD.0, &name, &before).await;
    let restarted = now();
    assert_eq!(
        self::epoch(world, &name).await,
        epoch,
        "the evidence outlived the container"
    );
    let ready = |status: &perwatt_crds::InferenceWorkloadStatus| settled(status, "npu");
    traffic
        .wait_for("an answer after the kill", restarted, |reply| {
            reply.text("variant") == "npu"
        })
        .await
        .expect("an answer");
    world.status("served again", WORKLOAD, ready).await;
    let replies = traffic.stop().await.expect("the client ends");
    let (early, late): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.at < killed);
    let early = tally(&early);
    assert_eq!(early.failures, 0, "{:?}", early.first_error);
    let lost = tally(&late).failures;
    println!("{lost} requests were in flight in the killed process, or found none listening");
    assert_eq!(
        world.pods(WORKLOAD.0, WORKLOAD.1).await.len(),
        1,
        "nothing is doubled"
    );
}

/// The epoch of a pod's evidence: another one would mean that its counts began anew.
async fn epoch(world: &World<'_>, pod: &str) -> String {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}:9090/proxy/evidence", WORKLOAD.0);
    let text = world.kubectl(&format!("get --raw {path}")).await;
    let read: serde_json::Value = serde_json::from_str(&text).expect("evidence is JSON");
    assert_eq!(read["epochReason"], "FirstStart", "it is kept: {text}");
    read["epoch"].as_str().expect("an epoch").to_owned()
}

/// The garbage collector takes pods and Service; the device is free again.
pub async fn delete(world: &World<'_>) {
    world.remove(WORKLOAD.0, WORKLOAD.1).await;
    until("no Service is left", DEADLINE, || async {
        let left = world.kubectl("-n audio get services -o name").await;
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}
