//! One attempt: a variant gets a request, and a share of the time that is left.

use super::steps::Made;
use super::{Engine, Query, lock};
use crate::backend::BackendError;
use crate::chain::Reason;
use crate::metrics::Outcome;
use crate::sequence::{Memory, Run, SequenceId};
use crate::stages::Stages;
use crate::tensor::Tensor;
use crate::variant::{Ask, AskedSequence, Call, Variant};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A late answer counts against a variant only where its share of the time was this many times its usual time,
/// and at least [`LEAST_SHARE`]: a client with an impossible deadline must not open a breaker.
const USUAL_TIMES: u32 = 8;
const LEAST_SHARE: Duration = Duration::from_millis(5);

/// A variant with others behind it is given up after this many times its usual time, or this many times the longest
/// that it took of late: a device that hangs costs its clients that much, not half of their deadline. On a machine
/// that stalls now and then, the second is what keeps the first variant.
const PATIENCE_TIMES: u32 = 20;
const SLOWEST_TIMES: u32 = 4;
/// Not before this time, however quick it is.
const LEAST_PATIENCE: Duration = Duration::from_millis(80);
/// And in a sequence not before this: to move is to lose what the sequence remembers.
const LEAST_PATIENCE_IN_SEQUENCE: Duration = Duration::from_millis(250);

/// One variant that was tried for a request in vain.
pub(super) struct Miss {
    pub index: usize,
    pub reason: Reason,
    pub message: String,
    /// Whether it counts against the variant.
    pub counts: bool,
    pub began: Instant,
}

/// What a variant answered.
pub(super) struct Found {
    /// One tensor for each output of the model, states included; in the end the reply's.
    pub outputs: Vec<Tensor>,
    /// What the steps after the model made of them.
    pub made: Option<Made>,
    pub stages: Stages,
    /// Requests that the same call of the model answered.
    pub together: usize,
    pub began: Instant,
    pub sequence_restarted: bool,
    pub degraded: Option<(String, String)>,
}

/// How one attempt ended.
pub(super) enum Attempt {
    Answered(Found),
    Missed(Miss),
}

/// Why a call gave nothing.
enum Stopped {
    Tainted(String),
    Lost,
}

/// What a miss is, without whose and when.
pub(super) type Why = (Reason, String, bool);

impl Engine {
    /// How long a variant may take. The last one may take all that is left; the others leave half
    /// to those behind, and are given up sooner where they usually answer much sooner.
    pub(super) fn share(&self, index: usize, left: Duration, query: &Query, is_last: bool) -> Duration {
        if is_last {
            return left;
        }
        let least = match query.sequence {
            Some(_) => LEAST_PATIENCE_IN_SEQUENCE,
            None => LEAST_PATIENCE,
        };
        let usual = self.variant(index).map_or(Duration::ZERO, |variant| {
            (variant.typical() * PATIENCE_TIMES).max(variant.slowest() * SLOWEST_TIMES)
        });
        usual.max(least).min(left / 2)
    }

    /// What a variant is asked: a model file gets what a sequence remembers, a server that remembers
    /// sequences itself gets the inputs alone.
    fn ask(
        &self,
        variant: &Variant,
        query: &Query,
        inputs: &[Tensor],
        memory: &Memory,
        run: Option<Run>,
        timeout: Duration,
    ) -> Option<Ask> {
        let inputs = if variant.keeps_sequences() {
            inputs.to_vec()
        } else {
            memory.model_inputs(inputs)?
        };
        let sequence = query.sequence.as_ref().map(|step| AskedSequence {
            id: self.remote_id(&step.id),
            start: memory.variant.is_none(),
            end: step.end,
        });
        Some(Ask {
            inputs,
            sequence,
            run,
            timeout,
        })
    }

    /// The number of a sequence at a server that others use as well: their sequences may have the same name.
    fn remote_id(&self, id: &SequenceId) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.start_id, &self.config.node, id).hash(&mut hasher);
        // 0 means no sequence.
        hasher.finish().max(1)
    }

    /// Lets a variant try. `inputs` are what [`Engine::prepare`] made of the request's.
    pub(super) async fn attempt(
        &self,
        index: usize,
        query: &Query,
        inputs: &[Tensor],
        memory: &Memory,
        run: Option<Run>,
        share: Duration,
    ) -> Attempt {
        let began = Instant::now();
        let call = self.call(index, query, inputs, memory, run, share).await;
        let finished = match call.and_then(|call| self.read(index, call, began, share)) {
            Ok(found) => self.finish(index, query, memory, found).await,
            Err(why) => Err(why),
        };
        match finished {
            Ok(found) => {
                self.metrics.count_attempt(self.name(index), Outcome::Answered);
                Attempt::Answered(found)
            }
            Err(why) => self.missed(index, began, why),
        }
    }

    fn missed(&self, index: usize, began: Instant, (reason, message, counts): Why) -> Attempt {
        let outcome = match reason {
            Reason::Busy => Some(Outcome::Busy),
            Reason::Late => Some(Outcome::Late),
            Reason::InferenceFailed => Some(Outcome::Failed),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.metrics.count_attempt(self.name(index), outcome);
        }
        Attempt::Missed(Miss {
            index,
            reason,
            message,
            counts,
            began,
        })
    }

    async fn call(
        &self,
        index: usize,
        query: &Query,
        inputs: &[Tensor],
        memory: &Memory,
        run: Option<Run>,
        share: Duration,
    ) -> Result<Call, Why> {
        let Some(variant) = self.variant(index) else {
            return Err((Reason::LoadFailed, "it is not loaded".into(), false));
        };
        let ask = self.ask(variant, query, inputs, memory, run, share);
        let Some(receiver) = ask.and_then(|ask| variant.call(ask)) else {
            return Err((Reason::Busy, "its queue is full".into(), false));
        };
        match tokio::time::timeout(share, self.unless_tainted(index, receiver)).await {
            Ok(Ok(call)) => Ok(call),
            Ok(Err(Stopped::Tainted(message))) => Err((Reason::DeviceUnhealthy, message, false)),
            Ok(Err(Stopped::Lost)) => Err((Reason::InferenceFailed, "its thread ended".into(), true)),
            Err(_) => {
                let message = format!("no answer within {} ms", share.as_millis());
                Err((Reason::Late, message, had_time(variant, share)))
            }
        }
    }

    fn read(&self, index: usize, call: Call, began: Instant, share: Duration) -> Result<Found, Why> {
        let Some(variant) = self.variant(index) else {
            return Err((Reason::LoadFailed, "it is not loaded".into(), false));
        };
        match call.outputs {
            Ok(mut outputs) => {
                if variant.keeps_sequences() {
                    // The states are the server's; ours stay as they are at the start.
                    outputs.extend(self.fresh().states);
                }
                variant.record(call.took);
                variant.record_wait(began.elapsed());
                if call.leads {
                    self.metrics.count_batch(self.name(index), call.together);
                }
                let stages = Stages {
                    queue: call.waited,
                    inference: call.took,
                    ..Stages::default()
                };
                Ok(Found {
                    outputs,
                    made: None,
                    stages,
                    together: call.together,
                    began,
                    sequence_restarted: call.sequence_restarted,
                    degraded: call.degraded,
                })
            }
            Err(BackendError(message)) => {
                let reason = call.reason.unwrap_or(Reason::InferenceFailed);
                let counts = reason != Reason::Late || had_time(variant, share);
                Err((reason, message, counts))
            }
        }
    }

    /// Waits for a call, but not for one on a device that must not be used any more.
    async fn unless_tainted(&self, index: usize, mut call: oneshot::Receiver<Call>) -> Result<Call, Stopped> {
        let mut changes = self.active.subscribe();
        loop {
            let cause = lock(&self.chain).cause(index, Instant::now());
            if let Some(cause) = cause.filter(|cause| cause.reason == Reason::DeviceUnhealthy) {
                return Err(Stopped::Tainted(cause.message));
            }
            tokio::select! {
                biased;
                call = &mut call => return call.map_err(|_| Stopped::Lost),
                _ = changes.changed() => {}
            }
        }
    }
}

fn had_time(variant: &Variant, share: Duration) -> bool {
    share >= LEAST_SHARE.max(variant.typical() * USUAL_TIMES)
}
