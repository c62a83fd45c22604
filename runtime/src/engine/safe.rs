//! The safe value: what is answered where the whole chain fails, and the model declares it.

use super::{Answer, Engine, InferError, Query};
use crate::stages::Stages;
use crate::tensor::Tensor;
use perwatt_model::{Manifest, SafeValue, TensorSpec};
use perwatt_oip::json;
use serde_json::value::to_raw_value;
use std::time::Instant;

/// Why the safe value was given.
fn reason(error: &InferError) -> Option<&'static str> {
    match error {
        // Shed load is told to try again: an answer that is no answer would hide it.
        InferError::Overloaded => None,
        // What the client sent is wrong: no value stands for an answer to that.
        InferError::Invalid(_) => None,
        InferError::Deadline { .. } => Some("Deadline"),
        InferError::Failed { .. } => Some("AllFailed"),
        InferError::Unavailable(_) => Some("NoVariant"),
    }
}

impl Engine {
    /// The safe value in place of an error; nothing where the model declares none.
    pub(super) fn safe_answer(&self, query: &Query, error: &InferError) -> Option<Answer> {
        let reason = reason(error)?;
        let outputs = build_outputs(&self.manifest)?;
        self.telemetry.gave_safe_value(&self.metrics, reason);
        Some(Answer {
            outputs,
            variant: None,
            safe_value: true,
            degraded: Some((reason.to_owned(), error.to_string())),
            sequence_restarted: false,
            latency: Instant::now().saturating_duration_since(query.arrived),
            stages: Stages::default(),
            energy: None,
        })
    }

    /// Requests that got the safe value.
    pub fn safe_values(&self) -> u64 {
        self.telemetry.totals().safe_values
    }
}

/// The declared value of every output. It was checked when `model.yaml` was read.
fn build_outputs(manifest: &Manifest) -> Option<Vec<Tensor>> {
    let declared = |spec: &TensorSpec| {
        let value = manifest
            .safe_value
            .iter()
            .find(|value| value.output == spec.name)?;
        build_tensor(value, spec)
    };
    manifest.outputs.iter().map(declared).collect()
}

fn build_tensor(value: &SafeValue, spec: &TensorSpec) -> Option<Tensor> {
    let shape: Vec<usize> = spec.shape.iter().map(|&n| n as usize).collect();
    let elements = to_raw_value(&value.elements(spec)).ok()?;
    let data = json::decode(&elements, spec.datatype, &shape).ok()?;
    Some(Tensor { shape, data })
}
