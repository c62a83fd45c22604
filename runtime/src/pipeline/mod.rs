//! Runs the steps that `model.yaml` declares before and after the model.
//!
//! Types and shapes were followed when `model.yaml` was read; here a request's values flow. What steps remember of
//! a sequence goes in and comes out by value, so that a request that fails leaves it as it was.

mod apart;
mod elements;
mod image;
mod layout;
mod line;
mod scores;
mod signals;

pub use apart::{Unprepared, Workers};

use crate::tensor::Tensor;
use line::Line;
use perwatt_model::{Manifest, Step, TensorName};
use std::fmt;

/// What the steps of one pipeline remember of a sequence: numbers for each step, none at the start.
pub type Past = Vec<Vec<f32>>;

/// What the steps on both sides of a model remember of a sequence: one entry for each tensor that leaves them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pasts {
    /// Before the model.
    pub before: Vec<Past>,
    /// After the model.
    pub after: Vec<Past>,
}

/// Why a pipeline gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{tensor:?}: {step}: {problem}")]
pub struct PipelineError {
    /// The input of the request, or the output of the model.
    tensor: String,
    /// Name of the step.
    step: &'static str,
    /// What is wrong.
    problem: String,
}

/// Where a tensor comes from.
#[derive(Debug)]
enum Source {
    /// It is passed on: its place among what comes.
    Same(usize),
    /// A pipeline makes it.
    Made(Box<Line>),
}

/// The pipelines on one side of the model, one entry for each tensor that leaves them.
pub struct Side {
    sources: Vec<Source>,
    is_heavy: bool,
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side")
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}

impl Side {
    /// What is done before the model; nothing where `model.yaml` was never checked.
    pub fn before(manifest: &Manifest) -> Option<Self> {
        let mut sources = Vec::new();
        for (place, input) in manifest.inputs.iter().enumerate() {
            let own: Vec<_> = manifest
                .preprocess
                .iter()
                .filter(|p| p.from == input.name)
                .collect();
            if own.is_empty() {
                sources.push(Source::Same(place));
            }
            for p in own {
                let line = Line::new(place, input, &p.to.shape, &p.steps, manifest, &[])?;
                sources.push(Source::Made(Box::new(line)));
            }
        }
        Some(Self::of(sources))
    }

    /// What is done after the model; nothing where `model.yaml` was never checked.
    pub fn after(manifest: &Manifest) -> Option<Self> {
        let raw = manifest.raw_outputs();
        let place = |name: &TensorName| raw.iter().position(|spec| spec.name == *name);
        let mut sources = Vec::new();
        for output in &manifest.outputs {
            sources.push(match manifest.postprocess.iter().find(|p| p.to == output.name) {
                None => Source::Same(place(&output.name)?),
                Some(p) => {
                    let line = Line::new(
                        place(&p.from.name)?,
                        &p.from,
                        &output.shape,
                        &p.steps,
                        manifest,
                        &raw,
                    )?;
                    Source::Made(Box::new(line))
                }
            });
        }
        Some(Self::of(sources))
    }

    fn of(sources: Vec<Source>) -> Self {
        let is_heavy = sources
            .iter()
            .any(|s| matches!(s, Source::Made(line) if line.is_heavy()));
        Self { sources, is_heavy }
    }

    /// Whether every tensor passes as it is.
    pub fn is_empty(&self) -> bool {
        let same = |(i, s): (usize, &Source)| matches!(s, Source::Same(place) if *place == i);
        self.sources.iter().enumerate().all(same)
    }

    /// Whether the work would keep a thread that serves others for long.
    pub fn is_heavy(&self) -> bool {
        self.is_heavy
    }

    /// Runs the pipelines on `tensors`; gives what leaves them and what they remember for the next request.
    ///
    /// # Errors
    /// With the tensor, the step and what is wrong; `past` then stays true.
    pub fn run(&self, tensors: &[Tensor], past: &[Past]) -> Result<(Vec<Tensor>, Vec<Past>), PipelineError> {
        let mut made = Vec::with_capacity(self.sources.len());
        let mut next = Vec::with_capacity(self.sources.len());
        for (i, source) in self.sources.iter().enumerate() {
            let mut own = past.get(i).cloned().unwrap_or_default();
            made.push(match source {
                Source::Made(line) => line.run(tensors, &mut own)?,
                Source::Same(place) => tensors.get(*place).cloned().ok_or_else(|| missing(*place))?,
            });
            next.push(own);
        }
        Ok((made, next))
    }
}

fn missing(place: usize) -> PipelineError {
    PipelineError {
        tensor: place.to_string(),
        step: "start",
        problem: "there is no such tensor".into(),
    }
}

/// Whether a step may take milliseconds.
fn is_heavy(step: &Step) -> bool {
    matches!(
        step,
        Step::DecodeImage { .. } | Step::Resize { .. } | Step::LogMel(_) | Step::NonMaximumSuppression(_)
    )
}
