//! One process at a time changes a cluster. The lock's file exists only while
//! it is held, so that a removed cluster leaves none behind.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{IoContext, Result};
use super::state::create_folder;

/// A held lock; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock, or gives nothing where another process holds it.
    pub fn take(path: &Path) -> Result<Option<Self>> {
        loop {
            if let Some(parent) = path.parent() {
                create_folder(parent)?;
            }
            let what = || format!("locking {}", path.display());
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .context(what)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error).context(what),
            }
            // Its last holder may have removed the file between our two calls.
            let ours = file.metadata().context(what)?.ino();
            if fs::metadata(path).is_ok_and(|now| now.ino() == ours) {
                return Ok(Some(Self {
                    path: path.to_owned(),
                    _file: file,
                }));
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        forget(&self.path);
    }
}

/// Removes the file of a lock that this process holds, and its folder if that
/// is empty then.
pub(crate) fn forget(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = path.parent().map(fs::remove_dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("clusters/x.lock");
        let first = Lock::take(&path).expect("works").expect("is free");
        assert!(Lock::take(&path).expect("works").is_none(), "held");
        drop(first);
        assert!(!path.exists() && folder.path().exists());
        assert!(Lock::take(&path).expect("works").is_some(), "free again");
    }
}
