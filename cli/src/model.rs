//! `kubectl-perwatt model`: models as folders and as images.

use clap::{Args, Subcommand};
use perwatt_model::{FileSpec, FolderError, Manifest, ModelFolder};
use std::io::{self, Write};
use std::path::PathBuf;

/// What can be done with a model's folder.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Checks model.yaml and every file it names
    Check(CheckArgs),
    /// Packs the folder into the OCI image that a workload mounts
    ///
    /// The same content gives the same digest. Nothing but model.yaml and the files it names enters.
    Pack(PackArgs),
}

/// Arguments of `model check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folder with model.yaml
    pub folder: PathBuf,
}

/// Arguments of `model pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// Folder with model.yaml
    pub folder: PathBuf,
    /// File to write, an OCI image layout in a tar archive
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Name of the image, without tag; default: perwatt.dev/models/ and the model's name
    #[arg(long)]
    pub name: Option<String>,
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
    /// Nothing can be printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Runs a command and prints its result to `out`.
///
/// # Errors
/// When the model is not as its `model.yaml` says, or the image cannot be written.
pub fn run(command: &ModelCommand, out: &mut impl Write) -> Result<(), ModelError> {
    match command {
        ModelCommand::Check(args) => check(args, out),
        ModelCommand::Pack(args) => pack(args, out),
    }
}

fn check(args: &CheckArgs, out: &mut impl Write) -> Result<(), ModelError> {
    let folder = open_checked(&args.folder)?;
    let manifest = folder.manifest();
    writeln!(out, "model    {} {}", manifest.name, manifest.version)?;
    for file in &manifest.files {
        writeln!(out, "file     {}", describe_file(file))?;
    }
    write_tensors(manifest, out)?;
    writeln!(
        out,
        "model.yaml and the files it names are well; operators are checked when the runtime loads them"
    )?;
    Ok(())
}

fn pack(args: &PackArgs, out: &mut impl Write) -> Result<(), ModelError> {
    let folder = open_checked(&args.folder)?;
    let default = || format!("perwatt.dev/models/{}", folder.manifest().name);
    let name = args.name.clone().unwrap_or_else(default);
    let packed = folder.pack(&name, &args.output)?;
    // The reference alone, so that a script can put it into a manifest.
    writeln!(out, "{}", packed.reference)?;
    Ok(())
}

/// Opens a folder all of whose files are as `model.yaml` says; else every problem is named, not the first alone.
fn open_checked(path: &std::path::Path) -> Result<ModelFolder, ModelError> {
    let folder = ModelFolder::open(path)?;
    let problems = folder.check_files();
    if problems.is_empty() {
        return Ok(folder);
    }
    let list = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    Err(ModelError::Files {
        count: problems.len(),
        list,
    })
}

fn describe_file(file: &FileSpec) -> String {
    let quality = file
        .quality
        .map(|q| format!(", {} of 1000 right", q.accuracy_permille));
    let hash: String = file.sha256.as_str().chars().take(12).collect();
    format!(
        "{} ({:?}, {:?}{}) sha256 {hash}…",
        file.path,
        file.backend,
        file.precision,
        quality.unwrap_or_default()
    )
}

fn write_tensors(manifest: &Manifest, out: &mut impl Write) -> io::Result<()> {
    let groups = [("takes", &manifest.inputs), ("gives", &manifest.outputs)];
    for (what, tensors) in groups {
        for tensor in tensors {
            writeln!(
                out,
                "{what:8} {} {} {:?}",
                tensor.name,
                tensor.datatype.as_str(),
                tensor.shape
            )?;
        }
    }
    if let Some(sequence) = &manifest.sequence {
        for state in &sequence.state {
            writeln!(
                out,
                "keeps    {} → {} {:?}",
                state.output, state.input, state.shape
            )?;
        }
        for context in &sequence.context {
            writeln!(out, "keeps    the last {} of {}", context.samples, context.input)?;
        }
    }
    Ok(())
}
