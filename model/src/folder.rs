//! A model's folder: `model.yaml` and the files it names, with their hashes checked.

use crate::image::{ImageError, ImageSpec, Packed, write_image};
use crate::manifest::{FILE_NAME, FileSpec, MAX_BYTES, Manifest, ManifestError};
use crate::names::FilePath;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest file of a model that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 2 << 30;

/// Why a model's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is no such folder.
    #[error("cannot read the model folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// `model.yaml` is wrong.
    #[error("{path}: {source}")]
    Manifest {
        /// The `model.yaml`.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// A file is not the one that `model.yaml` means.
    #[error(
        "{path}: its SHA-256 is {found}, model.yaml expects {expected}: \
         put the right file there, or correct files[].sha256"
    )]
    Hash {
        /// The file.
        path: PathBuf,
        /// What `model.yaml` says.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A file that is not inside, not a file, or too large.
    #[error("{path}: {problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The image could not be written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A model's folder whose `model.yaml` was read; its other files are checked when asked for.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    path: PathBuf,
    manifest: Manifest,
}

impl ModelFolder {
    /// Reads `model.yaml` in `path`.
    ///
    /// # Errors
    /// When the folder or the file is missing, or the file is wrong.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let path = path.canonicalize().map_err(|source| FolderError::Folder {
            path: path.to_path_buf(),
            source,
        })?;
        let yaml = path.join(FILE_NAME);
        let text = read_text(&yaml)?;
        let manifest =
            Manifest::parse(&text).map_err(|source| FolderError::Manifest { path: yaml, source })?;
        Ok(Self { path, manifest })
    }

    /// What `model.yaml` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of `file`, after their hash was compared: what was checked is what is used.
    ///
    /// # Errors
    /// When the file is missing, lies outside, is too large or has another hash.
    pub fn read_file(&self, file: &FileSpec) -> Result<Vec<u8>, FolderError> {
        let (path, mut source, size) = self.open_file(&file.path)?;
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let read = source.by_ref().take(MAX_FILE_BYTES).read_to_end(&mut content);
        read.map_err(|source| FolderError::Read {
            path: path.clone(),
            source,
        })?;
        compare(path, file, &Sha256::digest(&content))?;
        Ok(content)
    }

    /// Checks every file that `model.yaml` names; an empty answer means that all is well.
    pub fn check_files(&self) -> Vec<FolderError> {
        let hashes = self.manifest.files.iter().map(|file| self.check_file(file));
        hashes
            .chain([self.check_licence()])
            .filter_map(Result::err)
            .collect()
    }

    /// Checks that the licence's file, where one is named, can be read.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check_licence(&self) -> Result<(), FolderError> {
        let file = self.manifest.licence.as_ref().and_then(|l| l.file.as_ref());
        file.map_or(Ok(()), |path| self.open_file(path).map(drop))
    }

    /// Packs `model.yaml` and the files it names, and nothing else, into an image at `out`.
    ///
    /// # Errors
    /// With the first file that is not as `model.yaml` says, or when `out` cannot be written.
    pub fn pack(&self, name: &str, out: &Path) -> Result<Packed, FolderError> {
        if let Some(error) = self.check_files().into_iter().next() {
            return Err(error);
        }
        let stage = tempfile::tempdir().map_err(|source| FolderError::Read {
            path: std::env::temp_dir(),
            source,
        })?;
        let licence = self.manifest.licence.iter().filter_map(|l| l.file.as_ref());
        let files = self
            .manifest
            .files
            .iter()
            .map(|f| &f.path)
            .chain(licence)
            .map(FilePath::as_str);
        for file in files.chain([FILE_NAME]) {
            stage_file(&self.path.join(file), &stage.path().join(file))?;
        }
        let layers = vec![stage.path().to_path_buf()];
        let spec = ImageSpec {
            name,
            tag: None,
            layers,
            entrypoint: vec![],
            env: vec![],
            user: None,
        };
        Ok(write_image(&spec, out)?)
    }

    /// Opens a file for which a link must not lead out of the folder.
    fn open_file(&self, file: &FilePath) -> Result<(PathBuf, File, u64), FolderError> {
        let path = file.below(&self.path);
        let read_error = |source| FolderError::Read {
            path: path.clone(),
            source,
        };
        let real = path.canonicalize().map_err(read_error)?;
        let refuse = |problem: String| FolderError::File {
            path: path.clone(),
            problem,
        };
        if !real.starts_with(&self.path) {
            return Err(refuse(format!(
                "it leads to {}, outside the model folder",
                real.display()
            )));
        }
        let meta = fs::metadata(&real).map_err(read_error)?;
        if !meta.is_file() {
            return Err(refuse("it is not a file".into()));
        }
        if meta.len() > MAX_FILE_BYTES {
            return Err(refuse(format!(
                "it has {} bytes, the limit is {MAX_FILE_BYTES}",
                meta.len()
            )));
        }
        let opened = File::open(&real).map_err(read_error)?;
        Ok((path, opened, meta.len()))
    }

    /// Checks that a file is the one that `model.yaml` means, without keeping its content.
    ///
    /// # Errors
    /// When it is missing, lies outside, is too large or has another hash.
    pub fn check_file(&self, file: &FileSpec) -> Result<(), FolderError> {
        let (path, mut source, _) = self.open_file(&file.path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = source.read(&mut buffer);
            let read = read.map_err(|source| FolderError::Read {
                path: path.clone(),
                source,
            })?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        compare(path, file, &hash.finalize())
    }
}

fn compare(path: PathBuf, file: &FileSpec, found: &[u8]) -> Result<(), FolderError> {
    let found = hex::encode(found);
    if found == file.sha256.as_str() {
        return Ok(());
    }
    Err(FolderError::Hash {
        path,
        expected: file.sha256.to_string(),
        found,
    })
}

fn read_text(path: &Path) -> Result<String, FolderError> {
    let read_error = |source| FolderError::Read {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(read_error)?;
    if !file.metadata().map_err(read_error)?.is_file() {
        return Err(FolderError::File {
            path: path.to_path_buf(),
            problem: "it is not a file".into(),
        });
    }
    let mut text = String::new();
    // One byte more than allowed, so that the parser can tell that it is too large.
    file.take(MAX_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(read_error)?;
    Ok(text)
}

fn stage_file(from: &Path, to: &Path) -> Result<(), FolderError> {
    let copy = || {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        // Content only: whether a weight file is executable on somebody's disk must not enter the digest.
        io::copy(&mut File::open(from)?, &mut File::create(to)?)
    };
    copy().map(drop).map_err(|source| FolderError::Read {
        path: from.to_path_buf(),
        source,
    })
}
