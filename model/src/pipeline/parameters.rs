//! What each step makes of what flows into it, and which parameters it takes.

use super::flow::{Axis, Flow, StepError};
use super::step::{Give, Order, Step};
use crate::manifest::{Datatype, MAX_ELEMENTS, TensorSpec};
use perwatt_signal::SignalError;
use perwatt_signal::audio::frame_count;
use perwatt_signal::boxes::{DETECTION, suppress};
use perwatt_signal::events::delta;
use perwatt_signal::mel::LogMel;
use perwatt_signal::numeric::{dequantize, normalize};
use perwatt_signal::resample::Resampler;
use perwatt_signal::smooth::{exponential, threshold};

/// Largest image file, in bytes, that a step may be told to take.
const MOST_BYTES: u32 = 64 << 20;

pub(super) fn max_pixels() -> u32 {
    1 << 24
}

pub(super) fn max_bytes() -> u32 {
    8 << 20
}

pub(super) fn one() -> f32 {
    1.0
}

pub(super) fn last_axis() -> i8 {
    -1
}

type Result<T> = std::result::Result<T, StepError>;

fn refuse<T>(problem: impl Into<String>) -> Result<T> {
    Err(StepError::Parameter(problem.into()))
}

impl Step {
    /// What it makes of `flow`.
    ///
    /// # Errors
    /// When it cannot take that, or its fields are out of their range.
    pub fn apply(&self, flow: &Flow, labels: usize) -> Result<Flow> {
        self.shape_of(flow, labels)?.bounded()
    }

    fn shape_of(&self, flow: &Flow, labels: usize) -> Result<Flow> {
        match self {
            Self::DecodeImage { .. } | Self::Resize { .. } | Self::Crop { .. } | Self::Layout { .. } => {
                self.image_of(flow)
            }
            Self::Transpose { axes } => transposed(flow, axes),
            Self::Reshape { shape } => reshaped(flow, shape),
            Self::Slice { axis, start, length } => sliced(flow, *axis, *start, *length),
            Self::Join { with, axis } => joined(flow, with, *axis),
            Self::Normalize { .. } | Self::Quantize { .. } | Self::Dequantize { .. } | Self::Cast { .. } => {
                self.numbers_of(flow)
            }
            Self::Pcm16 {}
            | Self::PreEmphasis { .. }
            | Self::Resample { .. }
            | Self::Frames { .. }
            | Self::LogMel(_) => self.audio_of(flow),
            Self::Delta { .. } | Self::BinEvents { .. } | Self::SlidingWindow { .. } => self.events_of(flow),
            Self::Softmax {} | Self::Sigmoid {} | Self::ArgMax {} | Self::TopK { .. } | Self::Labels {} => {
                self.scores_of(flow, labels)
            }
            Self::Threshold { .. }
            | Self::Smooth { .. }
            | Self::MovingMean { .. }
            | Self::NonMaximumSuppression(_) => self.decisions_of(flow),
        }
    }

    fn image_of(&self, flow: &Flow) -> Result<Flow> {
        match *self {
            Self::DecodeImage {
                channels,
                max_pixels,
                max_bytes,
            } => {
                let count = if channels == perwatt_signal::image::Channels::Gray {
                    1
                } else {
                    3
                };
                decoded(flow, max_pixels, max_bytes, count)
            }
            Self::Resize {
                height,
                width,
                shorter_side,
                ..
            } => resized(flow, height, width, shorter_side),
            Self::Crop { height, width, at } => {
                let (rows, columns, channels) = flow.image()?;
                let (top, left) = at.map_or((0, 0), |at| (at.top, at.left));
                check_inside(rows, top, height)?;
                check_inside(columns, left, width)?;
                Ok(image(flow.datatype, Some(height), Some(width), channels))
            }
            Self::Layout { to: Order::Chw } => transposed(flow, &[2, 0, 1]),
            _ => transposed(flow, &[1, 2, 0]),
        }
    }

    fn numbers_of(&self, flow: &Flow) -> Result<Flow> {
        flow.numbers()?;
        match self {
            Self::Normalize {
                scale,
                mean,
                std,
                axis,
            } => {
                let axis = flow.axis(*axis)?;
                let channels = flow.shape.get(axis).copied().flatten();
                if mean.len() != 1 && channels.is_none_or(|n| n as usize != mean.len()) {
                    return Err(flow.unfit(format!("{} channels, as many as mean has entries", mean.len())));
                }
                normalize(&[], 1, *scale, mean, std)?;
                Ok(flow.with(Datatype::Fp32))
            }
            Self::Quantize {
                datatype,
                scale,
                zero_point,
            } => {
                use Datatype as D;
                if !matches!(datatype, D::Int8 | D::Uint8 | D::Int16 | D::Uint16 | D::Int32) {
                    return refuse("datatype: INT8, UINT8, INT16, UINT16 or INT32");
                }
                dequantize(&[], *scale, *zero_point)?;
                Ok(flow.with(*datatype))
            }
            Self::Dequantize { scale, zero_point } => {
                dequantize(&[], *scale, *zero_point)?;
                Ok(flow.with(Datatype::Fp32))
            }
            Self::Cast {
                datatype: Datatype::Bytes,
            } => refuse("datatype: numbers do not become BYTES; Labels names classes"),
            Self::Cast { datatype } => Ok(flow.with(*datatype)),
            _ => Ok(flow.clone()),
        }
    }

    fn audio_of(&self, flow: &Flow) -> Result<Flow> {
        let samples = flow.samples()?;
        match self {
            Self::Pcm16 {} if flow.datatype != Datatype::Int16 => Err(flow.unfit("INT16 samples")),
            Self::PreEmphasis { coefficient } if !coefficient.is_finite() => refuse("coefficient: a number"),
            Self::Resample { from_hertz, to_hertz } => {
                let resampler = Resampler::new(*from_hertz, *to_hertz)?;
                let count = resampler.output_length(samples as usize)?;
                let mut shape = flow.shape.clone();
                if let Some(last) = shape.last_mut() {
                    *last = u32::try_from(count).ok();
                }
                Ok(Flow {
                    datatype: Datatype::Fp32,
                    shape,
                })
            }
            Self::Frames { length, hop, .. } => {
                let count = frame_count(samples as usize, *length as usize, *hop as usize)?;
                Ok(matrix(count, *length as usize))
            }
            Self::LogMel(spec) => Ok(matrix(LogMel::new(*spec)?.rows(samples as usize)?, spec.bands)),
            _ => Ok(flow.with(Datatype::Fp32)),
        }
    }

    fn events_of(&self, flow: &Flow) -> Result<Flow> {
        match *self {
            Self::Delta { up, down, reference } => {
                let (rows, channels) = flow.rows()?;
                delta(&[0.0], 1, (up, down.unwrap_or(up)), reference, &mut vec![])?;
                Ok(matrix(rows as usize, (channels as usize).saturating_mul(2)))
            }
            Self::BinEvents {
                steps,
                step_microseconds,
                channels,
            } => {
                let integers = matches!(flow.datatype, Datatype::Int64 | Datatype::Int32);
                if !integers || flow.last()? != 2 {
                    return Err(flow.unfit("INT64 or INT32 [n, 2] of (microseconds, channel)"));
                }
                if step_microseconds == 0 {
                    return refuse("stepMicroseconds: 1 or more");
                }
                Ok(matrix(steps as usize, channels as usize))
            }
            Self::SlidingWindow { rows } => {
                let (new, channels) = flow.rows()?;
                if rows < new {
                    return refuse(format!(
                        "rows: each request brings {new}, the window must hold them"
                    ));
                }
                Ok(matrix(rows as usize, channels as usize))
            }
            _ => Ok(flow.clone()),
        }
    }

    fn scores_of(&self, flow: &Flow, labels: usize) -> Result<Flow> {
        flow.numbers()?;
        let classes = flow.last()?;
        let mut shape = flow.shape.clone();
        match self {
            Self::ArgMax {} => {
                shape.pop();
                Ok(Flow {
                    datatype: Datatype::Int64,
                    shape,
                })
            }
            Self::TopK { count, give } => {
                if *count == 0 || *count > classes {
                    return refuse(format!(
                        "count: {count} is not between 1 and the last axis, {classes}"
                    ));
                }
                if *give == Give::Labels && classes as usize != labels {
                    return refuse(format!(
                        "give: the last axis has {classes} entries, labels has {labels}"
                    ));
                }
                shape.pop();
                shape.push(Some(*count));
                let datatype = match give {
                    Give::Values => Datatype::Fp32,
                    Give::Places => Datatype::Int64,
                    Give::Labels => Datatype::Bytes,
                };
                Ok(Flow { datatype, shape })
            }
            Self::Labels {} => {
                if flow.datatype != Datatype::Int64 {
                    return Err(flow.unfit("INT64 places (ArgMax gives them)"));
                }
                if labels == 0 {
                    return refuse("model.yaml has no labels");
                }
                Ok(flow.with(Datatype::Bytes))
            }
            _ => Ok(flow.with(Datatype::Fp32)),
        }
    }

    fn decisions_of(&self, flow: &Flow) -> Result<Flow> {
        let (_, channels) = flow.rows()?;
        match self {
            Self::Threshold { rise, fall } => {
                threshold(&[0.0], 1, *rise, fall.unwrap_or(*rise), &mut vec![])?;
                Ok(flow.with(Datatype::Bool))
            }
            Self::Smooth { weight } => {
                exponential(&[0.0], 1, *weight, &mut vec![])?;
                Ok(flow.with(Datatype::Fp32))
            }
            Self::MovingMean { rows: 0 } => refuse("rows: 1 or more"),
            Self::NonMaximumSuppression(how) => {
                // No rows: what is refused then are the parameters.
                match suppress(&[], channels as usize, how) {
                    Err(SignalError::Empty(_)) | Ok(_) => Ok(matrix(how.most, DETECTION)),
                    Err(error) => Err(error.into()),
                }
            }
            _ => Ok(flow.with(Datatype::Fp32)),
        }
    }

    /// How many numbers it keeps for one sequence, when `flow` is what it gets.
    pub fn state_length(&self, flow: &Flow) -> usize {
        let (rows, channels) = flow.rows().map_or((0, 0), |(r, c)| (r as usize, c as usize));
        match *self {
            Self::PreEmphasis { .. } => 1,
            Self::Resample { from_hertz, to_hertz } => {
                Resampler::new(from_hertz, to_hertz).map_or(0, |resampler| resampler.state_length())
            }
            Self::Delta { .. } | Self::Threshold { .. } | Self::Smooth { .. } => channels,
            Self::SlidingWindow { rows: all } => (all as usize).saturating_sub(rows).saturating_mul(channels),
            Self::MovingMean { rows: all } => (all as usize).saturating_sub(1).saturating_mul(channels),
            _ => 0,
        }
    }
}

fn matrix(rows: usize, columns: usize) -> Flow {
    // What does not fit into u32 is far above the limit on elements.
    let axis = |n: usize| Some(u32::try_from(n).unwrap_or(u32::MAX));
    Flow {
        datatype: Datatype::Fp32,
        shape: vec![axis(rows), axis(columns)],
    }
}

fn image(datatype: Datatype, height: Axis, width: Axis, channels: u32) -> Flow {
    Flow {
        datatype,
        shape: vec![height, width, Some(channels)],
    }
}

fn decoded(flow: &Flow, max_pixels: u32, max_bytes: u32, channels: u32) -> Result<Flow> {
    if flow.datatype != Datatype::Bytes || flow.shape.iter().any(|n| *n != Some(1)) {
        return Err(flow.unfit("BYTES with one element, the file"));
    }
    let most_pixels = MAX_ELEMENTS / u64::from(channels);
    if max_pixels == 0 || u64::from(max_pixels) > most_pixels {
        return refuse(format!(
            "maxPixels: {max_pixels} is not between 1 and {most_pixels}"
        ));
    }
    if max_bytes == 0 || max_bytes > MOST_BYTES {
        return refuse(format!("maxBytes: {max_bytes} is not between 1 and {MOST_BYTES}"));
    }
    Ok(image(Datatype::Uint8, None, None, channels))
}

fn resized(flow: &Flow, height: Axis, width: Axis, shorter_side: Axis) -> Result<Flow> {
    let (rows, columns, channels) = flow.image()?;
    let datatype = if flow.datatype == Datatype::Uint8 {
        Datatype::Uint8
    } else {
        Datatype::Fp32
    };
    match (height, width, shorter_side) {
        (Some(1..), Some(1..), None) => Ok(image(datatype, height, width, channels)),
        (None, None, Some(side @ 1..)) => {
            let (Some(rows), Some(columns)) = (rows, columns) else {
                return Ok(image(datatype, None, None, channels));
            };
            let (rows, columns) =
                perwatt_signal::image::shorter_side(rows as usize, columns as usize, side as usize)?;
            let axis = |n: usize| Some(u32::try_from(n).unwrap_or(u32::MAX));
            Ok(image(datatype, axis(rows), axis(columns), channels))
        }
        _ => refuse("it takes height and width, or shorterSide alone, each 1 or more"),
    }
}

fn check_inside(all: Axis, start: u32, count: u32) -> Result<()> {
    let end = start.checked_add(count).filter(|_| count > 0);
    match (end, all) {
        (Some(end), Some(all)) if end <= all => Ok(()),
        // The request tells.
        (Some(_), None) => Ok(()),
        _ => {
            let all = all.map_or_else(|| "?".to_owned(), |n| n.to_string());
            refuse(format!("{count} from {start} on do not lie within {all}"))
        }
    }
}

fn transposed(flow: &Flow, axes: &[u8]) -> Result<Flow> {
    let mut sorted: Vec<usize> = axes.iter().map(|&a| a.into()).collect();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..flow.shape.len()) {
        return Err(flow.unfit(format!("a tensor of {} axes, in the order {axes:?}", axes.len())));
    }
    flow.numbers()?;
    let shape = axes
        .iter()
        .filter_map(|&a| flow.shape.get(usize::from(a)).copied());
    Ok(Flow {
        datatype: flow.datatype,
        shape: shape.collect(),
    })
}

fn reshaped(flow: &Flow, shape: &[u32]) -> Result<Flow> {
    let size = |shape: &[u32]| shape.iter().try_fold(1u64, |p, &n| p.checked_mul(u64::from(n)));
    if shape.len() > 8 || size(shape) != size(&flow.sizes()?) {
        return Err(flow.unfit(format!("as many elements as {shape:?} has, in at most 8 axes")));
    }
    Ok(Flow::known(flow.datatype, shape))
}

fn sliced(flow: &Flow, axis: i8, start: u32, length: u32) -> Result<Flow> {
    flow.numbers()?;
    flow.sizes()?;
    let axis = flow.axis(axis)?;
    let mut shape = flow.shape.clone();
    if let Some(entry) = shape.get_mut(axis) {
        check_inside(*entry, start, length)?;
        *entry = Some(length);
    }
    Ok(Flow {
        datatype: flow.datatype,
        shape,
    })
}

fn joined(flow: &Flow, with: &TensorSpec, axis: i8) -> Result<Flow> {
    flow.numbers()?;
    let (mut shape, axis) = (flow.sizes()?, flow.axis(axis)?);
    let is_beside = |(i, (a, b)): (usize, (&u32, &u32))| i == axis || a == b;
    let fits = shape.len() == with.shape.len() && shape.iter().zip(&with.shape).enumerate().all(is_beside);
    if !fits || with.datatype != flow.datatype {
        let other = Flow::from(with);
        return Err(flow.unfit(format!(
            "a tensor that differs from {other} along axis {axis} alone"
        )));
    }
    if let (Some(length), Some(more)) = (shape.get_mut(axis), with.shape.get(axis)) {
        *length = length.saturating_add(*more);
    }
    Ok(Flow::known(flow.datatype, &shape))
}
