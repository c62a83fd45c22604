//! `agent-restart`: agents and kubelets begin anew while a model is served from a device. Devices that are lost or
//! doubled, pods that are disturbed, requests that are lost. Devices are emulated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ListParams};

use super::cluster;
use super::figure::Figure;
use crate::cluster::Cluster;
use crate::demo::{self, WORKLOAD};
use crate::product::devices::NodeDevices;
use crate::product::install::{NAMESPACE, Product};
use crate::product::traffic::{Traffic, tally};
use crate::product::{Error, Example, Result, kill};
use crate::progress::Progress;
use crate::wait::{DEADLINE, until};

const NODE: &str = "edge-a";
/// Restarts of each kind.
const RESTARTS: usize = 20;
/// After a restart: twice what the kubelet takes to tell its node's status, and the agent to ask again who holds what.
/// Before that, a look would see what was.
const SETTLES: Duration = Duration::from_secs(10);
/// Profiles of the node, with how many devices each must have: the one that serves, and idle ones beside it.
const PROFILES: [(&str, usize); 2] = [("asic-emulated", 1), ("idle-emulated", 8)];
const IDLE_PROFILE: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: idle-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 8, nodes: {matchLabels: {kubernetes.io/hostname: edge-a}}}}
  power: {typicalMilliwatts: 1000, maxMilliwatts: 2000}
";

/// What begins anew.
#[derive(Clone, Copy, Debug)]
enum Restart {
    /// The agent's process is killed, and its pod is deleted, in turns: a kubelet that restarts one container over and
    /// over waits longer each time.
    Agent,
    /// The kubelet is killed and started.
    Kubelet,
}

/// What was not as it should be after restarts of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Harm {
    lost: usize,
    doubled: usize,
    disagreements: usize,
    disturbed: usize,
}

/// Devices lost and doubled, pods disturbed, requests lost.
pub async fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let cluster = cluster::start(demo::nodes(), &progress).await?;
    let product = Product::install(&cluster, &progress).await?;
    cluster::apply(&cluster, IDLE_PROFILE).await?;
    demo::place(&product, Example::SPEECH_GATE, "npu").await?;
    nothing_is_wrong(&cluster).await?;
    let mut figures = Vec::new();
    for (restart, name) in [(Restart::Agent, "agent"), (Restart::Kubelet, "kubelet")] {
        let options = demo::stream_options(&cluster).await?;
        let traffic = Traffic::start(cluster.node(demo::GPU_NODE)?, &options)?;
        traffic.wait_for("an answer", 0, |_| true).await?;
        let mut harm = Harm::default();
        for turn in 1..=RESTARTS {
            progress.say(format!("the {name} begins anew, {turn} of {RESTARTS}"));
            let before = pods(&cluster).await?;
            carry_out(&product, restart, turn).await?;
            tokio::time::sleep(SETTLES).await;
            harm.look(&cluster, &before).await?;
        }
        let requests = tally(&traffic.stop().await?);
        figures.extend(harm.figures(name));
        let of = |what: &str| format!("{name} restarts: {what}");
        let count = |what: &str, value| count(&of(what), value);
        figures.push(count("requests", requests.requests));
        figures.push(count("requests lost", requests.failures));
        figures.push(count("answers by another variant", requests.degraded));
    }
    cluster.stop().await?;
    Ok(figures)
}

/// Waits until every device is there once: what is missing later was lost by a restart.
async fn nothing_is_wrong(cluster: &Cluster) -> Result<()> {
    let waited = until("every device is offered once", DEADLINE, || async move {
        let looked = async {
            let mut harm = Harm::default();
            harm.look(cluster, &pods(cluster).await?).await?;
            Ok::<_, Error>(harm)
        };
        match looked.await {
            Ok(harm) if harm == Harm::default() => Ok(()),
            Ok(harm) => Err(format!("{harm:?}")),
            Err(error) => Err(error.to_string()),
        }
    });
    Ok(waited.await?)
}

async fn carry_out(product: &Product<'_>, restart: Restart, turn: usize) -> Result<()> {
    match restart {
        Restart::Kubelet => {
            let before = renewed(product.cluster).await?;
            product.cluster.node(NODE)?.restart_kubelet().await?;
            kubelet_is_back(product.cluster, before).await
        }
        Restart::Agent => {
            let pod = product.agent_pod(NODE).await?;
            let before = containers(&pod);
            let uid = pod.metadata.uid.unwrap_or_default();
            if turn % 2 == 1 {
                kill("perwatt-device-plugin", &uid)?;
            } else {
                let name = pod.metadata.name.unwrap_or_default();
                product
                    .cluster
                    .kubectl(&["-n", NAMESPACE, "delete", "pod", &name])
                    .await?;
            }
            agent_is_another(product, &before).await
        }
    }
}

/// When the kubelet last said that it lives.
async fn renewed(cluster: &Cluster) -> Result<Option<MicroTime>> {
    let leases: Api<Lease> = Api::namespaced(cluster.client()?, "kube-node-lease");
    Ok(leases.get(NODE).await?.spec.and_then(|spec| spec.renew_time))
}

/// Waits until the kubelet renews its lease: the condition `Ready` outlives a kubelet for most of a minute.
async fn kubelet_is_back(cluster: &Cluster, before: Option<MicroTime>) -> Result<()> {
    let before = &before;
    let waited = until("the kubelet renews its lease", DEADLINE, || async move {
        match renewed(cluster).await {
            Ok(now) if now > *before => Ok(()),
            Ok(now) => Err(format!("renewed last at {now:?}")),
            Err(error) => Err(error.to_string()),
        }
    });
    waited.await?;
    let ready = ["wait", "--for=condition=Ready", "node/edge-a", "--timeout=120s"];
    cluster.kubectl(&ready).await?;
    Ok(())
}

/// Waits until an agent is ready that is not this one.
async fn agent_is_another(product: &Product<'_>, before: &BTreeSet<String>) -> Result<()> {
    let waited = until("another agent is ready", DEADLINE, || async move {
        let found = product.agent_pod(NODE).await;
        let pod = found.map_err(|error| error.to_string())?;
        let ready = statuses(&pod).filter(|status| status.ready).count();
        if ready > 0 && containers(&pod).is_disjoint(before) {
            Ok(())
        } else {
            Err(format!("{ready} containers are ready"))
        }
    });
    Ok(waited.await?)
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let statuses = pod.status.iter().flat_map(|status| &status.container_statuses);
    statuses.flatten()
}

/// Ids of a pod's containers.
fn containers(pod: &Pod) -> BTreeSet<String> {
    statuses(pod)
        .filter_map(|status| status.container_id.clone())
        .collect()
}

/// The workload's pods by uid, each with its containers: one that was restarted has another.
async fn pods(cluster: &Cluster) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let api: Api<Pod> = Api::namespaced(cluster.client()?, WORKLOAD.0);
    let ours = ListParams::default().labels(&format!("perwatt.dev/workload={}", WORKLOAD.1));
    let pods = api.list(&ours).await?.items.into_iter();
    Ok(pods
        .map(|pod| (pod.metadata.uid.clone().unwrap_or_default(), containers(&pod)))
        .collect())
}

impl Harm {
    /// Adds what is wrong now.
    async fn look(&mut self, cluster: &Cluster, before: &BTreeMap<String, BTreeSet<String>>) -> Result<()> {
        for (profile, count) in PROFILES {
            let devices = NodeDevices::new(cluster, NODE, profile)?;
            let inventory = devices.inventory().await?;
            let offered = devices.offered().await?;
            let known: BTreeSet<_> = inventory.iter().map(|device| &device.id).collect();
            let seen = [known.len(), offered.capacity, offered.allocatable];
            self.lost += seen
                .iter()
                .map(|seen| count.saturating_sub(*seen))
                .max()
                .unwrap_or(0);
            let given = devices.given().await?;
            let twice = given.len()
                - given
                    .iter()
                    .map(|(device, _)| device)
                    .collect::<BTreeSet<_>>()
                    .len();
            let more = [inventory.len(), offered.capacity].map(|seen| seen.saturating_sub(count));
            self.doubled += more.into_iter().chain([twice]).max().unwrap_or(0);
            let held = inventory.iter().filter_map(|device| {
                let pod = device.pod.as_ref()?;
                Some((device.id.clone(), pod.name.clone()))
            });
            let agree = held.collect::<BTreeSet<_>>() == given.into_iter().collect::<BTreeSet<_>>();
            self.disagreements += usize::from(!agree);
        }
        let now = pods(cluster).await?;
        let changed = before
            .iter()
            .filter(|(uid, containers)| now.get(*uid) != Some(containers));
        let new = now.keys().filter(|uid| !before.contains_key(*uid));
        // A pod that was moved is one that went and one that came.
        self.disturbed += changed.count().max(new.count());
        Ok(())
    }

    fn figures(self, name: &str) -> [Figure; 4] {
        let of = |what: &str, value| count(&format!("{name} restarts: {what}"), value);
        [
            of("devices lost", self.lost),
            of("devices doubled", self.doubled),
            of("views of who holds what that differ", self.disagreements),
            of("pods disturbed or moved", self.disturbed),
        ]
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a run")]
fn count(name: &str, value: usize) -> Figure {
    Figure::new(name, value as f64, "", RESTARTS)
}
