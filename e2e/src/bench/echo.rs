//! The smallest model worth serving: 1,024 floats in, the same floats negated out.
//!
//! What a server adds to it is nearly all that a request costs. The file is written here, byte by byte: the
//! protocol buffer of an ONNX graph with one node needs no library.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::product::{Error, Result};

/// Floats in and out.
pub const FLOATS: usize = 1024;
/// The model's name.
pub const NAME: &str = "echo";

/// Writes the model's folder.
pub fn write(folder: &Path) -> Result<()> {
    let file = onnx();
    let hash: String = Sha256::digest(&file)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let tensor = |name: &str| format!("[{{name: {name}, datatype: FP32, shape: [1, {FLOATS}]}}]");
    let yaml = format!(
        "schema: 1\nname: {NAME}\nversion: '1'\ninputs: {}\noutputs: {}\n\
         files: [{{path: echo.onnx, backend: Onnx, precision: float32, sha256: '{hash}'}}]\n",
        tensor("x"),
        tensor("y")
    );
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        let failed = |error| Error::Client(format!("{} cannot be written: {error}", path.display()));
        std::fs::write(&path, content).map_err(failed)
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
