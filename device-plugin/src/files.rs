//! Small file operations that several parts of the agent need.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// At most one byte more than `most`, so that a reader sees where a file is longer; never waits for a writer.
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(no_wait).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces `path` by `content` so that a reader sees the old or the new, never a part.
///
/// # Errors
/// When the new file cannot be written or renamed; the old one then stays.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    fs::write(&new, content)?;
    fs::set_permissions(&new, Permissions::from_mode(mode))?;
    fs::rename(&new, path).inspect_err(|_| drop(fs::remove_file(&new)))
}

/// Makes `path` and its parents, and gives `path` the permissions `mode` whatever the umask is.
///
/// # Errors
/// When it cannot be made, or belongs to another user.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Removes a socket that another process may have left behind; anything else stays.
///
/// # Errors
/// When the path holds something else than a socket, or cannot be removed.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path exists and is no socket",
        )),
    }
}

/// Which file a path leads to, told apart from one made later under the same name. An inode
/// number alone is reused too soon, so the time of birth joins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    born: Option<std::time::SystemTime>,
}

impl Identity {
    /// Of what lies at `path` now; nothing where nothing does.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        // Where the file system keeps no time of birth, the last write is the next best:
        // nobody writes to a socket's inode.
        let born = found.created().or_else(|_| found.modified()).ok();
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            born,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_made_again_under_the_same_name_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(Identity::of(&path), None);
        fs::write(&path, "1").unwrap();
        let first = Identity::of(&path);
        assert_eq!(first, Identity::of(&path));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "1").unwrap();
        assert_ne!(first, Identity::of(&path));
    }

    #[test]
    fn only_sockets_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin.sock");
        remove_socket(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        remove_socket(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(remove_socket(&path).is_err());
        assert!(path.exists());
    }
}
