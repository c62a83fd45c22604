//! Steps of sound and of events: rows are steps in time, or one signal is all there is.

use super::elements::{floats, integers};
use super::layout::{last, matrix, same_shape, with_last};
use super::line::{Result, Tool, told};
use crate::tensor::{Data, Tensor};
use perwatt_model::Step;
use perwatt_signal::audio::{frames, pcm16, pre_emphasis};
use perwatt_signal::events::{bins, delta, sliding_window};

/// Runs a step of sound.
pub fn audio(step: &Step, tool: &Tool, tensor: &Tensor, past: &mut Vec<f32>) -> Result<Tensor> {
    match (step, tool, &tensor.data) {
        (Step::Pcm16 {}, _, Data::I16(samples)) => Ok(same_shape(tensor, pcm16(samples))),
        (Step::PreEmphasis { coefficient }, _, data) => {
            let values = told(pre_emphasis(&floats(data)?, *coefficient, past))?;
            Ok(same_shape(tensor, values))
        }
        (Step::Resample { .. }, Tool::Resampler(resampler), data) => {
            let values = told(resampler.resample(&floats(data)?, past))?;
            Ok(with_last(tensor, values.len(), Data::F32(values)))
        }
        (Step::Frames { hop, .. }, Tool::Weights(weights), data) => {
            let windows = told(frames(&floats(data)?, weights, *hop as usize))?;
            Ok(matrix(windows, weights.len()))
        }
        (Step::LogMel(spec), Tool::Mel(mel), data) => {
            let rows = told(mel.spectrogram(&floats(data)?))?;
            Ok(matrix(rows, spec.bands))
        }
        _ => Err(format!("it does not take {}", tensor.data.datatype().as_str())),
    }
}

/// Runs a step of events.
pub fn events(step: &Step, tensor: &Tensor, past: &mut Vec<f32>) -> Result<Tensor> {
    let columns = last(tensor);
    match *step {
        Step::Delta { up, down, reference } => {
            let thresholds = (up, down.unwrap_or(up));
            let values = floats(&tensor.data)?;
            let events = told(delta(&values, columns, thresholds, reference, past))?;
            Ok(matrix(events, columns * 2))
        }
        Step::BinEvents {
            steps,
            step_microseconds,
            channels,
        } => {
            let events = integers(&tensor.data)?;
            let (steps, channels) = (steps as usize, channels as usize);
            let counts = told(bins(&events, steps, step_microseconds.into(), channels))?;
            Ok(matrix(counts, channels))
        }
        Step::SlidingWindow { rows } => {
            let values = floats(&tensor.data)?;
            let window = told(sliding_window(&values, columns, rows as usize, past))?;
            Ok(matrix(window, columns))
        }
        _ => Err("it is no step of events".into()),
    }
}
