//! Loads variants at the start, and those that could not be loaded again and again in the background.

use crate::chain::jittered;
use crate::config::{Config, DeviceAccess, VariantConfig};
use crate::engine::Engine;
use crate::loader::Loader;
use crate::variant::{LoadError, Variant};
use perwatt_model::{Manifest, ModelFolder};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// A variant that is not loaded and warm by then has failed, for now.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Stack of the thread that loads a model: a graph's rewriting recurses with its depth, and a stack that
/// overflows ends the process. Only what is used takes memory.
const LOAD_STACK_BYTES: usize = 64 << 20;
/// How long a sidecar may take to be ready while we start, and how often it is looked for.
const SIDECAR_PATIENCE: Duration = Duration::from_secs(10);
const SIDECAR_PAUSE: Duration = Duration::from_millis(200);
/// How long is waited before the first trial in the background, and the longest; it doubles in between.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// Waits are longer by up to this many percent, so that many runtimes do not read one server at one moment.
const JITTER_PERCENT: u32 = 25;

type Reply = (Loader, Result<Variant, LoadError>);

/// How an attempt to load ended.
enum Attempt {
    Ended(Result<Variant, String>),
    /// Its thread is still at it.
    Hangs(oneshot::Receiver<Reply>),
}

/// What loads.
pub struct Loading {
    folder: ModelFolder,
    access: DeviceAccess,
    /// One that a hung thread holds is lost; a new one shares nothing with it.
    loader: Option<Loader>,
}

/// What the start gave: a variant or why there is none, for each place, and how long that took.
pub struct Loaded {
    /// In the chain's order.
    pub variants: Vec<Result<Variant, String>>,
    /// In the same order.
    pub times: Vec<Duration>,
    /// Threads that hang, with their places.
    hanging: Vec<(usize, oneshot::Receiver<Reply>)>,
}

impl Loading {
    /// Nothing is loaded yet.
    pub fn new(folder: ModelFolder, access: DeviceAccess) -> Self {
        Self {
            loader: Some(Loader::new(folder.clone())),
            folder,
            access,
        }
    }

    /// Loads every variant that may serve.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub async fn load_all(&mut self, config: &Config) -> io::Result<Loaded> {
        let manifest = self.folder.manifest().clone();
        let mut loaded = Loaded {
            variants: Vec::new(),
            times: Vec::new(),
            hanging: Vec::new(),
        };
        for (index, spec) in config.variants.iter().enumerate() {
            let start = Instant::now();
            let result = match config.check_allowed(spec, &manifest) {
                Some(cause) => Err(cause.message),
                None => match self.load_at_start(spec, &manifest).await? {
                    Attempt::Ended(result) => result,
                    Attempt::Hangs(reply) => {
                        loaded.hanging.push((index, reply));
                        Err(late())
                    }
                },
            };
            let milliseconds = start.elapsed().as_millis() as u64;
            match &result {
                Ok(variant) => tracing::info!(
                    variant = spec.name,
                    engine = variant.engine(),
                    milliseconds,
                    "loaded, and ran once"
                ),
                Err(error) => tracing::error!(variant = spec.name, %error, "not loaded"),
            }
            loaded.variants.push(result);
            loaded.times.push(start.elapsed());
        }
        Ok(loaded)
    }

    /// A sidecar starts at the same time as we do, and gets a while to be ready.
    async fn load_at_start(&mut self, spec: &VariantConfig, manifest: &Manifest) -> io::Result<Attempt> {
        let is_sidecar = spec
            .remote
            .as_ref()
            .is_some_and(|remote| remote.endpoint.is_on_node());
        let until = Instant::now() + SIDECAR_PATIENCE;
        loop {
            let attempt = self.load(spec, manifest).await?;
            let failed = matches!(attempt, Attempt::Ended(Err(_)));
            if !(is_sidecar && failed && Instant::now() < until) {
                return Ok(attempt);
            }
            sleep(SIDECAR_PAUSE).await;
        }
    }

    async fn load(&mut self, spec: &VariantConfig, manifest: &Manifest) -> io::Result<Attempt> {
        if let Some(remote) = &spec.remote {
            let connected = timeout(LOAD_TIMEOUT, Variant::connect(remote, manifest)).await;
            let result = connected
                .map_err(|_| late())
                .and_then(|r| r.map_err(|error| error.to_string()));
            return Ok(Attempt::Ended(result));
        }
        let mut reply = self.load_in_thread(spec)?;
        Ok(match timeout(LOAD_TIMEOUT, &mut reply).await {
            Ok(Ok((loader, result))) => {
                self.loader = Some(loader);
                Attempt::Ended(result.map_err(|error| error.to_string()))
            }
            Ok(Err(_)) => Attempt::Ended(Err("its loader ended without a word".into())),
            Err(_) => Attempt::Hangs(reply),
        })
    }

    fn load_in_thread(&mut self, spec: &VariantConfig) -> io::Result<oneshot::Receiver<Reply>> {
        let (reply, result) = oneshot::channel();
        let mut own = self
            .loader
            .take()
            .unwrap_or_else(|| Loader::new(self.folder.clone()));
        let (spec, access) = (spec.clone(), self.access.clone());
        let thread = std::thread::Builder::new()
            .name("load".into())
            .stack_size(LOAD_STACK_BYTES);
        thread.spawn(move || {
            let result = own.load(&spec, &access);
            // Nobody waits any more where this fails.
            let _ = reply.send((own, result));
        })?;
        Ok(result)
    }

    /// Tries what could not be loaded, for ever.
    pub async fn keep_trying(mut self, engine: Arc<Engine>, loaded_late: Hanging) {
        let mut random = fastrand::Rng::new();
        let mut backoff = FIRST_BACKOFF;
        let Hanging(mut hanging) = loaded_late;
        // A thread that hangs at a file or a device would only be joined by another one.
        let mut told = vec![String::new(); engine.slots.len()];
        loop {
            sleep(jittered(backoff, JITTER_PERCENT, &mut random)).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            hanging.retain_mut(|(index, reply)| !self.take_late(&engine, *index, reply));
            for index in engine.not_loaded() {
                if hanging.iter().any(|(hangs, _)| *hangs == index) {
                    continue;
                }
                if let Some(reply) = self.try_again(&engine, index, &mut told).await {
                    hanging.push((index, reply));
                }
            }
            if engine.not_loaded().is_empty() {
                return;
            }
        }
    }

    /// Whether a thread that hung has ended; what it loaded is taken.
    fn take_late(&mut self, engine: &Engine, index: usize, reply: &mut oneshot::Receiver<Reply>) -> bool {
        match reply.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => false,
            Err(oneshot::error::TryRecvError::Closed) => true,
            Ok((loader, result)) => {
                self.loader.get_or_insert(loader);
                if let Ok(variant) = result {
                    engine.adopt(index, variant);
                }
                true
            }
        }
    }

    async fn try_again(
        &mut self,
        engine: &Engine,
        index: usize,
        told: &mut [String],
    ) -> Option<oneshot::Receiver<Reply>> {
        let spec = engine.config.variants.get(index)?;
        let start = Instant::now();
        let attempt = self.load(spec, &engine.manifest).await;
        let error = match attempt {
            Ok(Attempt::Ended(Ok(variant))) => {
                tracing::info!(variant = spec.name, "loaded after all");
                engine.show_load_time(index, start.elapsed());
                engine.adopt(index, variant);
                return None;
            }
            Ok(Attempt::Hangs(reply)) => return Some(reply),
            Ok(Attempt::Ended(Err(error))) => error,
            Err(error) => error.to_string(),
        };
        let told = told.get_mut(index)?;
        if *told != error {
            tracing::warn!(variant = spec.name, %error, "still not loaded");
            engine.still_not_loaded(index, error.clone());
            *told = error;
        }
        None
    }
}

/// Threads that hang since the start.
pub struct Hanging(Vec<(usize, oneshot::Receiver<Reply>)>);

impl Loaded {
    /// Takes the threads that hang out.
    pub fn take_hanging(&mut self) -> Hanging {
        Hanging(std::mem::take(&mut self.hanging))
    }
}

fn late() -> String {
    format!("it was not loaded within {LOAD_TIMEOUT:?}: does its device hang?")
}
