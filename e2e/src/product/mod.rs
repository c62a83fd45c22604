//! The product on a cluster: installed by Helm, with the demo's model, and
//! traffic through it. What the demo and the end-to-end tests share.

pub mod install;
pub mod speech;
pub mod traffic;

use std::path::PathBuf;

use perwatt_model::ModelFolder;

use crate::cluster::Error as ClusterError;
use crate::wait::TimedOut;

/// Name under which the demo's model is packed.
const MODEL_NAME: &str = "registry.example/models/speech-gate";

/// Why the product could not be installed or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster refused.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Something did not come about in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The API server refused.
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
    /// The model folder is not as it should be.
    #[error("the demo's model in {folder} cannot be used: {why}; fetch it with `make model`")]
    Model {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The manifest names another image than the one that was packed.
    #[error(
        "{manifest} does not name the packed model {reference}: the model changed, put its new digest there"
    )]
    StaleManifest {
        /// The manifest.
        manifest: PathBuf,
        /// What was packed.
        reference: String,
    },
    /// The client that sends requests could not run.
    #[error("the streaming client failed: {0}")]
    Client(String),
    /// The recording cannot be read.
    #[error("the recording {path} cannot be read: {why}; fetch it with `make model`")]
    Recording {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Folder that `make model` fills: the model folder and its recording.
fn fetched() -> PathBuf {
    std::env::var_os("PERWATT_MODEL_DIR")
        .map_or_else(|| crate::cluster::cache().join("speech-gate"), PathBuf::from)
}

/// Folder of the demo's model.
#[must_use]
pub fn model_folder() -> PathBuf {
    fetched().join("model")
}

/// Packs the demo's model as an image; gives its reference and the file.
///
/// # Errors
/// When the model is not as it should be.
pub fn pack_model() -> Result<(String, PathBuf)> {
    let folder = model_folder();
    let wrong = |why: String| Error::Model {
        folder: folder.clone(),
        why,
    };
    let model = ModelFolder::open(&folder).map_err(|error| wrong(error.to_string()))?;
    let file = crate::cluster::cache().join("speech-gate.tar");
    let packed = model
        .pack(MODEL_NAME, &file)
        .map_err(|error| wrong(error.to_string()))?;
    Ok((packed.reference, file))
}

/// The demo's recording: 60 s of speech.
#[must_use]
pub fn recording() -> PathBuf {
    fetched().join("test.wav")
}

/// Pids of the processes of a program whose control group's path holds `part`: the name of a
/// cluster's group, or a pod's uid.
#[must_use]
pub fn processes(program: &str, part: &str) -> Vec<i32> {
    // The kernel keeps 15 characters of a program's name.
    let kept = &program[..program.len().min(15)];
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse::<i32>().ok()?;
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            (read("comm").trim() == kept && read("cgroup").contains(part)).then_some(pid)
        })
        .collect()
}
