//! `model pack`, as a user types it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

// SHA-256 of "weights".
const WEIGHTS: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

fn model(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-perwatt"))
        .arg("model")
        .args(args)
        .output()
        .unwrap()
}

fn folder(dir: &Path) -> PathBuf {
    let dir = dir.join("model");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.onnx"), "weights").unwrap();
    let yaml = format!(
        "schema: 1\nname: gate\nversion: '2'\ninputs: [{{name: in, datatype: FP32, shape: [1, 4]}}]\n\
         outputs: [{{name: out, datatype: FP32, shape: [1]}}]\n\
         files: [{{path: a.onnx, backend: Onnx, precision: int8, quality: {{accuracyPermille: 900}}, \
         sha256: '{WEIGHTS}'}}]\n"
    );
    fs::write(dir.join("model.yaml"), yaml).unwrap();
    dir
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn pack_names_every_wrong_file_and_writes_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path());
    fs::write(dir.join("a.onnx"), "others").unwrap();
    let out = tmp.path().join("i.tar");
    let output = model(&["pack", dir.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("a.onnx") && said.contains(WEIGHTS), "{said}");
    assert!(!out.exists());
}

#[test]
fn pack_prints_the_reference_that_a_workload_names() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path());
    let pack = |more: &[&str]| {
        let out = tmp.path().join("i.tar");
        let args = ["pack", dir.to_str().unwrap(), "-o", out.to_str().unwrap()];
        let output = model(&[&args[..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let reference = pack(&[]);
    assert!(
        reference.starts_with("perwatt.dev/models/gate@sha256:"),
        "{reference}"
    );
    let named = pack(&["--name", "registry.example:5000/models/gate"]);
    assert!(
        named.starts_with("registry.example:5000/models/gate@sha256:"),
        "{named}"
    );
    assert_eq!(
        reference.split_once('@').unwrap().1,
        named.split_once('@').unwrap().1,
        "the name is no content"
    );
    let output = model(&["pack", dir.to_str().unwrap(), "-o", "/dev/null/i.tar"]);
    assert_eq!(output.status.code(), Some(1));
    let output = model(&[
        "pack",
        dir.to_str().unwrap(),
        "-o",
        "i.tar",
        "--name",
        "Not A Name",
    ]);
    assert!(
        text(&output.stderr).contains("not valid"),
        "{}",
        text(&output.stderr)
    );
}
