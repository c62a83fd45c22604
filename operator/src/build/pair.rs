//! A pod that carries two revisions: its own, which is on trial, and the one that it is to replace. On its one device the
//! runtime compares them, and going back is a switch inside.

use super::pod::{Incumbent, resources, runtime_chain, runtime_config, variable};
use k8s_openapi::api::core::v1::{
    Container, ImageVolumeSource, Pod, ResourceRequirements, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use perwatt_crds::workload::Variant;
use perwatt_crds::{HardwareProfile, InferenceWorkloadSpec, names, quantity};
use perwatt_planner::outcome::PodPlan;
use serde_json::json;

/// Name of the volume with the model of the revision on trial.
const CANDIDATE: &str = "candidate";

/// Why a pod cannot carry both revisions; nothing where it can.
#[must_use]
pub fn refusal(
    spec: &InferenceWorkloadSpec,
    before: &InferenceWorkloadSpec,
    profile: Option<&HardwareProfile>,
    same_image: bool,
) -> Option<&'static str> {
    if !same_image {
        return Some("the revision changes the image of the runtime");
    }
    if spec.runtime.runtime_class_name != before.runtime.runtime_class_name {
        return Some("the revision changes the RuntimeClass");
    }
    if let Some(profile) = profile {
        if profile.sidecar().is_some() {
            return Some("the vendor's server of the device runs one model");
        }
        let shares = profile
            .spec
            .sharing
            .as_ref()
            .is_some_and(|sharing| sharing.multi_model);
        if !shares {
            return Some("the device runs one model at a time (sharing.multiModel of its profile)");
        }
    }
    let serves = chain(before, profile).next().is_some();
    (!serves).then_some("the revision before has no variant for this place")
}

/// The variants of a revision that can serve in a pod with a device of this profile, best first: those on the device,
/// then those that need none.
fn chain<'a>(
    spec: &'a InferenceWorkloadSpec,
    profile: Option<&'a HardwareProfile>,
) -> impl Iterator<Item = &'a Variant> {
    let on_device = move |variant: &&Variant| {
        let (Some(device), Some(profile)) = (&variant.device, profile) else {
            return false;
        };
        let name = profile.metadata.name.as_deref().unwrap_or_default();
        let named = device.profiles.as_ref();
        named.is_some_and(|names| names.iter().any(|known| known == name))
            || device.class == Some(profile.spec.class)
    };
    let first = spec.variants.iter().find(on_device);
    let others = spec.variants.iter().filter(|variant| variant.device.is_none());
    first.into_iter().chain(others)
}

/// Adds the revision that is to be replaced to a pod that was built for the one on trial.
pub(super) fn carry(
    pod: &mut Pod,
    plan: &PodPlan,
    spec: &InferenceWorkloadSpec,
    profile: Option<&HardwareProfile>,
    incumbent: Incumbent<'_>,
) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(
        names::ANNOTATION_INCUMBENT.to_owned(),
        incumbent.revision.to_owned(),
    );
    let Some(pod_spec) = &mut pod.spec else { return };
    let volumes = pod_spec.volumes.get_or_insert_default();
    // The incumbent is where a revision alone would be: all that is outside of the runtime finds it there.
    for volume in volumes.iter_mut().filter(|volume| volume.name == "model") {
        *volume = image("model", &incumbent.spec.model.image);
    }
    volumes.push(image(CANDIDATE, &spec.model.image));
    let secrets = pod_spec.image_pull_secrets.get_or_insert_default();
    let more = incumbent.spec.model.pull_secrets.iter();
    let missing: Vec<_> = more.filter(|secret| !secrets.contains(secret)).cloned().collect();
    secrets.extend(missing);
    let runtime = pod_spec
        .containers
        .iter_mut()
        .filter(|container| container.name == names::CONTAINER_RUNTIME);
    for container in runtime {
        add_resources(container, incumbent.spec);
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: CANDIDATE.into(),
            mount_path: names::CANDIDATE_DIR.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
        let environment = container.env.get_or_insert_default();
        environment.retain(|variable| variable.name != names::RUNTIME_CONFIG_ENV);
        environment.push(variable(
            names::RUNTIME_CONFIG_ENV,
            config(plan, spec, profile, incumbent).to_string(),
        ));
        environment.push(variable(
            names::CONTROL_TOKEN_ENV,
            incumbent.token_digest.to_owned(),
        ));
    }
}

fn image(name: &str, reference: &str) -> Volume {
    Volume {
        name: name.into(),
        image: Some(ImageVolumeSource {
            reference: Some(reference.to_owned()),
            pull_policy: Some("IfNotPresent".into()),
        }),
        ..Volume::default()
    }
}

/// The configuration of the one on trial, with what it replaces in the first place.
fn config(
    plan: &PodPlan,
    spec: &InferenceWorkloadSpec,
    profile: Option<&HardwareProfile>,
    incumbent: Incumbent<'_>,
) -> serde_json::Value {
    let own = runtime_config(plan, spec, profile);
    let chain: Vec<_> = chain(incumbent.spec, profile)
        .map(|variant| variant.name.clone())
        .collect();
    let on_device = incumbent
        .spec
        .variants
        .iter()
        .find(|variant| chain.contains(&variant.name) && variant.device.is_some());
    let on_device = on_device.map_or("", |variant| variant.name.as_str());
    let mut config = own.clone();
    config["revision"] = json!(incumbent.revision);
    config["variants"] = json!(runtime_chain(chain.iter(), on_device, incumbent.spec, profile));
    config["candidate"] = json!({
        "revision": own["revision"],
        "model": names::CANDIDATE_DIR,
        "variants": own["variants"],
    });
    config
}

/// Two models take the memory of two.
fn add_resources(container: &mut Container, before: &InferenceWorkloadSpec) {
    let more = resources(before);
    let own = container
        .resources
        .get_or_insert_with(ResourceRequirements::default);
    for (amounts, more) in [(&mut own.requests, more.requests), (&mut own.limits, more.limits)] {
        let Some(memory) = amounts.as_mut().and_then(|amounts| amounts.get_mut("memory")) else {
            continue;
        };
        let more = more.as_ref().and_then(|more| more.get("memory"));
        let sum = quantity::units(memory).zip(more.and_then(quantity::units));
        if let Some((own, more)) = sum {
            *memory = Quantity(own.saturating_add(more).to_string());
        }
    }
}

#[cfg(test)]
mod tests;
