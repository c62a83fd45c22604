//! The operator: observes the cluster, plans, applies, reports.
//!
//! One coalesced pass over everything: [`observe`] takes a snapshot, `perwatt_planner::plan`
//! decides without any I/O, [`apply`] writes children, [`report`] writes status and events.
//! All state that matters is in the API server: after a crash at any point the next pass
//! reaches the same end.

pub mod apply;
pub mod build;
mod crds;
pub mod evidence;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod observe;
pub mod pass;
pub mod preflight;
pub mod report;
pub mod rollout;
pub mod settings;
pub mod telemetry;

use crate::evidence::{Evidence, Source};
use crate::http::Health;
use crate::leader::Election;
use crate::metrics::Metrics;
use crate::observe::Stores;
use crate::pass::Pass;
use crate::rollout::collect::{Seen, collect};
use crate::rollout::key::{ControlKey, KeyError};
use crate::settings::{Command, Settings};
use kube::Client;
use perwatt_crds::names;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

/// Changes that come together are planned together: this long after the first.
const COALESCE: Duration = Duration::from_millis(50);
/// A pass at least this often, whatever happens: the backstop of a lost wake-up.
const RESYNC: Duration = Duration::from_secs(60);
/// How often an unmet preflight is tried again.
const PREFLIGHT_RETRY: Duration = Duration::from_secs(10);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No API server.
    #[error("cannot reach the API server: {0}")]
    Client(#[source] Box<kube::Error>),
    /// A custom resource definition was refused.
    #[error("cannot apply the custom resource definitions: {0}")]
    Definitions(#[source] Box<kube::Error>),
    /// The port of health and metrics cannot be used.
    #[error(transparent)]
    Listen(#[from] http::ListenError),
    /// A watch ended.
    #[error(transparent)]
    Watch(#[from] observe::WatchEnded),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signal(#[from] std::io::Error),
    /// Runtimes cannot be commanded.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The HTTP client cannot be made.
    #[error("cannot make the client that asks runtimes: {0}")]
    Evidence(#[from] reqwest::Error),
    /// Another replica may lead by now: this one must not write.
    #[error("the lease was lost: ending, to start again as a standby")]
    LeaseLost,
}

/// Does what the command says.
///
/// # Errors
/// When it cannot be done, or the lease was lost.
pub async fn run(command: Command) -> Result<(), RunError> {
    // Built beside a crate that wants TLS of reqwest, every client of reqwest wants a provider; an error means that one is set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default()
        .await
        .map_err(|error| RunError::Client(Box::new(error)))?;
    match command {
        Command::ApplyCrds => crds::apply(&client)
            .await
            .map_err(|error| RunError::Definitions(Box::new(error))),
        Command::Run(settings) => operate(client, settings).await,
    }
}

async fn operate(client: Client, settings: Settings) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("asked to end");
        let _ = stop.send(true);
    });
    let health = Health::default();
    let metrics = Metrics::default();
    health.wait_for("starting: reading the cluster");
    http::serve(settings.listen, health.clone(), metrics.clone()).await?;
    let mut election = Election::new(client.clone(), &settings.namespace, &settings.identity);
    let work = lead(
        &client,
        &settings,
        &health,
        &metrics,
        &mut election,
        stopping.clone(),
    );
    let ended = tokio::select! {
        ended = work => ended,
        () = stopped(stopping) => Ok(()),
    };
    metrics.leader.set(0);
    election.release().await;
    ended
}

/// Ends when the process is asked to.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn lead(
    client: &Client,
    settings: &Settings,
    health: &Health,
    metrics: &Metrics,
    election: &mut Election,
    stopping: watch::Receiver<bool>,
) -> Result<(), RunError> {
    preflight(client, settings, health).await;
    let changed = Arc::new(Notify::new());
    let stores = Stores::start(client, &changed);
    stores.wait_until_ready().await?;
    health.ready();
    election.acquire().await;
    metrics.leader.set(1);
    let evidence = Evidence::default();
    let key = ControlKey::ensure(client, &settings.namespace).await?;
    let seen = Seen::default();
    let asking = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()?;
    let speaking = collect(asking.clone(), seen.clone(), Arc::clone(&changed));
    let pulling = pull_evidence(
        asking,
        stores.clone(),
        evidence.clone(),
        Arc::clone(&changed),
        settings.evidence_interval,
    );
    let pass = Pass::new(
        client.clone(),
        settings.clone(),
        stores,
        evidence,
        metrics.clone(),
        (key, seen),
    );
    tokio::select! {
        () = plan_forever(pass, &changed, health, stopping) => Ok(()),
        () = pulling => Ok(()),
        () = speaking => Ok(()),
        () = hold(election) => Err(RunError::LeaseLost),
    }
}

/// Waits until image volumes are known to work; says what to do meanwhile.
async fn preflight(client: &Client, settings: &Settings, health: &Health) {
    while let Err(error) = preflight::check_image_volumes(client, &settings.namespace).await {
        tracing::error!(%error, "nothing is placed until this is mended");
        health.wait_for(&error.to_string());
        tokio::time::sleep(PREFLIGHT_RETRY).await;
    }
}

/// Renews the lease; ends when it was lost.
async fn hold(election: &mut Election) {
    while election.is_leader() {
        tokio::time::sleep(leader::PERIOD).await;
        let deadline = leader::RENEW_DEADLINE / 2;
        match tokio::time::timeout(deadline, election.tick()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease, trying again"),
            Err(_) => tracing::warn!("renewing the lease takes too long, trying again"),
        }
    }
}

/// Plans whenever something changed, whenever the plan asked to, and once a minute.
async fn plan_forever(mut pass: Pass, changed: &Notify, health: &Health, stopping: watch::Receiver<bool>) {
    let mut wait = Duration::ZERO;
    while !*stopping.borrow() {
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(COALESCE).await,
            () = tokio::time::sleep(wait) => {}
        }
        health.pass_began();
        wait = pass.run(jiff::Timestamp::now()).await.clamp(COALESCE, RESYNC);
        health.pass_ended();
    }
}

/// Asks the runtimes at every interval; a changed answer wakes the planner, which writes the status.
async fn pull_evidence(
    client: reqwest::Client,
    stores: Stores,
    evidence: Evidence,
    changed: Arc<Notify>,
    interval: Duration,
) {
    loop {
        tokio::time::sleep(interval).await;
        let sources = stores.pods.state().iter().filter_map(|pod| source(pod)).collect();
        if evidence.pull(&client, sources).await {
            changed.notify_one();
        }
    }
}

/// Where a pod of ours answers.
fn source(pod: &k8s_openapi::api::core::v1::Pod) -> Option<Source> {
    let ours = pod.metadata.labels.as_ref()?.contains_key(names::LABEL_WORKLOAD);
    let address = pod.status.as_ref()?.pod_ip.clone()?;
    (ours && observe::pod::is_ready(pod)).then(|| Source {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        address,
    })
}
