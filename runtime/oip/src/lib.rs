//! Wire formats of the Open Inference Protocol, version 2.
//!
//! One tensor travels in four ways: as JSON ([`json`]), as bytes beside JSON or in a protobuf message
//! ([`raw`]), as typed protobuf fields ([`typed`]). [`rest`] and [`grpc`] read and write whole requests and
//! replies, both for a server and for a client, and meet in [`message`]. Whatever arrives may lie: every
//! length, count, type and text is checked, within the limits of [`limits`].
//!
//! No socket, no server and no model is here: what a request means for a model is the runtime's business.

pub mod error;
pub mod grpc;
pub mod json;
pub mod limits;
pub mod message;
pub mod metadata;
pub mod raw;
pub mod rest;
pub mod tensor;
pub mod typed;

pub use bytes;
pub use half;
