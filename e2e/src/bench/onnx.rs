//! What it costs to be portable: ONNX graphs run by tract and by ONNX Runtime as the runtime calls them, beside
//! onnxruntime called directly from Python, on one thread and one core, in the same minutes.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::load::SERVER_CORE;
use super::{Figure, RUNS, median};
use crate::product::{Error, Result};
use crate::progress::Progress;
use crate::{programs, project};

/// How long one run lasts.
const SECONDS: &str = "2";
/// The peer's version, as its requirements pin it.
const PEER: &str = "onnxruntime 1.32.0 called from Python, one thread";

/// A network, and what its peer needs to call it.
struct Network {
    name: &'static str,
    folder: PathBuf,
    file: &'static str,
    shapes: &'static [&'static str],
}

fn networks(reference: &Path) -> [Network; 2] {
    let fetched = std::env::var_os("PERWATT_MODEL_DIR").map_or_else(|| crate::cluster::cache().join("speech-gate"), PathBuf::from);
    [
        Network {
            name: "Silero VAD",
            folder: fetched.join("model"),
            file: "silero_vad.onnx",
            shapes: &["input=1x576", "state=2x1x128"],
        },
        Network {
            name: "EfficientNet-Lite0",
            folder: reference.join("image/model"),
            file: "efficientnet-lite0.onnx",
            shapes: &["image=1x3x224x224"],
        },
    ]
}

/// Median time of one call: ours with either engine, and the peer's.
pub fn portability() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    progress.say("onnxruntime is installed into the cache where it is not there yet");
    let reference = set_up()?;
    let mut figures = Vec::new();
    for network in networks(&reference) {
        let (mut direct, mut own, mut tract) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 1..=RUNS {
            progress.say(format!("{}: run {turn} of {RUNS}", network.name));
            direct.push(direct_microseconds(&network, &reference)?);
            own.push(own_microseconds(&network, &reference, "OnnxRuntime")?);
            tract.push(own_microseconds(&network, &reference, "Tract")?);
        }
        let direct = median(direct);
        for (engine, values) in [("ONNX Runtime", own), ("tract", tract)] {
            let name = format!("{}: one call by {engine} behind the runtime, p50", network.name);
            figures.push(Figure::new(&name, median(values), "µs", RUNS).against(PEER, direct));
        }
    }
    Ok(figures)
}

/// The folder of the references, set up where it is not.
fn set_up() -> Result<PathBuf> {
    let folder = std::env::var_os("PERWATT_REFERENCE_DIR").map_or_else(|| crate::cluster::cache().join("reference"), PathBuf::from);
    let program = project().join("runtime/tests/reference/set-up");
    let mut command = Command::new(&program);
    run(command.arg(&folder)).map(|_| folder)
}

fn pinned(program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/taskset");
    command.args(["--cpu-list", &SERVER_CORE.to_string()]).arg(program);
    command
}

fn direct_microseconds(network: &Network, reference: &Path) -> Result<f64> {
    let mut command = pinned(&reference.join("venv/bin/python"));
    command.arg(project().join("runtime/tests/reference/bench_onnx.py"));
    command.arg(network.folder.join(network.file)).arg(SECONDS).args(network.shapes);
    let report = run(&mut command)?;
    number(&report["p50_microseconds"], network)
}

fn own_microseconds(network: &Network, reference: &Path, engine: &str) -> Result<f64> {
    let mut command = pinned(&programs::find("kubectl-perwatt")?);
    command
        .args(["model", "bench", "--seconds", SECONDS, "--output", "json"])
        .arg(&network.folder)
        .env("PERWATT_ONNX_ENGINE", engine)
        .env("PERWATT_ONNXRUNTIME_LIBRARY", reference.join("libonnxruntime.so"));
    let report = run(&mut command)?;
    number(&report["variants"][0]["measured"]["p50Microseconds"], network)
}

fn number(value: &serde_json::Value, network: &Network) -> Result<f64> {
    let missing = || Error::Client(format!("{} was not measured", network.name));
    value.as_f64().ok_or_else(missing)
}

/// Runs a command to its end and reads what it printed as JSON; null where it printed none.
fn run(command: &mut Command) -> Result<serde_json::Value> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| Error::Client(format!("{shown}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Client(format!("{shown}: {}", said.trim())));
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}
