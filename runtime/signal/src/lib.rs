//! Arithmetic before and after a model: images, audio, events, scores.
//!
//! Functions over slices, in row-major order, that read no clock and do no I/O. What a function keeps from one
//! piece of a signal to the next is a `Vec<f32>` that its caller holds: empty at the start of a signal, changed
//! only when the call succeeds. A wrong, huge or hostile input gives a [`SignalError`], and no function takes more
//! memory than a small multiple of what it is given and of what its parameters name.
//!
//! What does not live here: which steps a model needs, and in which order. That is `model.yaml`'s business.

pub mod audio;
pub mod boxes;
pub mod error;
pub mod events;
pub mod image;
pub mod mel;
pub mod numeric;
pub mod resample;
pub mod scores;
pub mod smooth;
pub mod tensor;

pub use error::SignalError;

/// Largest number of elements that a function makes: 2^26.
pub const MAX_ELEMENTS: usize = 1 << 26;
