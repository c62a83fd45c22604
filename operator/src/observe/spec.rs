//! Workloads as the planner sees them: their specs, and the figures in their status.

use super::pod;
use super::priority::Priorities;
use crate::rollout::restore::Past;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use perwatt_crds::performance::{MeasuredFigure, Performance};
use perwatt_crds::profile::Sidecar;
use perwatt_crds::workload::Variant;
use perwatt_crds::{HardwareProfile, InferenceWorkload, InferenceWorkloadSpec, quantity, schema};
use perwatt_planner::revision::revision;
use perwatt_planner::world::{Declared, Found, Needs, Resources, Variant as PlannedVariant, Workload};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn requested(resources: &ResourceRequirements) -> Resources {
    let mut requests = Resources::default();
    for (name, amount) in resources.requests.iter().flatten() {
        pod::add(&mut requests, &pod::single(name, amount));
    }
    requests
}

/// The vendors' servers of the profiles that a workload may use, by profile.
#[must_use]
pub fn sidecars<'a>(
    spec: &InferenceWorkloadSpec,
    profiles: &'a BTreeMap<String, Arc<HardwareProfile>>,
) -> Vec<(&'a str, &'a Sidecar)> {
    let may_use = |name: &String, profile: &HardwareProfile| {
        let devices = spec.variants.iter().filter_map(|variant| variant.device.as_ref());
        devices.into_iter().any(|device| {
            device.profiles.as_ref().is_some_and(|names| names.contains(name))
                || device.class == Some(profile.spec.class)
        })
    };
    let used = profiles.iter().filter(|(name, profile)| may_use(name, profile));
    used.filter_map(|(name, profile)| Some((name.as_str(), profile.sidecar()?)))
        .collect()
}

/// A workload as it ran before, for the slots that a rollout has not reached.
pub(crate) fn build_earlier(
    past: &Past,
    profiles: &BTreeMap<String, Arc<HardwareProfile>>,
    priorities: &Priorities,
) -> Workload {
    Workload {
        revision: past.revision.clone(),
        ..build_workload(&past.workload, profiles, priorities, &past.runtime_image)
    }
}

pub(super) fn build_workload(
    workload: &InferenceWorkload,
    profiles: &BTreeMap<String, Arc<HardwareProfile>>,
    priorities: &Priorities,
    runtime_image: &str,
) -> Workload {
    let spec = &workload.spec;
    let priority = priorities.resolve(spec);
    let requests = Resources {
        pods: 1,
        ..requested(&crate::build::pod::resources(spec))
    };
    Workload {
        created: workload
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: workload.metadata.deletion_timestamp.is_some(),
        revision: revision(spec, runtime_image, &sidecars(spec, profiles)),
        mode: spec.placement.mode,
        replicas: workload.replicas(),
        nodes: spec.placement.nodes.clone(),
        priority: *priority.as_ref().unwrap_or(&0),
        priority_refused: priority.err(),
        objective: spec.placement.objective,
        expected_rate_per_minute: spec.expected_rate_per_minute,
        latency_p99: spec
            .placement
            .latency
            .as_ref()
            .map(|target| schema::to_std(&target.p99)),
        locality: spec.placement.locality,
        found: workload
            .status
            .iter()
            .flat_map(|status| &status.figures)
            .map(build_found)
            .collect(),
        on_gap: spec.placement.on_gap,
        autonomy: schema::to_std(&spec.placement.autonomy),
        minimum_accuracy_permille: spec.fallback.minimum_accuracy_permille,
        stable_for: schema::to_std(&spec.fallback.recovery.stable_for),
        variants: spec.variants.iter().map(build_variant).collect(),
        requests,
        earlier: None,
    }
}

fn build_variant(variant: &Variant) -> PlannedVariant {
    let needs = match &variant.device {
        None => Needs::Nothing,
        Some(device) => match (&device.profiles, device.class) {
            (Some(profiles), _) => Needs::Profiles(profiles.clone()),
            (None, Some(class)) => Needs::Class(class),
            (None, None) => Needs::Profiles(Vec::new()),
        },
    };
    PlannedVariant {
        name: variant.name.clone(),
        needs,
        accuracy_permille: variant.quality.as_ref().map(|quality| quality.accuracy_permille),
        performance: variant.performance.as_ref().map(build_declared),
        precision: variant.precision,
        memory_bytes: variant.memory.as_ref().and_then(quantity::units),
        remote: variant.remote.is_some(),
    }
}

fn build_declared(performance: &Performance) -> Declared {
    Declared {
        p99: performance.p99.as_ref().map(schema::to_std),
        microjoules: performance.microjoules_per_inference,
        source: performance.source,
    }
}

fn build_found(figure: &MeasuredFigure) -> Found {
    Found {
        variant: figure.variant.clone(),
        profile: Some(figure.profile.clone()).filter(|profile| profile != crate::report::measured::NO_DEVICE),
        microjoules: figure.microjoules_per_inference,
        p99_microseconds: figure.p99_microseconds,
        source: figure.source,
        emulated: figure.emulated,
    }
}
