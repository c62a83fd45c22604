//! What is fuzzed: each target reads an input as the product does, and says whether it took it.

mod files;
mod protocol;
mod steps;
mod texts;

use perwatt_model::{Manifest, ManifestError};

/// A reader of what strangers wrote.
#[derive(Debug)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Reads an input; true when it is right.
    pub run: fn(&[u8]) -> bool,
}

/// Everything that is fuzzed.
pub const TARGETS: [Target; 11] = [
    target("model-yaml", texts::model_yaml),
    target("config", texts::config),
    target("steps", steps::steps),
    target("rest-request", protocol::rest_request),
    target("rest-reply", protocol::rest_reply),
    target("grpc-request", protocol::grpc_request),
    target("grpc-reply", protocol::grpc_reply),
    target("compressed", protocol::compressed),
    target("onnx", files::onnx),
    target("nir", files::nir),
    target("litert", files::litert),
];

const fn target(name: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, run }
}

/// A model that takes four floats and a text, and gives four floats.
const MODEL: &str = "schema: 1\nname: gate\nversion: '2'\n\
     inputs: [{name: x, datatype: FP32, shape: [1, 4]}, {name: t, datatype: BYTES, shape: [1]}]\n\
     outputs: [{name: y, datatype: FP32, shape: [1, 4]}]\n\
     files: [{path: a.onnx, backend: Onnx, precision: float32, \
     sha256: '0000000000000000000000000000000000000000000000000000000000000000'}]\n";

fn model() -> Result<Manifest, ManifestError> {
    Manifest::parse(MODEL)
}
