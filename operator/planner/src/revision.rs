//! The revision: a hash of what runs.

use perwatt_crds::InferenceWorkloadSpec;
use perwatt_crds::profile::Sidecar;
use sha2::{Digest, Sha256};

/// Hash of what runs: the model image, the variants (devices, artifacts and servers), the runtime's
/// image and settings, and the vendors' servers of the profiles that it may use. Quality, replicas, placement, fallback and service are left out: changing
/// them restarts nothing.
#[must_use]
pub fn revision(spec: &InferenceWorkloadSpec, runtime_image: &str, sidecars: &[(&str, &Sidecar)]) -> String {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    part(&spec.model.image);
    for variant in &spec.variants {
        part(&variant.name);
        part(variant.artifact.as_ref().map_or("", |artifact| &artifact.path));
        part(&json(&variant.device));
        part(&json(&variant.device_less));
        if let Some(remote) = &variant.remote {
            part(&json(remote));
        }
    }
    for (profile, sidecar) in sidecars {
        part(profile);
        part(&json(sidecar));
    }
    part(runtime_image);
    part(&json(&spec.runtime));
    hash.finalize()
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A part of the spec as the API writes it: the same for every version of this program.
fn json<T: serde::Serialize>(part: &T) -> String {
    serde_json::to_string(part).unwrap_or_default()
}
