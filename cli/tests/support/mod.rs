//! What the tests of `model` share: small ONNX graphs, and folders around them.

#![allow(dead_code, clippy::unwrap_used)]

use prost::Message;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tract_onnx::pb;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;

pub const FLOAT: i32 = 1;
pub const INT8: i32 = 3;
pub const INT64: i32 = 7;
pub const BOOL: i32 = 9;

/// Runs `kubectl-perwatt model …`.
pub fn model(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-perwatt"))
        .arg("model")
        .args(args)
        .output()
        .unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A tensor of a graph's signature; a negative length is an axis that is left open.
pub fn value(name: &str, elem_type: i32, shape: &[i64]) -> pb::ValueInfoProto {
    let dim = |&n: &i64| pb::tensor_shape_proto::Dimension {
        value: Some(if n < 0 {
            Dim::DimParam("batch".into())
        } else {
            Dim::DimValue(n)
        }),
        ..Default::default()
    };
    let shape = pb::TensorShapeProto {
        dim: shape.iter().map(dim).collect(),
    };
    let tensor = pb::type_proto::Tensor {
        elem_type,
        shape: Some(shape),
    };
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> pb::NodeProto {
    pb::NodeProto {
        op_type: op.into(),
        name: name.into(),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: outputs.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: FLOAT,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

pub fn integers(name: &str, values: &[i64]) -> pb::TensorProto {
    pb::TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: INT64,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

pub fn subgraph(name: &str, graph: pb::GraphProto) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.into(),
        r#type: AttributeType::Graph as i32,
        g: Some(graph),
        ..Default::default()
    }
}

/// `y = x + w`, all of shape [1, 4].
pub fn sum_graph() -> pb::GraphProto {
    pb::GraphProto {
        name: "sum".into(),
        input: vec![value("x", FLOAT, &[1, 4])],
        output: vec![value("y", FLOAT, &[1, 4])],
        initializer: vec![floats("w", &[1, 4], &[1.0, 2.0, 3.0, 4.0])],
        node: vec![node("Add", "add", &["x", "w"], &["y"])],
        ..Default::default()
    }
}

/// `y = x · w`, [1, n] times [n, n].
pub fn matrix_graph(n: usize) -> pb::GraphProto {
    let side = n as i64;
    pb::GraphProto {
        name: "matrix".into(),
        input: vec![value("x", FLOAT, &[1, side])],
        output: vec![value("y", FLOAT, &[1, side])],
        initializer: vec![floats("w", &[side, side], &vec![0.5; n * n])],
        node: vec![node("MatMul", "matmul", &["x", "w"], &["y"])],
        ..Default::default()
    }
}

pub fn onnx(graph: pb::GraphProto) -> Vec<u8> {
    pb::ModelProto {
        ir_version: 7,
        opset_import: vec![pb::OperatorSetIdProto {
            domain: String::new(),
            version: 13,
        }],
        graph: Some(graph),
        ..Default::default()
    }
    .encode_to_vec()
}

pub fn sha256(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// A `model.yaml` for [`sum_graph`].
pub fn yaml(content: &[u8]) -> String {
    format!(
        "schema: 1\nname: gate\nversion: '2'\n\
         inputs: [{{name: x, datatype: FP32, shape: [1, 4]}}]\n\
         outputs: [{{name: y, datatype: FP32, shape: [1, 4]}}]\n\
         files: [{{path: a.onnx, backend: Onnx, precision: float32, sha256: '{}'}}]\n",
        sha256(content)
    )
}

/// A folder with this file and the `model.yaml` that fits it.
pub fn folder(dir: &Path, content: &[u8]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("a.onnx"), content).unwrap();
    fs::write(dir.join("model.yaml"), yaml(content)).unwrap();
    dir.to_path_buf()
}
