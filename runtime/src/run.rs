//! The composition root: from a command line to a server, and to its end.

use crate::admin::{self, Admin};
use crate::args::Args;
use crate::chain::Policy;
use crate::config::{CONFIG_ENV, CandidateConfig, Config, ConfigError, DeviceAccess};
use crate::engine::Engine;
use crate::evidence::Record;
use crate::keeper::Keeper;
use crate::load::{Hanging, Loading};
use crate::protocol::service::Service;
use crate::protocol::{grpc, rest};
use crate::record::{RecordConfig, RecordError, Recorder};
use crate::rollout::conduct::conduct;
use crate::rollout::pair::{Candidate, Revisions, check_same_interface};
use crate::rollout::turns::TurnRing;
use crate::serve::{Drain, serve, serve_grpc};
use crate::state::{Found, Saved, StateDir};
use crate::traces::Tracer;
use crate::{device, logging};
use perwatt_model::{FolderError, ModelFolder};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// A return to a better variant is later by up to this many percent: a site's runtimes then come one by one.
const JITTER_PERCENT: u32 = 10;
/// Requests under way get this long to end. With the drain before it, it fits
/// into the 30 seconds that Kubernetes gives a pod.
const FINISH_TIMEOUT: Duration = Duration::from_secs(15);
/// The last traces get this long to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often idle sequences are looked for.
const SWEEP: Duration = Duration::from_secs(15);

/// Why the runtime ended without having served.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The model's folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Samples cannot be recorded as the environment says.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A port cannot be opened.
    #[error("cannot listen on {address}: {source}; is another process using this port?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No variant can serve.
    #[error("no variant of {workload} could be loaded:{causes}")]
    NoVariant {
        /// The workload.
        workload: String,
        /// One line for each variant.
        causes: String,
    },
    /// The system gave no thread, signal handler or event loop.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A counter could not be made.
    #[error("cannot start: the evidence counters cannot be made")]
    Evidence,
}

/// Runs until a signal ends it. The one message on standard error is what Kubernetes shows for a failed container.
pub fn run(args: &Args) -> ExitCode {
    logging::start();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&RunError::System(error)),
    };
    let result = runtime.block_on(serve_until_signal(args));
    // Threads in a device call that hangs are not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &RunError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn serve_until_signal(args: &Args) -> Result<(), RunError> {
    // Before anything that takes time: as process 1 of a container nothing else would end us.
    let mut signals = Signals::new()?;
    let folder = ModelFolder::open(&args.model)?;
    let config = read_config(&folder)?;
    let recording = RecordConfig::read(std::env::var_os)?;
    let rest_listener = listen("rest", args.rest).await?;
    let grpc_listener = listen("grpc", args.grpc).await?;
    let admin_listener = listen("admin", args.admin).await?;

    let drain = Drain::default();
    let revisions = Arc::new(OnceLock::new());
    let admin = Admin {
        revisions: revisions.clone(),
        drain: drain.clone(),
    };
    let admin_server = tokio::spawn(serve(admin_listener, admin::router(admin), drain.clone()));

    let access = device_access(args);
    let state = StateDir::from_env();
    let loaded = tokio::select! {
        loaded = load_revisions(folder, config, &access, state.clone(), recording) => loaded?,
        _ = signals.next() => return Ok(()),
    };
    let loaded = revisions.get_or_init(|| Arc::new(loaded)).clone();
    start_background(&loaded, access);
    let keeper = state.map(|dir| Keeper::new(loaded.clone(), dir));
    if let Some(keeper) = keeper.clone() {
        tokio::spawn(keeper.run(Duration::from_millis(args.state_milliseconds)));
    }
    let served = loaded.clone();
    let default_timeout = Duration::from_millis(args.timeout_milliseconds);
    let service = Arc::new(Service::new(loaded, drain.clone(), default_timeout));
    let rest_server = tokio::spawn(serve(rest_listener, rest::router(service.clone()), drain.clone()));
    let memory = service.memory.clone();
    let grpc_server = tokio::spawn(serve_grpc(
        grpc_listener,
        grpc::router(service),
        memory,
        drain.clone(),
    ));

    let pause = match signals.next().await {
        End::Terminate => Duration::from_millis(args.drain_milliseconds),
        End::Interrupt => Duration::ZERO,
    };
    tracing::info!(
        milliseconds = pause.as_millis() as u64,
        "draining: readiness is gone, requests are served"
    );
    drain.start();
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        _ = signals.next() => tracing::warn!("a second signal: not waiting for clients to move"),
    }
    drain.stop();
    let finished = timeout(FINISH_TIMEOUT, async {
        tokio::join!(rest_server, grpc_server, admin_server)
    })
    .await;
    if let Some(keeper) = keeper {
        keeper.write();
    }
    // An endpoint that hangs must not hold up the end.
    let flushed = futures::future::join_all(served.engines().map(|engine| engine.telemetry.flush_traces()));
    let _ = timeout(FLUSH_TIMEOUT, flushed).await;
    tracing::info!(all_finished = finished.is_ok(), "stopped");
    Ok(())
}

enum End {
    Terminate,
    Interrupt,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Terminate,
            _ = self.interrupt.recv() => End::Interrupt,
        }
    }
}

fn read_config(folder: &ModelFolder) -> Result<Config, RunError> {
    match std::env::var(CONFIG_ENV) {
        Ok(json) => Ok(Config::parse(&json, folder.manifest())?),
        Err(std::env::VarError::NotPresent) => Ok(Config::of_folder(folder.manifest())),
        Err(std::env::VarError::NotUnicode(_)) => Err(ConfigError::Invalid("it is not UTF-8".into()).into()),
    }
}

fn device_access(args: &Args) -> DeviceAccess {
    let mut access = DeviceAccess::from_env();
    if let Some(dir) = &args.device_socket_dir {
        access.socket_dir.clone_from(dir);
    }
    access
}

async fn listen(port: &str, address: SocketAddr) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address).await;
    // A node without IPv6 has no address of that kind to listen on.
    let listener = match listener {
        Err(error) if address.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], address.port()))).await
        }
        other => other,
    };
    let listener = listener.map_err(|source| RunError::Listen { address, source })?;
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(port, address = %bound, "listening");
    Ok(listener)
}

/// An engine that was just loaded, and what goes on to load the rest of it.
type Fresh = (Engine, Loading, Hanging);

/// The incumbent, which must load, and the candidate, which may fail to.
async fn load_revisions(
    folder: ModelFolder,
    config: Config,
    access: &DeviceAccess,
    state: Option<StateDir>,
    recording: Option<RecordConfig>,
) -> Result<Revisions, RunError> {
    let on_trial = config.candidate.clone();
    let mut incumbent = load(folder, config, access.clone()).await?;
    let mut candidate = match &on_trial {
        Some(on_trial) => Some(load_candidate(on_trial, &incumbent.0, access).await),
        None => None,
    };
    let found = state
        .as_ref()
        .map(|state| state.open(&incumbent.0.config.workload));
    let theirs = candidate.as_mut().and_then(|candidate| candidate.as_mut().ok());
    let turns = restore(found, &mut incumbent.0, theirs.map(|fresh| &mut fresh.0));
    let incumbent = begin(incumbent, recording)?;
    let candidate = on_trial.zip(candidate).map(|(on_trial, loaded)| Candidate {
        revision: on_trial.revision,
        // Samples are the incumbent's: two writers would remove each other's.
        engine: loaded.and_then(|fresh| begin(fresh, None).map_err(|error| error.to_string())),
    });
    Ok(Revisions::new(incumbent, candidate, state, turns))
}

/// Gives each engine what was kept of its revision; what is nobody's is kept by the incumbent. Both count in one epoch.
fn restore(found: Option<Found>, incumbent: &mut Engine, candidate: Option<&mut Engine>) -> TurnRing {
    let (mut turns, mut theirs) = (TurnRing::default(), Vec::new());
    match found {
        Some(Found::Counts(mut saved)) => {
            turns = std::mem::take(&mut saved.turns);
            let revision = candidate.as_ref().map(|engine| engine.config.revision.clone());
            let is_theirs = |record: &Record| revision.as_ref() == Some(&record.revision);
            (theirs, saved.records) = saved.records.into_iter().partition(is_theirs);
            incumbent.restore(Found::Counts(saved));
        }
        Some(new) => incumbent.restore(new),
        None => {}
    }
    if let Some(candidate) = candidate {
        let saved = Saved {
            epoch: incumbent.telemetry.epoch().clone(),
            records: theirs,
            ..candidate.saved()
        };
        candidate.restore(Found::Counts(Box::new(saved)));
    }
    turns
}

async fn load_candidate(
    on_trial: &CandidateConfig,
    incumbent: &Engine,
    access: &DeviceAccess,
) -> Result<Fresh, String> {
    let loaded = try_candidate(on_trial, incumbent, access).await;
    let revision = on_trial.revision.as_str();
    match &loaded {
        Ok(_) => tracing::info!(revision, "the candidate is loaded"),
        Err(reason) => tracing::error!(revision, %reason, "the candidate failed: the incumbent serves"),
    }
    loaded
}

async fn try_candidate(
    on_trial: &CandidateConfig,
    incumbent: &Engine,
    access: &DeviceAccess,
) -> Result<Fresh, String> {
    if on_trial.revision == incumbent.config.revision {
        return Err("it has the name of the incumbent's revision".into());
    }
    let folder = ModelFolder::open(&on_trial.model).map_err(|error| error.to_string())?;
    check_same_interface(&incumbent.manifest, folder.manifest())?;
    let config = incumbent.config.of_candidate(on_trial);
    config
        .check(folder.manifest())
        .map_err(|error| error.to_string())?;
    let loaded = load(folder, config, access.clone()).await;
    loaded.map_err(|error| error.to_string())
}

/// Equips an engine, and goes on to load what could not be loaded.
fn begin(
    (engine, loading, hanging): Fresh,
    recording: Option<RecordConfig>,
) -> Result<Arc<Engine>, RunError> {
    let engine = equip(engine, recording)?;
    tokio::spawn(loading.keep_trying(engine.clone(), hanging));
    Ok(engine)
}

/// The engine with what could be loaded, and what goes on to load the rest.
async fn load(folder: ModelFolder, config: Config, access: DeviceAccess) -> Result<Fresh, RunError> {
    let manifest = folder.manifest().clone();
    let mut loading = Loading::new(folder, access);
    let mut loaded = loading.load_all(&config).await?;
    let hanging = loaded.take_hanging();
    if loaded.variants.iter().all(Result::is_err) {
        let errors = config
            .variants
            .iter()
            .zip(loaded.variants)
            .filter_map(|(v, r)| Some((v, r.err()?)));
        let causes = errors
            .map(|(v, error)| format!("\n  {}: {error}", v.name))
            .collect();
        return Err(RunError::NoVariant {
            workload: config.workload,
            causes,
        });
    }
    let policy = Policy::with_stable_for(config.stable_for()).with_jitter(JITTER_PERCENT, fastrand::u64(..));
    let engine = Engine::new(config, manifest, policy, loaded.variants).ok_or(RunError::Evidence)?;
    engine.show_load_times(&loaded.times);
    Ok((engine, loading, hanging))
}

/// Gives an engine its samples, where they are wanted, and its traces.
fn equip(mut engine: Engine, recording: Option<RecordConfig>) -> Result<Arc<Engine>, RunError> {
    if let Some(recording) = recording {
        let revision = &engine.config.revision;
        let recorder = Recorder::start(recording, &engine.manifest, revision, &engine.metrics)?;
        engine.telemetry.record_to(recorder);
    }
    let get = |name: &'static str| std::env::var(name).ok();
    let model = engine.manifest.name.as_str();
    match Tracer::start(get, &engine.config, model, &engine.metrics) {
        Ok(Some(tracer)) => engine.telemetry.trace_to(tracer),
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "there are no traces"),
    }
    Ok(Arc::new(engine))
}

/// What goes on beside requests, until the process ends.
fn start_background(revisions: &Arc<Revisions>, access: DeviceAccess) {
    let engines: Vec<_> = revisions.engines().cloned().collect();
    for engine in &engines {
        tokio::spawn(keep_current(engine.clone()));
    }
    tokio::spawn(conduct(revisions.clone()));
    // Also for one that is not loaded yet.
    let mut variants = engines.iter().flat_map(|engine| &engine.config.variants);
    let uses_device = variants.any(|variant| variant.profile.is_some());
    if let (true, Some(id)) = (uses_device, access.id.clone()) {
        tokio::spawn(async move { device::follow(&engines, &access.socket_dir, &id).await });
    }
}

/// Notices what changes by time alone: a device that was healthy for long enough, an idle sequence.
async fn keep_current(engine: Arc<Engine>) {
    let mut changes = engine.watch_active();
    loop {
        let next = engine.refresh().map_or(SWEEP, |at| {
            at.saturating_duration_since(Instant::now()).min(SWEEP)
        });
        tokio::select! {
            () = tokio::time::sleep(next) => engine.sweep(),
            _ = changes.changed() => {}
        }
    }
}
