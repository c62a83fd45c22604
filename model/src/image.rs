//! OCI images from folders, without a daemon: the same content gives the same
//! digest, whatever the files' times, order on disk and owner.
//!
//! Layers are plain tar, not gzip: the digest then depends on the content
//! alone and not on a compressor's version, and weights hardly shrink anyway.

use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder,
    MediaType, Os, RootFsBuilder, Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// What goes into an image.
#[derive(Debug, Clone)]
pub struct ImageSpec<'a> {
    /// Name without tag or digest, such as `perwatt.dev/runtime`.
    pub name: &'a str,
    /// A tag under which it is stored as well; the digest stays the name that tells what it is.
    pub tag: Option<&'a str>,
    /// One folder for each layer, the lowest first; a folder's content becomes the root of the image.
    pub layers: Vec<PathBuf>,
    /// Command that a container runs; empty for an image that holds only files.
    pub entrypoint: Vec<String>,
    /// Environment, each `NAME=value`.
    pub env: Vec<String>,
    /// `uid` or `uid:gid` that a container runs as.
    pub user: Option<String>,
}

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the manifest, `sha256:…`.
    pub digest: String,
    /// What a pod names: `name@digest`.
    pub reference: String,
    /// Size of the written file.
    pub bytes: u64,
}

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A name that a container runtime would not take.
    #[error(
        "image name {0:?} is not valid: use lower-case letters, digits, '.', '_', '-' and '/', without tag or digest"
    )]
    Name(String),
    /// A link that leaves the layer.
    #[error("{path} links to {target}, outside its folder: copy the file instead")]
    Escape {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// A socket, pipe or device.
    #[error("{0} is neither file, folder nor link: an image cannot hold it")]
    Kind(PathBuf),
    /// A manifest part could not be built.
    #[error("cannot describe the image: {0}")]
    Spec(#[from] oci_spec::OciSpecError),
    /// A manifest part could not be written as JSON.
    #[error("cannot describe the image: {0}")]
    Json(#[from] serde_json::Error),
}

/// Turns an I/O error into one that names the action and the file.
fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| ImageError::Io { action, path, source }
}

/// Writes `spec` as an OCI image layout in one tar file at `out`.
///
/// The file appears whole or not at all. `ctr images import` stores it under [`Packed::reference`], and
/// under its tag where it has one.
///
/// # Errors
/// When a layer cannot be read, holds something an image cannot, or `out` cannot be written.
pub fn write_image(spec: &ImageSpec<'_>, out: &Path) -> Result<Packed, ImageError> {
    check_name(spec.name)?;
    let folder = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let layers = spec
        .layers
        .iter()
        .map(|dir| Layer::build(dir, folder))
        .collect::<Result<Vec<_>, _>>()?;
    let config = json(&build_config(spec, &layers)?)?;
    let manifest = json(&build_manifest(&config, &layers)?)?;
    let digest = format!("sha256:{}", sha256_hex(&manifest));
    let reference = format!("{}@{digest}", spec.name);
    let tagged = spec.tag.map(|tag| format!("{}:{tag}", spec.name));
    let names: Vec<&str> = [Some(reference.as_str()), tagged.as_deref()]
        .into_iter()
        .flatten()
        .collect();
    let index = json(&build_index(&manifest, &names)?)?;

    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(io_error("create a file in", folder))?;
    write_layout(file.as_file_mut(), layers, &[config, manifest], &index).map_err(io_error("write", out))?;
    let file = file.persist(out).map_err(|e| io_error("write", out)(e.error))?;
    let bytes = file.metadata().map_err(io_error("read", out))?.len();
    Ok(Packed {
        digest,
        reference,
        bytes,
    })
}

/// A layer's tar in an unnamed file beside the output, with its digest and size.
struct Layer {
    file: File,
    digest: String,
    size: u64,
}

impl Layer {
    fn build(dir: &Path, scratch: &Path) -> Result<Self, ImageError> {
        let file = tempfile::tempfile_in(scratch).map_err(io_error("create a file in", scratch))?;
        let writer = Hashing {
            inner: BufWriter::with_capacity(1 << 18, file),
            hash: Sha256::new(),
            size: 0,
        };
        let mut tar = tar::Builder::new(writer);
        append_folder(&mut tar, dir, Path::new(""))?;
        let done = tar.into_inner().map_err(io_error("pack", dir))?;
        let file = done
            .inner
            .into_inner()
            .map_err(|e| io_error("pack", dir)(e.into_error()))?;
        Ok(Self {
            file,
            digest: hex::encode(done.hash.finalize()),
            size: done.size,
        })
    }

    fn descriptor(&self) -> Result<Descriptor, ImageError> {
        Ok(Descriptor::new(
            MediaType::ImageLayer,
            self.size,
            Sha256Digest::from_str(&self.digest)?,
        ))
    }
}

/// Hashes and counts what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Adds what `root/below` holds, in byte order of names, to `tar`.
fn append_folder<W: Write>(tar: &mut tar::Builder<W>, root: &Path, below: &Path) -> Result<(), ImageError> {
    let dir = root.join(below);
    let mut names = fs::read_dir(&dir)
        .and_then(|entries| {
            entries
                .map(|e| e.map(|e| e.file_name()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(io_error("read folder", &dir))?;
    names.sort();
    for name in names {
        append_entry(tar, root, &below.join(name))?;
    }
    Ok(())
}

fn append_entry<W: Write>(tar: &mut tar::Builder<W>, root: &Path, entry: &Path) -> Result<(), ImageError> {
    let path = root.join(entry);
    let meta = fs::symlink_metadata(&path).map_err(io_error("read", &path))?;
    if meta.is_dir() {
        let mut header = build_header(tar::EntryType::Directory, 0, true);
        tar.append_data(&mut header, entry.join(""), io::empty())
            .map_err(io_error("pack", &path))?;
        append_folder(tar, root, entry)
    } else if meta.is_symlink() {
        let target = fs::read_link(&path).map_err(io_error("read link", &path))?;
        check_link(entry, &target).map_err(|()| ImageError::Escape {
            path: path.clone(),
            target: target.clone(),
        })?;
        let mut header = build_header(tar::EntryType::Symlink, 0, true);
        tar.append_link(&mut header, entry, &target)
            .map_err(io_error("pack", &path))
    } else if meta.is_file() {
        append_file(tar, &path, entry)
    } else {
        Err(ImageError::Kind(path))
    }
}

fn append_file<W: Write>(tar: &mut tar::Builder<W>, path: &Path, entry: &Path) -> Result<(), ImageError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let meta = file.metadata().map_err(io_error("read", path))?;
    let executable = meta.permissions().mode() & 0o111 != 0;
    let mut header = build_header(tar::EntryType::Regular, meta.len(), executable);
    // A file that changes its size meanwhile must fail, never shift what follows it.
    let mut exact = Exact {
        inner: file.take(meta.len()),
        left: meta.len(),
    };
    tar.append_data(&mut header, entry, &mut exact)
        .map_err(io_error("pack", path))
}

/// Fails when the file ends before the size that its header promises.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left -= read as u64;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was read",
            ));
        }
        Ok(read)
    }
}

/// A header that says nothing of when, by whom and where the file was made.
fn build_header(kind: tar::EntryType, size: u64, executable: bool) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(match kind {
        tar::EntryType::Symlink => 0o777,
        _ if executable => 0o755,
        _ => 0o644,
    });
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// An absolute target is resolved inside the container; a relative one must not climb out of the layer.
fn check_link(entry: &Path, target: &Path) -> Result<(), ()> {
    if target.is_absolute() {
        return Ok(());
    }
    let mut depth = entry.components().count() as i64 - 1;
    for component in target.components() {
        depth += match component {
            Component::ParentDir => -1,
            Component::Normal(_) => 1,
            _ => 0,
        };
        if depth < 0 {
            return Err(());
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), ImageError> {
    let part_is_fine = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    let (host, path) = match name.split_once('/') {
        // A registry may carry a port.
        Some((host, path)) => (host.split_once(':').map_or(host, |(host, _)| host), path),
        None => (name, name),
    };
    if name.len() <= 200 && part_is_fine(host) && path.split('/').all(part_is_fine) {
        return Ok(());
    }
    Err(ImageError::Name(name.to_owned()))
}

fn build_config(spec: &ImageSpec<'_>, layers: &[Layer]) -> Result<impl Serialize + use<>, ImageError> {
    let mut config = ConfigBuilder::default();
    if !spec.entrypoint.is_empty() {
        config = config.entrypoint(spec.entrypoint.clone());
    }
    if !spec.env.is_empty() {
        config = config.env(spec.env.clone());
    }
    if let Some(user) = &spec.user {
        config = config.user(user.clone());
    }
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("sha256:{}", layer.digest))
        .collect();
    Ok(ImageConfigurationBuilder::default()
        .architecture(Arch::default())
        .os(Os::Linux)
        .config(config.build()?)
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(ids).build()?)
        .build()?)
}

fn build_manifest(config: &[u8], layers: &[Layer]) -> Result<impl Serialize + use<>, ImageError> {
    let digest = Sha256Digest::from_str(&sha256_hex(config))?;
    Ok(ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(Descriptor::new(
            MediaType::ImageConfig,
            config.len() as u64,
            digest,
        ))
        .layers(
            layers
                .iter()
                .map(Layer::descriptor)
                .collect::<Result<Vec<_>, _>>()?,
        )
        .build()?)
}

/// One entry for each name of the image.
fn build_index(manifest: &[u8], names: &[&str]) -> Result<impl Serialize + use<>, ImageError> {
    let digest = Sha256Digest::from_str(&sha256_hex(manifest))?;
    let descriptor = |name: &&str| {
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, manifest.len() as u64, digest.clone());
        descriptor.set_annotations(Some(HashMap::from([
            // containerd takes the image's name from here, the layout's own readers from the second.
            ("io.containerd.image.name".to_owned(), (*name).to_owned()),
            ("org.opencontainers.image.ref.name".to_owned(), (*name).to_owned()),
        ])));
        descriptor
    };
    Ok(ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(names.iter().map(descriptor).collect::<Vec<_>>())
        .build()?)
}

/// JSON with sorted keys: annotations are a hash map, whose order is chance.
fn json(value: &impl Serialize) -> Result<Vec<u8>, ImageError> {
    let mut value = serde_json::to_value(value)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn write_layout(out: &mut File, layers: Vec<Layer>, blobs: &[Vec<u8>], index: &[u8]) -> io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 18, out));
    let mut append = |path: &str, size: u64, content: &mut dyn Read| {
        tar.append_data(
            &mut build_header(tar::EntryType::Regular, size, false),
            path,
            content,
        )
    };
    append("oci-layout", 30, &mut &br#"{"imageLayoutVersion":"1.0.0"}"#[..])?;
    append("index.json", index.len() as u64, &mut &index[..])?;
    for blob in blobs {
        append(
            &format!("blobs/sha256/{}", sha256_hex(blob)),
            blob.len() as u64,
            &mut &blob[..],
        )?;
    }
    let mut written = BTreeSet::new();
    for mut layer in layers {
        if written.insert(layer.digest.clone()) {
            layer.file.seek(SeekFrom::Start(0))?;
            append(
                &format!("blobs/sha256/{}", layer.digest),
                layer.size,
                &mut layer.file,
            )?;
        }
    }
    tar.into_inner()?
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    Ok(())
}
