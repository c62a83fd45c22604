//! A variant that was loaded: its model, its device, its threads, or the server that answers for it.

use crate::backend::batched::Batched;
use crate::backend::{BackendError, LoadOptions, Model, Settings, Signature, backend};
use crate::batch::Batcher;
use crate::chain::Reason;
use crate::config::{DeviceAccess, RemoteConfig, VariantConfig};
use crate::inspect::{Code, Finding, Inspection};
use crate::pool::{Hung, Pool};
use crate::remote::{Remote, RemoteError};
use crate::sequence::Run;
use crate::tensor::Tensor;
use perwatt_model::{Datatype, FileSpec, FolderError, Manifest, ModelFolder};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Jobs that may wait before one variant.
const QUEUE: usize = 256;
/// A call hangs when it took this long, and this many times what is usual.
const HANGS_AFTER: Duration = Duration::from_secs(30);
const HANGS_TIMES: u32 = 50;
/// The time that a server elsewhere has for its first inference.
const FIRST_INFERENCE: Duration = Duration::from_secs(10);

/// Why a variant cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file is not as `model.yaml` says.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Its file cannot be run.
    #[error("{path}: {source}")]
    Backend {
        /// The file.
        path: PathBuf,
        /// What the backend says.
        source: BackendError,
    },
    /// The container has no device.
    #[error(
        "it needs a device of profile {profile}, but {variable} is not set: \
         is the node agent running, and does the pod request the device?"
    )]
    NoDevice {
        /// The profile.
        profile: String,
        /// The variable that the agent would have set.
        variable: &'static str,
    },
    /// The device node cannot be opened.
    #[error("cannot open {node} of device {id}: {source}{hint}")]
    DeviceNode {
        /// The device node.
        node: PathBuf,
        /// The device.
        id: String,
        /// Why it cannot be opened.
        source: io::Error,
        /// What to look at.
        hint: &'static str,
    },
    /// The first inference failed.
    #[error("the first inference failed: {0}")]
    Warm(BackendError),
    /// No file of that name.
    #[error("model.yaml has no file {0:?}")]
    NoFile(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The server that answers for it cannot be used.
    #[error("{endpoint}: {source}")]
    Remote {
        /// Where it listens.
        endpoint: String,
        /// What is wrong.
        source: RemoteError,
    },
}

/// A variant that can serve.
pub struct Variant {
    /// The device it runs on; nothing for a device-less one.
    pub device: Option<String>,
    runner: Runner,
    /// Held open: a device that is in use must not look free.
    _node: Option<File>,
    typical_nanoseconds: AtomicU64,
    slowest_nanoseconds: AtomicU64,
}

/// Who does the work.
enum Runner {
    Threads {
        model: Arc<dyn Model>,
        pool: Pool,
        /// For a model that answers several requests in one call.
        batcher: Option<Arc<Batcher>>,
    },
    Server(Arc<Remote>),
}

/// What a variant is asked.
#[derive(Debug, Default)]
pub struct Ask {
    /// One tensor for each input that the variant takes.
    pub inputs: Vec<Tensor>,
    /// The sequence, for a variant that keeps them itself.
    pub sequence: Option<AskedSequence>,
    /// The sequence's own run, for a model that keeps its state inside.
    pub run: Option<Run>,
    /// How long the answer is waited for.
    pub timeout: Duration,
}

/// Where in a sequence a call is, as a server elsewhere is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedSequence {
    /// No other sequence of ours has this number there.
    pub id: u64,
    /// It is the first that this server gets.
    pub start: bool,
    /// It is the last.
    pub end: bool,
}

/// What a call gave and how long it took.
#[derive(Debug)]
pub struct Call {
    /// The model's outputs.
    pub outputs: Result<Vec<Tensor>, BackendError>,
    /// Why there are none, where it is known better than that the call failed.
    pub reason: Option<Reason>,
    /// Time in the model.
    pub took: Duration,
    /// Requests that the model answered in this one call.
    pub together: usize,
    /// Whether it stands for them where calls are counted.
    pub leads: bool,
    /// Time before that, in the queue.
    pub waited: Duration,
    /// The server elsewhere lost the sequence's state.
    pub sequence_restarted: bool,
    /// The server elsewhere is degraded itself: reason and message.
    pub degraded: Option<(String, String)>,
}

impl Call {
    /// A call of our own.
    pub fn new(outputs: Result<Vec<Tensor>, BackendError>, took: Duration, waited: Duration) -> Self {
        Self {
            outputs,
            reason: None,
            took,
            together: 1,
            leads: true,
            waited,
            sequence_restarted: false,
            degraded: None,
        }
    }
}

impl Variant {
    /// Makes a variant of a model. A device does one thing at a time, a CPU one thing a core.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub fn new(
        name: &str,
        model: Arc<dyn Model>,
        device: Option<String>,
        node: Option<File>,
    ) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if device.is_some() { 1 } else { cores.min(8) };
        let pool = Pool::start(name, threads, QUEUE)?;
        let batcher = model
            .batching()
            .cloned()
            .map(|batching| Arc::new(Batcher::new(batching)));
        let runner = Runner::Threads { model, pool, batcher };
        Ok(Self::run_by(runner, device, node))
    }

    fn run_by(runner: Runner, device: Option<String>, node: Option<File>) -> Self {
        Self {
            device,
            runner,
            _node: node,
            typical_nanoseconds: AtomicU64::new(0),
            slowest_nanoseconds: AtomicU64::new(0),
        }
    }

    /// Makes a variant of a server elsewhere, which must be ready, serve our model, and answer once where it takes
    /// tensors that can be made up.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub async fn connect(config: &RemoteConfig, manifest: &Manifest) -> Result<Self, LoadError> {
        let connected = Remote::connect(config, manifest).await;
        let remote = connected.map_err(|source| LoadError::Remote {
            endpoint: config.endpoint.to_string(),
            source,
        })?;
        let took = first_answer(&remote).await?;
        let variant = Self::run_by(Runner::Server(Arc::new(remote)), None, None);
        variant.record(took);
        Ok(variant)
    }

    /// The server that answers for it, if there is one.
    pub fn server(&self) -> Option<&Remote> {
        match &self.runner {
            Runner::Threads { .. } => None,
            Runner::Server(remote) => Some(remote),
        }
    }

    /// Whether it remembers sequences itself: it then gets inputs without context and states.
    pub fn keeps_sequences(&self) -> bool {
        self.server().is_some_and(Remote::keeps_sequences)
    }

    /// Whether it takes the steps before and after the model itself: it then takes a request's inputs as they came,
    /// and gives the reply's outputs.
    pub fn takes_steps(&self) -> bool {
        self.server().is_some_and(Remote::takes_steps)
    }

    /// Queues a call; nothing when the queue is full. A caller that goes away takes its call along,
    /// unless a thread has begun it.
    pub fn call(&self, ask: Ask) -> Option<tokio::sync::oneshot::Receiver<Call>> {
        let (model, pool) = match &self.runner {
            Runner::Server(remote) => return remote.call(ask),
            Runner::Threads {
                model,
                pool,
                batcher: Some(batcher),
            } => {
                let (server, model) = (batcher.clone(), model.clone());
                return batcher.wait(ask, || pool.submit(move || server.serve(&*model)));
            }
            Runner::Threads { model, pool, .. } => (model.clone(), pool),
        };
        let (reply, receiver) = tokio::sync::oneshot::channel();
        let came = Instant::now();
        let queued = pool.submit(move || {
            if !reply.is_closed() {
                // Nobody listens any more where this fails: the call was late.
                let _ = reply.send(run(&*model, ask.run.as_ref(), &ask.inputs, came));
            }
        });
        queued.then_some(receiver)
    }

    /// Runs the model once on zeros, here and now.
    ///
    /// # Errors
    /// When it fails.
    pub fn warm(&self, signature: &Signature) -> Result<Duration, LoadError> {
        let inputs = zeros(signature);
        let Runner::Threads { model, .. } = &self.runner else {
            return Ok(self.typical());
        };
        let call = run(&**model, None, &inputs, Instant::now());
        call.outputs.map_err(LoadError::Warm)?;
        let sizes = model.batching().map_or(&[][..], |batching| &batching.sizes);
        for size in sizes {
            let requests = vec![&inputs[..]; *size];
            let together = catch_unwind(AssertUnwindSafe(|| model.infer_together(&requests)));
            let together = together.unwrap_or_else(|_| Err(BackendError("the backend panicked".into())));
            together.map_err(LoadError::Warm)?;
        }
        self.record(call.took);
        Ok(call.took)
    }

    /// Notes how long a call took.
    pub fn record(&self, took: Duration) {
        let sample = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let old = self.typical_nanoseconds.load(Ordering::Relaxed);
        let new = if old == 0 {
            sample
        } else {
            old - old / 8 + sample / 8
        };
        self.typical_nanoseconds.store(new, Ordering::Relaxed);
    }

    /// Notes how long an answer was waited for, from asking on.
    pub fn record_wait(&self, waited: Duration) {
        let sample = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        let old = self.slowest_nanoseconds.load(Ordering::Relaxed);
        // It fades, so that one bad moment does not hold for ever.
        self.slowest_nanoseconds
            .store(sample.max(old - old / 64), Ordering::Relaxed);
    }

    /// The longest that an answer was waited for of late.
    pub fn slowest(&self) -> Duration {
        Duration::from_nanos(self.slowest_nanoseconds.load(Ordering::Relaxed))
    }

    /// How long a call usually takes.
    pub fn typical(&self) -> Duration {
        Duration::from_nanos(self.typical_nanoseconds.load(Ordering::Relaxed))
    }

    /// What runs its model.
    pub fn engine(&self) -> &str {
        match &self.runner {
            Runner::Threads { model, .. } => model.engine(),
            Runner::Server(_) => "OpenInference",
        }
    }

    /// Number of calls that wait.
    pub fn queued(&self) -> usize {
        match &self.runner {
            Runner::Threads { pool, .. } => pool.queued(),
            Runner::Server(remote) => remote.queued(),
        }
    }

    /// Gives up threads that hang in a call, and replaces them while few do.
    pub fn mend(&self, now: Instant) -> Hung {
        match &self.runner {
            Runner::Threads { pool, .. } => pool.mend(now, HANGS_AFTER.max(self.typical() * HANGS_TIMES)),
            Runner::Server(_) => Hung {
                threads: 0,
                all: false,
            },
        }
    }
}

/// Asks a server for the first time, and says how long it took.
async fn first_answer(remote: &Remote) -> Result<Duration, LoadError> {
    let takes_bytes = |signature: &Signature| {
        let mut inputs = signature.inputs.iter();
        inputs.any(|spec| spec.datatype == Datatype::Bytes)
    };
    // Its steps may want a photo: zeros would be refused. It is one of ours, and ready only after its own first inference.
    if remote.takes_steps() && takes_bytes(remote.signature()) {
        return Ok(Duration::ZERO);
    }
    let ask = Ask {
        inputs: zeros(remote.signature()),
        sequence: None,
        run: None,
        timeout: FIRST_INFERENCE,
    };
    let call = remote.run(&ask).await;
    call.outputs.map_err(LoadError::Warm)?;
    Ok(call.took)
}

fn zeros(signature: &Signature) -> Vec<Tensor> {
    let zeros = |spec: &perwatt_model::TensorSpec| Tensor::zeros(spec.datatype, &spec.shape);
    signature.inputs.iter().map(zeros).collect()
}

/// A model that panics has failed, and the thread that called it goes on.
pub(crate) fn run(model: &dyn Model, sequence: Option<&Run>, inputs: &[Tensor], came: Instant) -> Call {
    let start = Instant::now();
    let infer = || match sequence {
        Some(sequence) => sequence.infer(model, inputs),
        None => model.infer(inputs),
    };
    let outputs = catch_unwind(AssertUnwindSafe(infer))
        .unwrap_or_else(|_| Err(BackendError("the backend panicked".into())));
    Call::new(outputs, start.elapsed(), start.saturating_duration_since(came))
}

/// Loads variants; two that run the same file in the same way share it in memory.
pub struct Loader {
    folder: ModelFolder,
    signature: Signature,
    loaded: HashMap<(String, Settings), Arc<dyn Model>>,
}

impl Loader {
    /// A loader for this folder.
    pub fn new(folder: ModelFolder) -> Self {
        let signature = Signature::of(folder.manifest());
        Self {
            folder,
            signature,
            loaded: HashMap::new(),
        }
    }

    /// Opens the variant's device, loads its file and runs it once.
    ///
    /// # Errors
    /// With what is wrong with device, file or model.
    pub fn load(&mut self, spec: &VariantConfig, access: &DeviceAccess) -> Result<Variant, LoadError> {
        let device = spec
            .profile
            .as_deref()
            .map(|profile| open_device(profile, access))
            .transpose()?;
        let (id, node) = device.unzip();
        let model = self.model(&spec.artifact, &spec.backend)?;
        let variant = Variant::new(&spec.name, model, id, node).map_err(LoadError::Thread)?;
        variant.warm(&self.signature)?;
        Ok(variant)
    }

    /// Looks into a file without loading it.
    ///
    /// # Errors
    /// When it is not as `model.yaml` says.
    pub fn inspect(&self, artifact: &str, settings: &Settings) -> Result<Inspection, LoadError> {
        let (file, content) = self.read(artifact)?;
        Ok(self.look_into(file, &content, settings))
    }

    /// Loads a file, or finds it among those that were loaded.
    ///
    /// # Errors
    /// When it is not as `model.yaml` says, or its backend refuses it.
    pub fn model(&mut self, artifact: &str, settings: &Settings) -> Result<Arc<dyn Model>, LoadError> {
        let key = (artifact.to_owned(), settings.clone());
        if let Some(model) = self.loaded.get(&key) {
            return Ok(model.clone());
        }
        let (file, content) = self.read(artifact)?;
        let options = LoadOptions {
            own_state: self.folder.manifest().has_own_state(),
            settings: settings.clone(),
        };
        let load = || {
            if let Some(refusal) = self.look_into(file, &content, settings).refusal() {
                return Err(BackendError(refusal));
            }
            let backend = backend(file.backend, settings)?;
            let model = backend.load(&content, file, &self.signature, &options)?;
            let model = check_own_state(model, options.own_state)?;
            let Some(batching) = file.batching else {
                return Ok(model);
            };
            let batched = Batched::new(model, batching, |size| {
                backend.load(&content, file, &self.signature.of_batch(size), &options)
            })?;
            Ok(Arc::new(batched) as Arc<dyn Model>)
        };
        // A hostile file may make a backend panic; that is a refusal like any other.
        let model = catch_unwind(AssertUnwindSafe(load));
        let model = model.unwrap_or_else(|_| Err(BackendError("the backend panicked".into())));
        let path = file.path.below(self.folder.path());
        let model = model.map_err(|source| LoadError::Backend { path, source })?;
        self.loaded.insert(key, model.clone());
        Ok(model)
    }

    fn read(&self, artifact: &str) -> Result<(&FileSpec, Vec<u8>), LoadError> {
        let file = self.folder.manifest().file(artifact);
        let file = file.ok_or_else(|| LoadError::NoFile(artifact.into()))?;
        Ok((file, self.folder.read_file(file)?))
    }

    fn look_into(&self, file: &FileSpec, content: &[u8], settings: &Settings) -> Inspection {
        // What the settings name and is not there is said when the file is loaded.
        let look = || match backend(file.backend, settings) {
            Ok(backend) => backend.inspect(content, file, &self.signature),
            Err(_) => Inspection::default(),
        };
        let look = AssertUnwindSafe(look);
        catch_unwind(look).unwrap_or_else(|_| {
            let mut inspection = Inspection::default();
            inspection.add(Finding::error(
                Code::Format,
                "",
                "the backend panicked while it looked into the file",
            ));
            inspection
        })
    }
}

/// A model whose state should lie inside it must have one: else every request of a sequence would be the first.
fn check_own_state(model: Arc<dyn Model>, own_state: bool) -> Result<Arc<dyn Model>, BackendError> {
    if own_state && model.begin()?.is_none() {
        return Err(BackendError(
            "model.yaml says sequence.ownState, but this file keeps no state: declare sequence.state".into(),
        ));
    }
    Ok(model)
}

/// The device's id and its node, opened as the variant will use it.
fn open_device(profile: &str, access: &DeviceAccess) -> Result<(String, File), LoadError> {
    let missing = |variable| LoadError::NoDevice {
        profile: profile.to_owned(),
        variable,
    };
    let id = access
        .id
        .clone()
        .ok_or_else(|| missing(perwatt_device_socket::DEVICE_ID_ENV))?;
    let node = access
        .node
        .as_deref()
        .ok_or_else(|| missing(perwatt_device_socket::DEVICE_NODE_ENV))?;
    let file = open_node(node).map_err(|source| LoadError::DeviceNode {
        node: node.to_path_buf(),
        hint: match source.kind() {
            io::ErrorKind::PermissionDenied => {
                "; the container's user must be in the group that owns the node \
                 (HardwareProfile, deviceNodes[].group)"
            }
            io::ErrorKind::NotFound => "; the device is gone, or the agent did not pass its node on",
            _ => "",
        },
        id: id.clone(),
        source,
    })?;
    Ok((id, file))
}

fn open_node(node: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(node)
}
