//! Answers requests: admission, sequences, the chain of variants within a deadline.

mod status;
mod types;

pub use types::{Answer, InferError, Query, SequenceStep};

use crate::backend::BackendError;
use crate::chain::{Active, Cause, Chain, Policy, Reason};
use crate::config::Config;
use crate::energy::Energy;
use crate::evidence::Tally;
use crate::metrics::{EnergyLabels, Metrics, Outcome, Refusal, VariantLabels};
use crate::sequence::{Held, Memory, Run, Sequences, Shared};
use crate::tensor::Tensor;
use crate::variant::{Call, Variant};
use perwatt_device_socket::DeviceState;
use perwatt_model::Manifest;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant as TokioInstant, timeout_at};

/// Requests that may be under way at once.
const IN_FLIGHT: usize = 512;
/// Sequences that may be under way at once.
const SEQUENCES: usize = 1024;
/// After this time without a request a sequence is forgotten.
const SEQUENCE_IDLE: Duration = Duration::from_secs(300);
/// A late answer counts against a variant only where its share of the time was this many times its usual time,
/// and at least [`LEAST_SHARE`]: a client with an impossible deadline must not open a breaker.
const USUAL_TIMES: u32 = 8;
const LEAST_SHARE: Duration = Duration::from_millis(5);

/// A variant with others behind it is given up after this many times its usual time, but not before
/// [`LEAST_PATIENCE`]: a device that hangs costs its clients that much, not half of their deadline.
const PATIENCE_TIMES: u32 = 20;
const LEAST_PATIENCE: Duration = Duration::from_millis(250);

/// A place in the chain: a variant, or nothing where it could not be loaded.
pub struct Slot {
    /// Its name.
    pub name: String,
    /// The variant.
    pub variant: Option<Variant>,
    /// Its counts.
    pub tally: Tally,
}

/// Everything that answers requests of one model.
pub struct Engine {
    /// What is served, and as what.
    pub config: Config,
    /// What the model takes and gives.
    pub manifest: Manifest,
    /// The chain's places, in order.
    pub slots: Vec<Slot>,
    /// Metrics.
    pub metrics: Metrics,
    /// Id of this start.
    pub epoch: String,
    chain: Mutex<Chain>,
    active: watch::Sender<Active>,
    device: Mutex<Option<DeviceState>>,
    sequences: Sequences,
    admission: Semaphore,
    fallbacks: AtomicU64,
    restarts: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so a poisoned lock holds whole data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One variant that was tried for a request in vain.
struct Miss {
    index: usize,
    reason: Reason,
    message: String,
    /// Whether it counts against the variant.
    counts: bool,
}

/// An answer before it was booked.
struct Done {
    index: usize,
    outputs: Vec<Tensor>,
    took: Duration,
    sequence_restarted: bool,
    /// Why the first variant did not serve by itself when the request came.
    first_cause: Option<Cause>,
}

/// Why a call gave nothing.
enum Stopped {
    Tainted(String),
    Lost,
}

/// How one attempt ended.
enum Attempt {
    Answered(Vec<Tensor>, Duration),
    Missed(Miss),
}

impl Engine {
    /// An engine for variants that were loaded; `Err` holds why one was not.
    pub fn new(
        config: Config,
        manifest: Manifest,
        policy: Policy,
        variants: Vec<Result<Variant, String>>,
    ) -> Option<Self> {
        let names = config.variants.iter().map(|v| v.name.as_str());
        let mut chain = Chain::new(names, policy);
        let mut slots = Vec::new();
        for (index, (spec, loaded)) in config.variants.iter().zip(variants).enumerate() {
            let variant = loaded.map_err(|error| chain.load_failed(index, error)).ok();
            slots.push(Slot {
                name: spec.name.clone(),
                variant,
                tally: Tally::new()?,
            });
        }
        let metrics = Metrics::new(&config.workload, &config.revision);
        let (active, _) = watch::channel(chain.active(Instant::now()));
        let engine = Self {
            epoch: start_id(),
            config,
            manifest,
            slots,
            metrics,
            chain: Mutex::new(chain),
            active,
            device: Mutex::new(None),
            sequences: Sequences::new(SEQUENCES, SEQUENCE_IDLE),
            admission: Semaphore::new(IN_FLIGHT),
            fallbacks: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        };
        engine.show_active(&engine.active());
        Some(engine)
    }

    /// Answers one request.
    ///
    /// # Errors
    /// When it is shed, late, or no variant answers.
    pub async fn infer(&self, query: Query) -> Result<Answer, InferError> {
        let result = self.admit_and_answer(&query).await;
        if let Err(error) = &result {
            self.metrics.count_error(match error {
                InferError::Overloaded => Refusal::Overloaded,
                InferError::Deadline { .. } => Refusal::Deadline,
                InferError::Failed { .. } | InferError::Unavailable(_) => Refusal::Failed,
            });
        }
        result
    }

    async fn admit_and_answer(&self, query: &Query) -> Result<Answer, InferError> {
        let _permit = self.admission.try_acquire().map_err(|_| InferError::Overloaded)?;
        let Some(step) = &query.sequence else {
            return self.answer(query, &mut self.fresh(), false).await;
        };
        let (memory, known) = self.sequences.open(&step.id, self.fresh(), query.arrived);
        let answer = self.answer_in_turn(query, step, memory, known).await;
        // A last request that fails may be sent again: its sequence is then forgotten by idleness.
        if step.end && answer.is_ok() {
            self.sequences.close(&step.id);
        }
        answer
    }

    /// Waits until earlier requests of the sequence are answered.
    async fn answer_in_turn(
        &self,
        query: &Query,
        step: &SequenceStep,
        memory: Shared,
        known: bool,
    ) -> Result<Answer, InferError> {
        let turn = timeout_at(TokioInstant::from_std(query.deadline), memory.lock()).await;
        let mut memory = turn.map_err(|_| self.late(query, &[]))?;
        if step.start {
            *memory = self.fresh();
        }
        let lost = !known && !step.start;
        self.answer(query, &mut memory, lost).await
    }

    fn fresh(&self) -> Memory {
        Memory::fresh(&self.manifest)
    }

    /// Tries the variants in order until one answers.
    async fn answer(&self, query: &Query, memory: &mut Memory, lost: bool) -> Result<Answer, InferError> {
        let (candidates, first_cause) = self.candidates();
        if candidates.is_empty() {
            let active = self.active();
            let why = active
                .cause
                .map_or_else(|| "none is configured".into(), |cause| cause.message);
            return Err(InferError::Unavailable(why));
        }
        let mut misses = Vec::new();
        let lost = lost || memory.lost;
        for (place, &index) in candidates.iter().enumerate() {
            let left = query.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late(query, &misses));
            }
            let share = self.share(index, left, place + 1 == candidates.len());
            let moved = memory.variant.is_some_and(|before| before != index);
            let start = if moved { Some(self.fresh()) } else { None };
            let held = if moved { None } else { memory.hold_run() };
            let inputs = start.as_ref().unwrap_or(memory).model_inputs(&query.inputs);
            let run = match (&start, &held) {
                (Some(start), _) => start.run.clone(),
                (None, held) => held.as_ref().map(Held::run),
            };
            match self.attempt(index, inputs, run, share).await {
                Attempt::Missed(miss) => {
                    // A call that never began has not touched the state inside the model.
                    if let (Reason::Busy, Some(held)) = (miss.reason, held) {
                        memory.give_back(held);
                    }
                    misses.push(miss);
                }
                Attempt::Answered(mut outputs, took) => {
                    if let Some(start) = start {
                        *memory = start;
                    }
                    if let Some(held) = held {
                        memory.give_back(held);
                    }
                    memory.advance(index, &query.inputs, &mut outputs);
                    let done = Done {
                        index,
                        outputs,
                        took,
                        sequence_restarted: lost || moved,
                        first_cause,
                    };
                    return Ok(self.conclude(query, done, misses));
                }
            }
        }
        self.refresh();
        if misses.iter().all(|miss| miss.reason == Reason::Busy) {
            return Err(InferError::Overloaded);
        }
        if misses.last().is_some_and(|miss| miss.reason == Reason::Late) {
            return Err(self.late(query, &misses));
        }
        Err(InferError::Failed {
            tried: self.describe(&misses),
        })
    }

    /// How long a variant may take. The last one may take all that is left; the others leave half
    /// to those behind, and are given up sooner where they usually answer much sooner.
    fn share(&self, index: usize, left: Duration, is_last: bool) -> Duration {
        if is_last {
            return left;
        }
        let variant = self.slots.get(index).and_then(|slot| slot.variant.as_ref());
        let patience = variant
            .map_or(Duration::ZERO, |v| v.typical() * PATIENCE_TIMES)
            .max(LEAST_PATIENCE);
        patience.min(left / 2)
    }

    /// The variants to try, and why the first one does not serve by itself.
    fn candidates(&self) -> (Vec<usize>, Option<Cause>) {
        let now = Instant::now();
        let mut chain = lock(&self.chain);
        let first_cause = chain.cause(0, now);
        (chain.candidates(now), first_cause)
    }

    async fn attempt(
        &self,
        index: usize,
        inputs: Option<Vec<Tensor>>,
        run: Option<Run>,
        share: Duration,
    ) -> Attempt {
        let miss = |reason, message: String, counts| {
            Attempt::Missed(Miss {
                index,
                reason,
                message,
                counts,
            })
        };
        let Some((variant, name)) = self
            .slots
            .get(index)
            .and_then(|s| Some((s.variant.as_ref()?, &s.name)))
        else {
            return miss(Reason::LoadFailed, "it is not loaded".into(), false);
        };
        let Some(receiver) = inputs.and_then(|inputs| variant.call(inputs, run)) else {
            self.metrics.count_attempt(name, Outcome::Busy);
            return miss(Reason::Busy, "its queue is full".into(), false);
        };
        match tokio::time::timeout(share, self.unless_tainted(index, receiver)).await {
            Ok(Err(Stopped::Tainted(message))) => miss(Reason::DeviceUnhealthy, message, false),
            Ok(Ok(Call {
                outputs: Ok(outputs),
                took,
            })) => {
                variant.record(took);
                self.metrics.count_attempt(name, Outcome::Answered);
                Attempt::Answered(outputs, took)
            }
            Ok(Ok(Call {
                outputs: Err(BackendError(message)),
                ..
            })) => {
                self.metrics.count_attempt(name, Outcome::Failed);
                miss(Reason::InferenceFailed, message, true)
            }
            Ok(Err(Stopped::Lost)) => miss(Reason::InferenceFailed, "its thread ended".into(), true),
            Err(_) => {
                self.metrics.count_attempt(name, Outcome::Late);
                let counts = share >= LEAST_SHARE.max(variant.typical() * USUAL_TIMES);
                miss(
                    Reason::Late,
                    format!("no answer within {} ms", share.as_millis()),
                    counts,
                )
            }
        }
    }

    /// Waits for a call, but not for one on a device that must not be used any more.
    async fn unless_tainted(&self, index: usize, mut call: oneshot::Receiver<Call>) -> Result<Call, Stopped> {
        let mut changes = self.active.subscribe();
        loop {
            if let Some(cause) = self
                .cause(index)
                .filter(|cause| cause.reason == Reason::DeviceUnhealthy)
            {
                return Err(Stopped::Tainted(cause.message));
            }
            tokio::select! {
                biased;
                call = &mut call => return call.map_err(|_| Stopped::Lost),
                _ = changes.changed() => {}
            }
        }
    }

    /// Books an answer: a variant that missed is to blame only now that another one answered.
    fn conclude(&self, query: &Query, done: Done, misses: Vec<Miss>) -> Answer {
        let now = Instant::now();
        {
            let mut chain = lock(&self.chain);
            for miss in misses.iter().filter(|miss| miss.counts) {
                chain.failed(miss.index, miss.message.clone(), now);
            }
            chain.succeeded(done.index);
        }
        // A device that became unhealthy in the middle of a call is no failure of the variant.
        let failed = misses
            .iter()
            .filter(|miss| miss.reason != Reason::DeviceUnhealthy);
        for slot in failed.filter_map(|miss| self.slots.get(miss.index)) {
            slot.tally.failed();
        }
        self.refresh();
        let missed = misses.into_iter().find(|miss| miss.index == 0);
        let missed =
            missed.map(|miss| Cause::new(miss.reason, format!("{}: {}", self.name(0), miss.message)));
        // One of the two is there: a variant that is well comes first and is tried first.
        let cause = if done.index == 0 {
            None
        } else {
            missed.or_else(|| done.first_cause.clone())
        };
        let energy = self.energy(done.index, done.took);
        let latency = now.saturating_duration_since(query.arrived);
        self.count(&done, latency, energy.as_ref(), cause.as_ref());
        let slot_degraded = || self.config.degraded.clone().map(|d| (d.reason, d.message));
        let degraded = cause
            .map(|c| (c.reason.as_str().to_owned(), c.message))
            .or_else(slot_degraded);
        let Done {
            index,
            outputs,
            sequence_restarted,
            ..
        } = done;
        Answer {
            outputs,
            variant: index,
            degraded,
            sequence_restarted,
            latency,
            energy,
        }
    }

    fn count(&self, done: &Done, latency: Duration, energy: Option<&Energy>, cause: Option<&Cause>) {
        let Some(slot) = self.slots.get(done.index) else {
            return;
        };
        slot.tally.answered(latency, energy);
        let labels = VariantLabels {
            variant: slot.name.clone(),
        };
        self.metrics
            .request_seconds
            .get_or_create(&labels)
            .observe(latency.as_secs_f64());
        self.metrics
            .inference_seconds
            .get_or_create(&labels)
            .observe(done.took.as_secs_f64());
        if let Some(energy) = energy {
            let labels = EnergyLabels {
                variant: slot.name.clone(),
                source: energy.label(),
            };
            self.metrics
                .energy_joules
                .get_or_create(&labels)
                .inc_by(energy.microjoules / 1e6);
        }
        if done.index != 0 {
            self.fallbacks.fetch_add(1, Ordering::Relaxed);
            if let Some(cause) = cause {
                self.metrics.count_fallback(&slot.name, cause.reason);
            }
        }
        if done.sequence_restarted {
            self.restarts.fetch_add(1, Ordering::Relaxed);
            self.metrics.sequences_restarted.inc();
        }
    }

    fn energy(&self, index: usize, took: Duration) -> Option<Energy> {
        let on_device = self.slots.get(index)?.variant.as_ref()?.device.is_some();
        let device = lock(&self.device);
        on_device.then(|| Energy::of(device.as_ref()?, took)).flatten()
    }

    fn name(&self, index: usize) -> &str {
        self.slots.get(index).map_or("", |slot| &slot.name)
    }

    fn late(&self, query: &Query, misses: &[Miss]) -> InferError {
        let time = query.deadline.saturating_duration_since(query.arrived);
        InferError::Deadline {
            milliseconds: time.as_millis(),
            tried: self.describe(misses),
        }
    }

    fn describe(&self, misses: &[Miss]) -> String {
        misses
            .iter()
            .map(|miss| format!("; {}: {}", self.name(miss.index), miss.message))
            .collect()
    }
}

/// Differs from start to start of a pod's runtime.
fn start_id() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    format!(
        "{:x}-{:x}",
        since_epoch.map_or(0, |d| d.as_nanos()),
        std::process::id()
    )
}
