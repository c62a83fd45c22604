//! What a process has used, as the kernel counts it.

use super::failed;
use crate::product::{Error, Result};

/// How often a second the kernel counts processor time; the same on every Linux that matters.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of processor time that a process has used.
#[allow(clippy::cast_precision_loss, reason = "ticks of a short run")]
pub fn processor_seconds(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok())
        .sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// MiB of memory that is resident now.
pub fn resident_mebibytes(pid: i32) -> Result<f64> {
    mebibytes(pid, "VmRSS:")
}

/// MiB of memory that were resident at most.
pub fn peak_mebibytes(pid: i32) -> Result<f64> {
    mebibytes(pid, "VmHWM:")
}

/// From now on [`peak_mebibytes`] speaks of what comes.
pub fn forget_peak(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").map_err(|error| failed(&path, error))
}

fn mebibytes(pid: i32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| Error::Client(format!("{path} tells no {field}")))
}
