//! What the runtime is told: by the operator through `PERWATT_CONFIG`, or by a folder alone.

use crate::backend::Settings;
use crate::chain::{Cause, Reason};
use crate::remote::Endpoint;
use perwatt_device_socket::{CONTAINER_DIR, DEVICE_ID_ENV, DEVICE_NODE_ENV};
use perwatt_model::Manifest;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// Environment variable with the configuration, as JSON.
pub const CONFIG_ENV: &str = "PERWATT_CONFIG";

/// What a pod's runtime serves. Unknown fields are left alone: the runtime is
/// part of a revision, and so an operator may be newer than the runtimes it made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name of the workload.
    pub workload: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// The slot that this pod serves.
    #[serde(default)]
    pub slot: String,
    /// The node it runs on.
    pub node: String,
    /// What it runs.
    pub revision: String,
    /// The chain, best first.
    pub variants: Vec<VariantConfig>,
    /// Set when the slot itself is served by a fallback.
    #[serde(default)]
    pub degraded: Option<SlotDegraded>,
    /// How long a device must have been healthy before its variant serves again.
    #[serde(default = "default_stable")]
    pub recovery_stable_for_milliseconds: u64,
    /// Variants that are less accurate never serve; one that declares no accuracy is accurate enough.
    #[serde(default)]
    pub minimum_accuracy_permille: Option<u16>,
    /// How far the data of requests may travel.
    #[serde(default)]
    pub locality: Locality,
    /// A second revision in this pod, to be compared with the first or to take its place.
    #[serde(default)]
    pub candidate: Option<CandidateConfig>,
}

/// The revision that is on trial. All that it does not name is the incumbent's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateConfig {
    /// What it is called.
    pub revision: String,
    /// Folder of its model.
    pub model: PathBuf,
    /// Its chain, best first.
    pub variants: Vec<VariantConfig>,
}

/// One variant of the chain: a file of the model, or a server elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VariantConfig {
    /// Its name.
    pub name: String,
    /// Path of its file in the model's folder; empty where a server elsewhere answers.
    #[serde(default)]
    pub artifact: String,
    /// The profile of the device it needs; nothing for a device-less variant.
    #[serde(default)]
    pub profile: Option<String>,
    /// How its file is to be run.
    #[serde(default)]
    pub backend: Settings,
    /// The server that answers in its place.
    #[serde(default)]
    pub remote: Option<RemoteConfig>,
    /// Right answers in a thousand, where they differ from what `model.yaml` says.
    #[serde(default)]
    pub accuracy_permille: Option<u16>,
}

/// A server of the Open Inference Protocol: a vendor's sidecar beside us, or a relay elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemoteConfig {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// The model's name there; ours where it is left out.
    #[serde(default)]
    pub model: Option<String>,
    /// REST or gRPC; the endpoint's scheme says it where this does not.
    #[serde(default)]
    pub protocol: Option<RemoteProtocol>,
}

/// How a server elsewhere is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)] // the names say all
pub enum RemoteProtocol {
    #[serde(rename = "REST")]
    Rest,
    #[serde(rename = "gRPC")]
    Grpc,
}

/// How far the data of requests may travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Locality {
    /// Not off the node: only servers on the loopback interface or a unix socket are asked.
    Node,
    /// Not off the site. Which endpoints those are cannot be seen from here, so that it is the same as Node.
    Site,
    /// Anywhere.
    #[default]
    Any,
}

/// Why the slot is degraded although this pod serves its first variant.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SlotDegraded {
    /// One word.
    pub reason: String,
    /// For a person.
    #[serde(default)]
    pub message: String,
}

fn default_stable() -> u64 {
    60_000
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or a field is missing or of another type.
    #[error("{CONFIG_ENV} cannot be read: {0}; the operator sets it, see docs/runtime.md for its format")]
    Json(#[from] serde_json::Error),
    /// It contradicts itself or the model.
    #[error("{CONFIG_ENV}: {0}")]
    Invalid(String),
}

impl Config {
    /// Reads the JSON that the operator wrote.
    ///
    /// # Errors
    /// When it is malformed, or names a file that the model does not have.
    pub fn parse(json: &str, manifest: &Manifest) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_str(json)?;
        config.check(manifest)?;
        Ok(config)
    }

    /// What the candidate's engine is told; the candidate has no candidate.
    pub fn of_candidate(&self, candidate: &CandidateConfig) -> Self {
        Self {
            revision: candidate.revision.clone(),
            variants: candidate.variants.clone(),
            candidate: None,
            ..self.clone()
        }
    }

    /// Says what is wrong with the chain.
    ///
    /// # Errors
    /// When it contradicts itself, or names a file that the model does not have.
    pub fn check(&self, manifest: &Manifest) -> Result<(), ConfigError> {
        if !(1..=32).contains(&self.variants.len()) {
            let count = self.variants.len();
            return Err(ConfigError::Invalid(format!(
                "variants has {count} entries, from 1 to 32 are possible"
            )));
        }
        let mut names = BTreeSet::new();
        for variant in &self.variants {
            if !names.insert(&variant.name) {
                return Err(ConfigError::Invalid(format!(
                    "variant {:?} is there twice",
                    variant.name
                )));
            }
            variant.check(manifest)?;
        }
        Ok(())
    }

    /// Why a variant must not serve, whatever its health.
    pub fn check_allowed(&self, variant: &VariantConfig, manifest: &Manifest) -> Option<Cause> {
        let declared = manifest.file(&variant.artifact).and_then(|file| file.quality);
        let accuracy = variant
            .accuracy_permille
            .or(declared.map(|quality| quality.accuracy_permille));
        if let (Some(accuracy), Some(minimum)) = (accuracy, self.minimum_accuracy_permille)
            && accuracy < minimum
        {
            let text = format!(
                "{}: its accuracy is {accuracy} per mille, the workload asks for {minimum}",
                variant.name
            );
            return Some(Cause::new(Reason::BelowMinimumAccuracy, text));
        }
        let leaves = variant
            .remote
            .as_ref()
            .filter(|remote| !remote.endpoint.is_on_node())?;
        if self.locality == Locality::Any {
            return None;
        }
        let text = format!(
            "{}: {} is off the node, and the workload's locality {:?} forbids that",
            variant.name, leaves.endpoint, self.locality
        );
        Some(Cause::new(Reason::LocalityForbids, text))
    }

    /// Every file of a folder as a device-less variant, in order: for a laptop.
    pub fn of_folder(manifest: &Manifest) -> Self {
        let variant = |file: &perwatt_model::FileSpec| VariantConfig {
            name: file.path.to_string(),
            artifact: file.path.to_string(),
            ..VariantConfig::default()
        };
        Self {
            workload: manifest.name.to_string(),
            namespace: String::new(),
            slot: String::new(),
            node: "local".into(),
            revision: "local".into(),
            variants: manifest.files.iter().map(variant).collect(),
            degraded: None,
            recovery_stable_for_milliseconds: default_stable(),
            minimum_accuracy_permille: None,
            locality: Locality::Any,
            candidate: None,
        }
    }

    /// How long a device must have been healthy before its variant serves again.
    pub fn stable_for(&self) -> Duration {
        // More than a year would overflow the clock's arithmetic somewhere.
        Duration::from_millis(self.recovery_stable_for_milliseconds.min(365 * 24 * 3_600_000))
    }
}

impl VariantConfig {
    fn check(&self, manifest: &Manifest) -> Result<(), ConfigError> {
        let invalid =
            |problem: String| Err(ConfigError::Invalid(format!("variant {:?} {problem}", self.name)));
        if let Some(remote) = &self.remote {
            let length = remote.model.as_ref().map_or(1, String::len);
            if !(1..=256).contains(&length) {
                return invalid(format!(
                    "has a remote.model of {length} bytes, from 1 to 256 are possible"
                ));
            }
            if remote.protocol == Some(RemoteProtocol::Rest) && remote.endpoint.is_grpc() {
                return invalid(format!("asks for REST at {}", remote.endpoint));
            }
            return Ok(());
        }
        if manifest.file(&self.artifact).is_some() {
            return Ok(());
        }
        let files: Vec<_> = manifest.files.iter().map(|f| f.path.as_str()).collect();
        invalid(format!(
            "names the artifact {:?}, model.yaml has {files:?}",
            self.artifact
        ))
    }
}

/// The device that the container was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Its id.
    pub id: Option<String>,
    /// Its device node.
    pub node: Option<PathBuf>,
    /// The folder of the agent's socket.
    pub socket_dir: PathBuf,
}

impl DeviceAccess {
    /// What the agent left in the environment of this process.
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            id: text(DEVICE_ID_ENV),
            node: text(DEVICE_NODE_ENV).map(PathBuf::from),
            socket_dir: PathBuf::from(CONTAINER_DIR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest::parse(
            "schema: 1\nname: gate\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [1]}]\n\
             outputs: [{name: y, datatype: FP32, shape: [1]}]\n\
             files: [{path: a.onnx, sha256: '0000000000000000000000000000000000000000000000000000000000000000', \
             backend: Onnx, precision: float32}]\n",
        )
        .unwrap()
    }

    const JSON: &str = r#"{"workload":"speech-gate","namespace":"audio","slot":"replica-0","node":"edge-a",
        "revision":"6f1c2b","variants":[{"name":"npu","artifact":"a.onnx","profile":"asic-emulated",
        "accuracyPermille":981},{"name":"cpu","artifact":"a.onnx"}],"recoveryStableForMilliseconds":5000}"#;

    #[test]
    fn the_operators_json_is_read_and_unknown_fields_are_left_alone() {
        let config = Config::parse(JSON, &manifest()).unwrap();
        assert_eq!(config.variants[0].profile.as_deref(), Some("asic-emulated"));
        assert_eq!(config.variants[1].profile, None);
        assert_eq!(config.stable_for(), Duration::from_secs(5));
        assert_eq!(config.degraded, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, says) in [
            ("", "EOF"),
            ("{}", "workload"),
            (&JSON.replace("a.onnx", "b.onnx"), "\"b.onnx\""),
            (&JSON.replace("\"cpu\"", "\"npu\""), "twice"),
            (&JSON.replace(r#""node":"edge-a","#, ""), "node"),
            (
                r#"{"workload":"w","node":"n","revision":"r","variants":[]}"#,
                "0 entries",
            ),
        ] {
            let error = Config::parse(json, &manifest()).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(CONFIG_ENV), "{error}");
        }
    }

    #[test]
    fn a_server_elsewhere_is_named_and_what_is_wrong_with_it_too() {
        let with = |remote: &str| {
            let json = JSON.replace(
                r#""name":"cpu","artifact":"a.onnx""#,
                &format!(r#""name":"relay","remote":{remote}"#),
            );
            Config::parse(&json, &manifest())
        };
        let config =
            with(r#"{"endpoint":"http://hub.example:8080","model":"gate","protocol":"REST"}"#).unwrap();
        let remote = config.variants[1].remote.as_ref().unwrap();
        assert_eq!(remote.endpoint.to_string(), "http://hub.example:8080");
        for (remote, says) in [
            (r#"{"endpoint":"hub.example","model":"gate"}"#, "hub.example"),
            (r#"{"endpoint":"http://hub:1","model":""}"#, "remote.model"),
            (
                r#"{"endpoint":"grpc://hub:1","model":"m","protocol":"REST"}"#,
                "asks for REST",
            ),
            (r#"{"endpoint":"http://hub:1","model":"m","tls":true}"#, "tls"),
            (r#"{"model":"m"}"#, "endpoint"),
        ] {
            let error = with(remote).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn accuracy_and_locality_bar_variants() {
        let mut config = Config::parse(JSON, &manifest()).unwrap();
        config.minimum_accuracy_permille = Some(982);
        let reason = |config: &Config, i: usize| {
            let cause = config.check_allowed(&config.variants[i], &manifest());
            cause.map(|cause| cause.reason)
        };
        assert_eq!(reason(&config, 0), Some(Reason::BelowMinimumAccuracy));
        assert_eq!(reason(&config, 1), None, "none is declared");
        config.variants[1].remote = Some(RemoteConfig {
            endpoint: "http://127.0.0.1:8081".try_into().unwrap(),
            model: None,
            protocol: None,
        });
        config.locality = Locality::Node;
        assert_eq!(reason(&config, 1), None, "a sidecar is on the node");
        config.variants[1].remote.as_mut().unwrap().endpoint = "http://hub.example".try_into().unwrap();
        assert_eq!(reason(&config, 1), Some(Reason::LocalityForbids));
        config.locality = Locality::Any;
        assert_eq!(reason(&config, 1), None);
    }

    #[test]
    fn a_folder_alone_is_served_without_devices() {
        let config = Config::of_folder(&manifest());
        assert_eq!(config.workload, "gate");
        assert_eq!(config.variants.len(), 1);
        assert_eq!(config.variants[0].profile, None);
    }
}
