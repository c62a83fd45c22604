//! Starting a cluster, step by step.

use std::net::SocketAddr;
use std::path::PathBuf;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;

use super::cgroup::Hierarchies;
use super::cleanup::{self, Keep};
use super::config::{kubeconfig, resolv};
use super::control_plane as control;
use super::error::{Error, Result};
use super::network::{self, API_PORT, API_SERVER, MOST_NODES};
use super::preflight;
use super::process::{Launcher, Part, tail};
use super::state::{CONTROL, NodeRecord, Record, State, check_label, write_file};
use super::{Cluster, ClusterOptions, Node};
use crate::images;
use crate::programs;
use crate::progress::Progress;
use crate::wait::{DEADLINE, until};

/// Name of the part that leads from the machine to the API server.
pub(crate) const FORWARD: &str = "forward";
/// The program that forwards.
const PROGRAM: &str = "perwatt-e2e";

/// Ends what a failed start left, unless it came to its end.
struct Unfinished(Option<State>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(state) = self.0.take() else { return };
        cleanup::wait_where_interrupted();
        cleanup::disown(&state);
        if let Err(error) = cleanup::remove(&state, Keep::Logs) {
            eprintln!("{error}");
        }
    }
}

pub(crate) async fn start(options: ClusterOptions) -> Result<Cluster> {
    let state = State::of(&options.name)?;
    let record = check(&options)?;
    let progress = &options.progress;
    let prepared = tokio::task::spawn_blocking(preflight::prepare).await;
    let binaries = prepared.unwrap_or(Err(Error::Interrupted))?;
    let record = Record { binaries, ..record };

    let _lock = state.lock()?;
    if let Some(owner) = state.owner() {
        return Err(Error::InUse {
            name: options.name,
            pid: owner.pid,
        });
    }
    let hierarchies = Hierarchies::detect()?;
    preflight::check(&state, &hierarchies)?;
    if state.folder().exists() {
        progress.say(format!("removing what an earlier cluster {} left", state.name()));
    }
    super::remove(state.clone(), Keep::Nothing).await?;
    super::create_folder(&state.folder())?;

    let mut unfinished = Unfinished(Some(state.clone()));
    cleanup::own(&state)?;
    let mut cluster = bring_up(&state, &record, &hierarchies, &options).await?;
    state.write_record(&record)?;
    unfinished.0 = None;
    cluster.owned = true;
    Ok(cluster)
}

fn check(options: &ClusterOptions) -> Result<Record> {
    if options.nodes.len() > MOST_NODES {
        return Err(Error::Preflight(format!(
            "a cluster has at most {MOST_NODES} nodes, not {}",
            options.nodes.len()
        )));
    }
    let mut nodes = Vec::new();
    for node in &options.nodes {
        check_label("node name", &node.name)?;
        if nodes.iter().any(|each: &NodeRecord| each.name == node.name) {
            let (what, name) = ("node name", node.name.clone());
            return Err(Error::Name {
                what,
                name,
                why: "another node has it",
            });
        }
        nodes.push(NodeRecord {
            name: node.name.clone(),
            labels: node.labels.clone(),
        });
    }
    Ok(Record {
        binaries: PathBuf::new(),
        nodes,
    })
}

/// Starts everything. The order follows from who needs whom; what waits for
/// another part anyway is started early.
async fn bring_up(
    state: &State,
    record: &Record,
    hierarchies: &Hierarchies,
    options: &ClusterOptions,
) -> Result<Cluster> {
    let progress = &options.progress;
    let names: Vec<String> = record.nodes.iter().map(|node| node.name.clone()).collect();
    progress.say("network namespaces, control groups, certificates");
    hierarchies.create(&state.group(), &names)?;
    network::create(state, &names)?;
    preflight::check_nftables(state)?;
    super::certificates::create(state, &names)?;
    write_file(&resolv(state), "")?;

    let group = hierarchies.parts(&state.group());
    let launcher = Launcher {
        state: state.clone(),
        binaries: record.binaries.clone(),
        group,
    };
    progress.say("control plane: etcd, kube-apiserver");
    let crowd = record.nodes.is_empty();
    control::start_api(&launcher, crowd)?;
    let address = start_forward(&launcher, options.port).await?;
    let text = kubeconfig(state, &format!("https://{address}"), "admin");
    write_file(&state.kubeconfig(), text)?;

    let cluster = Cluster::open(state, record).await?;
    let sandbox = images::sandbox(&launcher.binary("pause"))?;
    for node in &cluster.nodes {
        progress.say(format!("node {}: containerd", node.describe()));
    }
    try_join_all(cluster.nodes.iter().map(|node| start_runtime(node, &sandbox))).await?;
    wait_api(&cluster).await?;
    progress.say("the API server is ready; controllers, scheduler, kubelets, kube-proxies");
    control::start_controllers(&launcher, crowd)?;
    try_join_all(cluster.nodes.iter().map(start_node)).await?;
    wait_ready(&cluster, progress).await?;
    Ok(cluster)
}

async fn start_runtime(node: &Node, sandbox: &images::Packed) -> Result<()> {
    node.prepare(&sandbox.reference).await?;
    node.start_containerd().await?;
    node.load_image(&sandbox.file).await
}

async fn start_node(node: &Node) -> Result<()> {
    node.start_kubelet().await?;
    node.start_proxy().await
}

/// Starts the way in and gives its loopback address.
async fn start_forward(launcher: &Launcher, port: u16) -> Result<SocketAddr> {
    let file = launcher.state.folder().join("forward.address");
    let part = Part::new(FORWARD, programs::find(PROGRAM)?)
        .arg("forward")
        .flag("listen", format!("127.0.0.1:{port}"))
        .path("namespace", &launcher.state.namespace_path(CONTROL))
        .flag("target", format!("{API_SERVER}:{API_PORT}"))
        .path("announce", &file);
    launcher.start(part)?;
    let parts = [FORWARD.to_owned()];
    wait_part(launcher, "the loopback port is open", &parts, || async {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| format!("{text:?} is no address"))
    })
    .await
}

/// Waits until the API server answers.
pub(super) async fn wait_api(cluster: &Cluster) -> Result<()> {
    let (launcher, client) = (&cluster.launcher, cluster.client()?);
    let etcd = ["etcd".to_owned()];
    wait_part(launcher, "etcd is healthy", &etcd, || {
        control::etcd_healthy(&launcher.state)
    })
    .await?;
    let parts = ["etcd", "kube-apiserver", FORWARD].map(str::to_owned);
    wait_part(launcher, "the API server is ready", &parts, || {
        control::api_ready(client.clone())
    })
    .await
}

async fn wait_ready(cluster: &Cluster, progress: &Progress) -> Result<()> {
    let (launcher, client) = (&cluster.launcher, cluster.client()?);
    let parts = cluster.parts();
    wait_part(launcher, "the controllers work", &parts, || {
        control::controllers_ready(client.clone())
    })
    .await?;
    for node in &cluster.nodes {
        let what = format!("node {} is Ready", node.name());
        wait_part(launcher, &what, &parts, || {
            node_ready(client.clone(), node.name())
        })
        .await?;
        progress.say(what);
    }
    Ok(())
}

async fn node_ready(client: kube::Client, name: &str) -> std::result::Result<(), String> {
    let nodes: Api<NodeObject> = Api::all(client);
    let node = nodes.get(name).await.map_err(|error| error.to_string())?;
    let conditions = node
        .status
        .and_then(|status| status.conditions)
        .unwrap_or_default();
    match conditions.iter().find(|each| each.type_ == "Ready") {
        Some(ready) if ready.status == "True" => Ok(()),
        Some(ready) => Err(ready.message.clone().unwrap_or_default()),
        None => Err("the kubelet has not reported yet".to_owned()),
    }
}

/// Waits for a condition that depends on these parts, and stops waiting where
/// one of them has ended.
async fn wait_part<T, F, Fut>(launcher: &Launcher, what: &str, parts: &[String], mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = std::result::Result<T, String>>,
{
    let waited = until(what, DEADLINE, || {
        let look = look();
        async move {
            match launcher.check_alive(parts) {
                Err(ended) => Ok(Err(ended)),
                Ok(()) => look.await.map(Ok),
            }
        }
    });
    waited.await.unwrap_or_else(|source| {
        Err(Error::TimedOut {
            source,
            logs: ends_of_logs(&launcher.state, parts),
        })
    })
}

fn ends_of_logs(state: &State, parts: &[String]) -> String {
    let ends = parts.iter().map(|part| state.log(part));
    ends.map(|log| format!("\nthe last lines of {}:\n{}", log.display(), tail(&log)))
        .collect()
}
