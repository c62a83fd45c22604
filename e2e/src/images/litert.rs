//! The layer with the LiteRT library, for the runtime's image: the library that `examples/wake-word/fetch`
//! fetched, and the C++ library that it needs, from Debian.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::debian;
use crate::cluster::{Error, Result, cache, create_folder};
use crate::progress::Progress;

/// What tells the runtime where the library is.
pub(super) const ENV: &str = "PERWATT_LITERT_LIBRARY=/usr/lib/perwatt/libtensorflowlite_c.so";
const NAME: &str = "libtensorflowlite_c.so";
/// Where `make model` puts the library.
const FETCHED_ENV: &str = "PERWATT_WAKE_WORD_DIR";
/// Changes when the layer is put together differently.
const RECIPE: &str = "1";

/// Folder of the layer, made once for each library.
pub(super) fn folder(progress: &Progress) -> Result<PathBuf> {
    let fetched = std::env::var_os(FETCHED_ENV).map_or_else(|| cache().join("wake-word"), PathBuf::from);
    let fetched = fetched.join("lib");
    let library = fs::read(fetched.join(NAME)).map_err(|error| {
        let file = fetched.join(NAME);
        failed(format!("{}: {error}; `make model` fetches it", file.display()))
    })?;
    let short = hex::encode(&Sha256::digest(&library)[..6]);
    let parent = cache().join("base");
    let done = parent.join(format!("litert-{RECIPE}-{short}"));
    if done.is_dir() {
        return Ok(done);
    }
    progress.say("layer with the LiteRT library");
    create_folder(&parent)?;
    let work = tempfile::tempdir_in(&parent).map_err(|error| failed(error.to_string()))?;
    let (unpacked, root) = (work.path().join("packages"), work.path().join("root"));
    debian::unpack(&["libstdc++6"], work.path(), &unpacked)?;
    fill(&fetched, &unpacked, &root).map_err(|error| failed(error.to_string()))?;
    // In one step, so that a killed run leaves no half a layer.
    match fs::rename(&root, &done) {
        Err(_) if done.is_dir() => Ok(done),
        renamed => renamed.map(|()| done).map_err(|error| failed(error.to_string())),
    }
}

fn fill(fetched: &Path, packages: &Path, root: &Path) -> std::io::Result<()> {
    let target = root.join("usr/lib/perwatt");
    fs::create_dir_all(&target)?;
    for name in [NAME, "LICENSE"] {
        fs::copy(fetched.join(name), target.join(name))?;
    }
    let multiarch = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    fs::create_dir_all(root.join(&multiarch))?;
    // The link's name is what programs ask for; the copy is the file it leads to.
    let name = format!("{multiarch}/libstdc++.so.6");
    fs::copy(packages.join(&name), root.join(&name)).map(drop)
}

fn failed(why: String) -> Error {
    Error::Image {
        image: "the LiteRT layer of perwatt/runtime".to_owned(),
        why,
    }
}
