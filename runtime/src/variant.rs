//! A variant that was loaded: its model, its device, its threads, or the server that answers for it.

use crate::backend::{BackendError, Model, Signature};
use crate::batch::Batcher;
use crate::chain::Reason;
use crate::config::RemoteConfig;
use crate::pool::{Hung, Pool};
use crate::remote::{Remote, RemoteError};
use crate::sequence::Run;
use crate::tensor::Tensor;
use perwatt_model::{Datatype, FolderError, Manifest};
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Jobs that may wait before one variant.
const QUEUE: usize = 256;
/// A call hangs when it took this long, and this many times what is usual.
const HANGS_AFTER: Duration = Duration::from_secs(30);
const HANGS_TIMES: u32 = 50;
/// A model on the CPU whose calls took no longer of late is run by whoever asks: to hand such a call to a thread
/// and its answer back costs more than the call.
const QUICK: Duration = Duration::from_micros(50);
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
    /// Of calls; see [`Variant::is_quick`].
    longest_nanoseconds: AtomicU64,
    /// Of waits; see [`Variant::slowest`].
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
            // Not quick before it was seen to be.
            longest_nanoseconds: AtomicU64::new(nanoseconds(QUICK * 64)),
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
            Runner::Threads { model, pool, .. } => (model, pool),
        };
        let (reply, receiver) = tokio::sync::oneshot::channel();
        let came = Instant::now();
        if self.is_quick() {
            let sent = reply.send(run(&**model, ask.run.as_ref(), &ask.inputs, came));
            return sent.is_ok().then_some(receiver);
        }
        let model = model.clone();
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
        let sample = nanoseconds(took);
        let old = self.typical_nanoseconds.load(Ordering::Relaxed);
        let new = if old == 0 {
            sample
        } else {
            old - old / 8 + sample / 8
        };
        self.typical_nanoseconds.store(new, Ordering::Relaxed);
        raise(&self.longest_nanoseconds, sample);
    }

    /// Notes how long an answer was waited for, from asking on.
    pub fn record_wait(&self, waited: Duration) {
        raise(&self.slowest_nanoseconds, nanoseconds(waited));
    }

    /// The longest that an answer was waited for of late.
    pub fn slowest(&self) -> Duration {
        Duration::from_nanos(self.slowest_nanoseconds.load(Ordering::Relaxed))
    }

    /// Whether a call may be run by whoever asks. What has a device may hang, and has a thread of its own.
    fn is_quick(&self) -> bool {
        self.device.is_none() && self.longest_nanoseconds.load(Ordering::Relaxed) <= nanoseconds(QUICK)
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

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The longest of late: it fades, so that one bad moment does not hold for ever.
fn raise(longest: &AtomicU64, sample: u64) {
    let old = longest.load(Ordering::Relaxed);
    longest.store(sample.max(old - old / 64), Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::thread::{self, ThreadId};

    /// Notes where it ran last; takes its time when told to.
    #[derive(Default)]
    struct Noting {
        slow: AtomicBool,
        ran: Mutex<Option<ThreadId>>,
    }

    impl Model for Noting {
        fn infer(&self, _: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
            if self.slow.load(Ordering::Relaxed) {
                thread::sleep(QUICK * 4);
            }
            *self.ran.lock().unwrap() = Some(thread::current().id());
            Ok(Vec::new())
        }
    }

    /// Calls it, and tells whether this thread ran the call.
    async fn ran_here(variant: &Variant, model: &Noting) -> bool {
        let call = variant.call(Ask::default()).unwrap().await.unwrap();
        variant.record(call.took);
        *model.ran.lock().unwrap() == Some(thread::current().id())
    }

    async fn comes_to_run_here(variant: &Variant, model: &Noting) -> bool {
        for _ in 0..10_000 {
            if ran_here(variant, model).await {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn a_quick_model_is_run_by_whoever_asks_until_it_is_slow() {
        let model = Arc::<Noting>::default();
        let variant = Variant::new("v", model.clone(), None, None).unwrap();
        assert!(!ran_here(&variant, &model).await, "nothing is known of it yet");
        assert!(comes_to_run_here(&variant, &model).await);
        model.slow.store(true, Ordering::Relaxed);
        ran_here(&variant, &model).await;
        assert!(!ran_here(&variant, &model).await);
    }

    #[tokio::test]
    async fn a_device_has_a_thread_of_its_own_however_quick_it_is() {
        let model = Arc::<Noting>::default();
        let variant = Variant::new("v", model.clone(), Some("device".into()), None).unwrap();
        for _ in 0..1_000 {
            assert!(!ran_here(&variant, &model).await);
        }
    }
}
