//! Log-mel spectrograms.

use crate::audio::{Window, frame_count, frames};
use crate::error::{SignalError, check_size, parameter};
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftPlannerScalar};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Longest transform, in samples.
pub const MAX_FFT: usize = 1 << 14;
/// Most bands.
pub const MAX_BANDS: usize = 1024;

/// How hertz become mel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MelScale {
    /// `2595 log10(1 + f/700)`, of the Hidden Markov Model Toolkit.
    Htk,
    /// Linear to 1 kHz, `15 + 27 ln(f/1000) / ln 6.4` above: of Slaney's Auditory Toolbox.
    Slaney,
}

/// How high the triangles are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MelNorm {
    /// 1 at the peak.
    Peak,
    /// `2 / (f_high − f_low)`: the same area in hertz for all.
    Area,
}

/// What becomes of a band's energy `e`, after `max(e, floor)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Compression {
    /// The energy itself.
    None,
    /// `ln e`.
    #[default]
    Ln,
    /// `log10 e`.
    Log10,
    /// `10 log10 e`, decibels relative to 1.
    Decibel,
}

/// Which samples a row of the spectrogram covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Frame {
    /// As many as the window has; zeros follow it up to the transform's length (Kaldi, TensorFlow).
    #[default]
    Window,
    /// As many as the transform has, with the window in their middle (librosa with `center=False`, torchlibrosa).
    Fft,
}

/// The parameters of a [`LogMel`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MelSpec {
    /// Sampling rate.
    pub sample_rate_hertz: u32,
    /// Samples in a window.
    pub window_length: usize,
    /// Samples from one window to the next.
    pub hop: usize,
    /// Samples in a transform.
    pub fft_length: usize,
    /// Which samples a row covers.
    #[serde(default)]
    pub frame: Frame,
    /// The window's weights.
    #[serde(default)]
    pub window: Window,
    /// Number of bands.
    pub bands: usize,
    /// Lower edge of the first band.
    #[serde(default)]
    pub low_hertz: f64,
    /// Upper edge of the last band.
    pub high_hertz: f64,
    /// How hertz become mel.
    pub scale: MelScale,
    /// How high the triangles are.
    pub norm: MelNorm,
    /// 1 for magnitudes, 2 for power.
    #[serde(default = "squared")]
    pub power: u8,
    /// What becomes of a band's energy.
    #[serde(default)]
    pub compression: Compression,
    /// Least energy: the logarithm of silence stays finite.
    #[serde(default = "least_energy")]
    pub floor: f32,
    /// What lies lower than the spectrogram's highest value by more than this is lifted to there, in the unit of the
    /// result; nothing where all is kept. It looks at all rows of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<f32>,
}

fn squared() -> u8 {
    2
}

fn least_energy() -> f32 {
    1e-10
}

/// A band: its first bin and the weights from there on.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Makes log-mel spectrograms: `compress(Σ_bins triangle[band][bin] · |FFT(window · x)[bin]|^power)`.
///
/// Rows lie within the signal: it is not padded. The triangles are those of `librosa.filters.mel`.
#[derive(Clone)]
pub struct LogMel {
    spec: MelSpec,
    weights: Vec<f32>,
    bands: Vec<Band>,
    transform: Arc<dyn Fft<f32>>,
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl LogMel {
    /// Plans the transform and the bands.
    ///
    /// # Errors
    /// With the parameter that is out of its range.
    pub fn new(spec: MelSpec) -> Result<Self, SignalError> {
        check(&spec)?;
        Ok(Self {
            weights: frame_weights(&spec),
            bands: bands(&spec),
            // Without the vector instructions of this or that processor: every node gives the same numbers.
            transform: FftPlannerScalar::new().plan_fft_forward(spec.fft_length),
            spec,
        })
    }

    /// Number of rows that a signal of `samples` gives.
    ///
    /// # Errors
    /// When it is shorter than a window, or gives too much.
    pub fn rows(&self, samples: usize) -> Result<usize, SignalError> {
        let rows = frame_count(samples, self.weights.len(), self.spec.hop)?;
        check_size("the spectrogram", &[rows, self.spec.bands])?;
        Ok(rows)
    }

    /// The spectrogram of a signal: rows × bands, the lowest band first.
    ///
    /// # Errors
    /// When the signal is shorter than a window, or a sample is not finite.
    pub fn spectrogram(&self, samples: &[f32]) -> Result<Vec<f32>, SignalError> {
        let mut out = Vec::with_capacity(self.rows(samples.len())? * self.spec.bands);
        let zero = Complex { re: 0.0, im: 0.0 };
        let mut line = vec![zero; self.spec.fft_length];
        let mut scratch = vec![zero; self.transform.get_inplace_scratch_len()];
        // One window at a time: with a small hop all together would be many times the signal.
        for frame in samples.windows(self.weights.len()).step_by(self.spec.hop) {
            let frame = frames(frame, &self.weights, 1)?;
            line.fill(zero);
            line.iter_mut().zip(&frame).for_each(|(to, from)| to.re = *from);
            self.transform.process_with_scratch(&mut line, &mut scratch);
            let bins = line.iter().take(self.spec.fft_length / 2 + 1);
            let energy: Vec<f32> = bins.map(|bin| self.energy(bin.norm_sqr())).collect();
            out.extend(self.bands.iter().map(|band| self.compress(band.sum(&energy))));
        }
        if let Some(range) = self.spec.range {
            let least = out.iter().copied().fold(f32::NEG_INFINITY, f32::max) - range;
            out.iter_mut().for_each(|v| *v = v.max(least));
        }
        Ok(out)
    }

    fn energy(&self, power: f32) -> f32 {
        if self.spec.power == 1 { power.sqrt() } else { power }
    }

    fn compress(&self, energy: f32) -> f32 {
        let energy = energy.max(self.spec.floor);
        match self.spec.compression {
            Compression::None => energy,
            Compression::Ln => energy.ln(),
            Compression::Log10 => energy.log10(),
            Compression::Decibel => 10.0 * energy.log10(),
        }
    }
}

impl Band {
    fn sum(&self, energy: &[f32]) -> f32 {
        let bins = energy.iter().skip(self.first);
        bins.zip(&self.weights).map(|(e, w)| e * w).sum()
    }
}

/// The window, with zeros around it where a row covers more.
fn frame_weights(spec: &MelSpec) -> Vec<f32> {
    let window = spec.window.weights(spec.window_length);
    if spec.frame == Frame::Window {
        return window;
    }
    let before = (spec.fft_length - spec.window_length) / 2;
    let mut weights = vec![0.0; before];
    weights.extend(window);
    weights.resize(spec.fft_length, 0.0);
    weights
}

fn check(spec: &MelSpec) -> Result<(), SignalError> {
    let MelSpec {
        fft_length,
        window_length,
        hop,
        bands,
        low_hertz,
        high_hertz,
        floor,
        ..
    } = *spec;
    let nyquist = f64::from(spec.sample_rate_hertz) / 2.0;
    if !(2..=MAX_FFT).contains(&fft_length) {
        return Err(parameter(
            "fftLength",
            format!("{fft_length} is not between 2 and {MAX_FFT}"),
        ));
    }
    if window_length == 0 || window_length > fft_length {
        let problem = format!("{window_length} is not between 1 and fftLength, {fft_length}");
        return Err(parameter("windowLength", problem));
    }
    if hop == 0 {
        return Err(parameter("hop", "it must be 1 sample or more"));
    }
    if !(1..=MAX_BANDS).contains(&bands) {
        return Err(parameter(
            "bands",
            format!("{bands} is not between 1 and {MAX_BANDS}"),
        ));
    }
    if !(low_hertz >= 0.0 && low_hertz + 1.0 <= high_hertz && high_hertz <= nyquist) {
        let problem = format!("{low_hertz} to {high_hertz} do not lie in order between 0 and {nyquist} Hz");
        return Err(parameter("lowHertz, highHertz", problem));
    }
    if !(1..=2).contains(&spec.power) {
        return Err(parameter("power", format!("{} is neither 1 nor 2", spec.power)));
    }
    if spec.compression != Compression::None && !(floor.is_finite() && floor > 0.0) {
        return Err(parameter("floor", "a logarithm needs a floor greater than 0"));
    }
    if spec
        .range
        .is_some_and(|range| !(range.is_finite() && range > 0.0))
    {
        return Err(parameter("range", "it must be a number greater than 0"));
    }
    Ok(())
}

fn to_mel(scale: MelScale, hertz: f64) -> f64 {
    match scale {
        MelScale::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
        MelScale::Slaney if hertz < 1000.0 => hertz * 3.0 / 200.0,
        MelScale::Slaney => 15.0 + 27.0 * (hertz / 1000.0).ln() / 6.4f64.ln(),
    }
}

fn to_hertz(scale: MelScale, mel: f64) -> f64 {
    match scale {
        MelScale::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
        MelScale::Slaney if mel < 15.0 => mel * 200.0 / 3.0,
        MelScale::Slaney => 1000.0 * (6.4f64.ln() * (mel - 15.0) / 27.0).exp(),
    }
}

fn bands(spec: &MelSpec) -> Vec<Band> {
    let (low, high) = (
        to_mel(spec.scale, spec.low_hertz),
        to_mel(spec.scale, spec.high_hertz),
    );
    let edge = |i: usize| {
        to_hertz(
            spec.scale,
            low + (high - low) * i as f64 / (spec.bands + 1) as f64,
        )
    };
    (0..spec.bands)
        .map(|b| band(spec, edge(b), edge(b + 1), edge(b + 2)))
        .collect()
}

fn band(spec: &MelSpec, low: f64, peak: f64, high: f64) -> Band {
    let bin = f64::from(spec.sample_rate_hertz) / spec.fft_length as f64;
    let height = match spec.norm {
        MelNorm::Peak => 1.0,
        MelNorm::Area => 2.0 / (high - low),
    };
    let weight = |k: usize| {
        let hertz = k as f64 * bin;
        let rise = (hertz - low) / (peak - low);
        let fall = (high - hertz) / (high - peak);
        (rise.min(fall).max(0.0) * height) as f32
    };
    // Bins within the triangle; the rest would be zeros.
    let first = ((low / bin).floor().max(0.0) as usize).min(spec.fft_length / 2);
    let last = ((high / bin).ceil() as usize).min(spec.fft_length / 2);
    Band {
        first,
        weights: (first..=last).map(weight).collect(),
    }
}
