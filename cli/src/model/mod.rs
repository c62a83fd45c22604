//! `kubectl-perwatt model`: models as folders and as images.
//!
//! [`check`] and [`bench`] use the runtime's own loader, in a process of its own ([`probe`]): a hostile file may
//! end that process, never this one.

pub mod bench;
pub mod check;
pub mod child;
pub mod pack;
pub mod probe;
pub mod push;
pub mod report;

use clap::{Args, Subcommand, ValueEnum};
use perwatt_model::FolderError;
use std::io::{self, Write};
use std::path::PathBuf;

/// What can be done with a model's folder.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Checks model.yaml and every file it names, as the runtime would load them
    ///
    /// Exit status: 0 when the model can be served, 1 when it is refused, 2 when the command line is wrong,
    /// 3 when the check itself could not be done.
    Check(CheckArgs),
    /// Measures every variant: latency, throughput, operations, memory, time to load
    ///
    /// Exit status as for check; 1 when a variant could not be measured.
    Bench(BenchArgs),
    /// Packs the folder into the OCI image that a workload mounts
    ///
    /// The same content gives the same digest. Nothing but model.yaml and the files it names enters.
    /// Exit status: 1 when the model is refused, 3 when the image cannot be sent.
    Pack(PackArgs),
    /// Loads one file and reports line by line (used by check and bench)
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    Table,
    /// For a program.
    Json,
}

/// What the process that loads a file may use.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Memory that loading and running one file may take, in MiB of address space
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(256..=1 << 20))]
    pub memory_mebibytes: u64,
    /// Seconds that loading one file and its first inference may take
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub load_seconds: u64,
}

/// Arguments of `model check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folder with model.yaml
    pub folder: PathBuf,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What the loading process may use.
    #[command(flatten)]
    pub limits: Limits,
}

/// Arguments of `model bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Folder with model.yaml
    pub folder: PathBuf,
    /// One variant, by the path of its file in model.yaml; default: all
    #[arg(long, value_name = "PATH")]
    pub variant: Option<String>,
    /// Seconds that each variant is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Threads that call the model at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub threads: u64,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What the loading process may use.
    #[command(flatten)]
    pub limits: Limits,
}

/// Arguments of `model pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// Folder with model.yaml
    pub folder: PathBuf,
    /// File to write, an OCI image layout in a tar archive
    #[arg(short, long, value_name = "FILE", required_unless_present = "push")]
    pub output: Option<PathBuf>,
    /// Name of the image, without tag; default: where it is pushed to, or perwatt.dev/models/ and the model's name
    #[arg(long)]
    pub name: Option<String>,
    /// Send the image to a registry: REGISTRY/NAME or REGISTRY/NAME:TAG; without a tag, the model's version
    ///
    /// Credentials are those of `docker login` (~/.docker/config.json, credential helpers too).
    #[arg(long, value_name = "REF")]
    pub push: Option<String>,
    /// Speak plain HTTP to a registry that is not on this machine
    #[arg(long, requires = "push")]
    pub plain_http: bool,
}

/// Arguments of the hidden `model probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Folder with model.yaml
    pub folder: PathBuf,
    /// Path of the file in model.yaml
    #[arg(long)]
    pub file: String,
    /// Seconds to measure; 0: load and run once alone
    #[arg(long, default_value_t = 0)]
    pub seconds: u64,
    /// Threads that call the model at once
    #[arg(long, default_value_t = 1)]
    pub threads: u64,
    /// What the loading process may use.
    #[command(flatten)]
    pub limits: Limits,
}

/// Why a model command failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The folder cannot be used at all.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Some of its files are wrong.
    #[error("{count} of the model's files cannot be used:{list}")]
    Files {
        /// How many.
        count: usize,
        /// One line for each.
        list: String,
    },
    /// There is no such variant.
    #[error("model.yaml has no file {name:?}: it has {known}")]
    NoVariant {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Nothing can be printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The result cannot be written as JSON.
    #[error("cannot write the result as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The image cannot be sent.
    #[error(transparent)]
    Push(#[from] push::PushError),
    /// The process that loads files cannot be started.
    #[error(transparent)]
    Child(#[from] child::ChildError),
}

impl ModelError {
    /// 1 when the model is at fault, 3 when the command could not be carried out.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Folder(_) | Self::Files { .. } | Self::NoVariant { .. } => 1,
            Self::Output(_) | Self::Json(_) | Self::Child(_) | Self::Push(_) => 3,
        }
    }
}

/// Runs a command and prints its result to `out`; true when the model is well.
///
/// # Errors
/// When the model is not as its `model.yaml` says, or the result cannot be written.
pub fn run(command: &ModelCommand, out: &mut impl Write) -> Result<bool, ModelError> {
    match command {
        ModelCommand::Check(args) => check::run(args, out),
        ModelCommand::Bench(args) => bench::run(args, out),
        ModelCommand::Pack(args) => pack::run(args, out).map(|()| true),
        ModelCommand::Probe(args) => probe::run(args, out).map(|()| true),
    }
}
