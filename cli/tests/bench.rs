//! `model bench`: figures of every variant. What they are is not tested, only that they hang together.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{folder, matrix_graph, model, onnx, sum_graph, text};

#[test]
fn every_variant_gets_figures_that_hang_together() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path(), &onnx(matrix_graph(4)));
    let args = [
        "bench",
        dir.to_str().unwrap(),
        "--seconds",
        "1",
        "--threads",
        "2",
        "-o",
        "json",
    ];
    let output = model(&args);
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let variant = &report["variants"][0];
    let measured = &variant["measured"];
    let number = |name: &str| measured[name].as_f64().unwrap();
    assert!(number("inferences") >= 2.0, "{report}");
    assert_eq!(number("failures"), 0.0);
    assert_eq!(number("threads"), 2.0);
    assert!(number("p50Microseconds") <= number("p99Microseconds"), "{report}");
    assert!(
        number("p99Microseconds") <= number("maxMicroseconds") * 1.001,
        "{report}"
    );
    assert!(
        number("perSecond") > 0.0 && number("peakMemoryBytes") > 0.0,
        "{report}"
    );
    assert_eq!(variant["load"]["operations"], 16, "a 4 × 4 matrix: {report}");
}

#[test]
fn a_variant_that_cannot_be_loaded_is_named() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path(), b"");
    let output = model(&["bench", dir.to_str().unwrap(), "--seconds", "1"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a.onnx: Format: it holds no graph"), "{said}");
}

#[test]
fn a_variant_that_is_not_there_is_told_what_is() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path(), &onnx(sum_graph()));
    let output = model(&["bench", dir.to_str().unwrap(), "--variant", "b.onnx"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("b.onnx") && said.contains("a.onnx"), "{said}");
}
