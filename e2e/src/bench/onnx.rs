//! `runtime-onnx`: what it costs to be portable. ONNX graphs run by tract and by ONNX Runtime as the runtime's
//! backends call them, beside the same library of ONNX Runtime called directly, on one thread and one core, each in a
//! process of its own, in the same minutes.
//!
//! The peer is the library of the Python package `onnxruntime`, called through its C API ([`direct`]): Python's own
//! time for a call would flatter us.

pub mod direct;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::figure::{Figure, RUNS, median};
use super::server::on_core;
use super::{failed, install};
use crate::product::Result;
use crate::programs;
use crate::progress::Progress;

/// How long one run lasts, after a tenth of it to warm up.
const TIME: Duration = Duration::from_secs(2);
/// The peer's version, as the requirements of the reference tests pin it.
const PEER: &str = "onnxruntime 1.32.0 called directly (C API), one thread";
/// Where it is 1, ONNX Runtime tells its maker nothing. It reads that when it is loaded.
pub const SILENCE: (&str, &str) = ("ORT_DISABLE_TELEMETRY", "1");

/// A network, and what a direct call needs.
struct Network {
    name: &'static str,
    /// With `model.yaml`.
    folder: PathBuf,
    file: &'static str,
    /// Names and shapes.
    inputs: &'static [&'static str],
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
            inputs: &["input=1x576", "state=2x1x128"],
        },
        Network {
            name: "EfficientNet-Lite0",
            folder: reference.join("image/model"),
            file: "efficientnet-lite0.onnx",
            inputs: &["image=1x3x224x224"],
        },
    ];
    let library = reference.join("libonnxruntime.so");
    let mut figures = Vec::new();
    for network in &networks {
        figures.extend(compare(&progress, network, &library)?);
    }
    Ok(figures)
}

fn compare(progress: &Progress, network: &Network, library: &Path) -> Result<Vec<Figure>> {
    let (mut direct, mut own, mut tract) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=RUNS {
        progress.say(format!("{}: run {turn} of {RUNS}", network.name));
        direct.push(direct_microseconds(network, library)?);
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

/// The library called directly, by this very program as a process of its own.
fn direct_microseconds(network: &Network, library: &Path) -> Result<f64> {
    let own = std::env::current_exe().map_err(|error| failed("this program", error))?;
    let mut command = on_core(&own);
    command.arg("call-onnx").arg(library);
    command.arg(network.folder.join(network.file));
    command.arg(TIME.as_secs().to_string()).args(network.inputs);
    let report = report(&mut command)?;
    let found = report["p50Microseconds"].as_f64();
    found.ok_or_else(|| failed(network.name, "it was not measured"))
}

/// The same file by a backend of ours, as `kubectl perwatt model bench` measures it.
fn own_microseconds(network: &Network, engine: &str, library: &Path) -> Result<f64> {
    let mut command = on_core(&programs::find("kubectl-perwatt")?);
    let seconds = TIME.as_secs().to_string();
    command
        .args(["model", "bench", "--output", "json", "--seconds", &seconds])
        .args(["--variant", network.file])
        .arg(&network.folder)
        .env("PERWATT_ONNX_ENGINE", engine)
        .env("PERWATT_ONNXRUNTIME_LIBRARY", library);
    let report = report(&mut command)?;
    let found = &report["variants"][0];
    let measured = found["measured"]["p50Microseconds"].as_f64();
    measured.ok_or_else(|| failed(format!("{} by {engine}", network.name), found))
}

/// What a command prints as JSON, whatever its status: `model bench` says there what went wrong.
fn report(command: &mut Command) -> Result<serde_json::Value> {
    command.env(SILENCE.0, SILENCE.1);
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|error| failed(&shown, error))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    serde_json::from_slice(&output.stdout).map_err(|_| failed(&shown, said))
}
