//! Over time: thresholds with hysteresis, smoothing. Each element of the signal is a channel of its own.

use crate::error::{SignalError, check_finite, check_state, length, parameter, rows};

/// Yes from `rise` on, no below `fall`, and in between what it was before; no at the start.
/// With `fall` equal to `rise` there is no hysteresis. Rows are steps in time; `state` is the last row.
///
/// # Errors
/// When the signal is empty, torn or not finite, or `fall` is above `rise`.
pub fn threshold(
    values: &[f32],
    channels: usize,
    rise: f32,
    fall: f32,
    state: &mut Vec<f32>,
) -> Result<Vec<bool>, SignalError> {
    if !(rise.is_finite() && fall.is_finite() && fall <= rise) {
        return Err(parameter(
            "fall",
            format!("{fall} is not a number of at most rise, {rise}"),
        ));
    }
    rows("the signal", values.len(), channels)?;
    check_finite("the signal", values)?;
    check_state(state, channels)?;
    let mut held = if state.is_empty() {
        vec![0.0; channels]
    } else {
        state.clone()
    };
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(channels) {
        for (&x, held) in row.iter().zip(&mut held) {
            let is_on = x >= rise || (*held > 0.0 && x >= fall);
            *held = f32::from(is_on);
            out.push(is_on);
        }
    }
    *state = held;
    Ok(out)
}

/// `y[t] = weight · x[t] + (1 − weight) · y[t−1]`, and `y[0] = x[0]`: exponential smoothing.
/// Rows are steps in time; `state` is the last row.
///
/// # Errors
/// When the signal is empty, torn or not finite, or `weight` is not between 0 and 1.
pub fn exponential(
    values: &[f32],
    channels: usize,
    weight: f32,
    state: &mut Vec<f32>,
) -> Result<Vec<f32>, SignalError> {
    if !(weight > 0.0 && weight <= 1.0) {
        return Err(parameter(
            "weight",
            format!("{weight} is not above 0 and at most 1"),
        ));
    }
    rows("the signal", values.len(), channels)?;
    check_finite("the signal", values)?;
    check_state(state, channels)?;
    let mut held = if state.is_empty() {
        values.iter().take(channels).copied().collect()
    } else {
        state.clone()
    };
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(channels) {
        for (x, y) in row.iter().zip(&mut held) {
            *y += weight * (x - *y);
            out.push(*y);
        }
    }
    *state = held;
    Ok(out)
}

/// Mean of the last `window` values of each channel, or of all where there are fewer.
/// Rows are steps in time; `state` holds the rows before, at most `window − 1`.
///
/// # Errors
/// When the signal is empty, torn or not finite, or the window is 0.
pub fn moving_mean(
    values: &[f32],
    channels: usize,
    window: usize,
    state: &mut Vec<f32>,
) -> Result<Vec<f32>, SignalError> {
    if window == 0 {
        return Err(parameter("window", "it must be 1 step or more"));
    }
    rows("the signal", values.len(), channels)?;
    check_finite("the signal", values)?;
    let most = (window - 1).saturating_mul(channels);
    if !state.len().is_multiple_of(channels) || state.len() > most {
        return Err(length(
            "the state",
            state.len(),
            format!("at most {most} in rows of {channels}"),
        ));
    }
    let mut line = state.clone();
    let mut out = Vec::with_capacity(values.len());
    for row in values.chunks_exact(channels) {
        line.extend_from_slice(row);
        let first = (line.len() / channels).saturating_sub(window) * channels;
        line.drain(..first);
        let count = (line.len() / channels) as f32;
        out.extend((0..channels).map(|c| line.iter().skip(c).step_by(channels).sum::<f32>() / count));
    }
    let first = line.len().saturating_sub(most);
    *state = line.split_off(first);
    Ok(out)
}
