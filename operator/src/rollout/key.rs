//! The key from which the tokens of runtimes come: one Secret, in the operator's own namespace.

use hmac::{Hmac, KeyInit, Mac};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use perwatt_crds::names;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Name of the Secret.
pub const SECRET: &str = "perwatt-operator-control";
const ENTRY: &str = "key";

/// The key of this operator.
#[derive(Clone)]
pub struct ControlKey([u8; 32]);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The API server refused or did not answer.
    #[error("cannot read or make the Secret {SECRET}: {0}")]
    Api(#[from] Box<kube::Error>),
    /// Somebody changed it.
    #[error(
        "the Secret {SECRET} holds no key of 32 bytes in its entry `{ENTRY}`: delete it, and another is made"
    )]
    Damaged,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl ControlKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the key of this installation, and makes it where there is none.
    ///
    /// # Errors
    /// Where it can be neither read nor made.
    pub async fn ensure(client: &Client, namespace: &str) -> Result<Self, KeyError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        if let Some(secret) = api.get_opt(SECRET).await.map_err(Box::new)? {
            return Self::read(&secret);
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(KeyError::Random)?;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(bytes.to_vec()))])),
            immutable: Some(true),
            ..Secret::default()
        };
        let parameters = PostParams {
            field_manager: Some(names::FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        match api.create(&parameters, &secret).await {
            Ok(_) => Ok(Self(bytes)),
            // Another replica was quicker.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                Self::read(&api.get(SECRET).await.map_err(Box::new)?)
            }
            Err(error) => Err(Box::new(error).into()),
        }
    }

    fn read(secret: &Secret) -> Result<Self, KeyError> {
        let entry = secret.data.as_ref().and_then(|data| data.get(ENTRY));
        let bytes = entry.and_then(|bytes| bytes.0.as_slice().try_into().ok());
        bytes.map(Self).ok_or(KeyError::Damaged)
    }

    fn mac(&self, parts: &[&str]) -> [u8; 32] {
        // A key of any length is one.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            unreachable!("HMAC takes keys of every length")
        };
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    /// The token that a pod's control port takes.
    #[must_use]
    pub fn token(&self, namespace: &str, pod: &str) -> String {
        hex(&self.mac(&["token", namespace, pod]))
    }

    /// What the pod knows of it: its SHA-256.
    #[must_use]
    pub fn token_digest(&self, namespace: &str, pod: &str) -> String {
        hex(&Sha256::digest(self.token(namespace, pod)))
    }

    /// What the order of a slot's blocks comes from.
    #[must_use]
    pub fn seed(&self, workload: &str, revision: &str, slot: &str) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.mac(&["seed", workload, revision, slot]);
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
