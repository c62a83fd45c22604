//! The protocol's JSON bodies.

use crate::tensor::Data;
use perwatt_model::{Datatype, Manifest, TensorSpec};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Body of an inference request; unknown fields are other extensions' business.
#[derive(Debug, Deserialize)]
pub struct InferRequest<'a> {
    /// Comes back in the reply.
    pub id: Option<String>,
    /// Sequence and deadline.
    #[serde(default, borrow)]
    pub parameters: BTreeMap<String, &'a RawValue>,
    /// The tensors.
    #[serde(borrow)]
    pub inputs: Vec<InputTensor<'a>>,
    /// The outputs that are wanted; all where none is named.
    #[serde(default)]
    pub outputs: Vec<RequestedOutput>,
}

/// One tensor of a request.
#[derive(Debug, Deserialize)]
pub struct InputTensor<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The type of its elements.
    pub datatype: String,
    /// Its elements, read once type and shape are known.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

/// An output that is wanted.
#[derive(Debug, Deserialize)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
}

/// Body of an inference reply.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the protocol's names
pub struct InferReply<'a> {
    pub model_name: &'a str,
    pub model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    pub parameters: ReplyParameters<'a>,
    pub outputs: Vec<OutputTensor<'a>>,
}

/// Who answered, and how.
#[derive(Debug, Serialize)]
pub struct ReplyParameters<'a> {
    /// The variant.
    pub variant: &'a str,
    /// The device's id, or `none`.
    pub device: &'a str,
    /// The node.
    pub node: &'a str,
    /// The revision.
    pub revision: &'a str,
    /// Whether another than the planned best answered.
    pub degraded: bool,
    /// Why, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_reason: Option<&'a str>,
    /// Why, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_message: Option<&'a str>,
    /// Whether the sequence's state was lost before this request.
    pub sequence_restarted: bool,
    /// From the request's last byte to the reply.
    pub latency_microseconds: u64,
    /// Energy of this inference, where a figure exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_microjoules: Option<f64>,
    /// Where that figure comes from, such as `emulated nameplate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy_source: Option<&'a str>,
}

/// One tensor of a reply.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the protocol's names
pub struct OutputTensor<'a> {
    pub name: &'a str,
    pub datatype: &'static str,
    pub shape: &'a [usize],
    pub data: &'a Data,
}

/// Body of every error.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// What is wrong.
    pub error: &'a str,
}

/// What the server is.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the protocol's names
pub struct ServerMetadata {
    pub name: &'static str,
    pub version: &'static str,
    pub extensions: &'static [&'static str],
}

impl ServerMetadata {
    /// This server.
    pub const THIS: Self = Self {
        name: "perwatt",
        version: env!("CARGO_PKG_VERSION"),
        extensions: &["sequence"],
    };
}

/// What a model takes and gives.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the protocol's names
pub struct ModelMetadata<'a> {
    pub name: &'a str,
    pub versions: [&'a str; 1],
    pub platform: &'static str,
    pub inputs: Vec<TensorMetadata<'a>>,
    pub outputs: Vec<TensorMetadata<'a>>,
}

/// One tensor of a model.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the protocol's names
pub struct TensorMetadata<'a> {
    pub name: &'a str,
    pub datatype: &'static str,
    pub shape: &'a [u32],
}

impl<'a> From<&'a Manifest> for ModelMetadata<'a> {
    fn from(manifest: &'a Manifest) -> Self {
        let tensor = |spec: &'a TensorSpec| TensorMetadata {
            name: spec.name.as_str(),
            datatype: spec.datatype.as_str(),
            shape: &spec.shape,
        };
        Self {
            name: manifest.name.as_str(),
            versions: [manifest.version.as_str()],
            // Which backend answers changes with the variant; each reply says it.
            platform: "perwatt_chain",
            inputs: manifest.inputs.iter().map(tensor).collect(),
            outputs: manifest.outputs.iter().map(tensor).collect(),
        }
    }
}

/// The protocol's spelling of a datatype, read.
pub fn parse_datatype(text: &str) -> Option<Datatype> {
    use Datatype as D;
    let all = [
        D::Bool,
        D::Uint8,
        D::Uint16,
        D::Uint32,
        D::Uint64,
        D::Int8,
        D::Int16,
        D::Int32,
        D::Int64,
        D::Fp16,
        D::Fp32,
        D::Fp64,
        D::Bytes,
        D::Bf16,
    ];
    all.into_iter().find(|datatype| datatype.as_str() == text)
}
