//! What a workload ran before, out of its history.

use crate::build::history;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use perwatt_crds::profile::Sidecar;
use perwatt_crds::workload::{ModelImage, RuntimeOptions, Variant};
use perwatt_crds::{HardwareProfile, InferenceWorkload, names};
use perwatt_rollout::Record;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// An earlier revision, enough to run it again.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its hash.
    pub revision: String,
    /// The workload as it is now, but for what runs.
    pub workload: Arc<InferenceWorkload>,
    /// Image of its runtime.
    pub runtime_image: String,
    /// The vendors' servers as they were, by profile.
    sidecars: BTreeMap<String, Sidecar>,
}

/// What a ControllerRevision of ours holds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    spec: Ran,
    runtime_image: String,
    #[serde(default)]
    sidecars: BTreeMap<String, Sidecar>,
}

#[derive(Deserialize)]
struct Ran {
    model: ModelImage,
    variants: Vec<Variant>,
    #[serde(default)]
    runtime: RuntimeOptions,
}

impl Past {
    /// What an entry of a workload's history ran; nothing where it cannot be read.
    #[must_use]
    pub fn restore(entry: &ControllerRevision, workload: &InferenceWorkload) -> Option<Self> {
        let content = Content::deserialize(&entry.data.as_ref()?.0)
            .inspect_err(|error| {
                tracing::warn!(entry = %entry.name_any(), %error, "what this revision ran cannot be read");
            })
            .ok()?;
        let mut before = workload.clone();
        before.spec.model = content.spec.model;
        before.spec.variants = content.spec.variants;
        before.spec.runtime = content.spec.runtime;
        Some(Self {
            revision: history::hash(entry).to_owned(),
            workload: Arc::new(before),
            runtime_image: content.runtime_image,
            sidecars: content.sidecars,
        })
    }

    /// A profile with the vendor's server that this revision ran beside it.
    #[must_use]
    pub fn profile(&self, name: &str, profile: &HardwareProfile) -> HardwareProfile {
        let mut profile = profile.clone();
        if let Some(backend) = &mut profile.spec.backend
            && let Some(sidecar) = self.sidecars.get(name)
        {
            backend.sidecar = Some(sidecar.clone());
        }
        profile
    }
}

/// What is kept of the rollout of an entry; nothing where it had none, or where that cannot be read.
#[must_use]
pub fn record(entry: &ControllerRevision) -> Option<Record> {
    let text = entry.annotations().get(names::ANNOTATION_ROLLOUT)?;
    serde_json::from_str(text)
        .inspect_err(|error| tracing::warn!(entry = %entry.name_any(), %error, "the record of a rollout cannot be read"))
        .ok()
        .filter(|record: &Record| record.schema == perwatt_rollout::SCHEMA && !record.cohorts.is_empty())
}
