//! Figures, written as JSON: of the main job on the real cluster, and of the runtime beside its peers.

mod echo;
mod load;
mod runtime;
mod server;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::cluster::{Cluster, ClusterOptions};
use crate::demo::{self, Script, WORKLOAD};
use crate::product::install::Product;
use crate::product::traffic::{StreamOptions, Traffic, now, service_url};
use crate::product::{Error, Example, Result, recording};
use crate::progress::Progress;
use crate::project;
use crate::wait::{DEADLINE, until};

/// How often a figure is measured; the median counts.
const RUNS: usize = 5;

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
    fn new(name: &str, value: f64, unit: &'static str, runs: usize) -> Self {
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

    /// With what a peer gives in the same run; the ratio is ours over the peer's.
    fn against(mut self, peer: &str, value: f64) -> Self {
        self.peer = Some(peer.to_owned());
        self.peer_value = Some(value);
        self.ratio = Some(self.value / value);
        self
    }
}

/// The figures that can be measured, in the order in which all are.
const NAMES: [&str; 4] = [
    "main-job",
    "runtime-overhead",
    "runtime-throughput",
    "runtime-footprint",
];

/// Measures the figures of one name, or all of them.
///
/// # Errors
/// When a figure cannot be measured, or there is none of this name.
pub async fn run(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        for name in NAMES {
            write(name, &measure(name).await?)?;
        }
        return Ok(());
    };
    write(name, &measure(name).await?)
}

async fn measure(name: &str) -> Result<Vec<Figure>> {
    match name {
        "main-job" => main_job().await,
        "runtime-overhead" => runtime::overhead().await,
        "runtime-throughput" => runtime::throughput().await,
        "runtime-footprint" => runtime::footprint().await,
        other => Err(Error::Client(format!(
            "there is no figure {other:?}; there are: {}",
            NAMES.join(", ")
        ))),
    }
}

/// Set-up, first answer, fault to answer, requests lost, peak memory. All devices are emulated.
async fn main_job() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let began = Instant::now();
    let options = ClusterOptions {
        name: "bench".into(),
        nodes: demo::nodes(),
        port: 0,
        progress: progress.clone(),
    };
    let cluster = Cluster::start(options).await?;
    let product = Product::install(&cluster, &progress).await?;
    let model = product.load_model(Example::SPEECH_GATE).await?;
    let mut figures = vec![Figure::new("set-up, warm", began.elapsed().as_secs_f64(), "s", 1)];
    figures.extend(cold_set_up());
    let mut applied = Vec::new();
    for run in 1..=RUNS {
        progress.say(format!("apply to first answer, run {run} of {RUNS}"));
        if run > 1 {
            delete(&product).await?;
        }
        applied.push(apply_to_answer(&product, &model).await?);
    }
    figures.push(Figure::new(
        "kubectl apply to first answered inference",
        median(applied),
        "ms",
        RUNS,
    ));
    let mut reports = Vec::new();
    for run in 1..=RUNS {
        progress.say(format!("fault and recovery under traffic, run {run} of {RUNS}"));
        reports.push(demo::fault(&product, &Script::silent()).await?);
    }
    let of = |value: &dyn Fn(&demo::FaultReport) -> f64| median(reports.iter().map(value).collect());
    figures.push(Figure::new(
        "device unhealthy to first answer from another variant",
        of(&|report| millis(report.fallback_milliseconds)),
        "ms",
        RUNS,
    ));
    figures.push(Figure::new(
        "device unhealthy to first answer from the better device",
        of(&|report| millis(report.moved_milliseconds)),
        "ms",
        RUNS,
    ));
    figures.push(Figure::new(
        "device healthy to first answer from it (stableFor 5 s)",
        of(&|report| millis(report.failback_milliseconds)),
        "ms",
        RUNS,
    ));
    let requests: usize = reports.iter().map(|report| report.tally.requests).sum();
    let lost: usize = reports.iter().map(|report| report.tally.failures).sum();
    figures.push(Figure::new("requests sent", requests as f64, "requests", RUNS));
    figures.push(Figure::new("requests lost", lost as f64, "requests", RUNS));
    for program in ["perwatt-operator", "perwatt-device-plugin", "perwatt-runtime"] {
        figures.push(Figure::new(
            &format!("peak memory of {program}"),
            peak_memory(&cluster, program)?,
            "MiB",
            1,
        ));
    }
    cluster.stop().await?;
    Ok(figures)
}

/// Seconds that the steps of the first set-up took on this machine, as `tools/step` recorded them.
fn cold_set_up() -> Option<Figure> {
    let folder = crate::cluster::cache().join("first-times");
    let seconds = |step: &str| -> Option<f64> {
        std::fs::read_to_string(folder.join(step))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let steps = ["parts of the cluster", "build", "model and recording"];
    let sum = steps.iter().map(|step| seconds(step)).sum::<Option<f64>>()?;
    Some(Figure::new(
        "set-up, cold: parts, build and model, the first time on this machine",
        sum,
        "s",
        1,
    ))
}

async fn apply_to_answer(product: &Product<'_>, model: &str) -> Result<f64> {
    let cluster = product.cluster;
    let began = now();
    product.apply_example(Example::SPEECH_GATE, model).await?;
    let url = until("the Service", DEADLINE, || async {
        service_url(cluster, WORKLOAD.0, WORKLOAD.1)
            .await
            .map_err(|error| error.to_string())
    })
    .await?;
    let options = StreamOptions {
        url,
        model: WORKLOAD.1.into(),
        recording: recording(),
        sequences: 1,
        speed: 1.0,
        repeat: true,
    };
    let traffic = Traffic::start(cluster.node("edge-b")?, &options)?;
    let first = traffic.wait_for("the first answer", began, |_| true).await?;
    traffic.stop().await?;
    let served = |status: &perwatt_crds::InferenceWorkloadStatus| {
        status.summary.serving == "npu" && !demo::changing(status)
    };
    product
        .wait_for_status("the workload is as planned", WORKLOAD, served)
        .await?;
    Ok(millis(first.at.saturating_sub(began)))
}

/// Deletes the workload and waits until its pods are gone, so that the next run begins anew.
async fn delete(product: &Product<'_>) -> Result<()> {
    let cluster = product.cluster;
    cluster
        .kubectl(&[
            "-n",
            WORKLOAD.0,
            "delete",
            "inferenceworkload",
            WORKLOAD.1,
            "--ignore-not-found",
        ])
        .await?;
    cluster
        .kubectl(&[
            "-n",
            WORKLOAD.0,
            "wait",
            "--for=delete",
            "pod",
            "--all",
            "--timeout=120s",
        ])
        .await?;
    Ok(())
}

/// The largest peak of any process of this program in the cluster, in MiB.
fn peak_memory(cluster: &Cluster, program: &str) -> Result<f64> {
    let peaks = crate::product::processes(program, cluster.state().name())
        .into_iter()
        .filter_map(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok()
        });
    peaks
        .max_by(f64::total_cmp)
        .map(|kib| kib / 1024.0)
        .ok_or_else(|| Error::Client(format!("no process of {program}")))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a run")]
fn millis(value: u64) -> f64 {
    value as f64
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

fn write(name: &str, figures: &[Figure]) -> Result<()> {
    let folder: PathBuf = project().join("target/bench");
    let path = folder.join(format!("{name}.json"));
    let failed = |error: &dyn std::fmt::Display| {
        Error::Client(format!("{} cannot be written: {error}", path.display()))
    };
    std::fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
    let text = serde_json::to_string_pretty(figures).map_err(|error| failed(&error))?;
    std::fs::write(&path, text).map_err(|error| failed(&error))?;
    for figure in figures {
        println!("{:>12.1} {:<8} {}", figure.value, figure.unit, figure.name);
        if let (Some(peer), Some(value), Some(ratio)) = (&figure.peer, figure.peer_value, figure.ratio) {
            println!(
                "{value:>12.1} {:<8} {peer}: ours is {ratio:.2} of it",
                figure.unit
            );
        }
    }
    println!("written to target/bench/{name}.json");
    Ok(())
}
