//! Requests and replies over gRPC: protobuf messages, with tensors in typed fields or as raw contents.

use crate::error::{DecodeError, short};
use crate::limits::Limits;
use crate::message::{
    Answer, Content, Incoming, InferRequest, Outgoing, Parameters, Reply, RequestedOutput, Value,
    check_count, check_parameters, check_text, decode_all,
};
use crate::tensor::Tensor;
use crate::{raw, typed};
use bytes::Bytes;
use std::collections::HashMap;
use std::time::Duration;
use std::vec::IntoIter;

/// The protocol as it goes over the wire, generated from `proto/inference.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod pb {
    tonic::include_proto!("inference");
}

/// gRPC's health service, generated from `proto/health.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

use pb::infer_parameter::ParameterChoice as Choice;
use pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use pb::model_infer_response::InferOutputTensor;

/// Reads a request; the elements of its tensors are read later, one by one. Model and version are the caller's.
///
/// # Errors
/// When there is too much of something, or its parts do not add up.
pub fn decode_request(
    request: pb::ModelInferRequest,
    limits: &Limits,
) -> Result<InferRequest<'static>, DecodeError> {
    let parameters = read_parameters("the request", request.parameters, limits)?;
    check_text("bytes of an id", &request.id, limits)?;
    check_count("outputs", request.outputs.len(), limits.tensors)?;
    let requested = |output: InferRequestedOutputTensor| -> Result<_, DecodeError> {
        read_parameters(&output.name, output.parameters, limits)?;
        Ok(RequestedOutput {
            name: output.name,
            binary: None,
        })
    };
    let inputs = request.inputs.into_iter().map(|input| Part {
        name: input.name,
        datatype: input.datatype,
        shape: input.shape,
        parameters: input.parameters,
        contents: input.contents,
    });
    Ok(InferRequest {
        id: Some(request.id).filter(|id| !id.is_empty()),
        parameters,
        inputs: incoming(inputs.collect(), request.raw_input_contents, limits)?,
        outputs: request
            .outputs
            .into_iter()
            .map(requested)
            .collect::<Result<_, _>>()?,
    })
}

/// Reads a reply.
///
/// # Errors
/// When there is too much of something, or its tensors are not what they say.
pub fn decode_reply(reply: pb::ModelInferResponse, limits: &Limits) -> Result<Reply, DecodeError> {
    let outputs = reply.outputs.into_iter().map(|output| Part {
        name: output.name,
        datatype: output.datatype,
        shape: output.shape,
        parameters: output.parameters,
        contents: output.contents,
    });
    Ok(Reply {
        model_name: reply.model_name,
        model_version: reply.model_version,
        id: Some(reply.id).filter(|id| !id.is_empty()),
        parameters: read_parameters("the reply", reply.parameters, limits)?,
        outputs: decode_all(incoming(outputs.collect(), reply.raw_output_contents, limits)?)?,
    })
}

/// A tensor of a message in either direction.
struct Part {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: HashMap<String, pb::InferParameter>,
    contents: Option<pb::InferTensorContents>,
}

/// Gives every tensor without typed contents the next raw contents, until none is left.
fn incoming(
    parts: Vec<Part>,
    raw: Vec<Bytes>,
    limits: &Limits,
) -> Result<Vec<Incoming<'static>>, DecodeError> {
    check_count("tensors", parts.len(), limits.tensors)?;
    let is_untyped = |part: &&Part| part.contents.as_ref().is_none_or(is_empty);
    let count = RawCount {
        raw: raw.len(),
        tensors: parts.iter().filter(is_untyped).count(),
    };
    let mut raw = raw.into_iter();
    let all = parts
        .into_iter()
        .map(|part| one(part, &mut raw, &count, limits))
        .collect::<Result<_, _>>()?;
    if raw.len() == 0 {
        Ok(all)
    } else {
        Err(count.into())
    }
}

#[derive(Clone, Copy)]
struct RawCount {
    raw: usize,
    tensors: usize,
}

impl From<RawCount> for DecodeError {
    fn from(RawCount { raw, tensors }: RawCount) -> Self {
        Self::RawCount { raw, tensors }
    }
}

fn one(
    part: Part,
    raw: &mut IntoIter<Bytes>,
    count: &RawCount,
    limits: &Limits,
) -> Result<Incoming<'static>, DecodeError> {
    read_parameters(&part.name, part.parameters, limits)?;
    let lengths = part.shape.iter().map(|&n| u64::try_from(n));
    let shape = lengths.collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| DecodeError::Tensor {
        name: short(&part.name),
        problem: crate::error::DataError::Shape {
            shape: Vec::new(),
            axes: limits.axes,
            elements: limits.elements,
        },
    })?;
    let content = match part.contents {
        Some(contents) if !is_empty(&contents) => Content::Typed(contents),
        // A tensor without elements needs neither.
        contents if count.raw == 0 => contents.map_or(Content::None, Content::Typed),
        _ => Content::Raw(raw.next().ok_or(*count)?),
    };
    Ok(Incoming {
        name: part.name.into(),
        datatype: part.datatype.into(),
        shape,
        content,
        limits: *limits,
    })
}

fn is_empty(contents: &pb::InferTensorContents) -> bool {
    *contents == pb::InferTensorContents::default()
}

fn read_parameters(
    owner: &str,
    parameters: HashMap<String, pb::InferParameter>,
    limits: &Limits,
) -> Result<Parameters, DecodeError> {
    check_count("parameters", parameters.len(), limits.parameters)?;
    let value = |parameter: pb::InferParameter| match parameter.parameter_choice {
        Some(Choice::BoolParam(value)) => Value::Bool(value),
        Some(Choice::Int64Param(value)) => Value::Int(value),
        Some(Choice::Uint64Param(value)) => Value::Uint(value),
        Some(Choice::DoubleParam(value)) => Value::Double(value),
        Some(Choice::StringParam(value)) => Value::Text(value),
        None => Value::Other,
    };
    let read = parameters.into_iter().map(|(name, p)| (name, value(p))).collect();
    check_parameters(owner, &read, limits)?;
    Ok(read)
}

fn write_parameter(value: &Value) -> pb::InferParameter {
    let choice = match value {
        Value::Bool(value) => Some(Choice::BoolParam(*value)),
        Value::Int(value) => Some(Choice::Int64Param(*value)),
        // Usual clients know the signed one alone.
        Value::Uint(value) => {
            Some(i64::try_from(*value).map_or(Choice::Uint64Param(*value), Choice::Int64Param))
        }
        Value::Double(value) => Some(Choice::DoubleParam(*value)),
        Value::Text(value) => Some(Choice::StringParam(value.clone())),
        Value::Other => None,
    };
    pb::InferParameter {
        parameter_choice: choice,
    }
}

/// Makes a request, with raw contents. An empty version leaves the choice to the server.
#[must_use]
pub fn encode_request(model: &str, version: &str, request: &Outgoing<'_>) -> pb::ModelInferRequest {
    let input = |&(name, tensor): &(&str, &Tensor)| InferInputTensor {
        name: name.to_owned(),
        datatype: tensor.data.datatype().as_str().to_owned(),
        shape: wire_shape(tensor),
        ..InferInputTensor::default()
    };
    let output = |name: &&str| InferRequestedOutputTensor {
        name: (*name).to_owned(),
        ..InferRequestedOutputTensor::default()
    };
    let parameters = request.parameters.iter();
    pb::ModelInferRequest {
        model_name: model.to_owned(),
        model_version: version.to_owned(),
        id: request.id.unwrap_or_default().to_owned(),
        parameters: parameters
            .map(|(name, v)| (name.clone(), write_parameter(v)))
            .collect(),
        inputs: request.inputs.iter().map(input).collect(),
        outputs: request.outputs.iter().map(output).collect(),
        raw_input_contents: request
            .inputs
            .iter()
            .map(|(_, tensor)| raw_contents(tensor))
            .collect(),
    }
}

/// Makes a reply: with typed contents where every output asks for them and has a field for them, else with
/// raw contents, which are all or none.
#[must_use]
pub fn encode_reply(answer: &Answer<'_>) -> pb::ModelInferResponse {
    let typed: Option<Vec<_>> = answer
        .outputs
        .iter()
        .map(|output| {
            if output.binary {
                None
            } else {
                typed::encode(&output.tensor.data)
            }
        })
        .collect();
    let raw_output_contents = match typed {
        Some(_) => Vec::new(),
        None => answer
            .outputs
            .iter()
            .map(|output| raw_contents(output.tensor))
            .collect(),
    };
    let mut typed = typed.unwrap_or_default().into_iter();
    let outputs = answer.outputs.iter().map(|output| InferOutputTensor {
        name: output.name.to_owned(),
        datatype: output.tensor.data.datatype().as_str().to_owned(),
        shape: wire_shape(output.tensor),
        parameters: HashMap::new(),
        contents: typed.next(),
    });
    let parameters = answer.parameters.iter();
    pb::ModelInferResponse {
        model_name: answer.model_name.to_owned(),
        model_version: answer.model_version.to_owned(),
        id: answer.id.unwrap_or_default().to_owned(),
        parameters: parameters
            .map(|(name, v)| ((*name).to_owned(), write_parameter(v)))
            .collect(),
        outputs: outputs.collect(),
        raw_output_contents,
    }
}

fn wire_shape(tensor: &Tensor) -> Vec<i64> {
    let length = |&n: &usize| i64::try_from(n).unwrap_or(i64::MAX);
    tensor.shape.iter().map(length).collect()
}

fn raw_contents(tensor: &Tensor) -> Bytes {
    let mut content = Vec::new();
    raw::encode(&tensor.data, &mut content);
    content.into()
}

/// Reads the header `grpc-timeout`: at most eight digits and a unit.
#[must_use]
pub fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}
