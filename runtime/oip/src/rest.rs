//! Requests and replies over HTTP: JSON, with the binary tensor data extension.
//!
//! With it a body is JSON followed by bytes, and the header [`BINARY_HEADER`] says where the JSON ends. A tensor
//! whose parameter `binary_data_size` is there has that many of the bytes, in the order of the tensors.

use crate::error::{DecodeError, EncodeError, short};
use crate::json::first_unwritable;
use crate::limits::Limits;
use crate::message::{
    Answer, Content, Incoming, InferRequest, Outgoing, Output, Parameters, Reply, RequestedOutput, Value,
    check_count, check_parameters, check_text, decode_all,
};
use crate::metadata::ErrorBody;
use crate::raw;
use crate::tensor::{Data, Tensor};
use bytes::Bytes;
use serde::ser::{SerializeMap, SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The header that says how many bytes of a body are JSON, where binary data follows.
pub const BINARY_HEADER: &str = "inference-header-content-length";

const BINARY_SIZE: &str = "binary_data_size";
const BINARY: &str = "binary_data";
const BINARY_OUTPUT: &str = "binary_data_output";

/// A body to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// All of it.
    pub content: Vec<u8>,
    /// The value of [`BINARY_HEADER`]; nothing where no binary data follows.
    pub json_length: Option<usize>,
}

/// Path of a model's inference.
#[must_use]
pub fn infer_path(model: &str, version: Option<&str>) -> String {
    format!("{}/infer", model_path(model, version))
}

/// Path of a model's readiness.
#[must_use]
pub fn ready_path(model: &str, version: Option<&str>) -> String {
    format!("{}/ready", model_path(model, version))
}

/// Path of a model's metadata.
#[must_use]
pub fn model_path(model: &str, version: Option<&str>) -> String {
    let mut path = format!("/v2/models/{}", escaped(model));
    if let Some(version) = version {
        path.push_str("/versions/");
        path.push_str(&escaped(version));
    }
    path
}

/// A text as one segment of a path.
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[derive(Deserialize)]
struct RequestJson<'a> {
    id: Option<String>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    inputs: Vec<TensorJson<'a>>,
    outputs: Option<Vec<OutputJson>>,
}

#[derive(Deserialize)]
struct ReplyJson<'a> {
    #[serde(default)]
    model_name: String,
    model_version: Option<String>,
    id: Option<String>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    outputs: Vec<TensorJson<'a>>,
}

#[derive(Deserialize)]
struct TensorJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<u64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    parameters: Option<Parameters>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    parameters: Option<Parameters>,
}

/// Reads a request; the elements of its tensors are read later, one by one.
///
/// # Errors
/// When it is no request, too much of one, or its parts do not add up.
pub fn decode_request<'a>(
    content: &'a Bytes,
    json_length: Option<usize>,
    limits: &Limits,
) -> Result<InferRequest<'a>, DecodeError> {
    let (json, binary) = split(content, json_length)?;
    let request: RequestJson<'_> = parse(json, "request")?;
    let parameters = request.parameters.unwrap_or_default();
    check_parameters("the request", &parameters, limits)?;
    check_text(
        "bytes of an id",
        request.id.as_deref().unwrap_or_default(),
        limits,
    )?;
    let outputs = request.outputs.unwrap_or_default();
    check_count("outputs", outputs.len(), limits.tensors)?;
    let by_default = flag(&parameters, BINARY_OUTPUT)?.unwrap_or_default();
    let requested = |output: OutputJson| -> Result<_, DecodeError> {
        let parameters = output.parameters.unwrap_or_default();
        check_parameters(&output.name, &parameters, limits)?;
        let binary = flag(&parameters, BINARY)?;
        Ok(RequestedOutput {
            name: output.name,
            binary: Some(binary.unwrap_or(by_default)),
        })
    };
    Ok(InferRequest {
        id: request.id.filter(|id| !id.is_empty()),
        inputs: incoming(request.inputs, binary, json_length.is_some(), limits)?,
        outputs: outputs.into_iter().map(requested).collect::<Result<_, _>>()?,
        parameters,
    })
}

/// Whether a request wants its outputs as bytes where it names none.
#[must_use]
pub fn wants_binary(parameters: &Parameters) -> bool {
    parameters
        .get(BINARY_OUTPUT)
        .and_then(Value::as_bool)
        .unwrap_or_default()
}

/// Reads a reply.
///
/// # Errors
/// When it is no reply, too much of one, or its tensors are not what they say.
pub fn decode_reply(
    content: &Bytes,
    json_length: Option<usize>,
    limits: &Limits,
) -> Result<Reply, DecodeError> {
    let (json, binary) = split(content, json_length)?;
    let reply: ReplyJson<'_> = parse(json, "reply")?;
    let parameters = reply.parameters.unwrap_or_default();
    check_parameters("the reply", &parameters, limits)?;
    Ok(Reply {
        model_name: reply.model_name,
        model_version: reply.model_version.unwrap_or_default(),
        id: reply.id,
        parameters,
        outputs: decode_all(incoming(reply.outputs, binary, json_length.is_some(), limits)?)?,
    })
}

/// What an error's body says, where it is one.
#[must_use]
pub fn error_message(content: &[u8]) -> Option<String> {
    serde_json::from_slice::<ErrorBody>(content)
        .ok()
        .map(|body| body.error)
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8], what: &'static str) -> Result<T, DecodeError> {
    serde_json::from_slice(json).map_err(|problem| DecodeError::Json {
        what,
        problem: problem.to_string(),
    })
}

/// The JSON and what follows it.
fn split(content: &Bytes, json_length: Option<usize>) -> Result<(&[u8], Bytes), DecodeError> {
    let declared = json_length.unwrap_or(content.len());
    let json = content.get(..declared).ok_or(DecodeError::HeaderLength {
        declared,
        body: content.len(),
    })?;
    Ok((json, content.slice(declared..)))
}

/// Gives every tensor its bytes, until none is left.
fn incoming<'a>(
    tensors: Vec<TensorJson<'a>>,
    mut binary: Bytes,
    has_header: bool,
    limits: &Limits,
) -> Result<Vec<Incoming<'a>>, DecodeError> {
    check_count("tensors", tensors.len(), limits.tensors)?;
    let mut all = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let parameters = tensor.parameters.unwrap_or_default();
        check_parameters(&tensor.name, &parameters, limits)?;
        let size = binary_size(&parameters)?;
        if size.is_some() && !has_header {
            return Err(DecodeError::NoHeader(short(&tensor.name)));
        }
        let content = match (tensor.data, size) {
            (None, None) => Content::None,
            (Some(json), None) => Content::Json(json),
            (json, Some(declared)) => {
                let size = usize::try_from(declared).ok().filter(|&n| n <= binary.len());
                let size = size.ok_or_else(|| DecodeError::BinarySize {
                    name: short(&tensor.name),
                    declared,
                    left: binary.len(),
                })?;
                let bytes = binary.split_to(size);
                json.map_or(Content::Raw(bytes), |_| Content::Twice)
            }
        };
        all.push(Incoming {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
            content,
            limits: *limits,
        });
    }
    if binary.is_empty() {
        Ok(all)
    } else {
        Err(DecodeError::Trailing(binary.len()))
    }
}

fn binary_size(parameters: &Parameters) -> Result<Option<u64>, DecodeError> {
    let Some(value) = parameters.get(BINARY_SIZE) else {
        return Ok(None);
    };
    value.as_u64().map(Some).ok_or(DecodeError::Parameter {
        name: BINARY_SIZE,
        expected: "a number of bytes",
    })
}

fn flag(parameters: &Parameters, name: &'static str) -> Result<Option<bool>, DecodeError> {
    let Some(value) = parameters.get(name) else {
        return Ok(None);
    };
    value.as_bool().map(Some).ok_or(DecodeError::Parameter {
        name,
        expected: "true or false",
    })
}

/// Writes a request; `binary` sends its tensors as bytes, and asks for those of the reply as bytes.
///
/// # Errors
/// When a tensor cannot be put into JSON.
pub fn encode_request(request: &Outgoing<'_>, binary: bool) -> Result<Body, EncodeError> {
    #[derive(Serialize)]
    struct Json<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Parameters::is_empty")]
        parameters: Parameters,
        inputs: Vec<Written<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        outputs: Vec<Wanted<'a>>,
    }
    let mut parameters = request.parameters.clone();
    if binary {
        parameters.insert(BINARY_OUTPUT.to_owned(), Value::Bool(true));
    }
    let inputs = request
        .inputs
        .iter()
        .map(|&(name, tensor)| Output { name, tensor, binary });
    let inputs: Vec<_> = inputs.collect();
    let json = Json {
        id: request.id,
        parameters,
        inputs: written(&inputs)?,
        outputs: request
            .outputs
            .iter()
            .map(|&name| Wanted { name, binary })
            .collect(),
    };
    body(&json, &inputs)
}

/// Writes a reply.
///
/// # Errors
/// When a tensor cannot be put into JSON.
pub fn encode_reply(answer: &Answer<'_>) -> Result<Body, EncodeError> {
    #[derive(Serialize)]
    struct Json<'a> {
        model_name: &'a str,
        model_version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(serialize_with = "as_map")]
        parameters: &'a [(&'static str, Value)],
        outputs: Vec<Written<'a>>,
    }
    let json = Json {
        model_name: answer.model_name,
        model_version: answer.model_version,
        id: answer.id,
        parameters: &answer.parameters,
        outputs: written(&answer.outputs)?,
    };
    body(&json, &answer.outputs)
}

fn as_map<S: Serializer>(parameters: &&[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parameters.iter().map(|(name, value)| (name, value)))
}

fn body(json: &impl Serialize, tensors: &[Output<'_>]) -> Result<Body, EncodeError> {
    let mut content = serde_json::to_vec(json)?;
    if !tensors.iter().any(|tensor| tensor.binary) {
        return Ok(Body {
            content,
            json_length: None,
        });
    }
    let json_length = Some(content.len());
    for tensor in tensors.iter().filter(|tensor| tensor.binary) {
        raw::encode(&tensor.tensor.data, &mut content);
    }
    Ok(Body { content, json_length })
}

fn written<'a>(tensors: &[Output<'a>]) -> Result<Vec<Written<'a>>, EncodeError> {
    let one = |tensor: &Output<'a>| match first_unwritable(&tensor.tensor.data) {
        Some(index) if !tensor.binary => Err(EncodeError::Text {
            name: tensor.name.to_owned(),
            index,
        }),
        _ => Ok(Written(*tensor)),
    };
    tensors.iter().map(one).collect()
}

/// A tensor in JSON: with its elements, or with the number of their bytes.
struct Written<'a>(Output<'a>);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Output {
            name,
            tensor: Tensor { shape, data },
            binary,
        } = self.0;
        let mut tensor = serializer.serialize_struct("tensor", 4)?;
        tensor.serialize_field("name", name)?;
        tensor.serialize_field("datatype", data.datatype().as_str())?;
        tensor.serialize_field("shape", shape)?;
        if binary {
            tensor.serialize_field("parameters", &Size(data))?;
        } else {
            tensor.serialize_field("data", data)?;
        }
        tensor.end()
    }
}

struct Size<'a>(&'a Data);

impl Serialize for Size<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(BINARY_SIZE, &raw::encoded_len(self.0))?;
        map.end()
    }
}

/// An output that is wanted, in JSON.
struct Wanted<'a> {
    name: &'a str,
    binary: bool,
}

impl Serialize for Wanted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut output = serializer.serialize_struct("output", 2)?;
        output.serialize_field("name", self.name)?;
        output.serialize_field("parameters", &BTreeMap::from([(BINARY, self.binary)]))?;
        output.end()
    }
}
