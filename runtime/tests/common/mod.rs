//! What the tests of the runtime share: a tiny streaming model, a runtime process, a node agent.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod agent;

use perwatt_oip::grpc::encode_request;
use perwatt_oip::grpc::pb::ModelInferRequest;
use perwatt_oip::message::{Outgoing, Parameters, Value as Parameter};
use perwatt_oip::tensor::{Data, Tensor};
use prost::Message;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tract_onnx::pb;

/// Nothing in these tests may take longer; it says "hung", never "slow".
pub const PATIENCE: Duration = Duration::from_secs(60);

fn value(name: &str, elem_type: i32, shape: &[i64]) -> pb::ValueInfoProto {
    use pb::tensor_shape_proto::dimension::Value as Length;
    // A negative length stands for an axis that the graph leaves open.
    let length = |n: i64| match n {
        0.. => Length::DimValue(n),
        _ => Length::DimParam("batch".into()),
    };
    let dim = |&n: &i64| pb::tensor_shape_proto::Dimension {
        value: Some(length(n)),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto {
        dim: shape.iter().map(dim).collect(),
    };
    let tensor = pb::type_proto::Tensor {
        elem_type,
        shape: Some(shape),
    };
    let kind = pb::TypeProto {
        value: Some(pb::type_proto::Value::TensorType(tensor)),
        ..Default::default()
    };
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(kind),
        ..Default::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: Vec<pb::AttributeProto>) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op.into(),
        name: output.into(),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec![output.into()],
        attribute: attributes,
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.into(),
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        i: value,
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> pb::AttributeProto {
    let kind = pb::attribute_proto::AttributeType::Ints as i32;
    pb::AttributeProto {
        name: name.into(),
        r#type: kind,
        ints: values.to_vec(),
        ..Default::default()
    }
}

/// A streaming model: takes `x` [1, 6] (2 of context, 4 new) and `h` [1, 1];
/// gives `sum` = sum of x + 100 h and `hn` = h + 1.
pub fn tiny_onnx() -> Vec<u8> {
    const FLOAT: i32 = 1;
    let constant = |name: &str, v: f32| pb::TensorProto {
        dims: vec![1, 1],
        data_type: FLOAT,
        float_data: vec![v],
        name: name.into(),
        ..Default::default()
    };
    let graph = pb::GraphProto {
        name: "tiny".into(),
        input: vec![value("x", FLOAT, &[1, 6]), value("h", FLOAT, &[1, 1])],
        output: vec![value("sum", FLOAT, &[1, 1]), value("hn", FLOAT, &[1, 1])],
        initializer: vec![constant("one", 1.0), constant("hundred", 100.0)],
        node: vec![
            node(
                "ReduceSum",
                &["x"],
                "total",
                vec![ints("axes", &[1]), int("keepdims", 1)],
            ),
            node("Mul", &["h", "hundred"], "weighted", vec![]),
            node("Add", &["total", "weighted"], "sum", vec![]),
            node("Add", &["h", "one"], "hn", vec![]),
        ],
        ..Default::default()
    };
    model(graph)
}

/// A model folder whose model sums `x` [1, 4] into `sum` [1, 1]. `axis` is the length of both first axes in the
/// graph, -1 for an open one; `batching` is the file's.
pub fn sum_folder(dir: &Path, axis: i64, batching: &str) -> PathBuf {
    reducing_folder(dir, "ReduceSum", axis, batching)
}

/// The same with another way to make one number of four, such as `ReduceL1`: it differs where one is negative.
pub fn reducing_folder(dir: &Path, operator: &str, axis: i64, batching: &str) -> PathBuf {
    const FLOAT: i32 = 1;
    let graph = pb::GraphProto {
        name: "sum".into(),
        input: vec![value("x", FLOAT, &[axis, 4])],
        output: vec![value("sum", FLOAT, &[axis, 1])],
        node: vec![node(operator, &["x"], "sum", vec![ints("axes", &[1])])],
        ..Default::default()
    };
    write_sum(dir, &model(graph), batching)
}

/// The same by looking the sum up in a table of 16: it fails where the sum is 16 or more.
pub fn table_folder(dir: &Path) -> PathBuf {
    const FLOAT: i32 = 1;
    const INT64: i64 = 7;
    let table = pb::TensorProto {
        dims: vec![16],
        data_type: FLOAT,
        float_data: (0u8..16).map(f32::from).collect(),
        name: "table".into(),
        ..Default::default()
    };
    let graph = pb::GraphProto {
        name: "sum".into(),
        input: vec![value("x", FLOAT, &[1, 4])],
        output: vec![value("sum", FLOAT, &[1, 1])],
        initializer: vec![table],
        node: vec![
            node("ReduceSum", &["x"], "total", vec![ints("axes", &[1])]),
            node("Cast", &["total"], "at", vec![int("to", INT64)]),
            node("Gather", &["table", "at"], "sum", vec![]),
        ],
        ..Default::default()
    };
    write_sum(dir, &model(graph), "null")
}

fn write_sum(dir: &Path, onnx: &[u8], batching: &str) -> PathBuf {
    let yaml = format!(
        "schema: 1\nname: sum\nversion: \"1\"\n\
         inputs: [{{name: x, datatype: FP32, shape: [1, 4]}}]\n\
         outputs: [{{name: sum, datatype: FP32, shape: [1, 1]}}]\n\
         files:\n- {{path: sum.onnx, sha256: \"{}\", backend: Onnx, precision: float32, batching: {batching}}}\n",
        sha256(onnx)
    );
    let folder = dir.join("sum");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("sum.onnx"), onnx).unwrap();
    std::fs::write(folder.join("model.yaml"), yaml).unwrap();
    folder
}

/// A `model.yaml` for [`tiny_onnx`] under these file names.
pub fn tiny_yaml(files: &[&str], sha256: &str) -> String {
    let files: String = files
        .iter()
        .map(|path| format!("- {{path: {path}, sha256: \"{sha256}\", backend: Onnx, precision: float32}}\n"))
        .collect();
    format!(
        "schema: 1\nname: tiny\nversion: \"3\"\n\
         inputs: [{{name: x, datatype: FP32, shape: [1, 4]}}]\n\
         outputs: [{{name: sum, datatype: FP32, shape: [1, 1]}}]\n\
         sequence:\n  state: [{{input: h, output: hn, datatype: FP32, shape: [1, 1]}}]\n  \
         context: [{{input: x, samples: 2}}]\n\
         files:\n{files}"
    )
}

/// Inputs of [`echo_folder`]: name, ONNX's and the protocol's type, shape. Each comes back as `NAME_out`.
const ECHOES: [(&str, i32, &str, &[i64]); 5] = [
    ("wave", 1, "FP32", &[1, 1024]),
    ("half", 10, "FP16", &[2]),
    ("count", 7, "INT64", &[2, 1]),
    ("flag", 9, "BOOL", &[3]),
    ("text", 8, "BYTES", &[2]),
];

/// A model folder whose model gives back what it takes, one tensor of each kind.
pub fn echo_folder(dir: &Path) -> PathBuf {
    let tensors = |suffix: &str| -> Vec<_> {
        let tensor = |&(name, kind, _, shape): &(&str, i32, &str, &[i64])| {
            value(&format!("{name}{suffix}"), kind, shape)
        };
        ECHOES.iter().map(tensor).collect()
    };
    let identity =
        |&(name, ..): &(&str, i32, &str, &[i64])| node("Identity", &[name], &format!("{name}_out"), vec![]);
    let graph = pb::GraphProto {
        name: "echo".into(),
        input: tensors(""),
        output: tensors("_out"),
        node: ECHOES.iter().map(identity).collect(),
        ..Default::default()
    };
    let onnx = model(graph);
    let yaml = |suffix: &str| -> String {
        let line = |&(name, _, datatype, shape): &(&str, i32, &str, &[i64])| {
            format!("- {{name: {name}{suffix}, datatype: {datatype}, shape: {shape:?}}}\n")
        };
        ECHOES.iter().map(line).collect()
    };
    let yaml = format!(
        "schema: 1\nname: echo\nversion: \"7\"\ninputs:\n{}outputs:\n{}files:\n\
         - {{path: echo.onnx, sha256: \"{}\", backend: Onnx, precision: float32}}\n",
        yaml(""),
        yaml("_out"),
        sha256(&onnx)
    );
    let folder = dir.join("echo");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("echo.onnx"), onnx).unwrap();
    std::fs::write(folder.join("model.yaml"), yaml).unwrap();
    folder
}

fn model(graph: pb::GraphProto) -> Vec<u8> {
    let opset = pb::OperatorSetIdProto {
        domain: String::new(),
        version: 11,
    };
    pb::ModelProto {
        ir_version: 7,
        opset_import: vec![opset],
        graph: Some(graph),
        ..Default::default()
    }
    .encode_to_vec()
}

pub fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// A model folder with the tiny model.
pub fn tiny_folder(dir: &Path) -> PathBuf {
    let folder = dir.join("model");
    std::fs::create_dir_all(&folder).unwrap();
    let onnx = tiny_onnx();
    std::fs::write(folder.join("tiny.onnx"), &onnx).unwrap();
    std::fs::write(
        folder.join("model.yaml"),
        tiny_yaml(&["tiny.onnx"], &sha256(&onnx)),
    )
    .unwrap();
    folder
}

/// The operator's configuration: `npu` on a device, `cpu` behind it.
pub fn npu_and_cpu(stable_milliseconds: u64) -> Value {
    json!({
        "workload": "gate", "namespace": "audio", "slot": "replica-0", "node": "edge-a", "revision": "6f1c2b",
        "variants": [
            {"name": "npu", "artifact": "tiny.onnx", "profile": "asic-emulated", "accuracyPermille": 981},
            {"name": "cpu", "artifact": "tiny.onnx"}
        ],
        "recoveryStableForMilliseconds": stable_milliseconds
    })
}

/// A runtime process and where it listens.
pub struct Runtime {
    child: Child,
    log: Arc<Mutex<String>>,
    pub rest: String,
    pub grpc: String,
    pub admin: String,
}

/// The command, with an environment of its own.
pub fn command(folder: &Path) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_perwatt-runtime")), folder)
}

/// The same for a copy of the program.
pub fn command_of(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg(folder)
        .args([
            "--rest",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .env_clear();
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// Runs a command that is expected to end by itself.
pub fn run_to_end(mut command: Command) -> (ExitStatus, String) {
    let mut child = loop {
        match command.spawn() {
            // A program that was just written, while another thread's child still holds it open.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            spawned => break spawned.unwrap(),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status, reader.join().unwrap());
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it did not end: {}", reader.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Runtime {
    /// Starts the command and waits until it serves.
    pub async fn start(mut command: Command) -> Self {
        // Built beside a crate that wants TLS of reqwest, every client of reqwest wants a provider; an error means that one is set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, receive) = std::sync::mpsc::channel();
        let sink = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Ok(entry) = serde_json::from_str::<Value>(&line)
                    && entry["message"] == "listening"
                {
                    let _ = send.send(entry["address"].as_str().unwrap().to_owned());
                }
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let address = || {
            receive
                .recv_timeout(PATIENCE)
                .map(|address| format!("http://{address}"))
        };
        let Ok([rest, grpc, admin]) = address().and_then(|rest| Ok([rest, address()?, address()?])) else {
            panic!("the runtime did not listen: {}", log.lock().unwrap());
        };
        let runtime = Self {
            child,
            log,
            rest,
            grpc,
            admin,
        };
        runtime
            .until("it has started", || async {
                runtime.status("startupz").await == 200
            })
            .await;
        runtime
    }

    /// Waits for a condition, with the log in the failure.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        let deadline = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(
                Instant::now() < deadline,
                "never came true: {what}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Status of a path on the admin port; 0 when it does not answer.
    pub async fn status(&self, path: &str) -> u16 {
        let response = reqwest::get(format!("{}/{path}", self.admin)).await;
        response.map_or(0, |response| response.status().as_u16())
    }

    pub async fn text(&self, path: &str) -> String {
        reqwest::get(format!("{}/{path}", self.admin))
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    pub async fn evidence(&self) -> Value {
        serde_json::from_str(&self.text("evidence").await).unwrap()
    }

    pub fn infer_url(&self) -> String {
        format!("{}/v2/models/tiny/infer", self.rest)
    }

    /// Sends a request and returns status and body.
    pub async fn infer(&self, body: &Value) -> (u16, Value) {
        let response = reqwest::Client::new()
            .post(self.infer_url())
            .body(body.to_string())
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        (
            status,
            serde_json::from_str(&response.text().await.unwrap()).unwrap(),
        )
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Peak of resident memory, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request to the tiny model.
pub fn request(x: [f32; 4], parameters: Value) -> Value {
    json!({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": x}],
        "parameters": parameters
    })
}

/// The same for gRPC, its data as bytes.
pub fn grpc_request(id: &str, x: [f32; 4], parameters: &[(&str, Parameter)]) -> ModelInferRequest {
    let x = Tensor {
        shape: vec![1, 4],
        data: Data::F32(x.to_vec()),
    };
    let parameters = parameters.iter().map(|(name, v)| ((*name).to_owned(), v.clone()));
    let parameters: Parameters = parameters.collect();
    let outgoing = Outgoing {
        id: Some(id),
        parameters: &parameters,
        inputs: &[("x", &x)],
        outputs: &[],
    };
    encode_request("tiny", "", &outgoing)
}

/// The tiny model's answer.
pub fn sum(reply: &Value) -> f64 {
    reply["outputs"][0]["data"][0]
        .as_f64()
        .unwrap_or_else(|| panic!("no answer in {reply}"))
}
