//! An image network over photos, by both engines. Needs `PERWATT_REFERENCE_DIR`: the folder that
//! `runtime/tests/reference/set-up` filled (`make peers`); without it nothing is proved here, and it says so.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn set_up() -> Option<PathBuf> {
    let dir = std::env::var_os("PERWATT_REFERENCE_DIR").map(PathBuf::from);
    let dir = dir.filter(|dir| dir.join("done").exists());
    if dir.is_none() {
        eprintln!("skipped: PERWATT_REFERENCE_DIR is not set up; run make peers");
    }
    dir
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect()
}

async fn scores(runtime: &Runtime, image: &[f32]) -> Vec<f64> {
    let body =
        json!({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, 224, 224], "data": image}]});
    let url = format!("{}/v2/models/image/infer", runtime.rest);
    let response = reqwest::Client::new()
        .post(url)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let reply: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    let data = reply["outputs"][0]["data"]
        .as_array()
        .unwrap_or_else(|| panic!("{reply}"));
    data.iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The largest difference from the reference, over the photos; each must be seen for what it is.
async fn worst(dir: &Path, engine: &str) -> f64 {
    let mut command = command(&dir.join("image/model"));
    command.env("PERWATT_ONNXRUNTIME_LIBRARY", dir.join("libonnxruntime.so"));
    command.env("PERWATT_ONNX_ENGINE", engine);
    let runtime = Runtime::start(command).await;
    let mut worst = 0f64;
    // An Egyptian cat, an espresso; the third is a person, whom ImageNet has no class for.
    for (photo, class) in [("cat", Some(285)), ("coffee", Some(967)), ("astronaut", None)] {
        let found = scores(&runtime, &floats(&dir.join(format!("image/{photo}.f32")))).await;
        let reference = floats(&dir.join(format!("image/{photo}.answer.f32")));
        assert_eq!(found.len(), reference.len());
        let differences = found
            .iter()
            .zip(&reference)
            .map(|(a, b)| (a - f64::from(*b)).abs());
        worst = differences.fold(worst, f64::max);
        let best = (0..found.len())
            .max_by(|&a, &b| found[a].total_cmp(&found[b]))
            .unwrap();
        assert!(
            class.is_none_or(|class| class == best),
            "{photo} is seen as class {best}"
        );
    }
    worst
}

// Scores lie between −5 and 15.
#[tokio::test]
async fn onnx_runtime_equals_the_reference() {
    let Some(dir) = set_up() else { return };
    let worst = worst(&dir, "OnnxRuntime").await;
    assert!(worst < 1e-5, "the largest difference is {worst}");
}

#[tokio::test]
async fn tract_equals_the_reference() {
    let Some(dir) = set_up() else { return };
    let worst = worst(&dir, "Tract").await;
    assert!(worst < 1e-3, "the largest difference is {worst}");
}
