//! The product on a cluster: installed by Helm, with the demo's model, and
//! traffic through it. What the demo and the end-to-end tests share.

pub mod devices;
pub mod grpc;
pub mod install;
pub mod samples;
pub mod speech;
pub mod traffic;

use std::path::PathBuf;

use perwatt_model::ModelFolder;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Error as ClusterError;
use crate::wait::TimedOut;

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
    #[error("the model in {folder} cannot be used: {why}; fetch it with `make model`")]
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

/// An example of this repository, and its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example {
    /// Name of its folder, its model and its workload.
    pub name: &'static str,
    namespace: &'static str,
    /// Environment variable with the folder into which its `fetch` fetches.
    variable: &'static str,
}

impl Example {
    /// Speech, by an ONNX graph.
    pub const SPEECH_GATE: Self = Self {
        name: "speech-gate",
        namespace: "audio",
        variable: "PERWATT_MODEL_DIR",
    };
    /// Motion, by a spiking network.
    pub const MOTION: Self = Self {
        name: "motion",
        namespace: "motion",
        variable: "PERWATT_MOTION_DIR",
    };
    /// A wake word, by a LiteRT file.
    pub const WAKE_WORD: Self = Self {
        name: "wake-word",
        namespace: "wake-word",
        variable: "PERWATT_WAKE_WORD_DIR",
    };

    /// Namespace and name of its workload.
    #[must_use]
    pub fn workload(self) -> (&'static str, &'static str) {
        (self.namespace, self.name)
    }

    /// Folder that `make model` fills: the model folder and its recordings.
    #[must_use]
    pub fn fetched(self) -> PathBuf {
        std::env::var_os(self.variable).map_or_else(|| crate::cluster::cache().join(self.name), PathBuf::from)
    }

    /// Folder of its model.
    #[must_use]
    pub fn model_folder(self) -> PathBuf {
        self.fetched().join("model")
    }
}

/// Packs an example's model as an image; gives its reference and the file.
///
/// # Errors
/// When the model is not as it should be.
pub fn pack_model(example: Example) -> Result<(String, PathBuf)> {
    let folder = example.model_folder();
    let wrong = |why: String| Error::Model {
        folder: folder.clone(),
        why,
    };
    let model = ModelFolder::open(&folder).map_err(|error| wrong(error.to_string()))?;
    let file = crate::cluster::cache().join(format!("{}.tar", example.name));
    let packed = model
        .pack(&format!("registry.example/models/{}", example.name), &file)
        .map_err(|error| wrong(error.to_string()))?;
    Ok((packed.reference, file))
}

/// The demo's recording: 60 s of speech.
#[must_use]
pub fn recording() -> PathBuf {
    Example::SPEECH_GATE.fetched().join("test.wav")
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

/// Kills these processes at once, by pid.
///
/// # Errors
/// When there is none, or one cannot be killed.
pub fn kill(program: &str, part: &str) -> Result<()> {
    let failed = |why: String| Error::Client(format!("killing {program} in {part}: {why}"));
    let pids = processes(program, part);
    if pids.is_empty() {
        return Err(failed("it does not run".into()));
    }
    for pid in pids.into_iter().filter_map(Pid::from_raw) {
        kill_process(pid, Signal::KILL).map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}
