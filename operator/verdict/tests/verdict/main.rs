//! What verdicts promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod between;
mod build;
mod faults;
mod forecasts;
mod nulls;
mod properties;
mod purity;
mod rules;
mod sentences;
