//! A vendor's server beside the runtime: it has the device, and is killed while requests flow.

use crate::support::{World, settled};
use kube::ResourceExt;
use perwatt_e2e::product::traffic::{StreamOptions, Traffic, now, service_url, tally};
use perwatt_e2e::product::{processes, recording};
use perwatt_e2e::wait::{DEADLINE, until};

/// The runtime itself, as a plain server with a command line of its own, stands for the vendor's.
const MANIFESTS: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: vendor-emulated}
spec:
  class: ASIC
  vendor: Perwatt (emulated)
  discovery: {emulated: {count: 1, nodes: {matchLabels: {perwatt.dev/emulate: asic}}}}
  power: {typicalMilliwatts: 2500}
  backend:
    type: OpenInference
    sidecar:
      image: \"IMAGE\"
      port: 8001
      args: [/model, --rest, \"127.0.0.1:8001\", --grpc, \"127.0.0.1:8002\", --admin, \"127.0.0.1:9091\"]
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: vendor, namespace: audio}
spec:
  model: {image: \"MODEL\"}
  placement: {locality: Node}
  variants:
  - {name: npu, device: {profiles: [vendor-emulated]}, artifact: {path: silero_vad.onnx}}
  - {name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}
";
const NAME: (&str, &str) = ("audio", "vendor");

/// The process of a pod's sidecar: the one with its port on the command line.
fn sidecar(pod: &str) -> Option<i32> {
    processes("perwatt-runtime", pod).into_iter().find(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("127.0.0.1:8001")
    })
}

pub async fn killed(world: &World<'_>) {
    let pods = world.pods("audio", "speech-gate").await;
    let image = pods
        .iter()
        .find_map(|pod| pod.spec.as_ref()?.containers.first()?.image.clone())
        .expect("the runtime's image");
    world
        .apply(&MANIFESTS.replace("IMAGE", &image))
        .await
        .expect("it applies");
    world
        .status("the sidecar serves", NAME, |status| settled(status, "npu"))
        .await;
    world.alone(NAME.0, NAME.1).await;
    let pods = world.pods(NAME.0, NAME.1).await;
    let uid = pods.first().and_then(ResourceExt::uid).expect("a pod");
    let url = service_url(world.cluster, NAME.0, NAME.1)
        .await
        .expect("a Service");
    let options = StreamOptions {
        url,
        model: "speech-gate".into(),
        recording: recording(),
        sequences: 4,
        speed: 2.0,
        repeat: true,
    };
    let traffic =
        Traffic::start(world.cluster.node("edge-b").expect("a node"), &options).expect("the client starts");
    traffic
        .wait_for("an answer of the sidecar", 0, |reply| {
            reply.text("variant") == "npu"
        })
        .await
        .expect("an answer");
    let killed = sidecar(&uid).expect("the sidecar's process");
    let status = std::process::Command::new("kill")
        .args(["-KILL", &killed.to_string()])
        .status();
    assert!(status.expect("kill runs").success());
    let degraded = traffic
        .wait_for("an answer of the fallback", now(), |reply| reply.flag("degraded"))
        .await
        .expect("an answer");
    assert_eq!(degraded.text("variant"), "cpu");
    let reason = degraded.text("degraded_reason");
    assert!(
        ["InferenceFailed", "BreakerOpen"].contains(&reason),
        "{:?}",
        degraded.parameters
    );
    until("the sidecar was restarted", DEADLINE, || async {
        let restarted = sidecar(&uid).filter(|pid| *pid != killed);
        restarted.ok_or_else(|| "no new process".to_owned())
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
    traffic
        .wait_for("an answer of the new sidecar", now(), |reply| {
            reply.text("variant") == "npu" && !reply.flag("degraded")
        })
        .await
        .expect("an answer");
    let replies = traffic.stop().await.expect("the client ends");
    let counted = tally(&replies);
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
    for reply in &replies {
        assert_eq!(
            reply.flag("degraded"),
            reply.text("variant") == "cpu",
            "{:?}",
            reply.parameters
        );
    }
    world.remove(NAME.0, NAME.1).await;
    world.kubectl("delete hardwareprofile vendor-emulated").await;
}
