//! The smallest model worth serving: 1,024 floats in, the same floats negated out.
//!
//! What a server adds to it is nearly all that a request costs. The file is written here, byte by byte: the
//! protocol buffer of an ONNX graph with one node needs no library.

use std::path::Path;

use perwatt_oip::grpc::pb;
use prost::Message;
use sha2::{Digest, Sha256};

use super::failed;
use crate::product::Result;

/// Floats in and out.
pub const FLOATS: usize = 1024;
/// The model's name.
pub const NAME: &str = "echo";

/// A folder with the model; it goes with this value.
pub fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().map_err(|error| failed("a folder for the model", error))?;
    write(folder.path())?;
    Ok(folder)
}

fn write(folder: &Path) -> Result<()> {
    let file = onnx();
    let hash = hex::encode(Sha256::digest(&file));
    let tensor = |name: &str| format!("[{{name: {name}, datatype: FP32, shape: [1, {FLOATS}]}}]");
    let yaml = format!(
        "schema: 1\nname: {NAME}\nversion: '1'\ninputs: {}\noutputs: {}\n\
         files: [{{path: echo.onnx, backend: Onnx, precision: float32, sha256: '{hash}'}}]\n",
        tensor("x"),
        tensor("y")
    );
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|error| failed(path.display(), error))
    };
    write("echo.onnx", &file)?;
    write("model.yaml", yaml.as_bytes())
}

/// The inference request as JSON.
pub fn json_request() -> String {
    let values: Vec<String> = values().map(|value| value.to_string()).collect();
    format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{FLOATS}],"data":[{}]}}]}}"#,
        values.join(",")
    )
}

/// The same request with binary tensor data both ways: the JSON, and the bytes that follow it.
pub fn binary_request() -> (String, Vec<u8>) {
    let size = FLOATS * 4;
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{FLOATS}],"parameters":{{"binary_data_size":{size}}}}}],"outputs":[{{"name":"y","parameters":{{"binary_data":true}}}}]}}"#
    );
    (json, values().flat_map(f32::to_le_bytes).collect())
}

/// The same request as a protocol buffer, its tensor as raw contents.
pub fn grpc_request() -> Vec<u8> {
    let input = pb::model_infer_request::InferInputTensor {
        name: "x".into(),
        datatype: "FP32".into(),
        shape: vec![1, FLOATS as i64],
        ..Default::default()
    };
    let request = pb::ModelInferRequest {
        model_name: NAME.into(),
        inputs: vec![input],
        raw_input_contents: vec![binary_request().1.into()],
        ..Default::default()
    };
    request.encode_to_vec()
}

/// The floats of an answer as JSON; none where it is something else.
pub fn json_answer(body: &[u8]) -> Vec<f32> {
    let reply: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let data = serde_json::from_value(reply["outputs"][0]["data"].clone());
    data.unwrap_or_default()
}

/// The floats at the end of an answer with binary tensor data.
pub fn binary_answer(body: &[u8]) -> Vec<f32> {
    let bytes = body
        .len()
        .checked_sub(FLOATS * 4)
        .and_then(|start| body.get(start..));
    floats(bytes.unwrap_or_default())
}

/// The floats of an answer as a protocol buffer; none where it is something else.
pub fn grpc_answer(message: &[u8]) -> Vec<f32> {
    let reply = pb::ModelInferResponse::decode(message).unwrap_or_default();
    floats(reply.raw_output_contents.first().map_or(&[], |bytes| bytes))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (floats, _) = bytes.as_chunks::<4>();
    floats.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Whether these floats are what the model makes of the request. A decimal text may be a hair off.
pub fn is_answer(found: &[f32]) -> bool {
    let is_near = |(x, y): (f32, &f32)| (x + y).abs() < 1e-6;
    found.len() == FLOATS && values().zip(found).all(is_near)
}

/// Numbers with as many digits as a sensor gives.
fn values() -> impl Iterator<Item = f32> {
    #[allow(clippy::cast_precision_loss, reason = "small whole numbers")]
    (0..FLOATS).map(|i| (i as f32 * 0.61).sin())
}

/// `y = -x` as an ONNX file: model {ir version 7, operator set 13, graph}.
fn onnx() -> Vec<u8> {
    let node = [text(1, "x"), text(2, "y"), text(3, "neg"), text(4, "Neg")].concat();
    let graph = [
        bytes(1, &node),
        text(2, NAME),
        bytes(11, &tensor("x")),
        bytes(12, &tensor("y")),
    ]
    .concat();
    [number(1, 7), bytes(8, &number(2, 13)), bytes(7, &graph)].concat()
}

/// A tensor of a graph's signature: name, and type {element type 1 = float, shape}.
fn tensor(name: &str) -> Vec<u8> {
    let dim = |length: u64| bytes(1, &number(1, length));
    let shape = [dim(1), dim(FLOATS as u64)].concat();
    let kind = [number(1, 1), bytes(2, &shape)].concat();
    [text(1, name), bytes(2, &bytes(1, &kind))].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [
        varint(field << 3 | 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

fn text(field: u64, content: &str) -> Vec<u8> {
    bytes(field, content.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_numbers_whatever_carries_them() {
        let expected: Vec<f32> = values().map(|value| -value).collect();
        let data = serde_json::json!({"outputs": [{"data": expected}]}).to_string();
        assert!(is_answer(&json_answer(data.as_bytes())));
        let bytes: Vec<u8> = expected.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(is_answer(&binary_answer(&[b"{}", &bytes[..]].concat())));
        let reply = pb::ModelInferResponse {
            raw_output_contents: vec![bytes.into()],
            ..Default::default()
        };
        assert!(is_answer(&grpc_answer(&reply.encode_to_vec())));
        assert!(
            !is_answer(&binary_answer(&binary_request().1)),
            "the request itself"
        );
        assert!(!is_answer(&json_answer(b"{\"error\": \"no\"}")));
    }
}
