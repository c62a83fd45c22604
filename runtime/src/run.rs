//! The composition root: from a command line to a server, and to its end.

use crate::admin::{self, Admin};
use crate::args::Args;
use crate::chain::Policy;
use crate::config::{CONFIG_ENV, Config, ConfigError, DeviceAccess};
use crate::engine::Engine;
use crate::keeper::Keeper;
use crate::load::{Hanging, Loading};
use crate::protocol::service::Service;
use crate::protocol::{grpc, rest};
use crate::record::{RecordConfig, RecordError, Recorder};
use crate::serve::{Drain, serve, serve_grpc};
use crate::state::StateDir;
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
    let engine = Arc::new(OnceLock::new());
    let admin = Admin {
        engine: engine.clone(),
        drain: drain.clone(),
    };
    let admin_server = tokio::spawn(serve(admin_listener, admin::router(admin), drain.clone()));

    let access = device_access(args);
    let state = StateDir::from_env();
    let (loaded, loading, hanging) = tokio::select! {
        loaded = load(folder, config, access.clone()) => loaded?,
        _ = signals.next() => return Ok(()),
    };
    let loaded = equip(loaded, state.as_ref(), recording)?;
    let loaded = engine.get_or_init(|| loaded).clone();
    tokio::spawn(loading.keep_trying(loaded.clone(), hanging));
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
    let _ = timeout(FLUSH_TIMEOUT, served.telemetry.flush_traces()).await;
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

/// The engine with what could be loaded, and what goes on to load the rest.
async fn load(
    folder: ModelFolder,
    config: Config,
    access: DeviceAccess,
) -> Result<(Engine, Loading, Hanging), RunError> {
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

/// Gives an engine what it keeps on disk, its evidence and samples where they are wanted, and its traces.
fn equip(
    mut engine: Engine,
    state: Option<&StateDir>,
    recording: Option<RecordConfig>,
) -> Result<Arc<Engine>, RunError> {
    if let Some(state) = state {
        let found = state.open(&engine.config.workload);
        engine.restore(found);
    }
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
fn start_background(engine: &Arc<Engine>, access: DeviceAccess) {
    tokio::spawn(keep_current(engine.clone()));
    // Also for one that is not loaded yet.
    let uses_device = engine
        .config
        .variants
        .iter()
        .any(|variant| variant.profile.is_some());
    if let (true, Some(id)) = (uses_device, access.id.clone()) {
        let engine = engine.clone();
        tokio::spawn(async move { device::follow(engine, &access.socket_dir, &id).await });
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
