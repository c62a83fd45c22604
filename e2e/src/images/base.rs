//! The layer below the product's binaries: glibc, libgcc and the certificates
//! of public authorities from Debian's packages, and the users.

use std::fs;
use std::path::{Path, PathBuf};

use super::debian;
use crate::cluster::{Error, Result, cache, create_folder};
use crate::progress::Progress;

const PACKAGES: [&str; 3] = ["libc6", "libgcc-s1", "ca-certificates"];
/// Folders of the packages that a program needs at run time.
const FOLDERS: [&str; 2] = ["lib", "lib64"];
/// Changes when the layer is put together differently.
const RECIPE: &str = "1";
const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
perwatt:x:65532:65532:perwatt:/home/perwatt:/sbin/nologin
";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\nperwatt:x:65532:\n";

/// Folder of the base layer, made once. Its name changes with its content's recipe.
pub(super) fn folder(progress: &Progress) -> Result<PathBuf> {
    let parent = cache().join("base");
    let done = parent.join(format!("base-{RECIPE}-{}", std::env::consts::ARCH));
    if done.is_dir() {
        return Ok(done);
    }
    progress.say(format!("image base: {} from Debian", PACKAGES.join(", ")));
    create_folder(&parent)?;
    let work = tempfile::tempdir_in(&parent).map_err(|error| failed(error.to_string()))?;
    let (unpacked, root) = (work.path().join("packages"), work.path().join("root"));
    debian::unpack(&PACKAGES, work.path(), &unpacked)?;
    fill(&unpacked, &root).map_err(|error| failed(error.to_string()))?;
    // In one step, so that a killed run leaves no half a base.
    match fs::rename(&root, &done) {
        Err(_) if done.is_dir() => Ok(done),
        renamed => renamed.map(|()| done).map_err(|error| failed(error.to_string())),
    }
}

fn failed(why: String) -> Error {
    Error::Image {
        image: "perwatt base".to_owned(),
        why,
    }
}

fn fill(packages: &Path, root: &Path) -> std::io::Result<()> {
    for folder in FOLDERS.iter().filter(|folder| packages.join(folder).is_dir()) {
        copy_files(packages, &packages.join(folder), &root.join(folder))?;
    }
    fs::create_dir_all(root.join("etc/ssl/certs"))?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::write(root.join("etc/passwd"), PASSWD)?;
    fs::write(root.join("etc/group"), GROUP)?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    fs::write(
        root.join("etc/ssl/certs/ca-certificates.crt"),
        certificates(packages)?,
    )
}

/// Copies a folder. Links become the files they lead to, some of which are
/// absolute and mean a place inside the package.
fn copy_files(packages: &Path, from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_files(packages, &source, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source)?;
            let inside = link.strip_prefix("/").map(|path| packages.join(path));
            fs::copy(inside.unwrap_or_else(|_| from.join(&link)), &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// All authorities in one file, in the order of their names.
fn certificates(packages: &Path) -> std::io::Result<String> {
    let folder = packages.join("usr/share/ca-certificates/mozilla");
    let entries = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    files.into_iter().map(fs::read_to_string).collect()
}
