//! Checks of a request against the model, the same for every way in which it may arrive.

use crate::engine::{Query, SequenceStep};
use crate::sequence::{MAX_ID_BYTES, SequenceId};
use crate::tensor::Tensor;
use perwatt_model::{Manifest, TensorSpec};
use perwatt_oip::error::short;
use perwatt_oip::message::{Incoming, InferRequest, Parameters, RequestedOutput, Value};
use std::time::{Duration, Instant};

/// Longest time that a client may give a request.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// A request that fits the model.
#[derive(Debug)]
pub struct Checked {
    /// What the engine answers.
    pub query: Query,
    /// The outputs that are wanted.
    pub outputs: Vec<Wanted>,
    /// Comes back in the reply.
    pub id: Option<String>,
}

/// An output that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its place in `model.yaml`.
    pub place: usize,
    /// Whether it shall travel as bytes.
    pub binary: bool,
}

/// When a request came and how long it has.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// When it was whole.
    pub arrived: Instant,
    /// What the transport allows, where it says so.
    pub limit: Option<Duration>,
    /// For one that says nothing.
    pub default: Duration,
}

/// Checks names, types, shapes, data and parameters. `binary` is how outputs travel that say nothing of it.
///
/// # Errors
/// With what a client must change.
pub fn check(
    request: InferRequest<'_>,
    manifest: &Manifest,
    timing: Timing,
    binary: bool,
) -> Result<Checked, String> {
    let timeout = timing.timeout(check_timeout(&request.parameters)?);
    let sequence = check_sequence(&request.parameters)?;
    let outputs = check_outputs(&request.outputs, manifest, binary)?;
    let query = Query {
        inputs: check_inputs(request.inputs, manifest)?,
        sequence,
        arrived: timing.arrived,
        deadline: timing.arrived + timeout,
    };
    Ok(Checked {
        query,
        outputs,
        id: request.id,
    })
}

impl Timing {
    /// The shorter of what request and transport say.
    fn timeout(&self, named: Option<Duration>) -> Duration {
        let timeout = match (named, self.limit) {
            (Some(named), Some(limit)) => named.min(limit),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => self.default,
        };
        timeout.min(LONGEST_TIMEOUT)
    }
}

/// One tensor for each input of the model, in its order, whatever the order in the request.
fn check_inputs(mut inputs: Vec<Incoming<'_>>, manifest: &Manifest) -> Result<Vec<Tensor>, String> {
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
    let take = |spec: &TensorSpec| check_input(&mut inputs, spec);
    manifest.inputs.iter().map(take).collect()
}

fn check_input(inputs: &mut Vec<Incoming<'_>>, spec: &TensorSpec) -> Result<Tensor, String> {
    let name = spec.name.as_str();
    let place = inputs.iter().position(|input| input.name == name);
    let place = place.ok_or_else(|| format!("input {name:?} is missing"))?;
    let input = inputs.swap_remove(place);
    if inputs.iter().any(|input| input.name == name) {
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
    let right = spec.shape.iter().map(|&n| u64::from(n));
    if !input.shape.iter().copied().eq(right) {
        let shape: Vec<_> = input.shape.iter().take(16).collect();
        return Err(refuse(format!(
            "its shape is {shape:?}, the model takes {:?}",
            spec.shape
        )));
    }
    input.decode().map_err(|problem| refuse(problem.to_string()))
}

fn check_outputs(
    outputs: &[RequestedOutput],
    manifest: &Manifest,
    binary: bool,
) -> Result<Vec<Wanted>, String> {
    if outputs.is_empty() {
        let all = 0..manifest.outputs.len();
        return Ok(all.map(|place| Wanted { place, binary }).collect());
    }
    let place = |output: &RequestedOutput| {
        let mut specs = manifest.outputs.iter();
        let found = specs.position(|spec| spec.name.as_str() == output.name);
        found.ok_or_else(|| {
            let known: Vec<_> = manifest.outputs.iter().map(|spec| spec.name.as_str()).collect();
            format!(
                "the model has no output {:?}, it has {known:?}",
                short(&output.name)
            )
        })
    };
    let mut wanted: Vec<Wanted> = Vec::with_capacity(outputs.len());
    for output in outputs {
        let place = place(output)?;
        if wanted.iter().any(|other| other.place == place) {
            return Err(format!("output {:?} is asked for twice", short(&output.name)));
        }
        let binary = output.binary.unwrap_or(binary);
        wanted.push(Wanted { place, binary });
    }
    Ok(wanted)
}

fn check_timeout(parameters: &Parameters) -> Result<Option<Duration>, String> {
    match parameters.get("timeout").map(Value::as_u64) {
        None => Ok(None),
        Some(Some(microseconds)) if microseconds > 0 => {
            Ok(Some(Duration::from_micros(microseconds).min(LONGEST_TIMEOUT)))
        }
        Some(_) => Err("parameter \"timeout\" must be a number of microseconds greater than 0".into()),
    }
}

fn check_sequence(parameters: &Parameters) -> Result<Option<SequenceStep>, String> {
    let flag = |name: &str| match parameters.get(name).map(Value::as_bool) {
        None => Ok(false),
        Some(Some(value)) => Ok(value),
        Some(None) => Err(format!("parameter {name:?} must be true or false")),
    };
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
fn sequence_id(parameters: &Parameters) -> Result<Option<SequenceId>, String> {
    let Some(value) = parameters.get("sequence_id") else {
        return Ok(None);
    };
    match (value.as_u64(), value.as_str()) {
        (Some(0), _) | (_, Some("")) => Ok(None),
        (Some(number), _) => Ok(Some(SequenceId::Number(number))),
        (_, Some(text)) if text.len() <= MAX_ID_BYTES => Ok(Some(SequenceId::Text(text.to_owned()))),
        _ => Err(format!(
            "parameter \"sequence_id\" must be an integer of at least 0 or a text of at most {MAX_ID_BYTES} bytes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_time_holds_and_none_is_longer_than_the_longest() {
        let timing = |limit| Timing {
            arrived: Instant::now(),
            limit,
            default: Duration::from_secs(10),
        };
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(timing(None).timeout(None), Duration::from_secs(10));
        assert_eq!(timing(seconds(60)).timeout(None), Duration::from_secs(60));
        assert_eq!(timing(seconds(60)).timeout(seconds(2)), Duration::from_secs(2));
        assert_eq!(timing(seconds(1)).timeout(seconds(2)), Duration::from_secs(1));
        assert_eq!(timing(seconds(3600)).timeout(None), LONGEST_TIMEOUT);
    }
}
