//! Events for spiking networks: from signals by their changes, and from lists of events. Rows are steps in time.

use crate::error::{SignalError, check_finite, check_size, check_state, length, parameter, rows};
use serde::{Deserialize, Serialize};

/// What a channel is compared with after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reference {
    /// The value that made the event: a steep change makes one event.
    #[default]
    Value,
    /// The old reference plus or minus the threshold: a steep change makes an event in each of the steps that
    /// follow, until the reference has caught up (asynchronous delta modulation).
    Threshold,
}

/// Events where a signal changed: row `t` of the result holds for each channel 1 where `x − r ≥ up`, then for each
/// channel 1 where `r − x ≥ down`, else 0. `r`, the reference, is the channel's first value and moves with events.
///
/// Steps × channels become steps × 2·channels. `state` holds the references.
///
/// # Errors
/// When the signal is empty, torn or not finite, or a threshold is not greater than 0.
pub fn delta(
    values: &[f32],
    channels: usize,
    (up, down): (f32, f32),
    reference: Reference,
    state: &mut Vec<f32>,
) -> Result<Vec<f32>, SignalError> {
    for (name, threshold) in [("up", up), ("down", down)] {
        if !(threshold.is_finite() && threshold > 0.0) {
            return Err(parameter(
                name,
                format!("{threshold} is not a number greater than 0"),
            ));
        }
    }
    let steps = rows("the signal", values.len(), channels)?;
    check_finite("the signal", values)?;
    check_state(state, channels)?;
    let mut out = Vec::with_capacity(check_size("the events", &[steps, channels, 2])?);
    let mut held = if state.is_empty() {
        values.iter().take(channels).copied().collect()
    } else {
        state.clone()
    };
    for row in values.chunks_exact(channels) {
        let rises = row.iter().zip(&held).map(|(x, r)| f32::from(x - r >= up));
        out.extend(rises);
        let falls = row.iter().zip(&held).map(|(x, r)| f32::from(r - x >= down));
        out.extend(falls);
        for (&x, r) in row.iter().zip(&mut held) {
            *r = follow(x, *r, (up, down), reference);
        }
    }
    *state = held;
    Ok(out)
}

fn follow(x: f32, r: f32, (up, down): (f32, f32), reference: Reference) -> f32 {
    let (rises, falls) = (x - r >= up, r - x >= down);
    match reference {
        Reference::Value if rises || falls => x,
        Reference::Threshold if rises => r + up,
        Reference::Threshold if falls => r - down,
        _ => r,
    }
}

/// Counts events in steps of time: rows of (microseconds since the first step began, channel) become steps × channels.
///
/// A row with a channel below 0 is padding. Events outside the steps are left out.
///
/// # Errors
/// When a channel does not exist, or a parameter is 0.
pub fn bins(
    events: &[i64],
    steps: usize,
    step_microseconds: u64,
    channels: usize,
) -> Result<Vec<f32>, SignalError> {
    if steps == 0 || step_microseconds == 0 || channels == 0 {
        return Err(parameter(
            "steps",
            "steps, their length and channels must be 1 or more",
        ));
    }
    if !events.len().is_multiple_of(2) {
        return Err(length(
            "the list of events",
            events.len(),
            "which are not pairs of time and channel",
        ));
    }
    let mut out = vec![0.0; check_size("the steps", &[steps, channels])?];
    for event in events.chunks_exact(2) {
        let [time, channel] = event else { continue };
        let (Ok(time), Ok(channel)) = (u64::try_from(*time), usize::try_from(*channel)) else {
            continue;
        };
        if channel >= channels {
            return Err(parameter(
                "channels",
                format!("an event is of channel {channel}, there are {channels}"),
            ));
        }
        let place = usize::try_from(time / step_microseconds)
            .ok()
            .filter(|step| *step < steps);
        if let Some(count) = place.and_then(|step| out.get_mut(step * channels + channel)) {
            *count += 1.0;
        }
    }
    Ok(out)
}

/// The last `length` rows of a signal whose new rows are `values`, zeros where it is younger than that.
/// `state` holds the rows before the new ones.
///
/// # Errors
/// When the signal is empty, torn, or not finite, or has more new rows than the window.
pub fn sliding_window(
    values: &[f32],
    width: usize,
    window: usize,
    state: &mut Vec<f32>,
) -> Result<Vec<f32>, SignalError> {
    let new = rows("the signal", values.len(), width)?;
    check_finite("the signal", values)?;
    let size = check_size("the window", &[window, width])?;
    if new > window {
        return Err(length(
            "the signal",
            values.len(),
            format!("the window holds {size}"),
        ));
    }
    let kept = size - values.len();
    check_state(state, kept)?;
    let mut out = if state.is_empty() {
        vec![0.0; kept]
    } else {
        state.clone()
    };
    out.extend_from_slice(values);
    *state = out.iter().skip(values.len()).copied().collect();
    Ok(out)
}
