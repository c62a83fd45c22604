//! What runs a model file, behind one small trait; each backend is a thin adapter in a file of its own.

pub(crate) mod batched;
mod checkout;
mod litert;
mod onnx;
mod onnxruntime;
pub mod settings;
mod spiking;

pub use batched::Batching;
pub use litert::LiteRt;
pub use onnx::Onnx;
pub use onnxruntime::OnnxRuntime;
pub use settings::Settings;
pub use spiking::Spiking;

use crate::inspect::Inspection;
use crate::tensor::Tensor;
use perwatt_model::{FileSpec, Manifest, TensorSpec};
use settings::Engine;
use std::fmt::Debug;
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
        options: &LoadOptions,
    ) -> Result<Arc<dyn Model>, BackendError>;
}

/// How a file is to be loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Whether the model keeps its state inside.
    pub own_state: bool,
    /// What the variant asks for.
    pub settings: Settings,
}

/// A loaded model. It keeps no state from one call of `infer` to the next and may be called from several threads.
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

    /// Begins a sequence of a model that keeps its state inside; nothing where the runtime keeps the state.
    ///
    /// # Errors
    /// When there is no memory for it, or its device fails.
    fn begin(&self) -> Result<Option<Box<dyn SequenceRun>>, BackendError> {
        Ok(None)
    }

    /// How requests may be put together; nothing for a model that takes one at a time.
    fn batching(&self) -> Option<&Batching> {
        None
    }

    /// Answers as many requests as one of [`Batching::sizes`] says, each with its own tensors, in one call.
    ///
    /// # Errors
    /// When the model or its device fails; which request is to blame is not known.
    fn infer_together(&self, requests: &[&[Tensor]]) -> Result<Vec<Vec<Tensor>>, BackendError> {
        requests.iter().map(|inputs| self.infer(inputs)).collect()
    }

    /// What runs it, and where that has one, its version.
    fn engine(&self) -> &str {
        ""
    }
}

/// A model that keeps its state inside, for one sequence.
pub trait SequenceRun: Send + Debug {
    /// Runs the model on the next request of the sequence.
    ///
    /// # Errors
    /// When the model or its device fails. The state is then unknown: the sequence begins anew.
    fn infer(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError>;
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

    /// The same for several requests in one call: every first axis is that much longer.
    #[must_use]
    pub fn of_batch(&self, size: u16) -> Self {
        let longer = |spec: &TensorSpec| {
            let mut spec = spec.clone();
            if let Some(axis) = spec.shape.first_mut() {
                *axis = axis.saturating_mul(size.into());
            }
            spec
        };
        Self {
            inputs: self.inputs.iter().map(longer).collect(),
            outputs: self.outputs.iter().map(longer).collect(),
        }
    }
}

/// Why a model could not be loaded or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// What runs files of this kind, as `model.yaml` and the variant's settings name it.
///
/// # Errors
/// When the settings contradict themselves.
pub fn backend(
    kind: perwatt_model::Backend,
    settings: &Settings,
) -> Result<&'static dyn Backend, BackendError> {
    match kind {
        perwatt_model::Backend::Onnx => onnx(settings),
        perwatt_model::Backend::LiteRt => Ok(&LiteRt),
        perwatt_model::Backend::Spiking => Ok(&Spiking),
    }
}

fn onnx(settings: &Settings) -> Result<&'static dyn Backend, BackendError> {
    match settings.onnx_engine()? {
        Engine::Tract => Ok(&Onnx),
        Engine::OnnxRuntime => Ok(&OnnxRuntime),
        Engine::Auto => match OnnxRuntime::find() {
            Ok(()) => Ok(&OnnxRuntime),
            Err(error) => {
                tracing::info!(%error, "engine Auto: tract runs the graph");
                Ok(&Onnx)
            }
        },
    }
}
