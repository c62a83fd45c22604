//! Steps that `model.yaml` declares before and after the model, and what flows through them.
//!
//! A pipeline takes one tensor and gives one. Types and shapes are followed from step to step while the file is
//! read: what does not fit is refused there, with the step and what it expected. The arithmetic is in
//! `perwatt-signal`; running a pipeline is the runtime's business.

mod flow;
mod manifest;
mod parameters;
mod step;

pub use flow::{Axis, Flow, StepError};
pub use step::{Corner, Give, Order, Step};

use crate::manifest::{ManifestError, TensorSpec, check_shape, field};
use crate::names::TensorName;
use serde::{Deserialize, Serialize};

/// Most steps of a model, in all its pipelines together.
pub const MAX_STEPS: usize = 64;
/// Most numbers that the steps of a model keep for one sequence.
pub const MAX_STATE: usize = 1 << 20;

/// Makes an input of the model out of an input of the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// The input of the request.
    pub from: TensorName,
    /// The input of the model, without the context that a sequence puts before it.
    pub to: TensorSpec,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// Makes an output of the reply out of an output of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postprocess {
    /// The output of the model.
    pub from: TensorSpec,
    /// The output of the reply.
    pub to: TensorName,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// What flows into each step of a pipeline, and out of the last one; `labels` is how many `model.yaml` has.
///
/// # Errors
/// With the place of the first step that does not fit, and why.
pub fn flows(from: &TensorSpec, steps: &[Step], labels: usize) -> Result<Vec<Flow>, (usize, StepError)> {
    let mut flow = Flow::from(from);
    let mut flows = vec![flow.clone()];
    for (i, step) in steps.iter().enumerate() {
        flow = step.apply(&flow, labels).map_err(|error| (i, error))?;
        flows.push(flow.clone());
    }
    Ok(flows)
}

/// Checks one pipeline between two tensors.
pub(crate) fn check(
    at: &str,
    from: &TensorSpec,
    to: &TensorSpec,
    steps: &[Step],
    labels: usize,
) -> Result<usize, ManifestError> {
    if steps.is_empty() {
        return Err(field(
            format!("{at}.steps"),
            "there is none: name one, or leave the pipeline out",
        ));
    }
    if steps.len() > MAX_STEPS {
        return Err(field(
            format!("{at}.steps"),
            format!("{} are more than {MAX_STEPS}", steps.len()),
        ));
    }
    check_shape(&format!("{at}.from.shape"), &from.shape)?;
    check_shape(&format!("{at}.to.shape"), &to.shape)?;
    for step in steps {
        if let Step::Join { with, .. } = step {
            check_shape(&format!("{at}.steps"), &with.shape)?;
        }
    }
    let flows = flows(from, steps, labels).map_err(|(i, error)| {
        let name = steps.get(i).map_or("", Step::name);
        field(format!("{at}.steps[{i}] ({name})"), error.to_string())
    })?;
    let last = flows.last().cloned().unwrap_or_else(|| Flow::from(from));
    last.check_fits(to)
        .map_err(|problem| field(format!("{at}.to"), problem))?;
    Ok(steps
        .iter()
        .zip(&flows)
        .map(|(step, flow)| step.state_length(flow))
        .sum())
}
