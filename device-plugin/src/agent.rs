//! The composition root: starts the parts, follows what is known, ends them.

use crate::cdi;
use crate::checkpoint::{self, Checkpoint};
use crate::cluster::{self, Watch};
use crate::constants::{FIRST_LOOK, NVML_DEADLINE};
use crate::discovery::Source;
use crate::discovery::host::Host;
use crate::discovery::hotplug;
use crate::discovery::snapshot::Snapshot;
use crate::emulated::Emulated;
use crate::filewatch::FileWatch;
use crate::http::{self, HttpError, Shown};
use crate::known::Known;
use crate::kubelet::plugin::Context;
use crate::lock::{Lock, LockError};
use crate::metrics::Metrics;
use crate::nvml::Library;
use crate::paths::Paths;
use crate::podresources;
use crate::publish::Publisher;
use crate::readiness::Readiness;
use crate::state::Shared;
use crate::supervisor::Supervisor;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No name, no node.
    #[error("the name of the node is not known: set NODE_NAME (downward API, spec.nodeName) or --node-name")]
    NoNodeName,
    /// Another agent, or no place for the state.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The port is taken.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// No cluster.
    #[error("cannot find the API server: {0}; run in a pod with a service account, or set KUBECONFIG")]
    Client(String),
    /// Signals cannot be heard.
    #[error("cannot listen for signals: {0}")]
    Signal(std::io::Error),
}

/// A running agent.
pub struct Agent {
    /// The devices.
    pub shared: Shared,
    /// What is waited for.
    pub readiness: Readiness,
    /// Counters.
    pub metrics: Metrics,
    /// What is known of the cluster; nothing before the first word or checkpoint.
    pub known: watch::Receiver<Option<Known>>,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Takes the node `node_name` and serves what the checkpoint says, then what `updates` says.
    ///
    /// # Errors
    /// When another agent has the node, or there is no place for the state.
    pub async fn start(
        paths: Paths,
        node_name: &str,
        updates: mpsc::Receiver<Known>,
    ) -> Result<Self, AgentError> {
        let lock = Lock::take(&paths).await?;
        let context = Context {
            paths: paths.clone(),
            shared: Shared::default(),
            files: FileWatch::new(),
            metrics: Metrics::default(),
            readiness: Readiness::default(),
        };
        cluster::wait_for_api_server(&context.readiness);
        let (known, seen) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(cdi::keep(paths.clone(), context.shared.clone()));
        tasks.spawn(podresources::follow(
            paths.services.pod_resources.clone(),
            context.shared.clone(),
        ));
        let follower = Follower {
            context: context.clone(),
            checkpoint: Checkpoint::load(&paths, node_name),
            updates,
            known,
            lock,
        };
        tasks.spawn(follower.run(stopped));
        Ok(Self {
            shared: context.shared,
            readiness: context.readiness,
            metrics: context.metrics,
            known: seen,
            stop,
            tasks,
        })
    }

    /// Ends it: streams first, then servers and sockets.
    pub async fn stop(mut self) {
        let _ = self.stop.send(());
        // The follower ends when it is told; the others when it has dropped what they watch.
        while let Some(ended) = self.tasks.join_next().await {
            if ended.is_ok() {
                self.tasks.abort_all();
            }
        }
    }
}

/// Follows what is known until it is stopped.
struct Follower {
    context: Context,
    checkpoint: Option<Checkpoint>,
    updates: mpsc::Receiver<Known>,
    known: watch::Sender<Option<Known>>,
    lock: Lock,
}

impl Follower {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let paths = self.context.paths.clone();
        let checkpoint = self.checkpoint.take();
        let mut snapshots = look_at_host(&paths).await;
        let host = Host::new(paths.host.clone(), snapshots.clone());
        let host = match Library::start(paths.services.nvml.clone(), NVML_DEADLINE) {
            Ok(library) => host.with_nvidia(library),
            Err(error) => {
                tracing::warn!(%error, "NVIDIA's library is not asked");
                host
            }
        };
        let sources: Vec<Arc<dyn Source>> = vec![Arc::new(Emulated::new(paths.clone())), Arc::new(host)];
        let mut supervisor = Supervisor::new(self.context.clone(), sources, checkpoint.as_ref());
        if let Some(checkpoint) = checkpoint {
            tracing::info!(
                profiles = checkpoint.known.profiles.len(),
                "serving what the checkpoint says"
            );
            self.take(&mut supervisor, checkpoint.known, false).await;
        }
        let saver = tokio::spawn(checkpoint::keep(
            paths,
            self.known.subscribe(),
            self.context.shared.clone(),
        ));
        loop {
            tokio::select! {
                update = self.updates.recv() => match update {
                    Some(known) => self.take(&mut supervisor, known, true).await,
                    None => break drop((&mut stopped).await),
                },
                Ok(()) = snapshots.changed() => self.follow_host(&mut supervisor).await,
                _ = &mut stopped => break,
            }
        }
        supervisor.end().await;
        saver.abort();
        drop(self.lock);
    }

    /// The machine's devices have changed, and what is known has not.
    async fn follow_host(&self, supervisor: &mut Supervisor) {
        let known = self.known.borrow().clone();
        if let Some(known) = known {
            supervisor.follow(&known, false).await;
        }
    }

    async fn take(&self, supervisor: &mut Supervisor, known: Known, certain: bool) {
        supervisor.follow(&known, certain).await;
        cluster::is_known(&self.context.readiness);
        self.known.send_if_modified(|before| {
            let news = before.as_ref() != Some(&known);
            *before = Some(known);
            news
        });
    }
}

/// The machine's devices now, and whenever they change. A tree that does not answer in time has
/// none yet: those of the checkpoint are then served until it does.
async fn look_at_host(paths: &Paths) -> watch::Receiver<Arc<Snapshot>> {
    let root = paths.host.clone();
    let first = tokio::task::spawn_blocking(move || Snapshot::take(&root));
    let first = match tokio::time::timeout(FIRST_LOOK, first).await {
        Ok(Ok(snapshot)) => snapshot,
        _ => Snapshot {
            troubles: vec![format!(
                "{} does not answer within {} s: see whether a device there hangs",
                paths.host.join("sys").display(),
                FIRST_LOOK.as_secs()
            )],
            ..Snapshot::default()
        },
    };
    let (sender, snapshots) = watch::channel(Arc::new(first));
    tokio::spawn(hotplug::follow(paths.host.clone(), sender));
    snapshots
}

/// Runs the agent of this node until a signal ends it.
///
/// # Errors
/// When it cannot start.
pub async fn run(paths: Paths, node_name: Option<String>, listen: SocketAddr) -> Result<(), AgentError> {
    let node_name = node_name
        .filter(|name| !name.is_empty())
        .ok_or(AgentError::NoNodeName)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signal)?;
    let client = kube::Client::try_default()
        .await
        .map_err(|error| AgentError::Client(error.to_string()))?;
    let (updates, received) = mpsc::channel(1);
    let agent = Agent::start(paths, &node_name, received).await?;
    // After the lock: a second agent is told so, and not that a port is taken.
    let listener = http::listen(listen).await?;
    tracing::info!(node = %node_name, %listen, "the node agent runs");
    let shown = Shown {
        metrics: agent.metrics.clone(),
        readiness: agent.readiness.clone(),
        shared: agent.shared.clone(),
    };
    let watch = Watch {
        node_name: node_name.clone(),
        sender: updates,
        metrics: agent.metrics.clone(),
        readiness: agent.readiness.clone(),
    };
    let publisher = Publisher::new(
        client.clone(),
        agent.known.clone(),
        agent.shared.clone(),
        agent.metrics.clone(),
    );
    tokio::select! {
        () = http::serve(listener, shown) => {}
        () = watch.run(client) => {}
        () = publisher.run(node_name) => {}
        _ = terminate.recv() => tracing::info!("told to end"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    agent.stop().await;
    Ok(())
}
