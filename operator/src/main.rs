//! The operator's program.

use clap::Parser;
use perwatt_operator::settings::Cli;
use std::process::ExitCode;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    perwatt_operator::telemetry::init();
    match perwatt_operator::run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            ExitCode::FAILURE
        }
    }
}
