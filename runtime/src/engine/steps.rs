//! The steps before and after the model, around the chain of variants.
//!
//! They run once before the first variant that needs them, and after each variant that answered. A server elsewhere
//! that serves the whole model takes them itself: it gets a request as it came, and answers the reply.

use super::attempt::{Found, Why};
use super::{Engine, InferError, Query};
use crate::chain::Reason;
use crate::pipeline::{Past, Pasts, Side, Unprepared, Workers};
use crate::sequence::Memory;
use crate::tensor::Tensor;
use crate::variant::Variant;
use perwatt_model::Manifest;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The steps of one model.
#[derive(Debug)]
pub(super) struct Steps {
    before: Arc<Side>,
    after: Arc<Side>,
    workers: Workers,
}

/// What one side of the steps made.
#[derive(Debug)]
pub(super) struct Made {
    tensors: Vec<Tensor>,
    /// What the steps remember for the next request, once this one is answered.
    past: Vec<Past>,
    /// How long it took, waiting for a worker included.
    took: Duration,
}

/// What the steps before the model made of a request; nothing until a variant needs it, or where there are none.
#[derive(Debug, Default)]
pub(super) struct Prepared(Option<Made>);

impl Steps {
    /// The steps that `model.yaml` declares; nothing where it was never checked.
    pub fn new(manifest: &Manifest) -> Option<Self> {
        Some(Self {
            before: Arc::new(Side::before(manifest)?),
            after: Arc::new(Side::after(manifest)?),
            workers: Workers::default(),
        })
    }

    async fn run(
        &self,
        side: &Arc<Side>,
        tensors: &[Tensor],
        past: &[Past],
        deadline: Instant,
    ) -> Result<Option<Made>, Unprepared> {
        if side.is_empty() {
            return Ok(None);
        }
        let start = Instant::now();
        let (tensors, past) = self.workers.run(side, tensors, past, deadline).await?;
        Ok(Some(Made {
            tensors,
            past,
            took: start.elapsed(),
        }))
    }
}

impl Engine {
    fn takes_steps(&self, index: usize) -> bool {
        self.variant(index).is_some_and(Variant::takes_steps)
    }

    /// What a variant gets of a request. What a step refuses is the client's fault.
    pub(super) async fn prepare<'a>(
        &self,
        prepared: &'a mut Prepared,
        index: usize,
        query: &'a Query,
        memory: &Memory,
    ) -> Result<&'a [Tensor], InferError> {
        if self.takes_steps(index) {
            return Ok(&query.inputs);
        }
        if prepared.0.is_none() {
            let (steps, past) = (&self.steps, &memory.past.before);
            let made = steps
                .run(&steps.before, &query.inputs, past, query.deadline)
                .await;
            prepared.0 = made.map_err(|problem| match problem {
                Unprepared::Late => self.late(query, &[]),
                Unprepared::Refused(problem) => InferError::Invalid(problem),
                Unprepared::Panicked => InferError::Failed {
                    tried: "; the steps before the model panicked".into(),
                },
            })?;
        }
        Ok(prepared.0.as_ref().map_or(&query.inputs, |made| &made.tensors))
    }

    /// Runs the steps after the model. What they refuse is the fault of the variant that gave it.
    pub(super) async fn finish(
        &self,
        index: usize,
        query: &Query,
        memory: &Memory,
        mut found: Found,
    ) -> Result<Found, Why> {
        if self.takes_steps(index) {
            return Ok(found);
        }
        let (steps, past) = (&self.steps, &memory.past.after);
        let made = steps
            .run(&steps.after, &found.outputs, past, query.deadline)
            .await;
        found.made = made.map_err(|problem| match problem {
            Unprepared::Late => {
                let message = "no time was left for the steps after the model";
                (Reason::Late, message.to_owned(), false)
            }
            Unprepared::Refused(problem) => (Reason::InferenceFailed, format!("output {problem}"), true),
            Unprepared::Panicked => {
                let message = "the steps after the model panicked on its outputs";
                (Reason::InferenceFailed, message.to_owned(), true)
            }
        })?;
        Ok(found)
    }

    /// A request is answered: what its steps remember becomes the sequence's, what they made of the outputs the reply's.
    pub(super) fn settle(&self, index: usize, prepared: Prepared, memory: &mut Memory, found: &mut Found) {
        memory.past = Pasts::default();
        // One that takes the steps itself also remembers for them.
        if self.takes_steps(index) {
            return;
        }
        if let Prepared(Some(made)) = prepared {
            memory.past.before = made.past;
            found.stages.preprocess = made.took;
        }
        if let Some(made) = found.made.take() {
            memory.past.after = made.past;
            found.outputs = made.tensors;
            found.stages.postprocess = made.took;
        }
    }
}
