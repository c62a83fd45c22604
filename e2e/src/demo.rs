//! The demo: a model placed, serving real speech, surviving the death of its device.
//!
//! Every step says what it does and which kubectl command shows the same.

use std::path::PathBuf;
use std::time::Instant;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::cluster::{Cluster, ClusterOptions, Error as ClusterError, NodeOptions};
use crate::product::install::{NAMESPACE, Product};
use crate::product::samples::{self, Heard, Samples};
use crate::product::traffic::{Reply, StreamOptions, Tally, Traffic, now, service_url, tally};
use crate::product::{Example, Result, recording, speech};
use crate::progress::Progress;

/// Name of the demo's cluster.
pub const CLUSTER: &str = "demo";
/// The node with the emulated ASIC.
pub const ASIC_NODE: &str = "edge-a";
/// The node with the emulated GPU; the client runs here.
pub const GPU_NODE: &str = "edge-b";
/// The device that dies.
const DEVICE: &str = "asic-emulated-0";
/// Namespace and name of the workload.
pub const WORKLOAD: (&str, &str) = ("audio", "speech-gate");
/// How long requests flow before the fault and after the failback, in seconds.
const QUIET_SECONDS: u64 = 5;

/// What happened when the device died and came back.
#[derive(Clone, Debug, serde::Serialize)]
pub struct FaultReport {
    /// All requests.
    pub tally: Tally,
    /// From the fault to the first answer by another variant, in milliseconds.
    pub fallback_milliseconds: u64,
    /// From the fault to the first answer by the better device elsewhere.
    pub moved_milliseconds: u64,
    /// From the recovery to the first answer by the device.
    pub failback_milliseconds: u64,
}

/// The nodes of the demo and of the end-to-end tests.
#[must_use]
pub fn nodes() -> Vec<NodeOptions> {
    vec![
        NodeOptions::new(ASIC_NODE)
            .label("perwatt.dev/emulate", "asic")
            .label("perwatt.dev/emulate-micro-npu", "true"),
        NodeOptions::new(GPU_NODE)
            .label("perwatt.dev/emulate", "gpu")
            .label("perwatt.dev/emulate-neuromorphic", "true"),
    ]
}

/// Runs the demo and leaves its cluster running.
///
/// # Errors
/// When a step fails, or a request was lost.
pub async fn run() -> Result<()> {
    let began = Instant::now();
    let progress = Progress::new();
    let script = Script::default();
    script.step("A real two-node Kubernetes: edge-a offers an emulated ASIC, edge-b an emulated GPU");
    let cluster = cluster(&progress).await?;
    script.shows(&format!(
        "export KUBECONFIG={} PATH={}:$PATH",
        cluster.kubeconfig().display(),
        cluster.binaries().display()
    ));
    script.run(&cluster, "get nodes -L perwatt.dev/emulate").await?;

    script.step("Perwatt, installed with Helm: an operator, and an agent on every node");
    let product = Product::install(&cluster, &progress).await?;
    script
        .run(&cluster, &format!("-n {NAMESPACE} get pods -o wide"))
        .await?;

    script.step("The model, as an image on every node, and the workload that serves it");
    let model = product.load_model(Example::SPEECH_GATE).await?;
    script.shows("kubectl apply -f examples/speech-gate/");
    product.apply_example(Example::SPEECH_GATE, &model).await?;
    script.mend(&product).await?;
    let on_npu = |status: &perwatt_crds::InferenceWorkloadStatus| {
        status.summary.serving == "npu" && status.summary.ready == "1/1"
    };
    product
        .wait_for_status("the workload serves from the ASIC", WORKLOAD, on_npu)
        .await?;
    script
        .run(&cluster, "get deviceinventories,hardwareprofiles")
        .await?;
    script.run(&cluster, "-n audio get inferenceworkloads").await?;

    script.step("A minute of real speech, through the Service, from a client on edge-b (4 times real time)");
    let replies = listen(&cluster).await?;
    print_speech(&replies);
    print_served_by(&replies);

    script.step(
        "Other silicon under the same API: a spiking network hears motion on an emulated neuromorphic chip, \
         an int8 LiteRT file hears a wake word on an emulated micro NPU",
    );
    let mut served = Vec::new();
    for (samples, variant) in [(samples::motion()?, "snn"), (samples::wake_word()?, "npu")] {
        let example = samples.example();
        script.shows(&format!("kubectl apply -f examples/{}/", example.name));
        place(&product, example, variant).await?;
        let heard = samples.send(&cluster, GPU_NODE).await?;
        served.push((samples, heard));
    }
    script
        .run(&cluster, "get inferenceworkloads --all-namespaces")
        .await?;
    print_served(&served);

    script.step("The ASIC fails while requests flow, and recovers");
    let report = fault(&product, &script).await?;
    script.run(&cluster, "-n audio get inferenceworkloads").await?;
    script
        .run(
            &cluster,
            "-n audio events --for inferenceworkload/speech-gate --types=Normal,Warning",
        )
        .await?;

    script.step("What it cost");
    print_report(&report);
    println!(
        "\nThe cluster stays up ({} s in all). Play with it:",
        began.elapsed().as_secs()
    );
    println!(
        "  export KUBECONFIG={} PATH={}:$PATH",
        cluster.kubeconfig().display(),
        cluster.binaries().display()
    );
    println!("  kubectl -n audio describe inferenceworkload speech-gate");
    println!("  make kubeconfig    how to reach it again");
    println!("  make demo-down     remove every trace of it");
    if report.tally.failures > 0 {
        let why = report.tally.first_error.unwrap_or_default();
        return Err(crate::product::Error::Client(format!(
            "{} requests were lost, the first: {why}",
            report.tally.failures
        )));
    }
    Ok(())
}

/// The demo's cluster: the running one, or a new one.
async fn cluster(progress: &Progress) -> Result<Cluster, ClusterError> {
    let found = match Cluster::attach(CLUSTER).await {
        Ok(cluster) => cluster.check_parts().map(|()| cluster),
        Err(error) => Err(error),
    };
    match found {
        Ok(cluster) => {
            progress.say("the demo's cluster runs already, it is used again");
            Ok(cluster)
        }
        Err(ClusterError::NotRunning { .. } | ClusterError::PartEnded { .. }) => {
            let options = ClusterOptions {
                name: CLUSTER.into(),
                nodes: nodes(),
                port: 0,
                progress: progress.clone(),
            };
            Cluster::start(options).await?.detach()
        }
        Err(other) => Err(other),
    }
}

/// Loads an example's model, applies its manifests, and waits until `variant` alone serves and nothing changes.
///
/// # Errors
/// When a step does not come about.
pub async fn place(product: &Product<'_>, example: Example, variant: &str) -> Result<()> {
    let model = product.load_model(example).await?;
    product.apply_example(example, &model).await?;
    let serves = |status: &perwatt_crds::InferenceWorkloadStatus| {
        status.summary.serving == variant && status.summary.ready == "1/1" && !changing(status)
    };
    let what = format!("{} serves from {variant}", example.name);
    product.wait_for_status(&what, example.workload(), serves).await?;
    // One that still drains would answer too.
    product.wait_for_pods(example.workload(), 1).await
}

/// Streams the whole recording once, four times faster than it was spoken.
///
/// # Errors
/// When the client fails.
pub async fn listen(cluster: &Cluster) -> Result<Vec<Reply>> {
    let options = StreamOptions {
        sequences: 1,
        speed: 4.0,
        repeat: false,
        ..stream_options(cluster).await?
    };
    Traffic::start(cluster.node(GPU_NODE)?, &options)?.finish().await
}

/// Two endless sequences in real time: over sixty requests a second.
///
/// # Errors
/// When there is no Service.
pub async fn stream_options(cluster: &Cluster) -> Result<StreamOptions> {
    Ok(StreamOptions {
        url: service_url(cluster, WORKLOAD.0, WORKLOAD.1).await?,
        model: "speech-gate".into(),
        recording: recording(),
        sequences: 2,
        speed: 1.0,
        repeat: true,
    })
}

/// Makes the ASIC unhealthy and healthy again while requests flow.
///
/// # Errors
/// When a step does not come about.
pub async fn fault(product: &Product<'_>, script: &Script) -> Result<FaultReport> {
    let cluster = product.cluster;
    let traffic = Traffic::start(cluster.node(GPU_NODE)?, &stream_options(cluster).await?)?;
    let by = |variant: &'static str| move |reply: &Reply| reply.text("variant") == variant;
    traffic
        .wait_for("the first answer by the ASIC", 0, by("npu"))
        .await?;
    quiet().await;

    let broke = script.emulate(product, "health=Unhealthy").await?;
    let fallback = traffic
        .wait_for("an answer by another variant", broke, |reply| {
            reply.text("variant") != "npu"
        })
        .await?;
    script.say(&format!(
        "{} ms after the fault the same pod answers: variant {}, degraded: {}",
        fallback.at.saturating_sub(broke),
        fallback.text("variant"),
        fallback.text("degraded_reason"),
    ));
    let moved = traffic.wait_for("an answer by the GPU", broke, by("gpu")).await?;
    script.say(&format!(
        "{} ms after the fault edge-b answers: variant gpu on {}, degraded: {}",
        moved.at.saturating_sub(broke),
        moved.text("device"),
        moved.text("degraded_reason"),
    ));
    let on_gpu = |status: &perwatt_crds::InferenceWorkloadStatus| {
        status.summary.serving == "gpu" && status.degraded_slots == 1
    };
    product
        .wait_for_status("the status tells the fallback", WORKLOAD, on_gpu)
        .await?;
    script.run(cluster, "-n audio get inferenceworkloads").await?;
    script.run(cluster, "get deviceinventories").await?;
    quiet().await;

    let mended = script.emulate(product, "health=Healthy").await?;
    let failback = traffic
        .wait_for("an answer by the ASIC again", mended, by("npu"))
        .await?;
    script.say(&format!(
        "{} ms after the recovery the ASIC answers again (it had to be stable for 5 s)",
        failback.at.saturating_sub(mended)
    ));
    let healed = |status: &perwatt_crds::InferenceWorkloadStatus| {
        status.summary.serving == "npu" && status.degraded_slots == 0 && !changing(status)
    };
    product
        .wait_for_status("the workload is as planned again", WORKLOAD, healed)
        .await?;
    quiet().await;
    let replies = traffic.stop().await?;
    Ok(FaultReport {
        tally: tally(&replies),
        fallback_milliseconds: fallback.at.saturating_sub(broke),
        moved_milliseconds: moved.at.saturating_sub(broke),
        failback_milliseconds: failback.at.saturating_sub(mended),
    })
}

/// Whether pods are changing.
#[must_use]
pub fn changing(status: &perwatt_crds::InferenceWorkloadStatus) -> bool {
    status
        .conditions
        .iter()
        .any(|condition| condition.type_ == "Reconciling")
}

async fn quiet() {
    tokio::time::sleep(std::time::Duration::from_secs(QUIET_SECONDS)).await;
}

/// What the demo says. A quiet one, for tests, says nothing.
#[derive(Default)]
pub struct Script {
    /// Say nothing.
    pub quiet: bool,
    steps: std::cell::Cell<u32>,
}

impl Script {
    /// One that says nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            quiet: true,
            ..Self::default()
        }
    }

    fn step(&self, what: &str) {
        self.steps.set(self.steps.get() + 1);
        println!("\n\x1b[1m{}. {what}\x1b[0m", self.steps.get());
    }

    fn say(&self, what: &str) {
        if !self.quiet {
            println!("   {what}");
        }
    }

    fn shows(&self, command: &str) {
        if !self.quiet {
            println!("   \x1b[2m$ {command}\x1b[0m");
        }
    }

    /// Shows a kubectl command and what it prints.
    async fn run(&self, cluster: &Cluster, arguments: &str) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        self.shows(&format!("kubectl {arguments}"));
        let printed = cluster
            .kubectl(&arguments.split_whitespace().collect::<Vec<_>>())
            .await?;
        printed.lines().for_each(|line| println!("   {line}"));
        Ok(())
    }

    /// Mends the device where an earlier demo was ended between its fault and its recovery.
    async fn mend(&self, product: &Product<'_>) -> Result<()> {
        let health = std::fs::read_to_string(health_file(product)?).unwrap_or_default();
        if !matches!(health.trim(), "" | "Healthy") {
            println!("   {DEVICE} is {} since an earlier demo:", health.trim());
            self.emulate(product, "health=Healthy").await?;
        }
        Ok(())
    }

    /// Changes the demo's device as a user does; returns when the device changed, in milliseconds since 1970.
    async fn emulate(&self, product: &Product<'_>, setting: &str) -> Result<u64> {
        let command = product.emulate_command(ASIC_NODE, DEVICE, setting).await?;
        self.shows(&format!("kubectl {}", command.join(" ")));
        product
            .cluster
            .kubectl(&command.iter().map(String::as_str).collect::<Vec<_>>())
            .await?;
        // The control file tells the very moment; kubectl comes back later.
        let file = health_file(product)?;
        let changed = std::fs::metadata(&file).and_then(|metadata| metadata.modified());
        let since = changed
            .ok()
            .and_then(|changed| changed.duration_since(std::time::UNIX_EPOCH).ok());
        Ok(since.map_or_else(now, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Where the demo's device keeps what it says of its health.
fn health_file(product: &Product<'_>) -> Result<PathBuf> {
    let agent = product.cluster.node(ASIC_NODE)?.agent_dir();
    Ok(agent.join(format!("emulated/{DEVICE}/control/health")))
}

fn print_speech(replies: &[Reply]) {
    let probabilities: Vec<_> = replies.iter().map(|reply| reply.first_output()).collect();
    let segments = speech::segments(&probabilities);
    println!(
        "   speech in {} segments of {:.0} s:",
        segments.len(),
        replies.len() as f64 * 0.032
    );
    let texts: Vec<_> = segments
        .iter()
        .map(|segment| format!("{:.1}–{:.1} s", segment.from, segment.to))
        .collect();
    for line in texts.chunks(6) {
        println!("     {}", line.join("   "));
    }
}

fn print_served_by(replies: &[Reply]) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "variant",
        "device",
        "node",
        "requests",
        "failures",
        "p50",
        "p95",
        "p99",
        "per inference",
    ]);
    let counted = tally(replies);
    let last = replies.last().cloned().unwrap_or_default();
    table.add_row([
        last.text("variant").to_owned(),
        last.text("device").to_owned(),
        last.text("node").to_owned(),
        counted.requests.to_string(),
        counted.failures.to_string(),
        milliseconds(counted.p50_milliseconds),
        milliseconds(counted.p95_milliseconds),
        milliseconds(counted.p99_milliseconds),
        energy(&counted),
    ]);
    println!("{table}");
}

fn print_served(served: &[(Samples, Heard)]) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "workload",
        "variant",
        "device",
        "requests",
        "failures",
        "right answers",
        "p50",
        "per inference",
    ]);
    for (samples, heard) in served {
        let counted = tally(&heard.replies);
        let last = heard.replies.last().cloned().unwrap_or_default();
        table.add_row([
            samples.example().name.to_owned(),
            last.text("variant").to_owned(),
            last.text("device").to_owned(),
            counted.requests.to_string(),
            counted.failures.to_string(),
            format!("{} of {}", heard.right, samples.len()),
            milliseconds(counted.p50_milliseconds),
            energy(&counted),
        ]);
    }
    println!("{table}");
}

fn milliseconds(value: f64) -> String {
    format!("{value:.2} ms")
}

/// Joules with the source of the figure; an emulated device's figure always says so.
fn energy(counted: &Tally) -> String {
    counted.microjoules.map_or_else(
        || "unknown".to_owned(),
        |microjoules| format!("{:.6} J ({})", microjoules / 1e6, counted.energy_source),
    )
}

fn print_report(report: &FaultReport) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "requests",
        "rate",
        "failures",
        "sequences restarted",
        "time to fallback",
        "time to better device",
        "time to failback",
    ]);
    table.add_row([
        report.tally.requests.to_string(),
        format!("{:.0}/s", report.tally.rate),
        report.tally.failures.to_string(),
        report.tally.sequences_restarted.to_string(),
        format!("{} ms", report.fallback_milliseconds),
        format!("{} ms", report.moved_milliseconds),
        format!("{} ms", report.failback_milliseconds),
    ]);
    println!("{table}");
}
