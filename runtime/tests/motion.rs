//! The spiking network of `examples/motion` over real recordings. Needs `PERWATT_MOTION_DIR`: the folder that
//! `examples/motion/fetch` filled (`make test` sets it); without it nothing is proved here, and it says so.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
#[path = "../../examples/motion/data.rs"]
mod data;

use common::{Runtime, command};
use data::{Recording, STEPS, events, parse};
use perwatt_model::Manifest;
use perwatt_runtime::backend::{LoadOptions, Settings, Signature, backend};
use serde_json::{Value, json};
use std::path::PathBuf;

fn fetched() -> Option<PathBuf> {
    let dir = std::env::var_os("PERWATT_MOTION_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: PERWATT_MOTION_DIR is not set; run examples/motion/fetch and set it");
    }
    dir
}

fn recordings(dir: &std::path::Path) -> Vec<Recording> {
    parse(&std::fs::read_to_string(dir.join("BasicMotions_TEST.ts")).unwrap()).unwrap()
}

async fn infer(runtime: &Runtime, recording: &Recording, parameters: Value) -> Value {
    let body = json!({
        "parameters": parameters,
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, STEPS, 12], "data": events(&recording.samples)}]
    });
    let url = format!("{}/v2/models/motion/infer", runtime.rest);
    let response = reqwest::Client::new()
        .post(&url)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let status = response.status();
    let reply: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!(status, 200, "{reply}");
    reply
}

fn scores(reply: &Value) -> Vec<f64> {
    let data = reply["outputs"][0]["data"].as_array().unwrap();
    data.iter().map(|x| x.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn motions_are_told_apart_through_the_running_runtime() {
    let Some(dir) = fetched() else { return };
    let runtime = Runtime::start(command(&dir.join("model"))).await;
    let recordings = recordings(&dir);
    assert_eq!(recordings.len(), 40);
    let mut right = 0;
    for recording in &recordings {
        let scores = scores(&infer(&runtime, recording, json!({})).await);
        let best = scores
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .unwrap();
        right += usize::from(best.0 == recording.class);
    }
    assert!(right >= 39, "{right} of 40 right");
}

#[tokio::test]
async fn a_sequence_goes_on_where_its_last_window_ended() {
    let Some(dir) = fetched() else { return };
    let runtime = Runtime::start(command(&dir.join("model"))).await;
    let recording = &recordings(&dir)[15];
    let first = infer(
        &runtime,
        recording,
        json!({"sequence_id": 7, "sequence_start": true}),
    )
    .await;
    let second = infer(&runtime, recording, json!({"sequence_id": 7})).await;
    assert_ne!(scores(&first), scores(&second), "voltages were kept");
    assert_eq!(second["parameters"]["sequence_restarted"], false);
    let again = infer(
        &runtime,
        recording,
        json!({"sequence_id": 7, "sequence_start": true}),
    )
    .await;
    assert_eq!(scores(&first), scores(&again), "a start begins with zeros");
    let alone = infer(&runtime, recording, json!({})).await;
    assert_eq!(scores(&first), scores(&alone));
}

const MODEL: &str = include_str!("../../examples/motion/model/model.yaml");
const NETWORK: &[u8] = include_bytes!("../../examples/motion/model/motion.nir");

/// Why this `model.yaml` does not fit the network.
fn refusal(from: &str, to: &str) -> String {
    assert!(MODEL.contains(from), "{from}");
    let manifest = Manifest::parse(&MODEL.replacen(from, to, 1)).unwrap();
    let file = &manifest.files[0];
    let options = LoadOptions {
        own_state: false,
        settings: Settings::default(),
    };
    let backend = backend(file.backend, &options.settings).unwrap();
    let loaded = backend.load(NETWORK, file, &Signature::of(&manifest), &options);
    loaded.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_model_yaml_that_does_not_fit_the_network_is_refused() {
    assert_eq!(refusal("steps: 100, readout", "steps: 100, readout"), "");
    assert_eq!(
        refusal("FP64, shape: [132]", "FP64, shape: [131]"),
        "input \"state\" is no input of the network; its state is one tensor of FP64 [132]"
    );
    assert_eq!(
        refusal("steps: 100, readout", "steps: 99, readout"),
        "\"input\" has 1200 elements in model.yaml; with [12] a step in the network they must be 12 or 1188"
    );
    assert_eq!(
        refusal("{name: output,", "{name: classes,"),
        "the network has an output \"output\", model.yaml has not"
    );
    assert!(
        refusal("input, datatype: FP32", "input, datatype: INT64")
            .contains("\"input\" is INT64: backend Spiking takes")
    );
    assert!(refusal("stepMicroseconds: 100000", "stepMicroseconds: 900000").starts_with("node lif: tau["));
}
