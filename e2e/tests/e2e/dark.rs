//! A node that nobody can reach.

use crate::support::{World, settled};
use crate::triggers::traffic;
use kube::ResourceExt;
use perwatt_e2e::demo;
use perwatt_e2e::product::install::NAMESPACE;
use perwatt_e2e::product::traffic::{Reply, now, tally};

const DARK_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: dark-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/hostname: DARK}}}}
  power: {typicalMilliwatts: 1000, maxMilliwatts: 2000}
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: bound, namespace: audio}
spec:
  model: {image: \"MODEL\"}
  placement: {mode: PerNode}
  service: {traffic: Local}
  variants: [{name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}]
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: roaming, namespace: audio}
spec:
  model: {image: \"MODEL\"}
  placement: {autonomy: 5s}
  variants:
  - {name: npu, device: {profiles: [dark-emulated]}, artifact: {path: silero_vad.onnx}}
  - {name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}
";

/// A node that nobody can reach goes on serving what is near it; a replica moves after its autonomy, and on the node's
/// return nothing is started twice.
pub async fn node(world: &World<'_>) {
    let home = world
        .kubectl(&format!(
            "-n {NAMESPACE} get pod -l app.kubernetes.io/name=perwatt-operator -o jsonpath={{.items[0].spec.nodeName}}"
        ))
        .await;
    let dark = if home == "edge-a" { "edge-b" } else { "edge-a" };
    let (bound, roaming) = (("audio", "bound"), ("audio", "roaming"));
    world
        .apply(&DARK_OF.replace("DARK", dark))
        .await
        .expect("it applies");
    world
        .status("both nodes", bound, |status| status.summary.ready == "2/2")
        .await;
    world
        .status("the device serves", roaming, |status| settled(status, "npu"))
        .await;
    let stays = pods(world, bound, dark).await;
    let elsewhere = traffic(world, roaming, &home).await;
    let traffic = traffic(world, bound, dark).await;
    for client in [&traffic, &elsewhere] {
        let answer = client.wait_for("an answer", 0, |_| true).await;
        answer.expect("an answer");
    }
    let node = world.cluster.node(dark).expect("a node");

    let gone = now();
    node.disconnect().expect("unplugged");
    let moved = world.status("the replica moved", roaming, |status| {
        status.summary.serving == "cpu" && status.summary.ready == "1/1"
    });
    let moved = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(moved)).await;
    let heard = traffic.wait_for("answers in the dark", now(), |_| true).await;
    let successor = elsewhere.wait_for("the successor's answer", gone, |reply| {
        reply.text("variant") == "cpu"
    });
    let successor = successor.await;
    node.reconnect().expect("plugged in");
    let returned = now();
    assert!(moved.is_ok(), "the replica moved");
    heard.expect("an answer");
    let moved = successor.expect("an answer").at;

    world
        .status("both nodes again", bound, |status| {
            status.summary.ready == "2/2" && !demo::changing(status)
        })
        .await;
    world
        .status("the device serves again", roaming, |status| {
            settled(status, "npu")
        })
        .await;
    world.alone(roaming.0, roaming.1).await;
    let answer = traffic.wait_for("an answer", now(), |_| true).await;
    let back = answer.expect("an answer").at;
    let replies = traffic.stop().await.expect("the client ends");
    assert_eq!(lost(&replies, 0..returned), 0, "served in the dark");
    // The API server called the pod not ready while it could not hear of it, and kube-proxy hears that first.
    println!(
        "  refused by kube-proxy on the node's return: {}",
        lost(&replies, returned..back)
    );
    assert_eq!(lost(&replies, back..u64::MAX), 0, "served as before");
    let replies = elsewhere.stop().await.expect("the client ends");
    println!(
        "  asked of the replica on the dark node until another served: {}, in {} ms",
        lost(&replies, gone..moved),
        moved - gone
    );
    assert_eq!(lost(&replies, 0..gone), 0, "served before");
    assert_eq!(lost(&replies, moved..u64::MAX), 0, "none is lost after that");
    assert_eq!(
        pods(world, bound, dark).await,
        stays,
        "the same pod, never restarted"
    );
    world.remove(bound.0, bound.1).await;
    world.remove(roaming.0, roaming.1).await;
    world.kubectl("delete hardwareprofile dark-emulated").await;
}

/// Requests that failed in a time.
fn lost(replies: &[Reply], time: std::ops::Range<u64>) -> usize {
    tally(replies.iter().filter(|reply| time.contains(&reply.at))).failures
}

/// Pods of a workload on a node, with how often their containers were started again.
async fn pods(world: &World<'_>, workload: (&str, &str), node: &str) -> Vec<(String, i32)> {
    let pods = world.pods(workload.0, workload.1).await.into_iter();
    let on_node =
        pods.filter(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node));
    let restarts = |pod: &k8s_openapi::api::core::v1::Pod| {
        let containers = pod.status.iter().flat_map(|status| &status.container_statuses);
        containers
            .flatten()
            .map(|container| container.restart_count)
            .sum()
    };
    on_node
        .map(|pod| (pod.uid().unwrap_or_default(), restarts(&pod)))
        .collect()
}
