//! What the runtime tells of itself, over the real program: metrics, evidence, feedback, and what outlives it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{PATIENCE, Runtime, command, grpc_request, request, tiny_folder};
use futures::StreamExt;
use perwatt_oip::grpc::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use perwatt_oip::message::Value as Parameter;
use prost::Message;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

async fn start() -> (tempfile::TempDir, Runtime) {
    let tmp = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(command(&tiny_folder(tmp.path()))).await;
    (tmp, runtime)
}

/// The value of a metric, by the start of its line.
fn metric(text: &str, line: &str) -> f64 {
    let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("no {line} in {text}"));
    found.trim().parse().unwrap()
}

async fn post(url: String, body: &str) -> (u16, Value) {
    let response = reqwest::Client::new()
        .post(url)
        .body(body.to_owned())
        .send()
        .await;
    let response = response.unwrap();
    let status = response.status().as_u16();
    (
        status,
        serde_json::from_str(&response.text().await.unwrap()).unwrap(),
    )
}

fn feedback_url(runtime: &Runtime) -> String {
    format!("{}/v2/models/tiny/feedback", runtime.rest)
}

fn now_milliseconds() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test]
async fn feedback_finds_who_answered_and_counts_once() {
    let (_tmp, runtime) = start().await;
    let mut body = request([1.; 4], json!({}));
    body["id"] = json!("shot-1");
    assert_eq!(runtime.infer(&body).await.0, 200);
    let say = async |body: Value| post(feedback_url(&runtime), &body.to_string()).await;

    let alarm = json!({"id": "shot-1", "kind": "FalseAlarm"});
    let reply = json!({"kind": "FalseAlarm", "variant": "tiny.onnx", "counted": true});
    assert_eq!(say(alarm.clone()).await, (200, reply));
    let (status, reply) = say(alarm).await;
    assert_eq!(
        (status, &reply["counted"]),
        (200, &json!(false)),
        "a repeat changes nothing"
    );
    let (status, reply) = say(json!({"id": "shot-1", "kind": "Correct"})).await;
    assert!(
        status == 409 && reply["error"].as_str().unwrap().contains("FalseAlarm"),
        "{reply}"
    );

    let moment = now_milliseconds() as u64;
    let (status, reply) = say(json!({"time_milliseconds": moment, "kind": "Miss"})).await;
    assert_eq!(
        (status, &reply["variant"]),
        (200, &json!("tiny.onnx")),
        "it served then"
    );
    let (status, reply) = say(json!({"id": "nobody", "kind": "Miss"})).await;
    assert_eq!(
        (status, &reply["variant"], &reply["counted"]),
        (200, &Value::Null, &json!(true))
    );

    let metrics = runtime.text("metrics").await;
    let count = |variant, kind| {
        let line = format!("perwatt_runtime_feedback_total{{variant=\"{variant}\",kind=\"{kind}\"}}");
        metric(&metrics, &line)
    };
    assert_eq!(count("tiny.onnx", "FalseAlarm"), 1.);
    assert_eq!(count("tiny.onnx", "Miss"), 1.);
    assert_eq!(count("unknown", "Miss"), 1.);
    let evidence = runtime.evidence().await;
    assert_eq!(
        evidence["records"][0]["feedback"],
        json!({"falseAlarm": 1, "miss": 1, "correct": 0})
    );
    assert_eq!(
        evidence["feedbackUnattributed"],
        json!({"falseAlarm": 0, "miss": 1, "correct": 0})
    );
}

#[tokio::test]
async fn feedback_that_makes_no_sense_is_told_why() {
    let (_tmp, runtime) = start().await;
    let long = format!("{{\"id\": \"{}\", \"kind\": \"Miss\"}}", "x".repeat(257));
    for (body, says) in [
        ("", "no feedback"),
        ("{}", "kind"),
        (r#"{"kind": "Miss"}"#, "time_milliseconds"),
        (r#"{"kind": "Wrong", "id": "a"}"#, "FalseAlarm"),
        (r#"{"kind": "Miss", "id": ""}"#, "1 to 256"),
        (
            r#"{"kind": "Miss", "id": "a", "time_milliseconds": 1}"#,
            "name one",
        ),
        (r#"{"kind": "Miss", "id": "a", "when": 1}"#, "when"),
        (r#"{"kind": "Miss", "time_milliseconds": -1}"#, "no feedback"),
        (
            r#"{"kind": "Miss", "time_milliseconds": 18446744073709551615}"#,
            "future",
        ),
        (&long, "257 bytes"),
    ] {
        let (status, reply) = post(feedback_url(&runtime), body).await;
        let error = reply["error"].as_str().unwrap_or_default();
        assert!(status == 400 && error.contains(says), "{body}: {status} {reply}");
    }
    let (status, _) = post(feedback_url(&runtime), &" ".repeat(5000)).await;
    assert_eq!(status, 413);
    let other = format!("{}/v2/models/other/feedback", runtime.rest);
    assert_eq!(post(other, r#"{"kind": "Miss", "id": "a"}"#).await.0, 404);
    assert_eq!(
        runtime.evidence().await["records"],
        json!([]),
        "nothing was counted"
    );
}

#[tokio::test]
async fn bytes_stages_and_jitter_of_every_request_are_counted() {
    let (_tmp, runtime) = start().await;
    let client = reqwest::Client::new();
    let (mut received, mut sent) = (0, 0);
    for _ in 0..5 {
        let body = request([1.; 4], json!({"sequence_id": "microphone"})).to_string();
        received += body.len();
        let reply = client.post(runtime.infer_url()).body(body).send().await.unwrap();
        sent += reply.bytes().await.unwrap().len();
    }
    let metrics = runtime.text("metrics").await;
    let rest = "{protocol=\"Rest\"}";
    let of = |name: &str, labels: &str| metric(&metrics, &format!("perwatt_runtime_{name}{labels}"));
    assert_eq!(of("received_bytes_total", rest), received as f64);
    assert_eq!(of("sent_bytes_total", rest), sent as f64);
    assert!(!metrics.contains("egress_bytes_total{"), "nothing left the node");
    for stage in ["Queue", "Preprocess", "Inference", "Postprocess"] {
        let labels = format!("{{variant=\"tiny.onnx\",stage=\"{stage}\"}}");
        assert_eq!(of("stage_duration_seconds_count", &labels), 5., "{stage}");
    }
    let variant = "{variant=\"tiny.onnx\"}";
    let sum = |labels: &str| of("stage_duration_seconds_sum", labels);
    let stages =
        sum("{variant=\"tiny.onnx\",stage=\"Queue\"}") + sum("{variant=\"tiny.onnx\",stage=\"Inference\"}");
    assert!(stages > 0. && stages <= of("request_duration_seconds_sum", variant));
    assert_eq!(of("batch_size_sum", variant), 5.);
    // Two requests are no rhythm yet.
    for flow in ["Arrival", "Reply"] {
        assert_eq!(
            of("jitter_seconds_count", &format!("{{flow=\"{flow}\"}}")),
            3.,
            "{flow}"
        );
    }
    assert!(of("resident_memory_bytes", "") > 1e6);
    assert!(of("load_seconds", variant) > 0.);
    assert_eq!(of("deadlines_missed_total", ""), 0.);
}

#[tokio::test]
async fn what_goes_over_grpc_is_counted_and_remembered_too() {
    /// What stands before a message: whether it is compressed, and its length.
    const PREFIX: usize = 5;
    let (_tmp, runtime) = start().await;
    let mut client = GrpcInferenceServiceClient::connect(runtime.grpc.clone())
        .await
        .unwrap();
    let message = |id: &str| grpc_request(id, [1.; 4], &[("sequence_id", Parameter::from("microphone"))]);
    let (mut received, mut sent) = (0, 0);
    for id in ["a", "b"] {
        received += PREFIX + message(id).encoded_len();
        let reply = client.model_infer(message(id)).await.unwrap().into_inner();
        sent += PREFIX + reply.encoded_len();
    }
    let messages = ["c", "d", "e"].map(message);
    received += messages.iter().map(|m| PREFIX + m.encoded_len()).sum::<usize>();
    let stream = client
        .model_stream_infer(tokio_stream::iter(messages))
        .await
        .unwrap();
    let mut replies = stream.into_inner();
    while let Some(reply) = replies.next().await {
        sent += PREFIX + reply.unwrap().encoded_len();
    }
    let metrics = runtime.text("metrics").await;
    let of = |name: &str, labels: &str| metric(&metrics, &format!("perwatt_runtime_{name}{labels}"));
    let grpc = "{protocol=\"Grpc\"}";
    assert_eq!(of("received_bytes_total", grpc), received as f64);
    assert_eq!(of("sent_bytes_total", grpc), sent as f64);
    let inference = "{variant=\"tiny.onnx\",stage=\"Inference\"}";
    assert_eq!(of("stage_duration_seconds_count", inference), 5.);
    assert_eq!(of("jitter_seconds_count", "{flow=\"Reply\"}"), 3.);
    for id in ["a", "e"] {
        let said = json!({"id": id, "kind": "Correct"}).to_string();
        let (status, reply) = post(feedback_url(&runtime), &said).await;
        assert_eq!((status, &reply["variant"]), (200, &json!("tiny.onnx")), "{id}");
    }
}

/// The tiny model with a reference in which sums are below 10 as often as above.
fn folder_with_confidence(dir: &Path) -> PathBuf {
    let folder = tiny_folder(dir);
    let yaml = folder.join("model.yaml");
    let text = std::fs::read_to_string(&yaml).unwrap();
    let confidence = "confidence: {output: sum, reference: {edges: [0, 10, 20], counts: [500, 500]}}\n";
    std::fs::write(&yaml, text + confidence).unwrap();
    folder
}

#[tokio::test]
async fn a_shift_of_confidence_is_seen() {
    let tmp = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(command(&folder_with_confidence(tmp.path()))).await;
    let variant = "{variant=\"tiny.onnx\"}";
    let shift = format!("perwatt_runtime_confidence_shift{variant}");
    for n in 0..40u8 {
        let x = if n % 2 == 0 { 1. } else { 4. };
        runtime.infer(&request([x; 4], json!({}))).await;
    }
    let even = metric(&runtime.text("metrics").await, &shift);
    assert!(even < 0.01, "as the reference: {even}");
    for _ in 0..100 {
        runtime.infer(&request([1.; 4], json!({}))).await;
    }
    let metrics = runtime.text("metrics").await;
    let shifted = metric(&metrics, &shift);
    assert!(shifted > 0.25, "{shifted}");
    let evidence = runtime.evidence().await;
    let confidence = &evidence["records"][0]["confidence"];
    assert_eq!(confidence["edges"], json!([0., 10., 20.]));
    assert_eq!(confidence["counts"], json!([120, 20]));
    assert_eq!(confidence["invalid"], 0);
    let bucket = "perwatt_runtime_confidence_bucket{le=\"10.0\",variant=\"tiny.onnx\"}";
    assert!(
        metric(&metrics, bucket) >= 120.,
        "the metric has the reference's edges"
    );
}

fn keeping(folder: &Path, state: &Path) -> std::process::Command {
    let mut command = command(folder);
    command.args(["--state-milliseconds", "20", "--drain-milliseconds", "1"]);
    command.env("PERWATT_STATE_DIR", state);
    command
}

fn answered(evidence: &Value) -> u64 {
    evidence["records"][0]["answered"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn counts_outlive_a_stop_and_a_kill() {
    let tmp = tempfile::tempdir().unwrap();
    let (folder, state) = (tiny_folder(tmp.path()), tmp.path().join("state"));
    let mut runtime = Runtime::start(keeping(&folder, &state)).await;
    for n in 0..3 {
        let mut body = request([1.; 4], json!({"sequence_id": "lost"}));
        body["id"] = json!(n.to_string());
        runtime.infer(&body).await;
    }
    let (status, _) = post(feedback_url(&runtime), r#"{"id": "1", "kind": "Correct"}"#).await;
    assert_eq!(status, 200);
    let before = runtime.evidence().await;
    assert_eq!(before["epochReason"], "FirstStart");
    runtime.signal("TERM");
    assert!(runtime.wait().await.success());

    let mut runtime = Runtime::start(keeping(&folder, &state)).await;
    let after = runtime.evidence().await;
    for same in [
        "epoch",
        "epochUnixSeconds",
        "records",
        "sequencesRestarted",
        "schema",
    ] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert_eq!((answered(&after), &after["sequencesRestarted"]), (3, &json!(1)));
    runtime.infer(&request([1.; 4], json!({}))).await;
    let file = state.join("evidence.json");
    runtime
        .until("the fourth answer is on disk", || async {
            let text = std::fs::read_to_string(&file).unwrap();
            let json: Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
            answered(&json) == 4
        })
        .await;
    runtime.signal("KILL");
    runtime.wait().await;

    let runtime = Runtime::start(keeping(&folder, &state)).await;
    let killed = runtime.evidence().await;
    assert_eq!((answered(&killed), &killed["epoch"]), (4, &before["epoch"]));
    assert_eq!(killed["variants"][0]["requests"], 4);
}

#[tokio::test]
async fn a_damaged_file_begins_a_new_epoch_and_it_is_said() {
    let tmp = tempfile::tempdir().unwrap();
    let (folder, state) = (tiny_folder(tmp.path()), tmp.path().join("state"));
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("evidence.json"), "half a fi").unwrap();
    let runtime = Runtime::start(keeping(&folder, &state)).await;
    let evidence = runtime.evidence().await;
    assert_eq!(evidence["epochReason"], "StateDamaged");
    assert!(runtime.log().contains("a new epoch begins"), "{}", runtime.log());
    assert_eq!(
        std::fs::read(state.join("evidence.json.damaged")).unwrap(),
        b"half a fi"
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_costs_a_warning_and_no_request() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = tiny_folder(tmp.path());
    let state = tmp.path().join("file");
    std::fs::write(&state, "not a folder").unwrap();
    let runtime = Runtime::start(keeping(&folder, &state)).await;
    runtime
        .until("it was said", || async {
            runtime.log().contains("evidence cannot be kept")
        })
        .await;
    let deadline = std::time::Instant::now() + PATIENCE;
    for n in 1.. {
        assert_eq!(runtime.infer(&request([1.; 4], json!({}))).await.0, 200);
        // Some more attempts to write were made by now.
        if n > 50 || std::time::Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(
        runtime.log().matches("evidence cannot be kept").count(),
        1,
        "said once"
    );
}

fn samples(dir: &Path) -> Vec<Value> {
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    paths.sort();
    let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).ok()?).ok();
    paths.iter().filter_map(read).collect()
}

#[tokio::test]
async fn samples_are_recorded_where_a_folder_is_named_and_can_be_sent_again() {
    let tmp = tempfile::tempdir().unwrap();
    let (folder, dir) = (tiny_folder(tmp.path()), tmp.path().join("samples"));
    let mut command = command(&folder);
    command.env("PERWATT_RECORD_DIR", &dir);
    command.env("PERWATT_RECORD_MAX_BYTES", "1500");
    let runtime = Runtime::start(command).await;
    for n in 0..20u8 {
        runtime.infer(&request([f32::from(n); 4], json!({}))).await;
        runtime.infer(&json!({"inputs": []})).await;
    }
    let written = "perwatt_runtime_recordings_total{outcome=\"Written\"}";
    runtime
        .until("all answers were written, and no error", || async {
            runtime.text("metrics").await.contains(&format!("{written} 20"))
        })
        .await;
    let kept = samples(&dir);
    assert!((2..20).contains(&kept.len()), "{} samples are kept", kept.len());
    let last = kept.last().unwrap();
    assert_eq!(last["inputs"][0]["data"], json!([19., 19., 19., 19.]));
    assert_eq!(last["answer"][0]["data"], json!([76.]));
    assert_eq!(
        (&last["variant"], &last["revision"]),
        (&json!("tiny.onnx"), &json!("local"))
    );
    let (status, reply) = runtime.infer(last).await;
    assert_eq!((status, common::sum(&reply)), (200, 76.));
    runtime
        .until("the gauges agree with the disk", || async {
            let metrics = runtime.text("metrics").await;
            metric(&metrics, "perwatt_runtime_recorded_samples") == samples(&dir).len() as f64
                && metric(&metrics, "perwatt_runtime_recorded_bytes") <= 1500.
                && metrics.contains(&format!("{written} 21"))
        })
        .await;
    assert!(runtime.log().contains("are recorded"), "it is said at the start");
}

#[tokio::test]
async fn a_recording_that_cannot_be_ends_the_start_with_a_reason() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = tiny_folder(tmp.path());
    let file = tmp.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (dir, bytes, says) in [
        (&file, "1000", "PERWATT_RECORD_DIR"),
        (&folder, "1G", "PERWATT_RECORD_MAX_BYTES"),
    ] {
        let mut command = command(&folder);
        command
            .env("PERWATT_RECORD_DIR", dir)
            .env("PERWATT_RECORD_MAX_BYTES", bytes);
        let (status, log) = common::run_to_end(command);
        assert!(status.code() == Some(1) && log.contains(says), "{log}");
    }
}

/// Numbers and texts that appear nowhere else.
const MARKERS: [&str; 4] = [
    "193847.25",
    "marker-of-a-sequence",
    "marker-of-an-id",
    "marker-of-a-tensor",
];

#[tokio::test]
async fn what_requests_carry_is_in_no_log_at_the_most_verbose_level() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = keeping(&tiny_folder(tmp.path()), &tmp.path().join("state"));
    command.env("PERWATT_LOG", "trace");
    let mut runtime = Runtime::start(command).await;
    let [number, sequence, id, tensor] = MARKERS;
    let number: f32 = number.parse().unwrap();
    let mut body = request([number; 4], json!({"sequence_id": sequence}));
    body["id"] = json!(id);
    assert_eq!(runtime.infer(&body).await.0, 200);
    // And where something is wrong with it.
    let mut wrong = body.clone();
    wrong["inputs"][0]["name"] = json!(tensor);
    assert_eq!(runtime.infer(&wrong).await.0, 400);
    wrong["inputs"][0] = json!({"name": "x", "datatype": tensor, "shape": [1, 4], "data": [tensor]});
    assert_eq!(runtime.infer(&wrong).await.0, 400);
    let late = request([number; 4], json!({"sequence_id": sequence, "timeout": 1}));
    runtime.infer(&late).await;
    let broken = format!("{{\"inputs\": [{number}, \"{tensor}\"");
    assert_eq!(post(runtime.infer_url(), &broken).await.0, 400);
    let mut client = GrpcInferenceServiceClient::connect(runtime.grpc.clone())
        .await
        .unwrap();
    let message = grpc_request(id, [number; 4], &[("sequence_id", Parameter::from(sequence))]);
    let mut wrong = message.clone();
    wrong.inputs[0].name = tensor.into();
    client.model_infer(message).await.unwrap();
    client.model_infer(wrong).await.unwrap_err();
    let said = json!({"id": id, "kind": "Miss"}).to_string();
    assert_eq!(post(feedback_url(&runtime), &said).await.0, 200);
    let shown = runtime.text("metrics").await + &runtime.text("evidence").await;
    runtime.signal("TERM");
    runtime.wait().await;
    runtime
        .until("the last line is there", || async {
            runtime.log().contains("stopped")
        })
        .await;
    let log = runtime.log();
    assert!(
        log.contains("\"level\":\"TRACE\""),
        "the level is the most verbose one"
    );
    for marker in MARKERS {
        assert!(!log.contains(marker), "{marker} is in the log");
        assert!(!shown.contains(marker), "{marker} is in metrics or evidence");
    }
    let kept = std::fs::read_to_string(tmp.path().join("state/evidence.json")).unwrap();
    assert!(MARKERS.iter().all(|marker| !kept.contains(marker)), "{kept}");
    assert!(kept.contains("\"answered\":"), "{kept}");
}
