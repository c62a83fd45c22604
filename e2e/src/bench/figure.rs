//! One figure, and how it is kept.

use std::path::PathBuf;

use serde::Serialize;

use super::failed;
use crate::product::Result;
use crate::project;

/// How often a figure is measured; the median counts.
pub const RUNS: usize = 5;

/// One figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    peer: Option<String>,
    peer_value: Option<f64>,
    ratio: Option<f64>,
    runs: usize,
    machine: String,
}

impl Figure {
    /// Without a peer.
    pub fn new(name: &str, value: f64, unit: &'static str, runs: usize) -> Self {
        let (peer, peer_value, ratio) = (None, None, None);
        Self {
            name: name.to_owned(),
            value,
            unit,
            peer,
            peer_value,
            ratio,
            runs,
            machine: machine(),
        }
    }

    /// With what a peer gives in the same run; the ratio is ours over the peer's, where there is one.
    pub fn against(mut self, peer: &str, value: f64) -> Self {
        self.peer = Some(peer.to_owned());
        self.peer_value = Some(value);
        self.ratio = Some(self.value / value).filter(|ratio| ratio.is_finite());
        self
    }
}

/// The one in the middle; of an even number the upper of the two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The smallest value that so many per cent do not exceed; NaN of none.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// p50, p99 and the largest of many measurements of one thing.
pub fn spread(name: &str, mut values: Vec<f64>, unit: &'static str) -> [Figure; 3] {
    values.sort_by(f64::total_cmp);
    [("p50", 50), ("p99", 99), ("max", 100)].map(|(label, percent)| {
        let value = percentile(&values, percent);
        Figure::new(&format!("{name}, {label}"), value, unit, values.len())
    })
}

/// Processor, cores and memory.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let processor = field(&read("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    format!("{processor}, {cores} cores, {memory}, {}", std::env::consts::ARCH)
}

/// Prints the figures, and writes them into `target/bench`.
pub fn write(name: &str, figures: &[Figure]) -> Result<()> {
    let folder: PathBuf = project().join("target/bench");
    let path = folder.join(format!("{name}.json"));
    std::fs::create_dir_all(&folder).map_err(|error| failed(folder.display(), error))?;
    let text = serde_json::to_string_pretty(figures).map_err(|error| failed(path.display(), error))?;
    std::fs::write(&path, text).map_err(|error| failed(path.display(), error))?;
    for figure in figures {
        println!("{:>12.1} {:<8} {}", figure.value, figure.unit, figure.name);
        if let (Some(peer), Some(value)) = (&figure.peer, figure.peer_value) {
            let ratio = figure.ratio.map(|ratio| format!(": ours is {ratio:.2} of it"));
            let ratio = ratio.unwrap_or_default();
            println!("{value:>12.1} {:<8} {peer}{ratio}", figure.unit);
        }
    }
    println!("written to target/bench/{name}.json");
    Ok(())
}
