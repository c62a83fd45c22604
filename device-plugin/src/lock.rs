//! One agent a node: the lock that keeps a second one out.

use crate::constants::LOCK_WAIT;
use crate::paths::Paths;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Why the node could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The state folder or the lock file cannot be made.
    #[error("cannot make {path}: {source}; the agent needs to write there as root")]
    Create {
        /// What could not be made.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another agent runs here.
    #[error(
        "another node agent holds {path} ({holder}); two agents would register devices twice: end the other one, or give this one another --state-dir and --kubelet-dir"
    )]
    Taken {
        /// The lock file.
        path: PathBuf,
        /// What the other one wrote into it.
        holder: String,
    },
}

/// Held for as long as the agent runs; the kernel lets go of it when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the node, waiting a little for an agent that is about to end.
    ///
    /// # Errors
    /// When another agent keeps it, or the lock file cannot be made.
    pub async fn take(paths: &Paths) -> Result<Self, LockError> {
        let path = paths.lock();
        let create = |source| LockError::Create {
            path: path.clone(),
            source,
        };
        crate::files::make_dir(&paths.state, 0o755).map_err(create)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(create)?;
        let deadline = Instant::now() + LOCK_WAIT;
        while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() > deadline {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(LockError::Taken {
                    path,
                    holder: holder.trim().to_owned(),
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What is written is only for the message of a second agent: a failure hurts nobody.
        let _ = file.set_len(0).and_then(|()| file.rewind());
        let _ = writeln!(file, "process {} of host {}", std::process::id(), hostname());
        Ok(Self { _file: file })
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned()
}
