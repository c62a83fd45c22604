//! Audio: samples, pre-emphasis, overlapping windows.

use crate::error::{SignalError, check_finite, check_size, check_state, length, parameter};
use serde::{Deserialize, Serialize};

/// 16-bit samples as numbers between −1 and 1: `x / 32768`.
pub fn pcm16(samples: &[i16]) -> Vec<f32> {
    samples.iter().map(|&s| f32::from(s) / 32768.0).collect()
}

/// `y[n] = x[n] − coefficient · x[n−1]`, which lifts high frequencies; the sample before the first is 0.
/// `state` is the last sample.
///
/// # Errors
/// When the signal is empty or a sample is not finite.
pub fn pre_emphasis(
    samples: &[f32],
    coefficient: f32,
    state: &mut Vec<f32>,
) -> Result<Vec<f32>, SignalError> {
    check_finite("the signal", samples)?;
    check_state(state, 1)?;
    let Some(&last) = samples.last() else {
        return Err(SignalError::Empty("the signal"));
    };
    let before = state.first().copied().unwrap_or(0.0);
    let previous = std::iter::once(&before).chain(samples);
    let out = samples
        .iter()
        .zip(previous)
        .map(|(x, p)| x - coefficient * p)
        .collect();
    *state = vec![last];
    Ok(out)
}

/// The weights of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Window {
    /// All 1.
    Rectangular,
    /// `0.5 − 0.5 cos(2πn/N)`: periodic, as librosa and TensorFlow take it.
    #[default]
    Hann,
    /// `0.54 − 0.46 cos(2πn/N)`, periodic.
    Hamming,
}

impl Window {
    /// The `length` weights.
    pub fn weights(self, length: usize) -> Vec<f32> {
        let (a, b) = match self {
            Self::Rectangular => (1.0, 0.0),
            Self::Hann => (0.5, 0.5),
            Self::Hamming => (0.54, 0.46),
        };
        let turn = std::f64::consts::TAU / length as f64;
        (0..length)
            .map(|n| (a - b * (turn * n as f64).cos()) as f32)
            .collect()
    }
}

/// Number of windows of `length` samples that begin every `hop` samples and lie within `samples`:
/// `1 + ⌊(samples − length) / hop⌋`.
///
/// # Errors
/// When there is none, or a parameter is 0.
pub fn frame_count(samples: usize, window: usize, hop: usize) -> Result<usize, SignalError> {
    if window == 0 || hop == 0 {
        return Err(parameter("hop", "window and hop must be 1 sample or more"));
    }
    match samples.checked_sub(window) {
        Some(rest) => Ok(1 + rest / hop),
        None => Err(length("the signal", samples, format!("a window needs {window}"))),
    }
}

/// The windows of a signal, one after the other, each multiplied by `weights`: frames × weights.
///
/// # Errors
/// When there is none, a sample is not finite, or they are too many.
pub fn frames(samples: &[f32], weights: &[f32], hop: usize) -> Result<Vec<f32>, SignalError> {
    check_finite("the signal", samples)?;
    let count = frame_count(samples.len(), weights.len(), hop)?;
    let mut out = Vec::with_capacity(check_size("the windows", &[count, weights.len()])?);
    for frame in samples.windows(weights.len()).step_by(hop) {
        out.extend(frame.iter().zip(weights).map(|(x, w)| x * w));
    }
    Ok(out)
}
