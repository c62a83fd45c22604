//! `kubectl-perwatt`, also as `kubectl perwatt`.

use clap::Parser;
use perwatt_cli::{Cli, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(&Cli::parse())
}
