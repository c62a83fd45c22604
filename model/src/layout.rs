//! Reads the image layouts that [`crate::image`] writes, so that they can be sent somewhere.

use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Largest manifest or index that is read.
const MAX_JSON: u64 = 4 << 20;
/// Largest number of entries of a layout.
const MAX_ENTRIES: usize = 4096;

/// Why a layout cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file cannot be read.
    #[error("cannot read the image {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no layout of one image.
    #[error("{path} is not an OCI image layout: {problem}; pack the model again")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
}

/// A part of an image, and where it lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// Where it begins in the file.
    pub offset: u64,
}

/// An image in a tar archive.
#[derive(Debug)]
pub struct Layout {
    /// Digest of the manifest, `sha256:…`.
    pub digest: String,
    /// The manifest, as it was written.
    pub manifest: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// The configuration and the layers, in the order in which they are to be sent.
    pub blobs: Vec<Blob>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Layout {
    /// Reads the layout in `path`; its blobs stay in the file.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a layout of one image.
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let io_error = |source| LayoutError::Io {
            path: path.to_path_buf(),
            source,
        };
        let mut file = File::open(path).map_err(io_error)?;
        let places = find_entries(&file).map_err(io_error)?;
        let invalid = |problem: String| LayoutError::Invalid {
            path: path.to_path_buf(),
            problem,
        };
        let mut read = |name: &str| -> Result<Vec<u8>, LayoutError> {
            let place = places
                .get(name)
                .ok_or_else(|| invalid(format!("{name} is missing")))?;
            read_at(&mut file, *place).map_err(io_error)
        };
        let index: Index =
            serde_json::from_slice(&read("index.json")?).map_err(|error| invalid(error.to_string()))?;
        // An image stands there once for each of its names.
        let mut images: Vec<&Descriptor> = index.manifests.iter().collect();
        images.dedup_by(|a, b| a.digest == b.digest);
        let [image] = images[..] else {
            return Err(invalid(format!("it has {} images", images.len())));
        };
        let text = read(&blob_name(&image.digest))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        let mut blobs: Vec<Blob> = Vec::new();
        for part in [&manifest.config].into_iter().chain(&manifest.layers) {
            let place = places.get(&blob_name(&part.digest)).copied();
            let (offset, bytes) = place
                .filter(|(_, bytes)| *bytes == part.size)
                .ok_or_else(|| invalid(format!("{} is missing or has another size", part.digest)))?;
            if !blobs.iter().any(|blob| blob.digest == part.digest) {
                let digest = part.digest.clone();
                blobs.push(Blob {
                    digest,
                    bytes,
                    offset,
                });
            }
        }
        Ok(Self {
            digest: image.digest.clone(),
            media_type: image.media_type.clone(),
            manifest: text,
            blobs,
        })
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// Offset and size of every entry.
fn find_entries(file: &File) -> io::Result<HashMap<String, (u64, u64)>> {
    let mut archive = tar::Archive::new(file);
    let mut places = HashMap::new();
    for entry in archive.entries_with_seek()?.take(MAX_ENTRIES) {
        let entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        places.insert(name, (entry.raw_file_position(), entry.size()));
    }
    Ok(places)
}

fn read_at(file: &mut File, (offset, bytes): (u64, u64)) -> io::Result<Vec<u8>> {
    if bytes > MAX_JSON {
        return Err(io::Error::other(format!(
            "a manifest of {bytes} bytes is too large"
        )));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut content = Vec::new();
    file.take(bytes).read_to_end(&mut content)?;
    Ok(content)
}
