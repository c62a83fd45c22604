//! Figures, written as JSON: of the main job, the agent and fallback on the real cluster, of placement and the operator
//! in a fleet of played nodes, of the planner alone, of the runtime beside its peers, and of verdicts on simulated
//! rollouts.
//!
//! A module for each figure; what they share is [`figure`] (how one is kept), [`cluster`] (the one that a figure needs),
//! [`fleet`] (one with thousands of nodes), [`processes`] (what the kernel counts of a process), [`wire`] (how the runtime and its peer are asked), [`server`]
//! (the two as processes) and [`install`] (what a peer needs). `docs/benchmarks.md` says what each figure means.

mod agent_footprint;
mod agent_health;
mod agent_restart;
mod canary;
mod cluster;
mod echo;
mod energy;
mod failover;
mod fallback;
mod figure;
mod fleet;
mod footprint;
mod grpc;
mod http1;
mod http2;
mod install;
mod load;
mod main_job;
mod onnx;
mod operator_footprint;
mod overhead;
mod placement;
mod planner;
mod processes;
mod server;
mod spiking;
mod throughput;
mod wire;

use std::fmt::Display;

pub use figure::Figure;
pub use onnx::direct::{CallOptions, call as call_onnx};

use crate::product::{Error, Result};

/// The figures that can be measured, in the order in which all are.
pub const NAMES: [&str; 18] = [
    "main-job",
    "planner-scale",
    "planner-quality",
    "placement-e2e",
    "operator-footprint",
    "runtime-overhead",
    "runtime-throughput",
    "runtime-footprint",
    "runtime-onnx",
    "runtime-spiking",
    "runtime-failover",
    "agent-energy",
    "agent-health",
    "agent-footprint",
    "agent-restart",
    "fallback-e2e",
    "canary-validity",
    "canary-power",
];

/// Measures the figures of one name, or all of them.
///
/// # Errors
/// When a figure cannot be measured, or there is none of this name.
pub async fn run(name: Option<&str>) -> Result<()> {
    let Some(name) = name else {
        for name in NAMES {
            figure::write(name, &measure(name).await?)?;
        }
        return Ok(());
    };
    figure::write(name, &measure(name).await?)
}

/// What is measured for hours, in the order in which it is.
pub const SOAKS: [&str; 3] = ["canary-validity", "canary-power", "runtime-failover"];

/// Measures one of [`SOAKS`] in full, or all of them; a million requests for each fault prove a lower bound.
///
/// # Errors
/// When it cannot be measured, or there is none of this name.
pub async fn soak(name: Option<&str>) -> Result<()> {
    if let Some(unknown) = name.filter(|name| !SOAKS.contains(name)) {
        return Err(unknown_name(unknown, &SOAKS));
    }
    for soak in SOAKS
        .into_iter()
        .filter(|soak| name.is_none_or(|name| name == *soak))
    {
        match soak {
            "runtime-failover" => figure::write("soak", &failover::measure(failover::SOAK).await?)?,
            other => figure::write(other, &measure(other).await?)?,
        }
    }
    Ok(())
}

async fn measure(name: &str) -> Result<Vec<Figure>> {
    match name {
        "main-job" => main_job::measure().await,
        "planner-scale" => planner::scale::measure(),
        "planner-quality" => planner::quality::measure(),
        "placement-e2e" => placement::measure().await,
        "operator-footprint" => operator_footprint::measure().await,
        "runtime-overhead" => overhead::measure(),
        "runtime-throughput" => throughput::measure(),
        "runtime-footprint" => footprint::measure(),
        "runtime-onnx" => onnx::measure(),
        "runtime-spiking" => spiking::measure(),
        "runtime-failover" => failover::measure(failover::BENCH).await,
        "agent-energy" => Ok(energy::measure()),
        "agent-health" => agent_health::measure().await,
        "agent-footprint" => agent_footprint::measure().await,
        "agent-restart" => agent_restart::measure().await,
        "fallback-e2e" => fallback::measure().await,
        "canary-validity" => Ok(canary::validity()),
        "canary-power" => Ok(canary::power()),
        other => Err(unknown_name(other, &NAMES)),
    }
}

fn unknown_name(name: &str, names: &[&str]) -> Error {
    Error::Client(format!(
        "there is no figure {name:?}; there are: {}",
        names.join(", ")
    ))
}

/// What could not be done, and why.
fn failed(what: impl Display, why: impl Display) -> Error {
    Error::Client(format!("{what}: {why}"))
}
