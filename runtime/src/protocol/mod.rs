//! The Open Inference Protocol, version 2: its messages, and what they mean for the engine.
//!
//! [`body`] reads what arrives, [`message`] holds the JSON bodies, [`data`] their tensors, [`request`] the
//! checks against the model, [`rest`] the HTTP side. gRPC and the binary tensor extension join here, on the
//! same checks.

pub mod body;
pub mod data;
pub mod message;
pub mod request;
pub mod rest;
