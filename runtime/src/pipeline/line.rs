//! One pipeline: its steps made ready once, run for every request.

use super::elements::{floats, integers};
use super::image::image;
use super::layout::{join, last, place, sliced, transposed, with_last};
use super::scores::{numbers, over_time, scores};
use super::signals::{audio, events};
use super::{PipelineError, is_heavy};
use crate::tensor::{Data, Tensor};
use bytes::Bytes;
use perwatt_model::pipeline::{Flow, Give, Order, flows};
use perwatt_model::{Manifest, Step, TensorSpec};
use perwatt_signal::SignalError;
use perwatt_signal::audio::Window;
use perwatt_signal::mel::LogMel;
use perwatt_signal::resample::Resampler;
use perwatt_signal::scores::top;
use std::borrow::Cow;

/// From so many elements on a pipeline is heavy, whatever its steps.
const HEAVY_ELEMENTS: usize = 1 << 15;

/// A pipeline that is ready to run.
#[derive(Debug)]
pub struct Line {
    name: String,
    from: usize,
    steps: Vec<Ready>,
    /// The shape that `model.yaml` says, which may have more or fewer axes of length 1.
    shape: Vec<usize>,
    labels: Vec<Bytes>,
    is_heavy: bool,
}

/// A step with what it needs.
#[derive(Debug)]
struct Ready {
    step: Step,
    tool: Tool,
}

/// What a step prepares once.
#[derive(Debug)]
pub enum Tool {
    /// Nothing.
    None,
    /// Window, filters and transform.
    Mel(LogMel),
    /// The filter.
    Resampler(Resampler),
    /// The window.
    Weights(Vec<f32>),
    /// Place of the output that is joined.
    Output(usize),
}

/// What a step gives, or what is wrong.
pub type Result<T> = std::result::Result<T, String>;

/// What the arithmetic says.
pub fn told<T>(result: std::result::Result<T, SignalError>) -> Result<T> {
    result.map_err(|error| error.to_string())
}

impl Line {
    /// Makes the steps ready; nothing where `model.yaml` was never checked.
    pub fn new(
        from: usize,
        spec: &TensorSpec,
        shape: &[u32],
        steps: &[Step],
        manifest: &Manifest,
        raw: &[&TensorSpec],
    ) -> Option<Self> {
        let flows = flows(spec, steps, manifest.labels.len()).ok()?;
        let ready = |step: &Step| {
            Some(Ready {
                tool: build_tool(step, raw)?,
                step: step.clone(),
            })
        };
        let labels = manifest.labels.iter().map(|l| l.as_str().to_owned().into());
        Some(Self {
            name: spec.name.to_string(),
            from,
            steps: steps.iter().map(ready).collect::<Option<_>>()?,
            shape: sizes(shape),
            labels: match steps.iter().any(names_classes) {
                true => labels.collect(),
                false => vec![],
            },
            is_heavy: steps.iter().any(is_heavy) || flows.iter().any(is_large),
        })
    }

    /// Whether it may take milliseconds.
    pub fn is_heavy(&self) -> bool {
        self.is_heavy
    }

    /// Makes its tensor out of `tensors`; `past` is what its steps remember.
    ///
    /// # Errors
    /// With the step and what is wrong.
    pub fn run(
        &self,
        tensors: &[Tensor],
        past: &mut Vec<Vec<f32>>,
    ) -> std::result::Result<Tensor, PipelineError> {
        past.resize(self.steps.len(), vec![]);
        let failed = |step, problem| PipelineError {
            tensor: self.name.clone(),
            step,
            problem,
        };
        let first = tensors.get(self.from);
        let first = first.ok_or_else(|| failed("start", "it is not there".into()))?;
        let mut tensor = Cow::Borrowed(first);
        for (ready, past) in self.steps.iter().zip(past.iter_mut()) {
            let next = self.step(ready, tensor, tensors, past);
            tensor = Cow::Owned(next.map_err(|problem| failed(ready.step.name(), problem))?);
        }
        if tensor.data.len() != self.shape.iter().product::<usize>() {
            let problem = format!("the steps gave {:?}, not {:?}", tensor.shape, self.shape);
            return Err(failed("end", problem));
        }
        let mut tensor = tensor.into_owned();
        tensor.shape.clone_from(&self.shape);
        Ok(tensor)
    }

    fn step(
        &self,
        ready: &Ready,
        tensor: Cow<'_, Tensor>,
        all: &[Tensor],
        past: &mut Vec<f32>,
    ) -> Result<Tensor> {
        match &ready.step {
            step @ (Step::DecodeImage { .. } | Step::Resize { .. } | Step::Crop { .. }) => {
                image(step, tensor.into_owned())
            }
            Step::Layout { to: Order::Chw } => transposed(&tensor, &[2, 0, 1]),
            Step::Layout { to: Order::Hwc } => transposed(&tensor, &[1, 2, 0]),
            Step::Transpose { axes } => {
                let axes: Vec<_> = axes.iter().map(|&axis| axis.into()).collect();
                transposed(&tensor, &axes)
            }
            Step::Reshape { shape } => Ok(Tensor {
                shape: sizes(shape),
                data: tensor.into_owned().data,
            }),
            Step::Slice { axis, start, length } => {
                sliced(&tensor, place(*axis, &tensor), *start as usize, *length as usize)
            }
            Step::Join { axis, .. } => join(&tensor, &ready.tool, all, place(*axis, &tensor)),
            step @ (Step::Normalize { .. }
            | Step::Quantize { .. }
            | Step::Dequantize { .. }
            | Step::Cast { .. }) => numbers(step, &tensor),
            step @ (Step::Pcm16 {}
            | Step::PreEmphasis { .. }
            | Step::Resample { .. }
            | Step::Frames { .. }
            | Step::LogMel(_)) => audio(step, &ready.tool, &tensor, past),
            step @ (Step::Delta { .. } | Step::BinEvents { .. } | Step::SlidingWindow { .. }) => {
                events(step, &tensor, past)
            }
            step @ (Step::Softmax {}
            | Step::Sigmoid {}
            | Step::ArgMax {}
            | Step::NonMaximumSuppression(_)) => scores(step, &tensor),
            Step::TopK { count, give } => self.top(&tensor, *count as usize, *give),
            Step::Labels {} => self.labels(&tensor),
            step @ (Step::Threshold { .. } | Step::Smooth { .. } | Step::MovingMean { .. }) => {
                over_time(step, &tensor, past)
            }
        }
    }

    fn top(&self, tensor: &Tensor, count: usize, give: Give) -> Result<Tensor> {
        let best = told(top(&floats(&tensor.data)?, last(tensor), count))?;
        let places = || best.iter().map(|(place, _)| *place as i64);
        let data = match give {
            Give::Values => Data::F32(best.iter().map(|(_, value)| *value).collect()),
            Give::Places => Data::I64(places().collect()),
            Give::Labels => Data::Bytes(places().map(|i| self.label(i)).collect::<Result<_>>()?),
        };
        Ok(with_last(tensor, count, data))
    }

    fn labels(&self, tensor: &Tensor) -> Result<Tensor> {
        let places = integers(&tensor.data)?;
        let names = places.iter().map(|&place| self.label(place));
        Ok(Tensor {
            shape: tensor.shape.clone(),
            data: Data::Bytes(names.collect::<Result<_>>()?),
        })
    }

    fn label(&self, place: i64) -> Result<Bytes> {
        let known = usize::try_from(place).ok().and_then(|i| self.labels.get(i));
        let unknown = || format!("class {place} has no label, there are {}", self.labels.len());
        known.cloned().ok_or_else(unknown)
    }
}

fn names_classes(step: &Step) -> bool {
    let top = |give: &Give| *give == Give::Labels;
    matches!(step, Step::Labels {}) || matches!(step, Step::TopK { give, .. } if top(give))
}

fn sizes(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|&n| n as usize).collect()
}

fn is_large(flow: &Flow) -> bool {
    let size = flow.shape.iter().map(|n| n.map_or(usize::MAX, |n| n as usize));
    size.fold(1usize, usize::saturating_mul) >= HEAVY_ELEMENTS
}

fn build_tool(step: &Step, raw: &[&TensorSpec]) -> Option<Tool> {
    Some(match step {
        Step::LogMel(spec) => Tool::Mel(LogMel::new(*spec).ok()?),
        Step::Resample { from_hertz, to_hertz } => {
            Tool::Resampler(Resampler::new(*from_hertz, *to_hertz).ok()?)
        }
        Step::Frames { length, window, .. } => Tool::Weights(Window::weights(*window, *length as usize)),
        Step::Join { with, .. } => Tool::Output(raw.iter().position(|spec| spec.name == with.name)?),
        _ => Tool::None,
    })
}
