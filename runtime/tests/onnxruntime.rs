//! ONNX Runtime through the real program. Needs `PERWATT_ONNXRUNTIME_LIBRARY` and `PERWATT_MODEL_DIR`
//! (`make peers` fetches and sets them); without them the answers are not proved here, and it says so.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, run_to_end, tiny_folder};
use serde_json::{Value, json};
use std::path::PathBuf;

fn fetched() -> Option<(PathBuf, PathBuf)> {
    let path = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.exists())
    };
    let found = Some((path("PERWATT_ONNXRUNTIME_LIBRARY")?, path("PERWATT_MODEL_DIR")?));
    found.or_else(|| {
        eprintln!("skipped: PERWATT_ONNXRUNTIME_LIBRARY or PERWATT_MODEL_DIR is not there; run make peers");
        None
    })
}

fn config(artifact: &str, backend: Value) -> String {
    json!({
        "workload": "gate", "node": "edge-a", "revision": "r",
        "variants": [{"name": "cpu", "artifact": artifact, "backend": backend}]
    })
    .to_string()
}

#[tokio::test]
async fn silero_over_speech_equals_the_reference() {
    let Some((library, dir)) = fetched() else { return };
    let mut command = command(&dir.join("model"));
    command.env("PERWATT_ONNXRUNTIME_LIBRARY", library);
    command.env(
        "PERWATT_CONFIG",
        config("silero_vad.onnx", json!({"engine": "OnnxRuntime"})),
    );
    let runtime = Runtime::start(command).await;
    let evidence = runtime.evidence().await;
    let engine = evidence["variants"][0]["engine"].as_str().unwrap();
    assert!(engine.starts_with("ONNX Runtime 1."), "{engine}");

    let mut wav = hound::WavReader::open(dir.join("test.wav")).unwrap();
    let samples: Vec<f32> = wav
        .samples::<i16>()
        .map(|s| f32::from(s.unwrap()) / 32_768.0)
        .collect();
    let reference: Vec<f64> = include_str!("data/silero_test_wav.txt")
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let client = reqwest::Client::new();
    let mut worst = 0f64;
    for (i, (window, expected)) in samples.chunks_exact(512).zip(&reference).enumerate() {
        let body = json!({
            "parameters": {"sequence_id": "recording", "sequence_start": i == 0},
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 512], "data": window}]
        });
        let url = format!("{}/v2/models/speech-gate/infer", runtime.rest);
        let response = client.post(url).body(body.to_string()).send().await.unwrap();
        let reply: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        let found = reply["outputs"][0]["data"][0]
            .as_f64()
            .unwrap_or_else(|| panic!("{reply}"));
        worst = worst.max((found - expected).abs());
    }
    assert!(
        worst < 1e-5,
        "the largest difference from the reference is {worst}"
    );
}

#[tokio::test]
async fn without_the_library_it_is_refused_and_auto_takes_tract() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny_folder(dir.path());
    let absent = |engine: &str| {
        let mut command = command(&folder);
        command.env("PERWATT_ONNXRUNTIME_LIBRARY", "/nowhere/libonnxruntime.so");
        command.env("PERWATT_CONFIG", config("tiny.onnx", json!({"engine": engine})));
        command
    };
    let (status, said) = run_to_end(absent("OnnxRuntime"));
    assert_eq!(status.code(), Some(1));
    for part in [
        "/nowhere/libonnxruntime.so",
        "PERWATT_ONNXRUNTIME_LIBRARY",
        "engine: Tract",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let runtime = Runtime::start(absent("Auto")).await;
    assert_eq!(runtime.evidence().await["variants"][0]["engine"], "tract");
}

#[test]
fn a_provider_that_the_library_lacks_is_refused_not_replaced_by_the_cpu() {
    let Some((library, _)) = fetched() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny_folder(dir.path());
    let mut command = command(&folder);
    command.env("PERWATT_ONNXRUNTIME_LIBRARY", library);
    let backend = json!({"engine": "OnnxRuntime", "executionProviders": [{"name": "OpenVINO"}]});
    command.env("PERWATT_CONFIG", config("tiny.onnx", backend));
    let (status, said) = run_to_end(command);
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("an execution provider cannot be used"), "{said}");
}

#[tokio::test]
async fn a_hostile_graph_is_refused_and_states_go_round() {
    let Some((library, _)) = fetched() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = tiny_folder(dir.path());
    let mut good = command(&folder);
    good.env("PERWATT_ONNXRUNTIME_LIBRARY", &library);
    good.env(
        "PERWATT_CONFIG",
        config("tiny.onnx", json!({"engine": "OnnxRuntime"})),
    );
    let runtime = Runtime::start(good).await;
    let step = |start: bool| {
        let parameters = json!({"sequence_id": 7, "sequence_start": start});
        common::request([1.0, 2.0, 3.0, 4.0], parameters)
    };
    let (_, first) = runtime.infer(&step(true)).await;
    let (_, second) = runtime.infer(&step(false)).await;
    assert_eq!((common::sum(&first), common::sum(&second)), (10.0, 117.0));

    let onnx = std::fs::read(folder.join("tiny.onnx")).unwrap();
    let cut = &onnx[..onnx.len() / 2];
    std::fs::write(folder.join("tiny.onnx"), cut).unwrap();
    std::fs::write(
        folder.join("model.yaml"),
        common::tiny_yaml(&["tiny.onnx"], &common::sha256(cut)),
    )
    .unwrap();
    let mut bad = command(&folder);
    bad.env("PERWATT_ONNXRUNTIME_LIBRARY", library);
    bad.env(
        "PERWATT_CONFIG",
        config("tiny.onnx", json!({"engine": "OnnxRuntime"})),
    );
    let (status, said) = run_to_end(bad);
    assert!(
        status.code() == Some(1) && said.contains("ONNX Runtime refuses the graph"),
        "{said}"
    );
}
