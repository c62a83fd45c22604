//! Keeps one profile registered with the kubelet.
//!
//! A plugin lives through *sessions*. A session binds the plugin's socket, waits for the
//! kubelet's, registers, and stays while both sockets are the ones it began with and the
//! kubelet watches. Whatever ends it, the next one starts with a new server: the kubelet
//! refuses, and half forgets, a plugin that registers again on a connection it still has.

use super::api::RegisterRequest;
use super::api::device_plugin_server::DevicePluginServer;
use super::api::registration_client::RegistrationClient;
use super::service::{Life, Service, options};
use super::{VERSION, connect};
use crate::backoff::Backoff;
use crate::constants::{KUBELET_POLL, REGISTER_DEADLINE, SHUTDOWN_GRACE, WATCH_DEADLINE};
use crate::files::{Identity, remove_socket};
use crate::filewatch::FileWatch;
use crate::metrics::{Metrics, Outcome};
use crate::paths::Paths;
use crate::quiet::{Quiet, root_cause};
use crate::readiness::Readiness;
use crate::state::Shared;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;

/// Why a profile is not registered.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The plugin's own socket cannot be made.
    #[error("cannot listen on {path}: {source}; is the kubelet's device plugin folder mounted there?")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// There is no kubelet.
    #[error(
        "waiting for the kubelet at {path}: it does not exist; is the kubelet running, and is its device plugin folder mounted there?"
    )]
    NoKubelet {
        /// The kubelet's socket.
        path: PathBuf,
    },
    /// Nobody answers on the kubelet's socket.
    #[error("waiting for the kubelet at {path}: {text}")]
    Unreachable {
        /// The kubelet's socket.
        path: PathBuf,
        /// What happened.
        text: String,
    },
    /// The kubelet does not take the registration.
    #[error("the kubelet refuses resource {resource}: {text}")]
    Refused {
        /// The resource.
        resource: String,
        /// What the kubelet said.
        text: String,
    },
    /// The kubelet took the registration and does not watch.
    #[error("the kubelet does not watch resource {resource}: registering it again")]
    NotWatched {
        /// The resource.
        resource: String,
    },
}

/// What a plugin needs from the agent.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where everything is.
    pub paths: Paths,
    /// The devices.
    pub shared: Shared,
    /// Wakes on changes in the kubelet's folder.
    pub files: FileWatch,
    /// Counters.
    pub metrics: Metrics,
    /// Where it is said what the plugin waits for.
    pub readiness: Readiness,
}

/// A running plugin.
#[derive(Debug)]
pub struct Plugin {
    life: watch::Sender<Life>,
    task: JoinHandle<()>,
}

impl Plugin {
    /// Starts serving `profile` under `resource`.
    #[must_use]
    pub fn start(context: Context, profile: &str, resource: String) -> Self {
        let (life, seen) = watch::channel(Life::Serving);
        let task = Task {
            context,
            profile: profile.to_owned(),
            resource,
            life: seen,
            changed: Arc::default(),
        };
        task.context
            .readiness
            .waits(&task.subject(), "not yet registered with the kubelet");
        Self {
            life,
            task: tokio::spawn(task.run()),
        }
    }

    /// Ends it and waits until its socket is gone.
    pub async fn end(self, life: Life) {
        self.life.send_replace(life);
        let _ = self.task.await;
    }
}

struct Task {
    context: Context,
    profile: String,
    resource: String,
    life: watch::Receiver<Life>,
    changed: Arc<Notify>,
}

impl Task {
    fn subject(&self) -> String {
        format!("resource {}", self.resource)
    }

    fn ends(&self) -> bool {
        *self.life.borrow() != Life::Serving
    }

    async fn run(self) {
        let mut backoff = Backoff::default();
        let mut quiet = Quiet::default();
        while !self.ends() {
            match self.session(&mut backoff, &mut quiet).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    self.context.readiness.waits(&self.subject(), error.to_string());
                    if quiet.is_news(&error.to_string()) {
                        tracing::warn!(profile = %self.profile, "{error}");
                    }
                    self.pause(&error, &mut backoff).await;
                }
            }
        }
        self.context.readiness.ready(&self.subject());
    }

    /// A kubelet that appears ends a wait for it at once; other trouble is waited out.
    async fn pause(&self, error: &PluginError, backoff: &mut Backoff) {
        let pause = match error {
            PluginError::NoKubelet { .. } => KUBELET_POLL,
            _ => backoff.pause(),
        };
        let mut life = self.life.clone();
        let appears = matches!(error, PluginError::NoKubelet { .. });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.changed.notified(), if appears => {}
            _ = life.wait_for(|life| *life != Life::Serving) => {}
        }
    }

    /// From binding the socket to a reason for binding it anew.
    async fn session(&self, backoff: &mut Backoff, quiet: &mut Quiet) -> Result<(), PluginError> {
        self.context
            .files
            .arm(self.context.paths.kubelet.clone(), &self.changed);
        let kubelet_socket = self.context.paths.kubelet_socket();
        let Some(kubelet) = Identity::of(&kubelet_socket) else {
            return Err(PluginError::NoKubelet { path: kubelet_socket });
        };
        let server = Server::start(self)?;
        let result = self.stay_registered(&server, kubelet, backoff, quiet).await;
        let life = *self.life.borrow();
        server.end(life).await;
        result
    }

    async fn stay_registered(
        &self,
        server: &Server,
        kubelet: Identity,
        backoff: &mut Backoff,
        quiet: &mut Quiet,
    ) -> Result<(), PluginError> {
        let registered = self.register().await;
        let outcome = if registered.is_ok() {
            Outcome::Success
        } else {
            Outcome::Failure
        };
        self.context.metrics.registered(&self.profile, outcome);
        registered?;
        backoff.reset();
        quiet.clear();
        self.context.readiness.ready(&self.subject());
        tracing::info!(profile = %self.profile, resource = %self.resource, "registered with the kubelet");
        self.stay(server, kubelet).await
    }

    async fn register(&self) -> Result<(), PluginError> {
        let path = self.context.paths.kubelet_socket();
        let unreachable = |text: String| PluginError::Unreachable {
            path: path.clone(),
            text,
        };
        let call = async {
            let channel = connect(&path)
                .await
                .map_err(|error| unreachable(root_cause(&error)))?;
            let request = RegisterRequest {
                version: VERSION.to_owned(),
                endpoint: Paths::plugin_endpoint(&self.profile),
                resource_name: self.resource.clone(),
                options: Some(options()),
            };
            RegistrationClient::new(channel)
                .register(request)
                .await
                .map_err(|status| PluginError::Refused {
                    resource: self.resource.clone(),
                    text: status.message().to_owned(),
                })
        };
        match tokio::time::timeout(REGISTER_DEADLINE, call).await {
            Ok(result) => result.map(drop),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                REGISTER_DEADLINE.as_secs()
            ))),
        }
    }

    /// Returns when a socket is another one than it was, or the kubelet does not watch.
    async fn stay(&self, server: &Server, kubelet: Identity) -> Result<(), PluginError> {
        let mut life = self.life.clone();
        let mut watched = Instant::now();
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(KUBELET_POLL) => {}
                _ = life.wait_for(|life| *life != Life::Serving) => return Ok(()),
            }
            self.context
                .files
                .arm(self.context.paths.kubelet.clone(), &self.changed);
            if Identity::of(&self.context.paths.kubelet_socket()) != Some(kubelet) {
                tracing::info!(profile = %self.profile, "the kubelet has started anew");
                return Ok(());
            }
            if !server.is_there() {
                tracing::info!(profile = %self.profile, "the plugin's socket was deleted");
                return Ok(());
            }
            if *server.watchers.borrow() > 0 {
                watched = Instant::now();
            } else if watched.elapsed() > WATCH_DEADLINE {
                return Err(PluginError::NotWatched {
                    resource: self.resource.clone(),
                });
            }
        }
    }
}

/// The plugin's socket and what answers on it, for one session.
struct Server {
    path: PathBuf,
    identity: Option<Identity>,
    life: watch::Sender<Life>,
    watchers: Arc<watch::Sender<usize>>,
    task: JoinHandle<()>,
}

impl Server {
    fn start(plugin: &Task) -> Result<Self, PluginError> {
        let path = plugin.context.paths.plugin_socket(&plugin.profile);
        let listener = bind(&path).map_err(|source| PluginError::Bind {
            path: path.clone(),
            source,
        })?;
        let (life, seen) = watch::channel(Life::Serving);
        let watchers = Arc::new(watch::Sender::new(0));
        let service = Service {
            profile: plugin.profile.clone(),
            paths: plugin.context.paths.clone(),
            shared: plugin.context.shared.clone(),
            life: seen.clone(),
            watchers: watchers.clone(),
            metrics: plugin.context.metrics.clone(),
        };
        let task = tokio::spawn(answer(listener, service, seen));
        Ok(Self {
            identity: Identity::of(&path),
            path,
            life,
            watchers,
            task,
        })
    }

    fn is_there(&self) -> bool {
        self.identity.is_some() && Identity::of(&self.path) == self.identity
    }

    /// Ends the streams, with a last word where the profile is gone, then the server.
    async fn end(mut self, life: Life) {
        let life = if life == Life::Removed {
            Life::Removed
        } else {
            Life::Stopping
        };
        self.life.send_replace(life);
        if tokio::time::timeout(SHUTDOWN_GRACE, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
        // A kubelet that starts deletes the socket; what lies there now may be another one.
        if self.is_there() {
            let _ = remove_socket(&self.path);
        }
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    remove_socket(path)?;
    UnixListener::bind(path)
}

async fn answer(listener: UnixListener, service: Service, mut life: watch::Receiver<Life>) {
    let profile = service.profile.clone();
    let end = async move {
        let _ = life.wait_for(|life| *life != Life::Serving).await;
    };
    let served = tonic::transport::Server::builder()
        .add_service(DevicePluginServer::new(service))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), end)
        .await;
    if let Err(error) = served {
        tracing::error!(%profile, %error, "the plugin's server ended");
    }
}
