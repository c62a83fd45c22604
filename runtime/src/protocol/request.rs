//! Checks of a request against the model, the same for every way in which it may arrive.

use super::data::decode;
use super::message::{InferRequest, InputTensor, RequestedOutput};
use crate::engine::{Query, SequenceStep};
use crate::sequence::{MAX_ID_BYTES, SequenceId};
use crate::tensor::Tensor;
use perwatt_model::{Manifest, TensorSpec};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest time that a client may give a request.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// A request that fits the model.
#[derive(Debug)]
pub struct Checked {
    /// What the engine answers.
    pub query: Query,
    /// Places in `model.yaml` of the outputs that are wanted.
    pub outputs: Vec<usize>,
}

/// Checks names, types, shapes, data and parameters.
///
/// # Errors
/// With what a client must change.
pub fn check(
    request: &InferRequest<'_>,
    manifest: &Manifest,
    default_timeout: Duration,
    arrived: Instant,
) -> Result<Checked, String> {
    let timeout = check_timeout(&request.parameters)?.unwrap_or(default_timeout);
    let query = Query {
        inputs: check_inputs(&request.inputs, manifest)?,
        sequence: check_sequence(&request.parameters)?,
        arrived,
        deadline: arrived + timeout,
    };
    Ok(Checked {
        query,
        outputs: check_outputs(&request.outputs, manifest)?,
    })
}

/// One tensor for each input of the model, in its order, whatever the order in the request.
fn check_inputs(inputs: &[InputTensor<'_>], manifest: &Manifest) -> Result<Vec<Tensor>, String> {
    if let Some(unknown) = inputs
        .iter()
        .find(|input| !manifest.inputs.iter().any(|s| s.name.as_str() == input.name))
    {
        let known: Vec<_> = manifest.inputs.iter().map(|spec| spec.name.as_str()).collect();
        return Err(format!(
            "the model has no input {:?}, it has {known:?}",
            short(&unknown.name)
        ));
    }
    manifest
        .inputs
        .iter()
        .map(|spec| check_input(inputs, spec))
        .collect()
}

fn check_input(inputs: &[InputTensor<'_>], spec: &TensorSpec) -> Result<Tensor, String> {
    let name = spec.name.as_str();
    let mut named = inputs.iter().filter(|input| input.name == name);
    let input = named.next().ok_or_else(|| format!("input {name:?} is missing"))?;
    if named.next().is_some() {
        return Err(format!("input {name:?} is there twice"));
    }
    let refuse = |problem: String| format!("input {name:?}: {problem}");
    if input.datatype != spec.datatype.as_str() {
        let found = short(&input.datatype);
        return Err(refuse(format!(
            "its datatype is {found:?}, the model takes {}",
            spec.datatype.as_str()
        )));
    }
    if !input
        .shape
        .iter()
        .copied()
        .eq(spec.shape.iter().map(|&n| u64::from(n)))
    {
        return Err(refuse(format!(
            "its shape is {:?}, the model takes {:?}",
            input.shape, spec.shape
        )));
    }
    let data = input.data.ok_or_else(|| refuse("it has no data".into()))?;
    let shape: Vec<usize> = spec.shape.iter().map(|&n| n as usize).collect();
    let data =
        decode(data.get(), spec.datatype, &shape).map_err(|problem| refuse(format!("data: {problem}")))?;
    Ok(Tensor { shape, data })
}

fn check_outputs(outputs: &[RequestedOutput], manifest: &Manifest) -> Result<Vec<usize>, String> {
    if outputs.is_empty() {
        return Ok((0..manifest.outputs.len()).collect());
    }
    if outputs.len() > manifest.outputs.len() {
        return Err(format!(
            "{} outputs are asked for, the model has {}",
            outputs.len(),
            manifest.outputs.len()
        ));
    }
    let place = |output: &RequestedOutput| {
        let found = manifest
            .outputs
            .iter()
            .position(|spec| spec.name.as_str() == output.name);
        found.ok_or_else(|| {
            let known: Vec<_> = manifest.outputs.iter().map(|spec| spec.name.as_str()).collect();
            format!(
                "the model has no output {:?}, it has {known:?}",
                short(&output.name)
            )
        })
    };
    outputs.iter().map(place).collect()
}

/// The value of a parameter, when it is there and of this type.
fn parameter<'de, T: Deserialize<'de>>(
    parameters: &BTreeMap<String, &'de RawValue>,
    name: &str,
    expected: &str,
) -> Result<Option<T>, String> {
    let Some(raw) = parameters.get(name) else {
        return Ok(None);
    };
    serde_json::from_str(raw.get())
        .map(Some)
        .map_err(|_| format!("parameter {name:?} must be {expected}"))
}

fn check_timeout(parameters: &BTreeMap<String, &RawValue>) -> Result<Option<Duration>, String> {
    const WHAT: &str = "a number of microseconds greater than 0";
    let timeout: Option<u64> = parameter(parameters, "timeout", WHAT)?;
    match timeout {
        Some(0) => Err(format!("parameter \"timeout\" must be {WHAT}")),
        Some(microseconds) => Ok(Some(Duration::from_micros(microseconds).min(LONGEST_TIMEOUT))),
        None => Ok(None),
    }
}

fn check_sequence(parameters: &BTreeMap<String, &RawValue>) -> Result<Option<SequenceStep>, String> {
    let flag = |name| parameter::<bool>(parameters, name, "true or false").map(Option::unwrap_or_default);
    let (start, end) = (flag("sequence_start")?, flag("sequence_end")?);
    match (sequence_id(parameters)?, start || end) {
        (Some(id), _) => Ok(Some(SequenceStep { id, start, end })),
        (None, false) => Ok(None),
        (None, true) => {
            Err("sequence_start and sequence_end need a sequence_id other than 0 and \"\"".into())
        }
    }
}

/// The protocol's 0 and empty text mean no sequence.
fn sequence_id(parameters: &BTreeMap<String, &RawValue>) -> Result<Option<SequenceId>, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Id {
        Number(u64),
        Text(String),
    }
    let what = format!("an integer of at least 0 or a text of at most {MAX_ID_BYTES} bytes");
    match parameter(parameters, "sequence_id", &what)? {
        None | Some(Id::Number(0)) => Ok(None),
        Some(Id::Number(number)) => Ok(Some(SequenceId::Number(number))),
        Some(Id::Text(text)) if text.is_empty() => Ok(None),
        Some(Id::Text(text)) if text.len() <= MAX_ID_BYTES => Ok(Some(SequenceId::Text(text))),
        Some(Id::Text(_)) => Err(format!("parameter \"sequence_id\" must be {what}")),
    }
}

/// Enough of a client's text to recognise it.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
