//! The cluster itself: started, found by another process, used, and ended
//! without a trace.
//!
//! Everything it runs is real: etcd, kube-apiserver, kube-controller-manager,
//! kube-scheduler, and for each node containerd, kubelet and kube-proxy, each
//! part with a certificate of its own. All of it is in network namespaces; the
//! one way in from the machine is a loopback port that leads to the API server.

mod certificates;
mod cgroup;
mod cleanup;
mod config;
mod control_plane;
mod error;
mod forward;
mod guest;
mod lock;
mod network;
mod node;
mod preflight;
mod process;
mod start;
mod state;
mod tools;

use std::path::{Path, PathBuf};

use futures::future::try_join_all;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustix::process::Signal;
use tokio::process::Command;

pub use self::error::{Error, Result};
pub use self::forward::Forward;
pub(crate) use self::forward::run_forever;
pub use self::guest::{Guest, Identity};
pub use self::node::Node;
pub use self::preflight::cache;
pub use self::process::Process;
pub use self::state::State;
pub(crate) use self::state::{create_folder, write_file, write_json};

use self::cgroup::Hierarchies;
use self::cleanup::Keep;
use self::process::Launcher;
use self::state::Record;
use crate::progress::Progress;

/// What to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Name of the cluster, a DNS label; its folder, namespaces and control
    /// groups follow from it.
    pub name: String,
    /// The nodes. Without any it is a control plane for nodes that a guest plays; controllers and scheduler then ask the
    /// API server as often as they like, for such nodes come by the thousand.
    pub nodes: Vec<NodeOptions>,
    /// Loopback port of the API server; 0 takes any free one.
    pub port: u16,
    /// Where to say what happens.
    pub progress: Progress,
}

/// One node to start.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Name of the node, a DNS label.
    pub name: String,
    /// Labels beside those that the kubelet sets.
    pub labels: Vec<(String, String)>,
}

impl ClusterOptions {
    /// A cluster with nodes of these names and no labels.
    pub fn new<'a>(name: &str, nodes: impl IntoIterator<Item = &'a str>) -> Self {
        let nodes = nodes.into_iter().map(NodeOptions::new).collect();
        Self {
            name: name.to_owned(),
            nodes,
            port: 0,
            progress: Progress::new(),
        }
    }
}

impl NodeOptions {
    /// A node without labels.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: Vec::new(),
        }
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A running cluster.
///
/// One that [`Cluster::start`] made ends when this is dropped, also by a failed
/// test, and on Ctrl-C; [`Cluster::detach`] leaves it running. One that
/// [`Cluster::attach`] found goes on running either way.
#[derive(Debug)]
pub struct Cluster {
    launcher: Launcher,
    nodes: Vec<Node>,
    config: kube::Config,
    owned: bool,
}

impl Cluster {
    /// Starts a cluster, after removing what an earlier one of this name left.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        start::start(options).await
    }

    /// Finds a running cluster by its name.
    pub async fn attach(name: &str) -> Result<Self> {
        let state = State::of(name)?;
        let record = state.read_record()?;
        let cluster = Self::open(&state, &record).await?;
        let checked = cluster.launcher.check_alive(&Self::control_parts());
        let why = |error: Error| Error::NotRunning {
            name: name.to_owned(),
            why: error.to_string(),
        };
        checked.map(|()| cluster).map_err(why)
    }

    /// Ends whatever there is of a cluster, running or not.
    pub async fn remove(name: &str) -> Result<()> {
        let state = State::of(name)?;
        let _lock = state.lock()?;
        if let Some(owner) = state.owner() {
            return Err(Error::InUse {
                name: name.to_owned(),
                pid: owner.pid,
            });
        }
        remove(state, Keep::Nothing).await
    }

    /// Ends the cluster and removes every trace of it.
    pub async fn stop(mut self) -> Result<()> {
        self.owned = false;
        cleanup::wait_where_interrupted();
        let state = self.state().clone();
        let _lock = state.lock()?;
        cleanup::disown(&state);
        remove(state, Keep::Nothing).await
    }

    /// Leaves the cluster running when this process ends.
    pub fn detach(mut self) -> Result<Self> {
        self.owned = false;
        cleanup::disown(self.state());
        self.state().disown()?;
        Ok(self)
    }

    /// Files and names of the cluster.
    pub fn state(&self) -> &State {
        &self.launcher.state
    }

    /// Path of the administrator's kubeconfig, for use from anywhere on this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().kubeconfig()
    }

    /// Folder with the logs of every part.
    pub fn logs(&self) -> PathBuf {
        self.state().logs()
    }

    /// Folder with the binaries of the parts (`kubectl`, `helm`, `ctr`, …).
    pub fn binaries(&self) -> &Path {
        &self.launcher.binaries
    }

    /// An administrator's client, for the async runtime that this is called on.
    pub fn client(&self) -> Result<kube::Client> {
        self.client_of(self.config.clone())
    }

    /// A client that acts as another user, with that user's rights and under the admission policies that name it.
    pub fn client_as(&self, user: &str) -> Result<kube::Client> {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        self.client_of(config)
    }

    fn client_of(&self, config: kube::Config) -> Result<kube::Client> {
        kube::Client::try_from(config).map_err(|error| Error::Client {
            kubeconfig: self.kubeconfig(),
            why: error.to_string(),
        })
    }

    /// Runs kubectl as the administrator; gives what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        tools::output(self.tool("kubectl").args(arguments), None).await
    }

    /// Runs kubectl with something on its standard input (`apply -f -`).
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        tools::output(self.tool("kubectl").args(arguments), Some(input)).await
    }

    /// Runs helm as the administrator; gives what it printed.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        tools::output(self.tool("helm").args(arguments), None).await
    }

    /// A command of the built tools (`kubectl`, `helm`) that uses this cluster.
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.launcher.binary(name));
        command
            .env_clear()
            .envs(self.launcher.environment())
            .env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Imports an image (a tar in OCI layout) on every node.
    pub async fn load_image(&self, file: &Path) -> Result<()> {
        try_join_all(self.nodes.iter().map(|node| node.load_image(file)))
            .await
            .map(|_| ())
    }

    /// All nodes, in the order they were asked for.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .ok_or_else(|| Error::NoSuchNode {
                cluster: self.state().name().to_owned(),
                node: name.to_owned(),
                known: self.nodes.iter().map(Node::name).collect::<Vec<_>>().join(", "),
            })
    }

    /// Checks that every part still runs; says which does not, with its last lines.
    pub fn check_parts(&self) -> Result<()> {
        self.launcher.check_alive(&self.parts())
    }

    /// Stops the API server as a network that swallows everything would: nobody is refused, nobody is answered.
    pub fn stop_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::STOP)
    }

    /// Lets it go on.
    pub fn go_on_api_server(&self) -> Result<()> {
        self.signal_api_server(Signal::CONT)
    }

    /// Kills the API server and starts it anew: all watches end, and its caches begin with nothing.
    pub async fn restart_api_server(&self) -> Result<()> {
        control_plane::restart_api_server(&self.launcher, self.nodes.is_empty())?;
        start::wait_api(self).await
    }

    fn signal_api_server(&self, signal: Signal) -> Result<()> {
        let part = "kube-apiserver";
        self.launcher.check_alive(&[part.to_owned()])?;
        if let Some(process) = self.launcher.process(part) {
            process.signal(signal);
        }
        Ok(())
    }

    fn parts(&self) -> Vec<String> {
        let nodes = self.nodes.iter().flat_map(Node::parts);
        Self::control_parts().into_iter().chain(nodes).collect()
    }

    fn control_parts() -> Vec<String> {
        let control = control_plane::PARTS.into_iter().chain([start::FORWARD]);
        control.map(str::to_owned).collect()
    }

    async fn open(state: &State, record: &Record) -> Result<Self> {
        let group = Hierarchies::detect()?.parts(&state.group());
        let binaries = record.binaries.clone();
        let launcher = Launcher {
            state: state.clone(),
            binaries,
            group,
        };
        let numbered = record.nodes.iter().enumerate();
        let nodes = numbered
            .map(|(place, each)| Node::new(&launcher, each, place))
            .collect();
        let config = read_config(&state.kubeconfig()).await?;
        Ok(Self {
            launcher,
            nodes,
            config,
            owned: false,
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        let keep = if std::thread::panicking() {
            Keep::Logs
        } else {
            Keep::Nothing
        };
        cleanup::wait_where_interrupted();
        cleanup::disown(self.state());
        if let Err(error) = cleanup::remove(self.state(), keep) {
            eprintln!("{error}");
        }
        if keep == Keep::Logs {
            eprintln!("the logs of every part are kept in {}", self.logs().display());
        }
    }
}

async fn remove(state: State, keep: Keep) -> Result<()> {
    let removed = tokio::task::spawn_blocking(move || cleanup::remove(&state, keep)).await;
    removed.unwrap_or(Err(Error::Interrupted))
}

async fn read_config(kubeconfig: &Path) -> Result<kube::Config> {
    let failed = |why: String| Error::Client {
        kubeconfig: kubeconfig.to_owned(),
        why,
    };
    let parsed = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.to_string()))?;
    kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|error| failed(error.to_string()))
}
