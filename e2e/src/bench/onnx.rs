//! `runtime-onnx`: what it costs to be portable. ONNX graphs run by tract and by ONNX Runtime as the runtime's
//! backends call them, beside the same library of ONNX Runtime called directly, on one thread and one core, in the
//! same minutes.
//!
//! The peer is the library of the Python package `onnxruntime`, called through its C API from this very process:
//! Python's own time for a call would flatter us.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ort::environment::Environment;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;

use super::figure::{Figure, RUNS, median};
use super::load::on_server_core;
use super::server::on_core;
use super::{failed, install};
use crate::product::Result;
use crate::programs;
use crate::progress::Progress;

/// How long one run lasts, after a tenth of it to warm up.
const TIME: Duration = Duration::from_secs(2);
/// The peer's version, as the requirements of the reference tests pin it.
const PEER: &str = "onnxruntime 1.32.0 called directly (C API), one thread";

/// A network, and what a direct call needs.
struct Network {
    name: &'static str,
    /// With `model.yaml`.
    folder: PathBuf,
    file: &'static str,
    inputs: &'static [(&'static str, &'static [usize])],
}

/// Median time of one call: ours with either engine, and the peer's.
pub fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let reference = install::reference()?;
    let networks = [
        Network {
            name: "Silero VAD",
            folder: install::speech_gate()?.join("model"),
            file: "silero_vad.onnx",
            inputs: &[("input", &[1, 576]), ("state", &[2, 1, 128])],
        },
        Network {
            name: "EfficientNet-Lite0",
            folder: reference.join("image/model"),
            file: "efficientnet-lite0.onnx",
            inputs: &[("image", &[1, 3, 224, 224])],
        },
    ];
    let library = reference.join("libonnxruntime.so");
    let environment = ort::init_from(&library)
        .map_err(|error| failed(library.display(), error))?
        .with_name("bench")
        .with_telemetry(false)
        .build()
        .map_err(|error| failed("ONNX Runtime", error))?;
    let mut figures = Vec::new();
    for network in &networks {
        figures.extend(compare(&progress, network, &environment, &library)?);
    }
    Ok(figures)
}

fn compare(
    progress: &Progress,
    network: &Network,
    environment: &Environment,
    library: &Path,
) -> Result<Vec<Figure>> {
    let (mut direct, mut own, mut tract) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=RUNS {
        progress.say(format!("{}: run {turn} of {RUNS}", network.name));
        direct.push(on_server_core(|| direct_microseconds(network, environment))?);
        own.push(own_microseconds(network, "OnnxRuntime", library)?);
        tract.push(own_microseconds(network, "Tract", library)?);
    }
    let direct = median(direct);
    let figure = |engine: &str, values| {
        let name = format!("{}: one call of the backend by {engine}, p50", network.name);
        Figure::new(&name, median(values), "µs", RUNS).against(PEER, direct)
    };
    Ok(vec![figure("ONNX Runtime", own), figure("tract", tract)])
}

/// A session with what ONNX Runtime takes by itself, but for the number of threads.
fn direct_microseconds(network: &Network, environment: &Environment) -> Result<f64> {
    let path = network.folder.join(network.file);
    let content = std::fs::read(&path).map_err(|error| failed(path.display(), error))?;
    let mut session = session(environment, &content).map_err(|error| failed(path.display(), error))?;
    let mut noise = Noise(0x9E37_79B9);
    let inputs = network.inputs.iter().map(|&(name, shape)| {
        let count = shape.iter().product();
        let values: Vec<f32> = std::iter::repeat_with(|| noise.next()).take(count).collect();
        (name, shape, values)
    });
    let inputs: Vec<_> = inputs.collect();
    let mut call = || {
        let values = inputs.iter().map(|(name, shape, values)| {
            let view = TensorRef::from_array_view((*shape, &values[..]));
            view.map(|view| (*name, SessionInputValue::from(view)))
        });
        let values: Vec<_> = values.collect::<ort::Result<_>>()?;
        session.run(values).map(drop)
    };
    median_of_calls(|| call().map_err(|error| failed(network.name, error)))
}

fn session(environment: &Environment, content: &[u8]) -> ort::Result<Session> {
    let builder = Session::builder(environment)?;
    let mut builder = builder
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?;
    builder.commit_from_memory(content)
}

/// Microseconds.
#[allow(clippy::cast_precision_loss, reason = "nanoseconds of a call")]
fn median_of_calls(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3);
    let mut times = times.map_err(|error| failed("a histogram", error))?;
    let began = Instant::now();
    while began.elapsed() < TIME / 10 {
        call()?;
    }
    let began = Instant::now();
    while began.elapsed() < TIME {
        let start = Instant::now();
        call()?;
        times.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times.value_at_quantile(0.5) as f64 / 1e3)
}

/// Numbers from −0.5 to 0.5, made as `model bench` makes its own: some arithmetic is faster on zeros.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (f64::from(self.0) / f64::from(u32::MAX) - 0.5) as f32
    }
}

/// The same file by a backend of ours, as `kubectl perwatt model bench` measures it.
fn own_microseconds(network: &Network, engine: &str, library: &Path) -> Result<f64> {
    let mut command: Command = on_core(&programs::find("kubectl-perwatt")?);
    let seconds = TIME.as_secs().to_string();
    command
        .args(["model", "bench", "--output", "json", "--seconds", &seconds])
        .args(["--variant", network.file])
        .arg(&network.folder)
        .env("PERWATT_ONNX_ENGINE", engine)
        .env("PERWATT_ONNXRUNTIME_LIBRARY", library);
    let output = command
        .output()
        .map_err(|error| failed("kubectl-perwatt", error))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let measured = &report["variants"][0]["measured"];
    measured["p50Microseconds"].as_f64().ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        let found = &report["variants"][0];
        failed(
            format!("{} by {engine} was not measured", network.name),
            format!("{} {found}", said.trim()),
        )
    })
}
