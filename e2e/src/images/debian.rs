//! Files of Debian packages, fetched with apt-get and unpacked, not installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::cluster::{Error, Result};

/// Fetches packages into `folder` and unpacks them all into `into`.
pub(super) fn unpack(packages: &[&str], folder: &Path, into: &Path) -> Result<()> {
    download(packages, folder)?;
    let entries = fs::read_dir(folder).map_err(|error| failed(error.to_string()))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    for file in files.filter(|path| path.extension().is_some_and(|kind| kind == "deb")) {
        run(Command::new("dpkg").arg("-x").args([&file, into]))?;
    }
    Ok(())
}

fn download(packages: &[&str], folder: &Path) -> Result<()> {
    let get = |arguments: &[&str]| {
        run(Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root"])
            .args(arguments)
            .current_dir(folder))
    };
    let arguments: Vec<_> = ["download"].iter().chain(packages).copied().collect();
    // The package lists may be old or absent: fetch them only where the first try fails.
    if get(&arguments).is_err() {
        get(&["update"])?;
        get(&arguments)?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .output()
        .map_err(|error| failed(format!("starting `{shown}`: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!(
        "`{shown}` failed (is the network up?): {}",
        said.trim()
    )))
}

fn failed(why: String) -> Error {
    Error::Image {
        image: "from Debian packages".to_owned(),
        why,
    }
}
