//! `operator-footprint`: memory and processor time of the operator with a slot on every node of a large fleet, while it
//! converges, at rest and while every watch begins anew; and what a site that goes dark and returns disturbs elsewhere.
//! Nodes are played, devices emulated.

use std::time::{Duration, Instant};

use kube::api::Api;
use perwatt_crds::InferenceWorkload;

use super::figure::Figure;
use super::fleet::nodes::{self, DARK_SITE, ZONE};
use super::fleet::pods::{Counts, Pods};
use super::fleet::{Fleet, NAMESPACE, OPERATOR, sizes};
use super::{cluster, failed, processes};
use crate::product::Result;
use crate::progress::Progress;
use crate::wait::{DEADLINE, until};

/// Nodes, each with one slot.
const NODES: [usize; 2] = [1_000, 5_000];
const RELISTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(900);
/// After something happened: what follows from it is over.
const SETTLES: Duration = Duration::from_secs(20);
/// How long nothing happens.
const REST: Duration = Duration::from_secs(60);
/// What the API server says of a version that it does not know any more.
const EXPIRED: &str = "too old resource version";
const WORKLOAD: &str = "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: everywhere, namespace: fleet}
spec:
  model: {image: \"registry.example/models/fleet@sha256:6473f22be36b484318d4e7fa9bfb058832f3fad5666a921926625f6b2e702d93\"}
  placement: {mode: PerNode, nodes: {matchLabels: {kubernetes.io/os: linux}}}
  variants:
  - {name: asic, device: {profiles: [fleet-asic]}, artifact: {path: fleet.onnx}}
  - {name: cpu, deviceLess: CPU, artifact: {path: fleet.onnx}}
";

/// The operator's process in a fleet.
struct Watched {
    fleet: Fleet,
    pods: Pods,
    pid: i32,
    figures: Vec<Figure>,
}

/// Converging, resting, listing anew, a dark site; for each size of the fleet.
pub async fn measure() -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for size in sizes(&NODES)? {
        figures.extend(measure_with(size).await?);
    }
    Ok(figures)
}

async fn measure_with(size: usize) -> Result<Vec<Figure>> {
    let fleet = Fleet::start(size, &Progress::new()).await?;
    let pods = Pods::watch(fleet.cluster.client()?);
    let operator = fleet.start_operator().await?;
    let pid = i32::try_from(operator.pid).map_err(|error| failed("the operator's process", error))?;
    let mut watched = Watched {
        fleet,
        pods,
        pid,
        figures: Vec::new(),
    };
    watched.converge().await?;
    watched.rest().await?;
    watched.list_anew().await?;
    watched.go_dark().await?;
    watched.fleet.cluster.check_parts()?;
    watched.fleet.cluster.stop().await?;
    Ok(watched.figures)
}

impl Watched {
    async fn converge(&mut self) -> Result<()> {
        let size = self.fleet.size;
        let (before, began) = (self.used()?, Instant::now());
        cluster::apply(&self.fleet.cluster, WORKLOAD).await?;
        let ready = self.pods.until_ready(size, PATIENCE).await?;
        let took = ready.saturating_duration_since(began).as_secs_f64();
        self.served(size, 0).await?;
        tokio::time::sleep(SETTLES).await;
        self.add("kubectl apply to all pods ready", took, "s");
        let used = self.used()? - before;
        self.add("processor time until all slots are served", used, "s");
        let peak = processes::peak_mebibytes(self.pid)?;
        self.add("peak memory until then", peak, "MiB");
        Ok(())
    }

    async fn rest(&mut self) -> Result<()> {
        let before = self.used()?;
        tokio::time::sleep(REST).await;
        let minutely = (self.used()? - before) / REST.as_secs_f64() * 60.0;
        self.add("processor time a minute at rest", minutely, "s");
        let resident = processes::resident_mebibytes(self.pid)?;
        self.add("resident memory at rest", resident, "MiB");
        Ok(())
    }

    /// An API server that begins anew knows no old version: every watch lists again.
    async fn list_anew(&mut self) -> Result<()> {
        processes::forget_peak(self.pid)?;
        let (before, expired) = (self.used()?, self.expired()?);
        for _ in 0..RELISTS {
            self.fleet.cluster.restart_api_server().await?;
            tokio::time::sleep(SETTLES).await;
        }
        self.count(
            &format!("watches that listed anew, {RELISTS} times"),
            self.expired()? - expired,
        );
        let used = self.used()? - before;
        self.add(&format!("processor time of {RELISTS} relists"), used, "s");
        let peak = processes::peak_mebibytes(self.pid)?;
        self.add(&format!("peak memory over {RELISTS} relists"), peak, "MiB");
        let resident = processes::resident_mebibytes(self.pid)?;
        self.add("resident memory afterwards", resident, "MiB");
        Ok(())
    }

    async fn go_dark(&mut self) -> Result<()> {
        let (cluster, size) = (&self.fleet.cluster, self.fleet.size);
        let (dark, site) = (nodes::dark(size), format!("{ZONE}={DARK_SITE}"));
        self.pods.until_ready(size, PATIENCE).await?;
        self.pods.count_anew();
        self.fleet.go_dark()?;
        nodes::until_all(cluster, &site, dark, nodes::is_lost).await?;
        self.served(size - dark, dark).await?;
        tokio::time::sleep(SETTLES).await;
        self.fleet.progress.say(format!("{dark} nodes are dark"));
        self.fleet.light_up().await?;
        nodes::until_all(cluster, &site, dark, nodes::is_usable).await?;
        self.pods.until_ready(size, PATIENCE).await?;
        self.served(size, 0).await?;
        tokio::time::sleep(SETTLES).await;
        let (on_site, elsewhere) = self.pods.counts();
        let Counts { made, gone, changed } = elsewhere;
        let of = |what: &str| format!("a site of {dark} nodes goes dark and returns: {what}");
        self.count(&of("pods made, gone or changed elsewhere"), made + gone + changed);
        self.count(&of("its own pods made or gone"), on_site.made + on_site.gone);
        Ok(())
    }

    /// Waits until the workload's status says so many slots are served, and so many offline.
    async fn served(&self, ready: usize, offline: usize) -> Result<()> {
        let api: Api<InferenceWorkload> = Api::namespaced(self.fleet.cluster.client()?, NAMESPACE);
        let api = &api;
        let waited = until(
            "the workload's status counts its slots",
            DEADLINE,
            || async move {
                let found = api.get("everywhere").await.map_err(|error| error.to_string())?;
                let status = found.status.unwrap_or_default();
                let (served, away) = (status.ready_slots, status.offline_slots);
                if usize::try_from(served) == Ok(ready) && usize::try_from(away) == Ok(offline) {
                    Ok(())
                } else {
                    Err(format!(
                        "{served} served and {away} offline, not {ready} and {offline}"
                    ))
                }
            },
        );
        Ok(waited.await?)
    }

    /// How often the operator was told that the version from which it would watch on is too old.
    fn expired(&self) -> Result<usize> {
        let log = self.fleet.cluster.state().log(OPERATOR);
        let text = std::fs::read_to_string(&log).map_err(|error| failed(log.display(), error))?;
        Ok(text.lines().filter(|line| line.contains(EXPIRED)).count())
    }

    fn used(&self) -> Result<f64> {
        processes::processor_seconds(self.pid)
    }

    fn add(&mut self, what: &str, value: f64, unit: &'static str) {
        let name = format!("operator, {} nodes with one slot each: {what}", self.fleet.size);
        self.fleet.progress.say(format!("{name}: {value:.2} {unit}"));
        self.figures.push(Figure::new(&name, value, unit, 1));
    }

    #[allow(clippy::cast_precision_loss, reason = "counts of a run")]
    fn count(&mut self, what: &str, value: usize) {
        self.add(what, value as f64, "");
    }
}
