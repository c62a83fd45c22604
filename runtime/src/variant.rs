//! A variant that was loaded: its model, its device, its threads.

use crate::backend::{BackendError, LoadOptions, Model, Settings, Signature, backend};
use crate::config::{DeviceAccess, VariantConfig};
use crate::inspect::{Code, Finding, Inspection};
use crate::pool::Pool;
use crate::sequence::Run;
use crate::tensor::Tensor;
use perwatt_model::{FileSpec, FolderError, ModelFolder};
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
}

/// A variant that can serve.
pub struct Variant {
    /// The device it runs on; nothing for a device-less one.
    pub device: Option<String>,
    model: Arc<dyn Model>,
    pool: Pool,
    /// Held open: a device that is in use must not look free.
    _node: Option<File>,
    typical_nanoseconds: AtomicU64,
}

/// What a model call gave and how long it took.
#[derive(Debug)]
pub struct Call {
    /// The model's outputs.
    pub outputs: Result<Vec<Tensor>, BackendError>,
    /// Time in the model.
    pub took: Duration,
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
        Ok(Self {
            device,
            model,
            pool,
            _node: node,
            typical_nanoseconds: AtomicU64::new(0),
        })
    }

    /// Queues a call; nothing when the queue is full. A caller that goes away takes its call along,
    /// unless that has begun. `sequence` is the caller's for a model that keeps its state inside.
    pub fn call(
        &self,
        inputs: Vec<Tensor>,
        sequence: Option<Run>,
    ) -> Option<tokio::sync::oneshot::Receiver<Call>> {
        let (reply, receiver) = tokio::sync::oneshot::channel();
        let model = self.model.clone();
        let queued = self.pool.submit(move || {
            if !reply.is_closed() {
                // Nobody listens any more where this fails: the call was late.
                let _ = reply.send(run(&*model, sequence.as_ref(), &inputs));
            }
        });
        queued.then_some(receiver)
    }

    /// Runs the model once on zeros, here and now.
    ///
    /// # Errors
    /// When it fails.
    pub fn warm(&self, signature: &Signature) -> Result<Duration, LoadError> {
        let zeros = |spec: &perwatt_model::TensorSpec| Tensor::zeros(spec.datatype, &spec.shape);
        let inputs: Vec<_> = signature.inputs.iter().map(zeros).collect();
        let call = run(&*self.model, None, &inputs);
        call.outputs.map_err(LoadError::Warm)?;
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

    /// How long a call usually takes.
    pub fn typical(&self) -> Duration {
        Duration::from_nanos(self.typical_nanoseconds.load(Ordering::Relaxed))
    }

    /// What runs its model.
    pub fn engine(&self) -> &str {
        self.model.engine()
    }

    /// Number of calls that wait.
    pub fn queued(&self) -> usize {
        self.pool.queued()
    }
}

/// A model that panics has failed, and the thread that called it goes on.
fn run(model: &dyn Model, sequence: Option<&Run>, inputs: &[Tensor]) -> Call {
    let start = Instant::now();
    let infer = || match sequence {
        Some(sequence) => sequence.infer(model, inputs),
        None => model.infer(inputs),
    };
    let outputs = catch_unwind(AssertUnwindSafe(infer))
        .unwrap_or_else(|_| Err(BackendError("the backend panicked".into())));
    Call {
        outputs,
        took: start.elapsed(),
    }
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
            let model = backend(file.backend, settings)?.load(&content, file, &self.signature, &options)?;
            check_own_state(model, options.own_state)
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
