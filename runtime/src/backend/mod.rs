//! What runs a model file, behind one small trait; each backend is a thin adapter in a file of its own.

mod onnx;
mod spiking;

pub use onnx::Onnx;
pub use spiking::Spiking;

use crate::inspect::Inspection;
use crate::tensor::Tensor;
use perwatt_model::{FileSpec, Manifest, TensorSpec};
use std::sync::Arc;

/// Loads model files of one kind.
pub trait Backend: Send + Sync {
    /// Looks into `content` without running it, and names everything that is wrong. An error among the
    /// findings refuses the file, in the runtime as in `model check`.
    fn inspect(&self, _content: &[u8], _file: &FileSpec, _signature: &Signature) -> Inspection {
        Inspection::default()
    }

    /// Makes `content`, the checked content of `file`, ready to run with exactly these tensors.
    ///
    /// # Errors
    /// When the file cannot be read, or its tensors are not the signature's.
    fn load(
        &self,
        content: &[u8],
        file: &FileSpec,
        signature: &Signature,
    ) -> Result<Arc<dyn Model>, BackendError>;
}

/// A loaded model. It keeps no state from one call to the next and may be called from several threads.
pub trait Model: Send + Sync {
    /// Runs the model on one tensor for each input of the signature, in its order.
    ///
    /// # Errors
    /// When the model or its device fails; the caller then tries another variant.
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError>;

    /// Multiply-accumulates of one inference, those of element-wise operators included, where the backend knows.
    fn operations(&self) -> Option<u64> {
        None
    }
}

/// The tensors of a model file, in the order in which they are passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What the model takes.
    pub inputs: Vec<TensorSpec>,
    /// What it gives.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// The tensors that `model.yaml` declares, those of sequences included.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            inputs: manifest.model_inputs(),
            outputs: manifest.model_outputs(),
        }
    }
}

/// Why a model could not be loaded or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// The backend that `model.yaml` names.
pub fn backend(kind: perwatt_model::Backend) -> &'static dyn Backend {
    match kind {
        perwatt_model::Backend::Onnx => &Onnx,
        perwatt_model::Backend::Spiking => &Spiking,
    }
}
