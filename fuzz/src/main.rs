//! `perwatt-fuzz`: what `make fuzz` runs.

use clap::Parser;
use perwatt_fuzz::{Args, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
