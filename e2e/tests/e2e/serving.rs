//! Placing and serving.

use crate::support::{World, settled};
use perwatt_e2e::demo::{self, WORKLOAD};
use perwatt_e2e::product::traffic::tally;
use perwatt_e2e::product::{Example, samples, speech};
use perwatt_e2e::wait::{DEADLINE, until};

pub async fn speech(world: &World<'_>) {
    world
        .product
        .apply_example(Example::SPEECH_GATE, &world.model)
        .await
        .expect("the example applies");
    world
        .status("the ASIC serves", WORKLOAD, |status| settled(status, "npu"))
        .await;
    world.alone(WORKLOAD.0, WORKLOAD.1).await;
    let replies = demo::listen(world.cluster).await.expect("the client runs");
    let counted = tally(&replies);
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
    assert_eq!(counted.requests, 1875, "60 s in windows of 32 ms");
    assert_eq!(counted.sequences_restarted, 0);
    for reply in &replies {
        assert_eq!(
            (reply.text("variant"), reply.text("device"), reply.text("node")),
            ("npu", "asic-emulated-0", "edge-a")
        );
        assert!(!reply.flag("degraded"));
        assert!(
            reply.text("energy_source").contains("emulated"),
            "{:?}",
            reply.parameters
        );
    }
    let probabilities: Vec<_> = replies.iter().map(|reply| reply.first_output()).collect();
    let segments = speech::segments(&probabilities);
    let spoken: f64 = segments.iter().map(|segment| segment.to - segment.from).sum();
    assert!(
        segments.len() >= 5 && spoken > 20.0 && spoken < 58.0,
        "{segments:?}"
    );
}

/// What kubectl prints, kept as snapshots with what changes from run to run cut out.
pub async fn columns(world: &World<'_>) {
    world
        .status("latency and energy are known", WORKLOAD, |status| {
            status.summary.latency_p95 != "-" && status.summary.energy != "-"
        })
        .await;
    let held = |inventory: &perwatt_crds::DeviceInventory| {
        let devices = inventory.status.iter().flat_map(|status| &status.devices);
        devices.into_iter().any(|device| device.pod.is_some())
    };
    world
        .product
        .wait_for_inventory("the kubelet has told who holds the device", "edge-a", held)
        .await
        .expect("it is told");
    let settings = settings();
    for (name, arguments) in [
        ("get-inferenceworkloads", "-n audio get inferenceworkloads"),
        ("get-hardwareprofiles", "get hardwareprofiles"),
        ("get-deviceinventories", "get deviceinventories"),
        (
            "describe-deviceinventory",
            "describe deviceinventory edge-a --show-events=false",
        ),
        (
            "describe-inferenceworkload",
            "-n audio describe inferenceworkload speech-gate --show-events=false",
        ),
        ("explain-variants", "explain inferenceworkload.spec.variants"),
        ("explain-status", "explain inferenceworkload.status"),
        ("explain-devices", "explain deviceinventory.status.devices"),
    ] {
        let printed = world.kubectl(arguments).await;
        settings.bind(|| insta::assert_snapshot!(name, printed));
    }
}

/// The same while the ASIC is broken: the reader sees what is wrong, and why.
pub async fn broken(world: &World<'_>) {
    world
        .product
        .emulate("edge-a", "asic-emulated-0", "health=Unhealthy")
        .await
        .expect("the device fails");
    let moved = |status: &perwatt_crds::InferenceWorkloadStatus| {
        status.summary.serving == "gpu" && status.degraded_slots == 1 && !demo::changing(status)
    };
    world.status("the GPU serves", WORKLOAD, moved).await;
    let freed = |inventory: &perwatt_crds::DeviceInventory| {
        inventory
            .status
            .as_ref()
            .is_some_and(|status| status.summary.serving.is_empty())
    };
    world
        .product
        .wait_for_inventory("the ASIC's pod is gone", "edge-a", freed)
        .await
        .expect("it goes");
    let settings = settings();
    for (name, arguments) in [
        ("broken-get-inferenceworkloads", "-n audio get inferenceworkloads"),
        ("broken-get-hardwareprofiles", "get hardwareprofiles"),
        ("broken-get-deviceinventories", "get deviceinventories"),
        (
            "broken-describe-inferenceworkload",
            "-n audio describe inferenceworkload speech-gate --show-events=false",
        ),
    ] {
        let printed = world.kubectl(arguments).await;
        settings.bind(|| insta::assert_snapshot!(name, printed));
    }
    let explained = world
        .perwatt(&["explain", "speech-gate", "--namespace", "audio"])
        .await;
    settings.bind(|| insta::assert_snapshot!("broken-perwatt-explain", explained));
    world
        .product
        .emulate("edge-a", "asic-emulated-0", "health=Healthy")
        .await
        .expect("the device recovers");
    world
        .status("the ASIC serves again", WORKLOAD, |status| settled(status, "npu"))
        .await;
}

pub async fn first(world: &World<'_>) {
    let manifest = std::fs::read_to_string("../examples/first/workload.yaml").expect("it is there");
    assert!(
        manifest.contains(&world.model),
        "examples/first/workload.yaml names {}",
        world.model
    );
    world.apply(&manifest).await.expect("it applies");
    let name = ("default", "speech-gate");
    // The one ASIC is taken: that is no fault, and nothing is degraded.
    world
        .status("the CPU serves", name, |status| settled(status, "cpu"))
        .await;
    let decision = world.kubectl("get pods -l perwatt.dev/workload=speech-gate -o jsonpath={.items[0].metadata.annotations.perwatt\\.dev/decision}").await;
    assert!(
        decision.contains("asic-emulated"),
        "it says why not on the ASIC: {decision}"
    );
    world.remove(name.0, name.1).await;
}

const CPU_ONLY: &str = "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: NAME, namespace: audio}
spec:
  model: {image: MODEL}
  PLACEMENT
  variants: [{name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}]
";

pub async fn scale(world: &World<'_>) {
    let name = ("audio", "scaled");
    world
        .apply(
            &CPU_ONLY
                .replace("NAME", name.1)
                .replace("PLACEMENT", "replicas: 1"),
        )
        .await
        .expect("it applies");
    world
        .status("one replica", name, |status| {
            status.summary.ready == "1/1" && settled(status, "cpu")
        })
        .await;
    world
        .kubectl("-n audio scale inferenceworkload scaled --replicas=3")
        .await;
    world
        .status("three replicas", name, |status| status.summary.ready == "3/3")
        .await;
    budget(world, "2/1").await;
    world
        .kubectl("-n audio scale inferenceworkload scaled --replicas=1")
        .await;
    world
        .status("one replica again", name, |status| {
            status.summary.ready == "1/1" && settled(status, "cpu")
        })
        .await;
    assert_eq!(world.pods(name.0, name.1).await.len(), 1);
    budget(world, "").await;
    world.remove(name.0, name.1).await;
}

/// Waits until a drain of the replicas is allowed as `wanted` says: how many must stay, how many may go now.
async fn budget(world: &World<'_>, wanted: &str) {
    let counts = "jsonpath={range.items[*]}{.spec.minAvailable}/{.status.disruptionsAllowed}{end}";
    let of = "-l perwatt.dev/workload=scaled";
    until("the disruption budget", DEADLINE, || async {
        let seen = world
            .kubectl(&format!("-n audio get poddisruptionbudgets {of} -o {counts}"))
            .await;
        if seen == wanted { Ok(()) } else { Err(seen) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}"));
}

pub async fn per_node(world: &World<'_>) {
    let name = ("audio", "everywhere");
    world
        .apply(
            &CPU_ONLY
                .replace("NAME", name.1)
                .replace("PLACEMENT", "placement: {mode: PerNode}"),
        )
        .await
        .expect("it applies");
    let status = world
        .status("both nodes", name, |status| status.summary.ready == "2/2")
        .await;
    assert_eq!(status.summary.node, "edge-a, edge-b");
    let refusal = world
        .cluster
        .kubectl(&[
            "-n",
            "audio",
            "scale",
            "inferenceworkload",
            "everywhere",
            "--replicas=3",
        ])
        .await;
    assert!(
        refusal
            .expect_err("PerNode has no replicas")
            .to_string()
            .contains("remove replicas")
    );
    world.remove(name.0, name.1).await;
}

/// Cuts out what changes from run to run.
fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    for (pattern, with) in [
        (r"sha256:[0-9a-f]{64}", "sha256:DIGEST"),
        (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+Z", "TIME"),
        (
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
            "UID",
        ),
        (r"(?m)\b([0-9]+d)?([0-9]+h)?([0-9]+m)?[0-9]+s( *)$", "AGE"),
        (r"\b[0-9.]+(ms|us)\b", "LATENCY"),
        (r"\b[0-9.]+[mu]?J emulated", "ENERGY emulated"),
        (r"speech-gate-[0-9a-f]{8}-[0-9]+", "speech-gate-POD"),
        (r"Revision:( +)[0-9a-f]{10}", "Revision:${1}REVISION"),
        (r"\b[0-9a-f]{10}\b", "REVISION"),
        (r"Resource Version:( +)[0-9]+", "Resource Version:${1}VERSION"),
        (r" +\n", "\n"),
        (r" {2,}", "  "),
    ] {
        settings.add_filter(pattern, with);
    }
    settings
}

/// The examples of other silicon, each on a device of its own, give every answer that they should.
pub async fn more_silicon(world: &World<'_>) {
    for (samples, variant, device, least) in [
        (samples::motion(), "snn", "neuromorphic-emulated-0", 39),
        (samples::wake_word(), "npu", "micro-npu-emulated-0", 201),
    ] {
        let samples = samples.expect("samples");
        let (namespace, name) = samples.example().workload();
        demo::place(&world.product, samples.example(), variant)
            .await
            .expect("it serves");
        let heard = samples
            .send(world.cluster, demo::GPU_NODE)
            .await
            .expect("it answers");
        let counted = tally(&heard.replies);
        assert_eq!(counted.requests, samples.len());
        assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
        assert!(heard.right >= least, "{} of {} right", heard.right, samples.len());
        for reply in &heard.replies {
            assert_eq!((reply.text("variant"), reply.text("device")), (variant, device));
            assert!(!reply.flag("degraded") && !reply.flag("sequence_restarted"));
        }
        let by_grpc = samples.send_by_grpc(world.cluster, demo::GPU_NODE).await;
        let by_grpc = by_grpc.expect("it answers over gRPC");
        let counted = tally(&by_grpc.replies);
        assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
        assert_eq!(by_grpc.right, heard.right, "both protocols give the same answers");
        world.remove(namespace, name).await;
        world
            .kubectl(&format!("delete namespace/{namespace} --wait=false"))
            .await;
    }
    world
        .kubectl("delete hardwareprofiles neuromorphic-emulated micro-npu-emulated")
        .await;
}
