//! `main-job`: from `kubectl apply` to an answer, and from a fault to the next answer, on the real cluster. All
//! devices are emulated.

use std::time::Instant;

use super::figure::{Figure, RUNS, median};
use super::{cluster, processes};
use crate::cluster::Cluster;
use crate::demo::{self, Script, WORKLOAD};
use crate::product::install::Product;
use crate::product::traffic::{StreamOptions, Traffic, now, service_url};
use crate::product::{Error, Example, Result, recording};
use crate::progress::Progress;
use crate::wait::{DEADLINE, until};

/// Set-up, first answer, fault to answer, requests lost, peak memory.
pub async fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let began = Instant::now();
    let cluster = cluster::start(demo::nodes(), &progress).await?;
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
        .filter_map(|pid| processes::peak_mebibytes(pid).ok());
    peaks
        .max_by(f64::total_cmp)
        .ok_or_else(|| Error::Client(format!("no process of {program}")))
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a run")]
fn millis(value: u64) -> f64 {
    value as f64
}
