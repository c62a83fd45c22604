//! `placement-e2e`: from `kubectl apply` until all pods are bound, in a fleet of played nodes, beside stock Deployments
//! whose pods kube-scheduler places on the same devices, by the same API server, in turns. Devices are emulated.

use std::time::{Duration, Instant};

use super::cluster;
use super::figure::{Figure, RUNS, median};
use super::fleet::pods::Pods;
use super::fleet::{Fleet, IMAGE, NAMESPACE, RESOURCE, sizes};
use crate::product::Result;
use crate::progress::Progress;

/// Nodes, and slots: every device gets one.
const NODES: [usize; 1] = [1_000];
/// Workloads, or Deployments, that share the slots.
const WORKLOADS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two runs: what the last one left to do is done.
const SETTLES: Duration = Duration::from_secs(5);

const WORKLOAD: &str = "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: NAME, namespace: fleet}
spec:
  replicas: COUNT
  model: {image: \"registry.example/models/fleet@sha256:6473f22be36b484318d4e7fa9bfb058832f3fad5666a921926625f6b2e702d93\"}
  variants:
  - {name: asic, device: {profiles: [fleet-asic]}, artifact: {path: fleet.onnx}}
  - {name: cpu, deviceLess: CPU, artifact: {path: fleet.onnx}}
---
";
const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: fleet}
spec:
  replicas: COUNT
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      containers:
      - name: runtime
        image: IMAGE
        resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 256Mi, RESOURCE: 1}}
---
";

/// Workloads to bound pods, beside Deployments.
pub async fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for size in sizes(&NODES)? {
        figures.push(measure_with(size).await?);
    }
    Ok(figures)
}

async fn measure_with(size: usize) -> Result<Figure> {
    let progress = Progress::new();
    let fleet = Fleet::start(size, &progress).await?;
    fleet.start_operator().await?;
    let pods = Pods::watch(fleet.cluster.client()?);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let workloads = place(&fleet, &pods, "inferenceworkload", WORKLOAD).await?;
        let deployments = place(&fleet, &pods, "deployment", DEPLOYMENT).await?;
        progress.say(format!(
            "run {run} of {RUNS}: workloads {workloads:.1} s, Deployments {deployments:.1} s"
        ));
        ours.push(workloads);
        theirs.push(deployments);
    }
    fleet.cluster.stop().await?;
    let slots = size / WORKLOADS * WORKLOADS;
    let name =
        format!("{slots} slots of {WORKLOADS} workloads, {size} nodes: kubectl apply to all pods bound");
    let peer = format!("{slots} pods of {WORKLOADS} stock Deployments with the same resource");
    Ok(Figure::new(&name, median(ours), "s", RUNS).against(&peer, median(theirs)))
}

/// Seconds from `kubectl apply` until all pods are bound; they are gone afterwards.
async fn place(fleet: &Fleet, pods: &Pods, kind: &str, template: &str) -> Result<f64> {
    let each = fleet.size / WORKLOADS;
    let template = template
        .replace("COUNT", &each.to_string())
        .replace("IMAGE", IMAGE)
        .replace("RESOURCE", RESOURCE);
    let manifests: String = (0..WORKLOADS)
        .map(|number| template.replace("NAME", &format!("fleet-{number}")))
        .collect();
    let began = Instant::now();
    cluster::apply(&fleet.cluster, &manifests).await?;
    let bound = pods.until_bound(each * WORKLOADS, PATIENCE).await?;
    let delete = ["-n", NAMESPACE, "delete", kind, "--all", "--wait=false"];
    fleet.cluster.kubectl(&delete).await?;
    pods.until_bound(0, PATIENCE).await?;
    tokio::time::sleep(SETTLES).await;
    Ok(bound.saturating_duration_since(began).as_secs_f64())
}
