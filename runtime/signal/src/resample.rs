//! Another sampling rate, by a polyphase filter.
//!
//! A sequence's state must be small, copied when a request begins and dropped when it fails. Here it is the last
//! few input samples and nothing else; resamplers that are objects with buffers of their own cannot be rolled back.

use crate::error::{SignalError, check_finite, check_size, check_state, length, parameter};

/// Zero crossings of the filter on each side, at the lower of the two rates.
const HALF_CROSSINGS: usize = 10;
/// Kaiser's β: 5, about 50 dB.
const BETA: f64 = 5.0;
/// Largest of the two factors after the fraction was reduced: 44,100 to 48,000 Hz needs 160/147.
pub const MAX_FACTOR: u32 = 1024;

/// Changes the sampling rate by `up / down`.
///
/// The filter is the one of `scipy.signal.resample_poly`: a sinc cut at the lower of the two Nyquist frequencies,
/// 20·max(up, down) + 1 taps, Kaiser window with β = 5. It runs causally, as `scipy.signal.upfirdn` does: the output
/// is [`Resampler::delay`] input samples late, so that pieces of a signal give what the whole gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Resampler {
    up: usize,
    down: usize,
    /// Taps of phase p: h[p], h[p + up], h[p + 2 up], …
    phases: Vec<Vec<f32>>,
    history: usize,
}

impl Resampler {
    /// A resampler between two rates.
    ///
    /// # Errors
    /// When a rate is 0, or the reduced fraction has a part above [`MAX_FACTOR`].
    pub fn new(from_hertz: u32, to_hertz: u32) -> Result<Self, SignalError> {
        if from_hertz == 0 || to_hertz == 0 {
            return Err(parameter("fromHertz, toHertz", "a rate is 1 or more"));
        }
        let (up, down) = fraction(from_hertz, to_hertz);
        if up.max(down) > MAX_FACTOR {
            let problem = format!("{from_hertz} to {to_hertz} is {up}/{down}, parts above {MAX_FACTOR}");
            return Err(parameter("fromHertz, toHertz", problem));
        }
        let (up, down) = (up as usize, down as usize);
        let taps = taps(up, down);
        let phase = |p: usize| taps.iter().skip(p).step_by(up).copied().collect();
        let phases = (0..up).map(phase).collect();
        let history = (taps.len() - 1) / up;
        Ok(Self {
            up,
            down,
            phases,
            history,
        })
    }

    /// Number of samples that `samples` become.
    ///
    /// # Errors
    /// When they are not a whole number: pieces of a signal must then have another length.
    pub fn output_length(&self, samples: usize) -> Result<usize, SignalError> {
        if samples == 0 {
            return Err(SignalError::Empty("the signal"));
        }
        if !samples.is_multiple_of(self.down) {
            let expected = format!("it must be a multiple of {} at these rates", self.down);
            return Err(length("the signal", samples, expected));
        }
        check_size("the resampled signal", &[samples / self.down, self.up])
    }

    /// How late the output is, in input samples.
    pub fn delay(&self) -> f64 {
        (HALF_CROSSINGS * self.up.max(self.down)) as f64 / self.up as f64
    }

    /// Number of input samples that are kept for the next piece.
    pub fn state_length(&self) -> usize {
        self.history
    }

    /// Resamples the next piece of a signal; `state` is the end of the piece before, zeros at the start.
    ///
    /// # Errors
    /// When the piece has a length that gives no whole number of samples, or a sample is not finite.
    pub fn resample(&self, samples: &[f32], state: &mut Vec<f32>) -> Result<Vec<f32>, SignalError> {
        check_finite("the signal", samples)?;
        let count = self.output_length(samples.len())?;
        check_state(state, self.history)?;
        let mut line = if state.is_empty() {
            vec![0.0; self.history]
        } else {
            state.clone()
        };
        line.extend_from_slice(samples);
        let one = |n: usize| {
            // y[n] = Σ_k h[phase + k·up] · x[n·down/up − k]
            let (newest, phase) = (n * self.down / self.up, n * self.down % self.up);
            let taps = self.phases.get(phase).map_or(&[][..], Vec::as_slice);
            let past = line.get(..=newest + self.history).unwrap_or_default();
            let products = past.iter().rev().zip(taps).map(|(x, h)| x * h);
            products.sum()
        };
        let out = (0..count).map(one).collect();
        *state = line.split_off(samples.len());
        Ok(out)
    }
}

fn fraction(from: u32, to: u32) -> (u32, u32) {
    let (mut a, mut b) = (from, to);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (to / a, from / a)
}

/// `firwin(20·m + 1, 1/m, window=('kaiser', 5)) · up` with m = max(up, down); a rate that stays needs no filter but
/// keeps the delay.
fn taps(up: usize, down: usize) -> Vec<f32> {
    let widest = up.max(down) as f64;
    let half = HALF_CROSSINGS * up.max(down);
    let bare = |i: usize| {
        let x = i as f64 - half as f64;
        let ratio = x / half as f64;
        let window = bessel_i0(BETA * (1.0 - ratio * ratio).max(0.0).sqrt()) / bessel_i0(BETA);
        sinc(x / widest) / widest * window
    };
    let taps: Vec<f64> = (0..=2 * half).map(bare).collect();
    let sum: f64 = taps.iter().sum();
    taps.iter().map(|h| (h / sum * up as f64) as f32).collect()
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// I₀(x) = Σ ((x/2)^k / k!)²: the modified Bessel function of the first kind, Abramowitz and Stegun 9.6.12.
fn bessel_i0(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..64 {
        term *= x / 2.0 / f64::from(k);
        sum += term * term;
    }
    sum
}
