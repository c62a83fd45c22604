//! `model pack --push`: sends an image to a registry.

use bytes::Bytes;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use futures::Stream;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use perwatt_model::{Blob, Layout, LayoutError, Manifest};
use std::io::{self, IsTerminal, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// How much of a layer is in memory at a time.
const PIECE: usize = 1 << 20;
/// A registry that does not take a connection in this time is not reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A registry that says nothing for so long has gone.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Why an image was not sent.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Not the name of an image in a registry.
    #[error("{reference:?} cannot be pushed to: {problem}; write REGISTRY/NAME or REGISTRY/NAME:TAG")]
    Reference {
        /// What was written.
        reference: String,
        /// What is wrong.
        problem: String,
    },
    /// The credentials of `docker login` cannot be read.
    #[error(
        "the credentials for {registry} cannot be read: {problem}; `docker login {registry}` writes them anew"
    )]
    Credentials {
        /// The registry.
        registry: String,
        /// What is wrong.
        problem: String,
    },
    /// The packed image cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The registry, or the way to it, failed.
    #[error("{reference}: cannot {action}: {source}")]
    Registry {
        /// Where to.
        reference: String,
        /// What was tried.
        action: String,
        /// What happened.
        source: Box<OciDistributionError>,
    },
    /// The registry has something else than was sent.
    #[error("{reference}: the registry answers with digest {found}, {sent} was sent: do not use this image")]
    Digest {
        /// Where to.
        reference: String,
        /// What the registry says.
        found: String,
        /// What was sent.
        sent: String,
    },
    /// No event loop.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Where an image goes.
#[derive(Debug)]
pub struct Target {
    reference: Reference,
    plain_http: bool,
}

impl Target {
    /// Reads what a user wrote; without a tag, the model's version is one.
    ///
    /// # Errors
    /// When it is not the name of an image, or names a digest.
    pub fn parse(text: &str, manifest: &Manifest, plain_http: bool) -> Result<Self, PushError> {
        let wrong = |problem: String| PushError::Reference {
            reference: text.to_owned(),
            problem,
        };
        let found = Reference::try_from(text).map_err(|error| wrong(error.to_string()))?;
        if found.digest().is_some() {
            return Err(wrong("the digest is the result, it cannot be chosen".into()));
        }
        let (registry, repository) = (found.registry().to_owned(), found.repository().to_owned());
        // The parser makes `latest` of a missing tag; a version says more.
        let has_tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let tag = match found.tag() {
            Some(tag) if has_tag => tag.to_owned(),
            _ => manifest.version.to_string(),
        };
        let is_here = is_loopback(&registry);
        Ok(Self {
            reference: Reference::with_tag(registry, repository, tag),
            plain_http: plain_http || is_here,
        })
    }

    /// The image's name, without tag.
    pub fn name(&self) -> String {
        format!("{}/{}", self.reference.registry(), self.reference.repository())
    }

    /// Sends the image in `file`; the reference that a workload names.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses, or has another digest than was sent.
    pub fn push(&self, file: &Path, digest: &str) -> Result<String, PushError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.send(file, digest))?;
        Ok(format!("{}@{digest}", self.name()))
    }

    async fn send(&self, file: &Path, digest: &str) -> Result<(), PushError> {
        let layout = Layout::open(file)?;
        let auth = credentials(self.reference.resolve_registry())?;
        let client = self.client();
        let signed_in = client.auth(&self.reference, &auth, RegistryOperation::Push).await;
        signed_in.map_err(|source| self.failed("sign in (docker login)", source))?;
        for blob in &layout.blobs {
            self.send_blob(&client, file, blob).await?;
        }
        let kind = layout.media_type.parse().map_err(|_| {
            let problem = format!("the manifest's media type is {:?}", layout.media_type);
            LayoutError::Invalid {
                path: file.to_path_buf(),
                problem,
            }
        })?;
        let sent = client
            .push_manifest_raw(&self.reference, layout.manifest, kind)
            .await;
        sent.map_err(|source| self.failed("send the manifest", source))?;
        let found = client.fetch_manifest_digest(&self.reference, &auth).await;
        let found = found.map_err(|source| self.failed("ask for the digest", source))?;
        if found != digest {
            let (reference, sent) = (self.reference.to_string(), digest.to_owned());
            return Err(PushError::Digest {
                reference,
                found,
                sent,
            });
        }
        Ok(())
    }

    fn client(&self) -> Client {
        // One provider of cryptography for the whole product; an error means that it is set already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let registry = self.reference.resolve_registry().to_owned();
        let protocol = match self.plain_http {
            true => ClientProtocol::HttpsExcept(vec![registry]),
            false => ClientProtocol::Https,
        };
        Client::new(ClientConfig {
            protocol,
            // One PUT for each layer: every registry takes it, and it needs no second copy in memory.
            use_monolithic_push: true,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            ..ClientConfig::default()
        })
    }

    async fn send_blob(&self, client: &Client, file: &Path, blob: &Blob) -> Result<(), PushError> {
        let short: String = blob.digest.chars().take(19).collect();
        if self.has_blob(client, blob, &short).await? {
            eprintln!("{short}… is there already");
            return Ok(());
        }
        let pieces = read_pieces(file.to_path_buf(), blob.clone(), short.clone());
        let sent = client
            .push_blob_stream(&self.reference, pieces, &blob.digest, Some(blob.bytes))
            .await;
        match sent {
            Ok(_) => {}
            // Some registries take a layer and forget to say where it is.
            Err(OciDistributionError::RegistryNoLocationError)
                if self.has_blob(client, blob, &short).await? => {}
            Err(source) => return Err(self.failed(&format!("send {short}"), source)),
        }
        eprintln!("{short}… sent, {}", size(blob.bytes));
        Ok(())
    }

    async fn has_blob(&self, client: &Client, blob: &Blob, short: &str) -> Result<bool, PushError> {
        let asked = client.blob_exists(&self.reference, &blob.digest).await;
        asked.map_err(|source| self.failed(&format!("ask for {short}"), source))
    }

    fn failed(&self, action: &str, source: OciDistributionError) -> PushError {
        PushError::Registry {
            reference: self.reference.to_string(),
            action: action.to_owned(),
            source: Box::new(source),
        }
    }
}

/// Registries on this machine speak plain HTTP, as every client of registries takes for granted.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// What `docker login` left; nobody, where it left nothing.
fn credentials(registry: &str) -> Result<RegistryAuth, PushError> {
    // Docker keeps its own registry under this name.
    let key = match registry {
        "index.docker.io" | "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let problem = match docker_credential::get_credential(key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            return Ok(RegistryAuth::Basic(user, password));
        }
        Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => {
            return Ok(RegistryAuth::Anonymous);
        }
        // The words by which the helpers of Docker say that they have none for this registry.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            return Ok(RegistryAuth::Anonymous);
        }
        // That is also what it says of a file that is not there.
        Err(CredentialRetrievalError::ConfigReadError) if !has_docker_config() => {
            return Ok(RegistryAuth::Anonymous);
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            "identity tokens are not supported, a name and password are".into()
        }
        // What the helper printed may hold a secret.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => format!("{helper} failed"),
        Err(error) => error.to_string(),
    };
    Err(PushError::Credentials {
        registry: registry.to_owned(),
        problem,
    })
}

/// Whether there is a file of `docker login`, readable or not.
fn has_docker_config() -> bool {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(std::env::home_dir()?.join(".docker")));
    folder.is_some_and(|folder| folder.join("config.json").exists())
}

/// A blob piece by piece, telling how far it is where somebody watches.
fn read_pieces(
    path: PathBuf,
    blob: Blob,
    name: String,
) -> impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    let watched = io::stderr().is_terminal();
    futures::stream::try_unfold(None::<(File, u64)>, move |open| {
        let (path, blob, name) = (path.clone(), blob.clone(), name.clone());
        async move {
            let (mut file, left) = match open {
                Some(open) => open,
                None => {
                    let mut file = File::open(&path).await?;
                    file.seek(SeekFrom::Start(blob.offset)).await?;
                    (file, blob.bytes)
                }
            };
            if left == 0 {
                return Ok(None);
            }
            let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
            file.read_exact(&mut piece).await?;
            let left = left - piece.len() as u64;
            if watched {
                let percent = (blob.bytes - left) * 100 / blob.bytes.max(1);
                let _ = write!(io::stderr(), "\r{name}… {percent} % of {}  \r", size(blob.bytes));
            }
            Ok(Some((Bytes::from(piece), Some((file, left)))))
        }
    })
}

fn size(bytes: u64) -> String {
    match bytes {
        0..=1_048_575 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, PushError> {
        let zeros = "0".repeat(64);
        let manifest = Manifest::parse(&format!(
            "schema: 1\nname: gate\nversion: '6.2'\ninputs: [{{name: x, datatype: FP32, shape: [1]}}]\n\
             outputs: [{{name: y, datatype: FP32, shape: [1]}}]\n\
             files: [{{path: a.onnx, sha256: '{zeros}', backend: Onnx, precision: float32}}]\n"
        ));
        Target::parse(text, &manifest.unwrap(), false)
    }

    #[test]
    fn without_a_tag_the_version_is_one() {
        let of = |text: &str| target(text).unwrap().reference.to_string();
        assert_eq!(
            of("registry.example:5000/models/gate"),
            "registry.example:5000/models/gate:6.2"
        );
        assert_eq!(
            of("registry.example/models/gate:new"),
            "registry.example/models/gate:new"
        );
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (text, plain) in [
            ("localhost:5000/gate", true),
            ("127.0.0.1:5000/gate", true),
            ("localhost.example/gate", false),
            ("127.0.0.1.example/gate", false),
            ("registry.example/gate", false),
        ] {
            assert_eq!(target(text).unwrap().plain_http, plain, "{text}");
        }
    }

    #[test]
    fn a_digest_or_garbage_is_no_target() {
        let digest = format!("registry.example/gate@sha256:{}", "0".repeat(64));
        for (text, says) in [
            (digest.as_str(), "result"),
            ("Not A Name", "REGISTRY/NAME"),
            ("", "REGISTRY/NAME"),
        ] {
            let error = target(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
