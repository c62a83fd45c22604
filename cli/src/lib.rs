//! kubectl-perwatt, the one tool a user types.
//!
//! Every subcommand is a module of its own; here they are put together.

pub mod drain;
pub mod explain;
pub mod model;
pub mod plan;
pub mod preview;
pub mod rollout;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Perwatt: models on the silicon that serves them with the fewest watts
#[derive(Debug, Parser)]
#[command(name = "kubectl-perwatt", bin_name = "kubectl perwatt", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks, measures and packs models
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Says why a workload is served as it is: every candidate, and what ruled it out
    Explain(explain::ExplainArgs),
    /// Says what would happen if a workload were applied, on the cluster or without one; changes nothing
    Plan(plan::PlanArgs),
    /// Shows how far a new revision came, and decides about it
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// Takes a device out of use: what it serves moves elsewhere, and nothing new comes to it
    DrainDevice(drain::DrainArgs),
    /// Puts a device back to use
    UncordonDevice(drain::UncordonArgs),
}

/// Prints what a command says; whether it went well, or the exit code and the message.
fn print_text(said: Result<String, impl std::fmt::Display>) -> Result<bool, (u8, String)> {
    let text = said.map_err(|error| (1, error.to_string()))?;
    print!("{text}");
    Ok(true)
}

/// Runs the command; an error is one message on standard error.
pub fn run(cli: &Cli) -> ExitCode {
    let result = match &cli.command {
        Command::Explain(arguments) => print_text(explain::run(arguments)),
        Command::Plan(arguments) => print_text(plan::run(arguments)),
        Command::Rollout(command) => print_text(rollout::run(command)),
        Command::DrainDevice(arguments) => print_text(drain::drain(arguments)),
        Command::UncordonDevice(arguments) => print_text(drain::uncordon(arguments)),
        Command::Model(command) => model::run(command, &mut std::io::stdout().lock())
            .map_err(|error| (error.exit_code(), error.to_string())),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err((code, error)) => {
            eprintln!("error: {error}");
            ExitCode::from(code)
        }
    }
}
