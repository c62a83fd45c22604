//! What rollouts by cohorts promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fleet;
mod properties;
mod purity;
mod stories;
