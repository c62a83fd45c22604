//! Reads a host's file tree below a root that is a parameter, so that every reader also runs on
//! a recorded tree. Whatever the tree holds, a read is bounded, waits for nobody, and stays
//! below the root.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirEntryExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The longest file that is read, in bytes; sysfs gives a page at most.
pub const FILE_BYTES: u64 = 16 << 10;

/// The most entries of a folder that are looked at.
pub const FOLDER_ENTRIES: usize = 8192;

/// Why something of the tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The system refuses.
    #[error("cannot read {path}: {source}")]
    Io {
        /// What was read.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A link leads out of the tree.
    #[error("{path} leads out of the tree {root}: it is not followed")]
    Outside {
        /// The link.
        path: PathBuf,
        /// The tree.
        root: PathBuf,
    },
    /// The folder is too large.
    #[error("{path} holds more than {FOLDER_ENTRIES} entries: the others are not looked at")]
    Crowded {
        /// The folder.
        path: PathBuf,
    },
    /// The file is too large, or no file.
    #[error("{path} is not a plain file of at most {FILE_BYTES} bytes: it is not read")]
    NotPlain {
        /// The file.
        path: PathBuf,
    },
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its inode, which differs when it was made anew under its name.
    pub inode: u64,
}

/// A host's file tree.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree below `root`.
    ///
    /// # Errors
    /// When there is no such folder.
    pub fn open(root: &Path) -> Result<Self, TreeError> {
        let canonical = fs::canonicalize(root).map_err(io_error(root))?;
        if !canonical.is_dir() {
            return Err(TreeError::Io {
                path: root.to_owned(),
                source: io::ErrorKind::NotADirectory.into(),
            });
        }
        Ok(Self { root: canonical })
    }

    /// The root itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path`, relative to the root, lies.
    #[must_use]
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The entries of a folder by name, and what is wrong with it; a folder that does not exist
    /// has none. Names that are no text are left out: the kernel makes none.
    #[must_use]
    pub fn list(&self, folder: &Path) -> (Vec<Entry>, Option<TreeError>) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), None),
            Err(error) => return (Vec::new(), Some(io_error(folder)(error))),
        };
        let mut entries = entries.flatten().filter_map(|entry| {
            let inode = entry.ino();
            let name = entry.file_name().into_string().ok()?;
            Some(Entry { name, inode })
        });
        let mut listed: Vec<_> = entries.by_ref().take(FOLDER_ENTRIES).collect();
        listed.sort();
        let crowded = entries.next().map(|_| TreeError::Crowded {
            path: folder.to_owned(),
        });
        (listed, crowded)
    }

    /// The folder or file that `path` leads to, all links followed, if it is below the root.
    ///
    /// # Errors
    /// When it does not exist, is a loop of links, or lies outside.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let resolved = fs::canonicalize(path).map_err(io_error(path))?;
        if resolved.starts_with(&self.root) {
            return Ok(resolved);
        }
        Err(TreeError::Outside {
            path: path.to_owned(),
            root: self.root.clone(),
        })
    }

    /// The last name of what a link leads to, whether that exists or not.
    #[must_use]
    pub fn link_name(&self, path: &Path) -> Option<String> {
        let target = fs::read_link(path).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }
}

/// The content of a small plain file, what is no text replaced. A link is not followed.
///
/// # Errors
/// When it is missing, no plain file, or too large.
pub fn read(path: &Path) -> Result<String, TreeError> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(io_error(path))?;
    let not_plain = || TreeError::NotPlain {
        path: path.to_owned(),
    };
    if !file.metadata().map_err(io_error(path))?.is_file() {
        return Err(not_plain());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error(path))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(not_plain());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> TreeError + use<'_> {
    |source| TreeError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_is_not_left_and_a_loop_ends() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        symlink("/etc", tree.at("out")).unwrap();
        symlink("loop", tree.at("loop")).unwrap();
        fs::create_dir(tree.at("in")).unwrap();
        symlink("in", tree.at("link")).unwrap();
        assert!(matches!(
            tree.resolve(&tree.at("out")),
            Err(TreeError::Outside { .. })
        ));
        assert!(matches!(
            tree.resolve(&tree.at("loop")),
            Err(TreeError::Io { .. })
        ));
        assert_eq!(tree.resolve(&tree.at("link")).unwrap(), tree.at("in"));
        assert!(Tree::open(&tree.at("nothing")).is_err());
    }

    #[test]
    fn only_small_plain_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uevent");
        let refused = || read(&path).is_err();
        assert!(refused());
        fs::write(&path, vec![b'x'; FILE_BYTES as usize + 1]).unwrap();
        assert!(refused());
        fs::write(&path, b"DRIVER=\xff\n").unwrap();
        assert_eq!(read(&path).unwrap(), "DRIVER=\u{fffd}\n");
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from(0o600)).unwrap();
        assert!(refused());
        fs::remove_file(&path).unwrap();
        symlink("/etc/hostname", &path).unwrap();
        assert!(refused());
    }

    #[test]
    fn a_crowded_folder_is_cut_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        for number in 0..=FOLDER_ENTRIES {
            fs::write(tree.at(number.to_string()), "").unwrap();
        }
        let (listed, trouble) = tree.list(tree.root());
        assert_eq!(listed.len(), FOLDER_ENTRIES);
        assert!(matches!(trouble, Some(TreeError::Crowded { .. })));
    }
}
