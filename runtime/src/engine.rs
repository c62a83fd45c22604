//! Answers requests: admission, sequences, the chain of variants within a deadline.

mod attempt;
mod book;
mod safe;
mod shadow;
mod status;
mod steps;
mod types;

pub use types::{Answer, InferError, Query, SequenceStep};

use crate::chain::{Active, Cause, Chain, Policy, Reason};
use crate::config::Config;
use crate::metrics::{Metrics, Refusal};
use crate::sequence::{Held, Memory, Sequences, Shared};
use crate::telemetry::Telemetry;
use crate::variant::Variant;
use attempt::{Attempt, Found, Miss};
use perwatt_device_socket::DeviceState;
use perwatt_model::Manifest;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use steps::{Prepared, Steps};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant as TokioInstant, timeout_at};

/// Requests that may be under way at once.
const IN_FLIGHT: usize = 512;
/// Sequences that may be under way at once.
const SEQUENCES: usize = 1024;
/// After this time without a request a sequence is forgotten.
const SEQUENCE_IDLE: Duration = Duration::from_secs(300);
/// A place in the chain.
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Set once it is loaded, at the start or later.
    variant: OnceLock<Variant>,
}

impl Slot {
    /// The variant; nothing where it could not be loaded so far.
    pub fn variant(&self) -> Option<&Variant> {
        self.variant.get()
    }

    /// The device it runs on.
    pub fn device(&self) -> Option<&str> {
        self.variant()?.device.as_deref()
    }
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
    /// What is counted of every request.
    pub telemetry: Telemetry,
    /// Differs from start to start.
    start_id: String,
    chain: Mutex<Chain>,
    active: watch::Sender<Active>,
    device: Mutex<Option<DeviceState>>,
    sequences: Sequences,
    admission: Semaphore,
    steps: Steps,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so a poisoned lock holds whole data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer before it was booked.
struct Done {
    index: usize,
    found: Found,
    sequence_restarted: bool,
    /// Why the first variant did not serve by itself when the request came.
    first_cause: Option<Cause>,
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
            if let Some(cause) = config.check_allowed(spec, &manifest) {
                chain.bar(index, cause);
            }
            let variant = loaded.map_err(|error| chain.load_failed(index, error)).ok();
            slots.push(Slot {
                name: spec.name.clone(),
                variant: variant.map(OnceLock::from).unwrap_or_default(),
            });
        }
        let edges = manifest
            .confidence
            .as_ref()
            .map_or(&[][..], |c| &c.reference.edges);
        let metrics = Metrics::new(&config.workload, &config.revision, edges);
        let telemetry = Telemetry::new(&config, &manifest, &metrics)?;
        let (active, _) = watch::channel(chain.active(Instant::now()));
        let steps = Steps::new(&manifest)?;
        let engine = Self {
            start_id: start_id(),
            config,
            manifest,
            slots,
            metrics,
            telemetry,
            chain: Mutex::new(chain),
            active,
            device: Mutex::new(None),
            sequences: Sequences::new(SEQUENCES, SEQUENCE_IDLE),
            admission: Semaphore::new(IN_FLIGHT),
            steps,
        };
        for index in 0..engine.slots.len() {
            engine.watch_sent(index);
        }
        engine.show_active(&engine.active());
        Some(engine)
    }

    /// Answers one request. Where no variant answers, and `model.yaml` declares a safe value, that is the answer.
    ///
    /// # Errors
    /// When it is shed, late, or no variant answers.
    pub async fn infer(&self, query: Query) -> Result<Answer, InferError> {
        let result = self.try_infer(&query).await;
        self.or_safe_value(&query, result)
    }

    /// The same without the safe value, and without counting an error as one that a client got.
    ///
    /// # Errors
    /// When it is shed, late, or no variant answers.
    pub async fn try_infer(&self, query: &Query) -> Result<Answer, InferError> {
        let result = self.admit_and_answer(query).await;
        match &result {
            Ok(answer) => self.telemetry.sample(query, answer),
            Err(InferError::Deadline { .. }) => self.telemetry.missed_deadline(&self.metrics),
            Err(_) => {}
        }
        if matches!(&result, Err(error) if !matches!(error, InferError::Invalid(_))) {
            self.telemetry.unanswered();
        }
        result
    }

    /// What the client gets.
    ///
    /// # Errors
    /// Those that were given, where no safe value stands for an answer.
    pub fn or_safe_value(
        &self,
        query: &Query,
        result: Result<Answer, InferError>,
    ) -> Result<Answer, InferError> {
        let result = result.or_else(|error| self.safe_answer(query, &error).ok_or(error));
        if let Err(error) = &result {
            self.metrics.count_error(match error {
                InferError::Overloaded => Refusal::Overloaded,
                InferError::Deadline { .. } => Refusal::Deadline,
                InferError::Failed { .. } | InferError::Unavailable(_) => Refusal::Failed,
                InferError::Invalid(_) => Refusal::Invalid,
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
        let mut prepared = Prepared::default();
        let mut misses = Vec::new();
        let lost = lost || memory.lost;
        for (place, &index) in candidates.iter().enumerate() {
            let inputs = self.prepare(&mut prepared, index, query, memory).await?;
            let left = query.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late(query, &misses));
            }
            let share = self.share(index, left, query, place + 1 == candidates.len());
            let moved = memory.variant.is_some_and(|before| before != index);
            let start = moved.then(|| memory.begun_anew(self.fresh()));
            let held = if moved { None } else { memory.hold_run() };
            let run = match (&start, &held) {
                (Some(start), _) => start.run.clone(),
                (None, held) => held.as_ref().map(Held::run),
            };
            let attempt = self.attempt(index, query, inputs, start.as_ref().unwrap_or(memory), run, share);
            match attempt.await {
                Attempt::Missed(miss) => {
                    // A call that never began has not touched the state inside the model.
                    if let (Reason::Busy, Some(held)) = (miss.reason, held) {
                        memory.give_back(held);
                    }
                    misses.push(miss);
                }
                Attempt::Answered(mut found) => {
                    if let Some(start) = start {
                        let rhythm = memory.rhythm;
                        *memory = Memory { rhythm, ..start };
                    }
                    if let Some(held) = held {
                        memory.give_back(held);
                    }
                    memory.advance(index, inputs, &mut found.outputs);
                    self.settle(index, prepared, memory, &mut found);
                    self.telemetry.beat(&mut memory.rhythm, query.arrived);
                    let done = Done {
                        index,
                        sequence_restarted: lost || moved || found.sequence_restarted,
                        found,
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

    /// The variants to try, and why the first one does not serve by itself.
    fn candidates(&self) -> (Vec<usize>, Option<Cause>) {
        let now = Instant::now();
        let mut chain = lock(&self.chain);
        let first_cause = chain.cause(0, now);
        (chain.candidates(now), first_cause)
    }

    fn variant(&self, index: usize) -> Option<&Variant> {
        self.slots.get(index)?.variant()
    }

    fn name(&self, index: usize) -> &str {
        self.slots.get(index).map_or("none", |slot| &slot.name)
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
