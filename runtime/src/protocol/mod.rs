//! The Open Inference Protocol, version 2: what its messages mean for the engine.
//!
//! The messages themselves are the crate `perwatt-oip`'s. [`rest`] and [`grpc`] take requests in and hand them
//! to one [`service::Service`], which checks them against the model ([`request`]) and has the engine answer:
//! the same limits, errors and parameters either way. [`body`], [`compression`] and [`memory`] bound what a
//! client can make the server hold; [`openapi`] describes the REST side, to which [`feedback`] is added: what
//! applications say of answers.

pub mod body;
pub mod compression;
pub mod feedback;
pub mod grpc;
pub mod health;
pub mod memory;
pub mod openapi;
pub mod refusal;
pub mod request;
pub mod rest;
pub mod service;
pub mod stream;

/// What metadata calls us. Which backend answers changes with the variant; each reply says it.
pub const PLATFORM: &str = "perwatt_chain";
