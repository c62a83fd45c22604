//! When things go wrong: nothing lost, and a message where the user looks.

use crate::support::{World, copy_model, settled};
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_e2e::demo::{self, Script, WORKLOAD};
use perwatt_e2e::product::traffic::{Traffic, tally};
use perwatt_model::image::{ImageSpec, write_image};

pub async fn device(world: &World<'_>) {
    let report = demo::fault(&world.product, &Script::silent())
        .await
        .expect("the device fails and recovers");
    assert_eq!(report.tally.failures, 0, "{:?}", report.tally.first_error);
    assert!(
        report.tally.rate >= 30.0,
        "requests flow through the change: {}/s",
        report.tally.rate
    );
    assert!(
        report.tally.degraded > 0,
        "the replies say that they are degraded"
    );
    assert!(
        report.tally.sequences_restarted > 0,
        "a lost state is told, not hidden"
    );
    let events = world
        .kubectl("-n audio get events -o jsonpath={range.items[*]}{.reason}{\"\\n\"}{end}")
        .await;
    for reason in ["Placed", "Serving", "Fallback", "Failback", "Removed"] {
        assert!(
            events.lines().any(|line| line == reason),
            "event {reason} is missing among\n{events}"
        );
    }
    let status = world
        .status("as planned again", WORKLOAD, |status| settled(status, "npu"))
        .await;
    assert_eq!(status.problems, vec![]);
    assert_eq!(
        world.pods(WORKLOAD.0, WORKLOAD.1).await.len(),
        1,
        "nothing is left over"
    );
}

/// One device, held by the old pod: the slot is bridged, and every request is answered.
pub async fn revision(world: &World<'_>) {
    let before = world
        .status("served", WORKLOAD, |status| settled(status, "npu"))
        .await;
    let options = demo::stream_options(world.cluster).await.expect("a service");
    let traffic =
        Traffic::start(world.cluster.node("edge-b").expect("a node"), &options).expect("the client starts");
    traffic
        .wait_for("an answer", 0, |_| true)
        .await
        .expect("an answer");
    let patch = r#"{"spec":{"runtime":{"resources":{"requests":{"cpu":"60m","memory":"64Mi"},"limits":{"memory":"256Mi"}}}}}"#;
    world
        .cluster
        .kubectl(&[
            "-n",
            WORKLOAD.0,
            "patch",
            "inferenceworkload",
            WORKLOAD.1,
            "--type=merge",
            "-p",
            patch,
        ])
        .await
        .expect("patched");
    let changed =
        |status: &InferenceWorkloadStatus| status.revision != before.revision && settled(status, "npu");
    let after = world.status("the new revision serves", WORKLOAD, changed).await;
    let revision = after.revision.expect("a revision");
    let since = perwatt_e2e::product::traffic::now();
    traffic
        .wait_for("an answer by the new revision", since, |reply| {
            reply.text("revision") == revision
        })
        .await
        .expect("an answer");
    let counted = tally(&traffic.stop().await.expect("the client ends"));
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
    assert!(counted.requests > 100);
    let old = before.revision.expect("a revision");
    assert_eq!(history(world).await, [old, revision]);
}

/// The revisions of the workload, the current one last.
async fn history(world: &World<'_>) -> Vec<String> {
    let of = format!("-l perwatt.dev/workload={}", WORKLOAD.1);
    let hash = "jsonpath={range.items[*]}{.metadata.labels.perwatt\\.dev/revision}{\"\\n\"}{end}";
    let listed = world
        .kubectl(&format!(
            "-n {} get controllerrevisions {of} --sort-by=.revision -o {hash}",
            WORKLOAD.0
        ))
        .await;
    listed.lines().map(str::to_owned).collect()
}

const WORKLOAD_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: NAME, namespace: audio}
spec:
  model: {image: \"IMAGE\"}
  runtime: {resources: {requests: {cpu: CORES, memory: 64Mi}, limits: {memory: 256Mi}}}
  variants: [VARIANT]
";
const CPU: &str = "{name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}";

/// Applies a workload that cannot be served, and gives its status once it says so.
async fn unserved(world: &World<'_>, name: &str, manifest: &str, reason: &str) -> InferenceWorkloadStatus {
    world.apply(manifest).await.expect("it applies");
    let status = world
        .status("the status says what is wrong", ("audio", name), |status| {
            status.summary.status == reason
        })
        .await;
    world.remove("audio", name).await;
    status
}

fn manifest(name: &str, image: &str, cores: &str, variant: &str) -> String {
    WORKLOAD_OF
        .replace("NAME", name)
        .replace("IMAGE", image)
        .replace("CORES", cores)
        .replace("VARIANT", variant)
}

fn message(status: &InferenceWorkloadStatus, kind: &str) -> String {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind);
    found
        .map(|condition| condition.message.clone())
        .unwrap_or_default()
}

pub async fn unknown_profile(world: &World<'_>) {
    let variant = "{name: npu, device: {profiles: [no-such-chip]}, artifact: {path: silero_vad.onnx}}";
    let text = manifest("unknown", "MODEL", "50m", variant);
    let status = unserved(world, "unknown", &text, "ProfileNotFound").await;
    assert!(
        message(&status, "Stalled").contains("no-such-chip"),
        "{:?}",
        status.conditions
    );
}

pub async fn no_room(world: &World<'_>) {
    let text = manifest("huge", "MODEL", "\"1000\"", CPU);
    let status = unserved(world, "huge", &text, "NoFeasibleVariant").await;
    assert!(
        message(&status, "Ready").contains("CPU"),
        "{:?}",
        status.conditions
    );
}

/// Nothing listens on port 1 of the node: the pull is refused at once, and stays on the node.
pub async fn missing_image(world: &World<'_>) {
    let image = format!("localhost:1/none@sha256:{}", "0".repeat(64));
    let text = manifest("missing", &image, "50m", CPU);
    let status = unserved(world, "missing", &text, "PodCannotStart").await;
    assert!(
        message(&status, "Ready").contains("localhost:1/none"),
        "{:?}",
        status.conditions
    );
}

/// A model image whose file was changed after `model.yaml` was written.
pub async fn wrong_hash(world: &World<'_>) {
    let folder = copy_model(perwatt_e2e::product::Example::SPEECH_GATE);
    let model = folder.path().join("silero_vad.onnx");
    let mut bytes = std::fs::read(&model).expect("readable");
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    std::fs::write(&model, bytes).expect("written");
    let archive = folder.path().join("image.tar");
    let layers = folder.path().join("layer");
    std::fs::create_dir(&layers).expect("made");
    for name in ["model.yaml", "silero_vad.onnx"] {
        std::fs::rename(folder.path().join(name), layers.join(name)).expect("moved");
    }
    let spec = ImageSpec {
        name: "registry.example/models/changed",
        tag: None,
        layers: vec![layers],
        entrypoint: vec![],
        env: vec![],
        user: None,
    };
    let packed = write_image(&spec, &archive).expect("packed");
    world.cluster.load_image(&archive).await.expect("loaded");
    let text = manifest("changed", &packed.reference, "50m", CPU);
    world.apply(&text).await.expect("it applies");
    let says = |status: &InferenceWorkloadStatus| {
        let text = message(status, "Ready");
        status.summary.status == "PodCannotStart"
            && text.contains("silero_vad.onnx")
            && text.contains("sha256")
    };
    world
        .status(
            "the status names the file and the hashes",
            ("audio", "changed"),
            says,
        )
        .await;
    world.remove("audio", "changed").await;
}
