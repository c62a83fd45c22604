//! Model folders: the `model.yaml` format, its checks, and the image that holds one.
//!
//! One format and one reader, used by runtime, command line and tests.
//! What does not live here: anything that runs a model.

pub mod image;

pub use image::{ImageError, ImageSpec, Packed, write_image};
