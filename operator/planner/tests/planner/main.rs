//! What the planner promises, as scenarios and as properties over generated clusters.
//!
//! [`sim`] is a small cluster: a scheduler, kubelets with their devices, runtimes that report,
//! and an API server that refuses what the real one refuses.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed test says where"
)]

mod admission;
mod agents;
mod budget;
mod build;
mod choosing;
mod explaining;
mod history;
mod keeping;
mod lab;
mod letters;
mod moving;
mod properties;
mod purity;
mod rolling;
mod scale;
mod sim;
mod unable;
mod waiting;
mod watts;
