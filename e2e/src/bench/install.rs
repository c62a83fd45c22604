//! What peers need, set up by the project's own scripts, outside the tree, the first time that a figure asks.
//!
//! The scripts say on standard error what they fetch. What is there already they leave alone.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::failed;
use crate::cluster::cache;
use crate::product::Result;
use crate::project;

/// The Python environment of a peer of `e2e/bench`.
pub fn peer(name: &str) -> Result<PathBuf> {
    let folder = cache().join(name);
    let mut command = Command::new(project().join("e2e/bench/set-up"));
    run(command.arg(name).arg(&folder))?;
    Ok(folder)
}

/// ONNX Runtime's library and an image network, as the reference tests have them.
pub fn reference() -> Result<PathBuf> {
    let set = std::env::var_os("PERWATT_REFERENCE_DIR").map(PathBuf::from);
    let folder = set.unwrap_or_else(|| cache().join("reference"));
    let mut command = Command::new(project().join("runtime/tests/reference/set-up"));
    run(command.arg(&folder))?;
    Ok(folder)
}

/// Silero VAD.
pub fn speech_gate() -> Result<PathBuf> {
    let set = std::env::var_os("PERWATT_MODEL_DIR").map(PathBuf::from);
    let folder = set.unwrap_or_else(|| cache().join("speech-gate"));
    let mut command = Command::new(project().join("examples/speech-gate/fetch"));
    run(command.arg(&folder))?;
    Ok(folder)
}

/// What plays kubelets.
pub fn kwok() -> Result<PathBuf> {
    let mut command = Command::new(project().join("e2e/kwok/build"));
    let printed = run(command.arg(cache()))?;
    Ok(PathBuf::from(printed.trim()))
}

/// Runs a script; gives what it printed on standard output.
fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| failed(&shown, error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(
        &shown,
        format!("{}; see its messages above", output.status),
    ))
}
