//! Images as the cluster runs them: the product's binaries on one small glibc
//! base, and the sandbox image. Packed once per content, and named by digest.

mod base;
mod debian;
mod litert;

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use perwatt_model::image::{ImageSpec, write_image};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cluster::{Error, Result, cache, create_folder, write_json};
use crate::programs;
use crate::progress::Progress;

/// User and group that the product's containers run as.
const USER: &str = "65532:65532";
/// Changes when images are put together differently, so that none is reused.
const RECIPE: &str = "2";

/// An image that is ready to be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// What a pod names: `registry.example/perwatt/…@sha256:…`.
    pub reference: String,
    /// The tar, in OCI layout.
    pub file: PathBuf,
}

/// The product's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductImages {
    /// The operator.
    pub operator: Packed,
    /// The node agent.
    pub device_plugin: Packed,
    /// The inference runtime.
    pub runtime: Packed,
}

impl ProductImages {
    /// All three.
    pub fn all(&self) -> [&Packed; 3] {
        [&self.operator, &self.device_plugin, &self.runtime]
    }
}

/// Packs the product's images from the binaries that are built. Blocks for
/// seconds where something changed.
pub fn product(progress: &Progress) -> Result<ProductImages> {
    let base = base::folder(progress)?;
    let pack = |name: &str, layers: &[PathBuf], env: &[&str]| {
        let binary = programs::find(&format!("perwatt-{name}"))?;
        progress.say(format!("image perwatt/{name}"));
        let below = Below { layers, env };
        pack_on(
            &format!("registry.example/perwatt/{name}"),
            &binary,
            &below,
            Some(USER),
        )
    };
    let plain = [base.clone()];
    let with_litert = [base, litert::folder(progress)?];
    Ok(ProductImages {
        operator: pack("operator", &plain, &[])?,
        device_plugin: pack("device-plugin", &plain, &[])?,
        runtime: pack("runtime", &with_litert, &[litert::ENV, NO_TELEMETRY])?,
    })
}

/// Libraries of ONNX Runtime since 1.29 tell their makers of models unless this is set; a runtime's data stays local.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY=1";

/// Packs the sandbox image: one static program that waits.
pub(crate) fn sandbox(pause: &Path) -> Result<Packed> {
    pack_binary("registry.example/perwatt/pause", pause, Some(USER))
}

/// Packs Debian's static busybox: a shell, a web server and a client for tests.
pub fn busybox(progress: &Progress) -> Result<Packed> {
    let folder = cache().join("busybox");
    let binary = folder.join("busybox");
    if !binary.is_file() {
        progress.say("image perwatt/busybox, from Debian");
        create_folder(&folder)?;
        let failed = |why: std::io::Error| Error::Image {
            image: "registry.example/perwatt/busybox".to_owned(),
            why: why.to_string(),
        };
        let work = tempfile::tempdir_in(&folder).map_err(failed)?;
        let unpacked = work.path().join("packages");
        debian::unpack(&["busybox-static"], work.path(), &unpacked)?;
        fs::rename(unpacked.join("bin/busybox"), &binary).map_err(failed)?;
    }
    pack_binary("registry.example/perwatt/busybox", &binary, Some(USER))
}

/// Packs an image that holds one program, which is also its entry point, and nothing else.
pub fn pack_binary(name: &str, binary: &Path, user: Option<&str>) -> Result<Packed> {
    let nothing = Below {
        layers: &[],
        env: &[],
    };
    pack_on(name, binary, &nothing, user)
}

/// What lies below a program: folders whose names change with their content, and the environment they need.
struct Below<'a> {
    layers: &'a [PathBuf],
    env: &'a [&'a str],
}

/// Packs an image with one program on top of layers. The same content is packed once.
fn pack_on(name: &str, binary: &Path, below: &Below, user: Option<&str>) -> Result<Packed> {
    let failed = |why: String| Error::Image {
        image: name.to_owned(),
        why,
    };
    let layer_names = below
        .layers
        .iter()
        .filter_map(|layer| layer.file_name()?.to_str());
    let words: Vec<&str> = [RECIPE, name, user.unwrap_or_default()]
        .into_iter()
        .chain(layer_names)
        .chain(below.env.iter().copied())
        .collect();
    let key = key(binary, &words).map_err(|error| failed(format!("{}: {error}", binary.display())))?;
    let short = name.rsplit('/').next().unwrap_or(name);
    let folder = cache().join("images");
    let record = folder.join(format!("{short}-{key}.json"));
    if let Some(packed) = read_record(&record) {
        return Ok(packed);
    }
    create_folder(&folder)?;
    let layer = tempfile::tempdir_in(&folder).map_err(|error| failed(error.to_string()))?;
    let program = put_program(binary, layer.path()).map_err(|error| failed(error.to_string()))?;
    let spec = ImageSpec {
        name,
        // What the chart names where nobody gives it a digest.
        tag: Some(env!("CARGO_PKG_VERSION")),
        layers: below
            .layers
            .iter()
            .cloned()
            .chain([layer.path().to_owned()])
            .collect(),
        entrypoint: vec![program],
        env: ["PATH=/usr/bin:/bin"]
            .iter()
            .chain(below.env)
            .map(ToString::to_string)
            .collect(),
        user: user.map(str::to_owned),
    };
    let file = folder.join(format!("{short}-{key}.tar"));
    let written = write_image(&spec, &file).map_err(|error| failed(error.to_string()))?;
    let packed = Packed {
        reference: written.reference,
        file,
    };
    write_json(&record, &packed)?;
    Ok(packed)
}

fn read_record(record: &Path) -> Option<Packed> {
    let packed: Packed = serde_json::from_str(&fs::read_to_string(record).ok()?).ok()?;
    packed.file.is_file().then_some(packed)
}

fn key(binary: &Path, words: &[&str]) -> io::Result<String> {
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word);
        hash.update([0]);
    }
    let mut file = File::open(binary)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    Ok(hex::encode(&hash.finalize()[..8]))
}

/// Puts the program into the layer, without debug information where `strip` is
/// there: it is most of the size, and every node imports it.
fn put_program(binary: &Path, layer: &Path) -> io::Result<String> {
    let name = binary
        .file_name()
        .ok_or_else(|| io::Error::other("the program has no name"))?;
    let folder = layer.join("usr/bin");
    fs::create_dir_all(&folder)?;
    let target = folder.join(name);
    let stripped = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([&target, binary])
        .stderr(Stdio::null())
        .status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(binary, &target)?;
    }
    fs::set_permissions(&target, Permissions::from_mode(0o755))?;
    Ok(format!("/usr/bin/{}", name.to_string_lossy()))
}
