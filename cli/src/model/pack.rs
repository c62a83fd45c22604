//! `model pack`: a folder becomes the image that a workload mounts.

use super::{ModelError, PackArgs};
use perwatt_model::ModelFolder;
use std::io::Write;
use std::path::Path;

/// Packs a folder, and prints the image's reference alone, so that a script can put it into a manifest.
///
/// # Errors
/// When the folder is not as its `model.yaml` says, or the image cannot be written.
pub fn run(args: &PackArgs, out: &mut impl Write) -> Result<(), ModelError> {
    let folder = open_checked(&args.folder)?;
    let default = || format!("perwatt.dev/models/{}", folder.manifest().name);
    let name = args.name.clone().unwrap_or_else(default);
    let packed = folder.pack(&name, &args.output)?;
    writeln!(out, "{}", packed.reference)?;
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
