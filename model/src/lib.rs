//! Model folders: the `model.yaml` format, its checks, and the image that holds one.
//!
//! One format and one reader, used by runtime, command line and tests.
//! What does not live here: anything that runs a model.

pub mod batching;
pub mod confidence;
pub mod folder;
pub mod image;
pub mod layout;
pub mod manifest;
pub mod names;
pub mod pipeline;
pub mod safe;

pub use batching::BatchingSpec;
pub use confidence::{ConfidenceSpec, Histogram, Transform};
pub use folder::{FolderError, ModelFolder};
pub use image::{ImageError, ImageSpec, Packed, write_image};
pub use layout::{Blob, Layout, LayoutError};
pub use manifest::{
    Backend, ContextSpec, Datatype, FileSpec, Manifest, ManifestError, Precision, Quality, SequenceSpec,
    SpikingReadout, SpikingSpec, StateSpec, TensorSpec,
};
pub use names::{FilePath, ModelName, ModelVersion, NameError, Sha256Hex, ShortText, TensorName};
pub use pipeline::{Postprocess, Preprocess, Step};
pub use safe::{SafeElements, SafeValue, Scalar};
