//! An answer that nobody is given: what another revision would have said.

use super::attempt::Attempt;
use super::steps::Prepared;
use super::{Engine, Query};
use crate::sequence::Held;
use crate::tensor::Tensor;
use crate::variant::Variant;
use std::time::Instant;

impl Engine {
    /// What the variant that serves makes of a request outside of sequences. It counts as a call of that variant, and
    /// nowhere else. Nothing where it gives no answer, and where a server elsewhere would have to be asked: what a
    /// client sent goes there once at most.
    pub async fn shadow(&self, query: &Query) -> Option<Vec<Tensor>> {
        let index = self.active().index?;
        if !self.answers_itself(index) || query.sequence.is_some() {
            return None;
        }
        let mut memory = self.fresh();
        let mut prepared = Prepared::default();
        let inputs = self.prepare(&mut prepared, index, query, &memory).await.ok()?;
        let left = query.deadline.saturating_duration_since(Instant::now());
        let run = memory.hold_run().as_ref().map(Held::run);
        let Attempt::Answered(mut found) = self.attempt(index, query, inputs, &memory, run, left).await
        else {
            return None;
        };
        memory.advance(index, inputs, &mut found.outputs);
        self.settle(index, prepared, &mut memory, &mut found);
        Some(found.outputs)
    }

    /// Whether a variant runs here, not at a server.
    pub fn answers_itself(&self, index: usize) -> bool {
        self.variant(index)
            .map(Variant::server)
            .is_some_and(|server| server.is_none())
    }
}
