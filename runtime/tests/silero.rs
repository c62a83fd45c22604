//! Silero VAD over the real recording. Needs `PERWATT_MODEL_DIR`: the folder that
//! `examples/speech-gate/fetch` filled (`make test` sets it); without it nothing is proved here, and it says so.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command};
use serde_json::json;
use std::path::PathBuf;

fn fetched() -> Option<PathBuf> {
    let dir = std::env::var_os("PERWATT_MODEL_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: PERWATT_MODEL_DIR is not set; run examples/speech-gate/fetch and set it");
    }
    dir
}

/// Probabilities of the recording's windows, through the real program.
async fn probabilities(runtime: &Runtime, samples: &[f32]) -> Vec<f64> {
    let client = reqwest::Client::new();
    let url = format!("{}/v2/models/speech-gate/infer", runtime.rest);
    let mut found = Vec::new();
    for (i, window) in samples.chunks_exact(512).enumerate() {
        let body = json!({
            "parameters": {"sequence_id": "recording", "sequence_start": i == 0},
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 512], "data": window}]
        });
        let response = client.post(&url).body(body.to_string()).send().await.unwrap();
        let status = response.status();
        let reply: serde_json::Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(status, 200, "{reply}");
        assert_eq!(reply["parameters"]["sequence_restarted"], false);
        found.push(reply["outputs"][0]["data"][0].as_f64().unwrap());
    }
    found
}

#[tokio::test]
async fn speech_is_told_from_silence_and_equals_the_reference() {
    let Some(dir) = fetched() else { return };
    let runtime = Runtime::start(command(&dir.join("model"))).await;
    let mut wav = hound::WavReader::open(dir.join("test.wav")).unwrap();
    assert_eq!((wav.spec().sample_rate, wav.spec().channels), (16_000, 1));
    let samples: Vec<f32> = wav
        .samples::<i16>()
        .map(|s| f32::from(s.unwrap()) / 32_768.0)
        .collect();
    let found = probabilities(&runtime, &samples).await;
    assert_eq!(found.len(), samples.len() / 512);
    let reference: Vec<f64> = include_str!("data/silero_test_wav.txt")
        .lines()
        .map(|l| l.parse().unwrap())
        .collect();
    assert_eq!(found.len(), reference.len());
    let worst = found
        .iter()
        .zip(&reference)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    assert!(
        worst < 1e-4,
        "the largest difference from the reference is {worst}"
    );
    // And the reference is what a listener hears: mostly speech, with pauses.
    let speech = found.iter().filter(|p| **p > 0.5).count() as f64 / found.len() as f64;
    assert!(
        (0.7..0.85).contains(&speech),
        "{speech} of the recording is speech"
    );
    println!("peak memory: {} MiB", runtime.peak_memory() >> 20);
}
