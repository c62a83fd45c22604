//! `fallback-e2e`: from a fault of a device until another pod is made and a better device answers, on real kubelets
//! under traffic; and what a stock Deployment with the same resource does. Devices are emulated.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchParams};
use kube::core::WatchEvent;
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_crds::inventory::DeviceHealth;
use tokio::task::JoinHandle;

use super::figure::{Figure, spread};
use super::{cluster, failed};
use crate::cluster::Cluster;
use crate::demo;
use crate::images;
use crate::product::devices::NodeDevices;
use crate::product::install::{NAMESPACE, Product};
use crate::product::traffic::{Reply, StreamOptions, Tally, Traffic, now, service_url, tally};
use crate::product::{Example, Result, recording};
use crate::progress::Progress;
use crate::project;

/// Workloads side by side, each served from a device of its own.
const WORKLOADS: usize = 5;
/// Faults of each.
const ROUNDS: usize = 10;
/// After a failback and before the next fault, at most: workloads fail at every phase of the operator's passes.
const PHASE: Duration = Duration::from_secs(5);
/// How long one looks at the stock Deployment after the fault.
const PATIENCE: Duration = Duration::from_secs(60);
const NODE: &str = "edge-a";
/// The stock Deployment has a device of its own, which no workload wants.
const STOCK: &str = "stock-emulated";
const NAMESPACE_OF_ALL: &str = "fallback";

const STOCK_PROFILE: &str = "apiVersion: v1
kind: Namespace
metadata: {name: fallback, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: stock-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/hostname: edge-a}}}}
  power: {typicalMilliwatts: 2500, maxMilliwatts: 5000}
";
/// With devices that nobody else may take while they are left.
const WORKLOAD: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: NAME-best}
spec:
  class: ASIC
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/hostname: edge-a}}}}
  power: {typicalMilliwatts: 2500, maxMilliwatts: 5000}
---
apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: NAME-next}
spec:
  class: GPU
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/hostname: edge-b}}}}
  power: {typicalMilliwatts: 15000, maxMilliwatts: 40000}
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: NAME, namespace: fallback}
spec:
  model: {image: \"MODEL\"}
  placement: {objective: Order}
  variants:
  - {name: best, device: {profiles: [NAME-best]}, artifact: {path: silero_vad.onnx}}
  - {name: next, device: {profiles: [NAME-next]}, artifact: {path: silero_vad.onnx}}
  - {name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}
  fallback: {recovery: {stableFor: 5s}}
";
const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: stock, namespace: fallback}
spec:
  replicas: 1
  selector: {matchLabels: {app: stock}}
  template:
    metadata: {labels: {app: stock}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
      - name: runtime
        image: RUNTIME
        args: [/model]
        readinessProbe: {httpGet: {path: /v2/health/ready, port: 8080}, periodSeconds: 1}
        securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
        resources: {requests: {cpu: 10m, memory: 64Mi}, limits: {memory: 256Mi, perwatt.dev/stock-emulated: 1}}
        volumeMounts: [{name: model, mountPath: /model, readOnly: true}]
      volumes: [{name: model, image: {reference: \"MODEL\"}}]
---
apiVersion: v1
kind: Service
metadata: {name: stock, namespace: fallback}
spec:
  selector: {app: stock}
  ports: [{port: 8080}]
";

/// One fault, in milliseconds from it.
#[derive(Clone, Copy, Debug)]
struct Fallback {
    answered: u64,
    created: u64,
    moved: u64,
}

/// Fault to another variant, to a new pod, to a better device; requests lost; the same fault of a stock Deployment.
pub async fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let cluster = cluster::start(demo::nodes(), &progress).await?;
    let product = Product::install(&cluster, &progress).await?;
    let model = product.load_model(Example::SPEECH_GATE).await?;
    let_it_move(&cluster).await?;
    cluster::apply(&cluster, STOCK_PROFILE).await?;
    let all = (0..WORKLOADS).map(|number| suffer(&product, format!("gate-{number}"), &model, &progress));
    let all = try_join_all(all).await?;
    let stock = stock(&cluster, &model, &progress).await?;
    cluster.stop().await?;
    let mut figures = ours(&all);
    figures.extend(stock.figures());
    Ok(figures)
}

fn ours(all: &[(Vec<Fallback>, Tally)]) -> Vec<Figure> {
    let of = |what: &str, value: &dyn Fn(&Fallback) -> u64| {
        let faults = all.iter().flat_map(|(faults, _)| faults);
        let values = faults.map(|fault| milliseconds(value(fault))).collect();
        spread(&format!("device unhealthy to {what}"), values, "ms")
    };
    let sum = |value: &dyn Fn(&Tally) -> usize| all.iter().map(|(_, tally)| value(tally)).sum();
    let mut figures = Vec::new();
    figures.extend(of("the first answer of another variant", &|each| each.answered));
    figures.extend(of("the replacement pod created", &|each| each.created));
    figures.extend(of("the first answer of the better device", &|each| each.moved));
    figures.push(count(
        "requests",
        sum(&|tally| tally.requests),
        WORKLOADS * ROUNDS,
    ));
    figures.push(count(
        "requests lost",
        sum(&|tally| tally.failures),
        WORKLOADS * ROUNDS,
    ));
    figures
}

/// Fifty faults in minutes are what the breaker of mass moves is there to stop.
async fn let_it_move(cluster: &Cluster) -> Result<()> {
    let chart = project().join("charts/perwatt").display().to_string();
    cluster
        .helm(&[
            "upgrade",
            "perwatt",
            &chart,
            "--namespace",
            NAMESPACE,
            "--reuse-values",
            "--set",
            "operator.moveBreaker.window=1s",
            "--wait",
            "--timeout",
            "4m",
        ])
        .await?;
    Ok(())
}

/// All faults of one workload.
async fn suffer(
    product: &Product<'_>,
    name: String,
    model: &str,
    progress: &Progress,
) -> Result<(Vec<Fallback>, Tally)> {
    let cluster = product.cluster;
    cluster::apply(cluster, &WORKLOAD.replace("NAME", &name).replace("MODEL", model)).await?;
    let best = |status: &InferenceWorkloadStatus| status.summary.serving == "best" && !demo::changing(status);
    let workload = (NAMESPACE_OF_ALL, name.as_str());
    product
        .wait_for_status("the best device serves", workload, best)
        .await?;
    let devices = NodeDevices::new(cluster, NODE, &format!("{name}-best"))?;
    let traffic = stream(cluster, &name).await?;
    let mut faults = Vec::new();
    for round in 1..=ROUNDS {
        tokio::time::sleep(PHASE.mul_f64(fastrand::f64())).await;
        let by = |variant: &'static str| move |reply: &Reply| reply.text("variant") == variant;
        let serving = traffic
            .wait_for("an answer by the best device", now(), by("best"))
            .await?;
        let device = serving.text("device").to_owned();
        let made = next_pod(cluster, &format!("perwatt.dev/workload={name}")).await?;
        let at = now();
        devices.set_health(&device, DeviceHealth::Unhealthy)?;
        let other = |reply: &Reply| reply.text("variant") != "best";
        let answered = traffic
            .wait_for("an answer by another variant", at, other)
            .await?;
        let created = made.await.map_err(|error| failed("watching pods", error))??;
        let moved = traffic
            .wait_for("an answer by the next device", at, by("next"))
            .await?;
        faults.push(Fallback {
            answered: answered.at.saturating_sub(at),
            created: created.saturating_sub(at),
            moved: moved.at.saturating_sub(at),
        });
        devices.set_health(&device, DeviceHealth::Healthy)?;
        product
            .wait_for_status("the best device serves again", workload, best)
            .await?;
        progress.say(format!("{name}: fault {round} of {ROUNDS}"));
    }
    Ok((faults, tally(&traffic.stop().await?)))
}

async fn stream(cluster: &Cluster, service: &str) -> Result<Traffic> {
    let options = StreamOptions {
        url: service_url(cluster, NAMESPACE_OF_ALL, service).await?,
        model: Example::SPEECH_GATE.name.into(),
        recording: recording(),
        sequences: 1,
        speed: 1.0,
        repeat: true,
    };
    let traffic = Traffic::start(cluster.node(demo::GPU_NODE)?, &options)?;
    traffic.wait_for("an answer", 0, |_| true).await?;
    Ok(traffic)
}

/// When the next pod with these labels is seen, in milliseconds since 1970. Those that are there now do not count.
async fn next_pod(cluster: &Cluster, labels: &str) -> Result<JoinHandle<Result<u64>>> {
    let api = pods(cluster)?;
    let listed = api.list(&ListParams::default().labels(labels)).await?;
    let version = listed.metadata.resource_version.unwrap_or_default();
    let wanted = WatchParams::default().labels(labels);
    Ok(tokio::spawn(async move {
        let mut events = api.watch(&wanted, &version).await?.boxed();
        while let Some(event) = events.next().await {
            if let WatchEvent::Added(_) = event? {
                return Ok(now());
            }
        }
        Err(failed("a watch of pods", "it ended before a pod was made"))
    }))
}

fn pods(cluster: &Cluster) -> Result<Api<Pod>> {
    Ok(Api::namespaced(cluster.client()?, NAMESPACE_OF_ALL))
}

/// What a stock Deployment did after a fault of its device.
struct Stock {
    tally: Tally,
    /// Pods that were not there at the fault.
    made: usize,
}

impl Stock {
    fn figures(&self) -> [Figure; 4] {
        let of = |what: &str, value| {
            let when = PATIENCE.as_secs();
            count(
                &format!("a stock Deployment, {when} s from the same fault: {what}"),
                value,
                1,
            )
        };
        [
            of("pods made", self.made),
            of("requests", self.tally.requests),
            of("requests lost", self.tally.failures),
            of("answers that say that they are degraded", self.tally.degraded),
        ]
    }
}

/// Runs the same model in a Deployment that requests the same resource, and breaks its device under traffic.
async fn stock(cluster: &Cluster, model: &str, progress: &Progress) -> Result<Stock> {
    progress.say("the same fault under a stock Deployment");
    let runtime = images::product(progress)?.runtime.reference;
    let manifest = DEPLOYMENT.replace("RUNTIME", &runtime).replace("MODEL", model);
    cluster::apply(cluster, &manifest).await?;
    let rolled_out = [
        "-n",
        NAMESPACE_OF_ALL,
        "rollout",
        "status",
        "deployment/stock",
        "--timeout=120s",
    ];
    cluster.kubectl(&rolled_out).await?;
    let before = uids(cluster).await?;
    let devices = NodeDevices::new(cluster, NODE, STOCK)?;
    let traffic = stream(cluster, "stock").await?;
    let at = now();
    devices.set_health(&devices.id(0), DeviceHealth::Unhealthy)?;
    tokio::time::sleep(PATIENCE).await;
    let replies = traffic.stop().await?;
    let made = uids(cluster).await?.difference(&before).count();
    Ok(Stock {
        tally: tally(replies.iter().filter(|reply| reply.at >= at)),
        made,
    })
}

async fn uids(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let stock = ListParams::default().labels("app=stock");
    let pods = pods(cluster)?.list(&stock).await?.items;
    Ok(pods.into_iter().filter_map(|pod| pod.metadata.uid).collect())
}

#[allow(clippy::cast_precision_loss, reason = "counts of a run")]
fn count(name: &str, value: usize, runs: usize) -> Figure {
    Figure::new(name, value as f64, "", runs)
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a run")]
fn milliseconds(value: u64) -> f64 {
    value as f64
}
