//! What cannot be served is said once, clearly, on standard error, and the program ends with 1.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{
    Runtime, command, command_of, npu_and_cpu, request, run_to_end, sha256, tiny_folder, tiny_onnx, tiny_yaml,
};
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Expects the end with 1 and a last message that says all of `says`.
#[track_caller]
fn refused(command: Command, says: &[&str]) {
    let (status, log) = run_to_end(command);
    assert_eq!(status.code(), Some(1), "{log}");
    let message = log.split("error: ").last().unwrap();
    assert_eq!(
        log.matches("\nerror: ").count() + usize::from(log.starts_with("error: ")),
        1,
        "one message: {log}"
    );
    for part in says {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn a_missing_folder_or_model_yaml() {
    let tmp = tempfile::tempdir().unwrap();
    refused(command(&tmp.path().join("none")), &["model folder", "none"]);
    refused(command(tmp.path()), &["model.yaml", "No such file"]);
    fs::write(tmp.path().join("model.yaml"), "schema: 1\nname: Tiny\n").unwrap();
    refused(
        command(tmp.path()),
        &["model.yaml", "\"Tiny\" is not a model name"],
    );
}

#[test]
fn a_file_with_another_hash_names_both_hashes() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = tiny_folder(tmp.path());
    fs::write(folder.join("tiny.onnx"), "cut short").unwrap();
    refused(
        command(&folder),
        &["tiny.onnx", &sha256(&tiny_onnx()), &sha256(b"cut short")],
    );
}

#[test]
fn a_file_that_is_no_graph_or_another_graph() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = tiny_folder(tmp.path());
    let with = |content: &[u8], yaml: &dyn Fn(String) -> String| {
        fs::write(folder.join("tiny.onnx"), content).unwrap();
        fs::write(
            folder.join("model.yaml"),
            yaml(tiny_yaml(&["tiny.onnx"], &sha256(content))),
        )
        .unwrap();
        command(&folder)
    };
    let good = tiny_onnx();
    refused(with(b"noise, not a graph", &|y| y), &["tiny.onnx", "ONNX"]);
    refused(with(&good[..good.len() / 2], &|y| y), &["tiny.onnx"]);
    refused(
        with(&good, &|y| y.replace("input: h,", "input: g,")),
        &["inputs", "\"h\"", "\"g\""],
    );
    refused(
        with(&good, &|y| y.replace("output: hn", "output: other")),
        &["other"],
    );
    refused(
        with(&good, &|y| y.replace("samples: 2", "samples: 1")),
        &["\"x\"", "[1, 6]", "[1, 5]", "context included"],
    );
    refused(
        with(&good, &|y| {
            y.replace(
                "name: sum, datatype: FP32, shape: [1, 1]",
                "name: sum, datatype: FP32, shape: [7]",
            )
        }),
        &["sum", "[7]"],
    );
    refused(
        with(&good, &|y| {
            y.replace("name: sum, datatype: FP32", "name: sum, datatype: INT64")
        }),
        &["sum", "INT64"],
    );
    refused(
        with(&good, &|y| {
            y.replace("name: x, datatype: FP32", "name: x, datatype: FP16")
        }),
        &["FP16"],
    );
}

#[test]
fn a_configuration_that_is_malformed_or_names_no_file() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = tiny_folder(tmp.path());
    let with = |config: &str| {
        let mut command = command(&folder);
        command.env("PERWATT_CONFIG", config);
        command
    };
    refused(with("{"), &["PERWATT_CONFIG", "line 1"]);
    refused(with(r#"{"workload": 1}"#), &["PERWATT_CONFIG", "string"]);
    let config = npu_and_cpu(1).to_string().replace("tiny.onnx", "gone.onnx");
    refused(with(&config), &["\"gone.onnx\"", "tiny.onnx"]);
}

#[test]
fn a_port_in_use() {
    const FLAGS: [&str; 3] = ["--rest", "--grpc", "--admin"];
    let tmp = tempfile::tempdir().unwrap();
    let folder = tiny_folder(tmp.path());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let with = |flag: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_perwatt-runtime"));
        command.arg(&folder).args([flag, &address]).env_clear();
        for other in FLAGS.into_iter().filter(|&other| other != flag) {
            command.args([other, "127.0.0.1:0"]);
        }
        command.stderr(std::process::Stdio::piped());
        command
    };
    for flag in FLAGS {
        refused(with(flag), &["cannot listen", &address, "another process"]);
    }
}

fn device(command: &mut Command, dir: &Path, node: &str) {
    let config = npu_and_cpu(100).to_string();
    command
        .env("PERWATT_CONFIG", config)
        .env("PERWATT_DEVICE_ID", "asic-0");
    command
        .env("PERWATT_DEVICE_NODE", dir.join(node))
        .arg("--device-socket-dir")
        .arg(dir);
}

#[tokio::test]
async fn a_device_that_cannot_be_opened_fails_its_variant_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = command(&tiny_folder(tmp.path()));
    device(&mut command, tmp.path(), "no-such-node");
    let runtime = Runtime::start(command).await;
    let (status, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!((status, &reply["parameters"]["variant"]), (200, &json!("cpu")));
    assert_eq!(reply["parameters"]["degraded_reason"], "LoadFailed");
    let evidence = runtime.evidence().await;
    assert_eq!(evidence["variants"][0]["state"], "Failed");
    let message = evidence["variants"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("no-such-node") && message.contains("asic-0"),
        "{message}"
    );
}

#[test]
fn a_device_node_without_permission_says_which_group_to_look_at() {
    let tmp = tempfile::tempdir().unwrap();
    fs::set_permissions(tmp.path(), Permissions::from_mode(0o755)).unwrap();
    let folder = tiny_folder(tmp.path());
    fs::write(tmp.path().join("node"), "").unwrap();
    fs::set_permissions(tmp.path().join("node"), Permissions::from_mode(0o600)).unwrap();
    // Root opens everything: run a copy as somebody else, as the pod does.
    let program = tmp.path().join("runtime");
    fs::copy(env!("CARGO_BIN_EXE_perwatt-runtime"), &program).unwrap();
    let mut command = command_of(&program, &folder);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65532).gid(65532);
    } else {
        fs::set_permissions(tmp.path().join("node"), Permissions::from_mode(0o000)).unwrap();
    }
    device(&mut command, tmp.path(), "node");
    let mut config = npu_and_cpu(100);
    config["variants"].as_array_mut().unwrap().pop();
    command.env("PERWATT_CONFIG", config.to_string());
    refused(
        command,
        &["no variant of gate", "npu", "Permission denied", "group"],
    );
}

#[test]
fn a_device_variant_without_device_says_what_is_missing() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = command(&tiny_folder(tmp.path()));
    let mut config = npu_and_cpu(100);
    config["variants"].as_array_mut().unwrap().pop();
    command.env("PERWATT_CONFIG", config.to_string());
    refused(command, &["asic-emulated", "PERWATT_DEVICE_ID", "node agent"]);
}
