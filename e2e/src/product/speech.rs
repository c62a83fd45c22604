//! Speech: the recording in windows, and segments out of probabilities.

use std::path::Path;

use super::{Error, Result};

/// Samples of one request.
pub const WINDOW: usize = 512;
/// Samples a second.
pub const RATE: usize = 16_000;
/// A segment begins above this probability.
const BEGIN: f64 = 0.5;
/// A segment ends when the probability stays below this.
const END: f64 = 0.35;
/// Windows below [`END`] that end a segment: about 200 ms.
const SILENCE: usize = 6;
/// Windows that a segment has at least: about 250 ms.
const SHORTEST: usize = 8;

/// A recording (16 kHz, mono, 16 bit) in windows of [`WINDOW`] samples between -1 and 1.
///
/// # Errors
/// When the file cannot be read or is of another kind.
pub fn windows(path: &Path) -> Result<Vec<Vec<f32>>> {
    let wrong = |why: String| Error::Recording {
        path: path.to_owned(),
        why,
    };
    let mut reader = hound::WavReader::open(path).map_err(|error| wrong(error.to_string()))?;
    let spec = reader.spec();
    if spec.channels != 1 || spec.sample_rate as usize != RATE || spec.bits_per_sample != 16 {
        return Err(wrong(format!(
            "it is {spec:?}, and 16 kHz mono of 16 bit is needed"
        )));
    }
    let samples: Vec<f32> = reader
        .samples::<i16>()
        .map(|sample| sample.map(|value| f32::from(value) / 32_768.0))
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(samples.chunks_exact(WINDOW).map(<[f32]>::to_vec).collect())
}

/// Speech, in seconds from the recording's start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// First second.
    pub from: f64,
    /// Last second.
    pub to: f64,
}

/// Segments of speech out of one probability for each window, in order.
#[must_use]
pub fn segments(probabilities: &[f64]) -> Vec<Segment> {
    let mut found = Vec::new();
    let mut began = None;
    let mut quiet = 0;
    for (at, probability) in probabilities.iter().enumerate() {
        quiet = if *probability < END { quiet + 1 } else { 0 };
        match began {
            None if *probability >= BEGIN => began = Some(at),
            Some(start) if quiet >= SILENCE => {
                push(&mut found, start, at + 1 - quiet);
                began = None;
            }
            _ => {}
        }
    }
    if let Some(start) = began {
        push(&mut found, start, probabilities.len());
    }
    found
}

fn push(found: &mut Vec<Segment>, start: usize, end: usize) {
    if end.saturating_sub(start) >= SHORTEST {
        found.push(Segment {
            from: seconds(start),
            to: seconds(end),
        });
    }
}

#[allow(clippy::cast_precision_loss, reason = "a recording has few windows")]
fn seconds(window: usize) -> f64 {
    (window * WINDOW) as f64 / RATE as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_bridges_short_silence_and_short_noise_is_none() {
        let mut probabilities = vec![0.0; 10];
        probabilities.extend(vec![0.9; 20]);
        probabilities.extend(vec![0.1; 3]);
        probabilities.extend(vec![0.9; 20]);
        probabilities.extend(vec![0.0; 20]);
        probabilities.extend(vec![0.9; 3]);
        probabilities.extend(vec![0.0; 10]);
        let found = segments(&probabilities);
        assert_eq!(found.len(), 1);
        assert!((found[0].from - 0.32).abs() < 1e-9);
        assert!((found[0].to - 53.0 * 0.032).abs() < 1e-9);
    }
}
