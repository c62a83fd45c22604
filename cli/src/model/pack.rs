//! `model pack`: a folder becomes the image that a workload mounts.

use super::push::Target;
use super::{ModelError, PackArgs};
use perwatt_model::ModelFolder;
use std::io::Write;
use std::path::Path;

/// Packs a folder, and prints the image's reference alone, so that a script can put it into a manifest.
///
/// # Errors
/// When the folder is not as its `model.yaml` says, or the image cannot be written or sent.
pub fn run(args: &PackArgs, out: &mut impl Write) -> Result<(), ModelError> {
    let folder = open_checked(&args.folder)?;
    let manifest = folder.manifest();
    let target = args
        .push
        .as_deref()
        .map(|reference| Target::parse(reference, manifest, args.plain_http));
    let target = target.transpose()?;
    let default = || match &target {
        Some(target) => target.name(),
        None => format!("perwatt.dev/models/{}", manifest.name),
    };
    let name = args.name.clone().unwrap_or_else(default);
    // An image that is only sent is kept no longer than that.
    let scratch = tempfile::tempdir()?;
    let file = args
        .output
        .clone()
        .unwrap_or_else(|| scratch.path().join("image.tar"));
    let packed = folder.pack(&name, &file)?;
    match &target {
        Some(target) => writeln!(out, "{}", target.push(&file, &packed.digest)?)?,
        None => writeln!(out, "{}", packed.reference)?,
    }
    Ok(())
}

/// Opens a folder all of whose files are as `model.yaml` says; else every problem is named, not the first alone.
fn open_checked(path: &Path) -> Result<ModelFolder, ModelError> {
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
