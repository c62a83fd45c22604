//! `perwatt-runtime`: serves one model.

use clap::Parser;
use perwatt_runtime::{Args, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    run(&Args::parse())
}
