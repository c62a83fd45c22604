//! A vendor's server beside the runtime: a native sidecar, which starts before the runtime, is restarted by
//! itself, and ends after it. It requests the device, and runs under restricted Pod Security like the runtime.
//!
//! It has no probes: one that is broken must not keep the runtime from serving by another variant, and none that
//! sleeps shall be woken. The runtime sees by its answers how it is.

use super::pod::{add_device, default_resources, model_mount, restricted};
use k8s_openapi::api::core::v1::{Container, ContainerPort, ResourceRequirements};
use perwatt_crds::profile::{Sidecar, SidecarProtocol};
use perwatt_crds::{HardwareProfile, names};
use serde_json::{Value, json};

/// The container; nothing where the runtime itself runs models on such devices.
#[must_use]
pub fn build_sidecar(profile: &HardwareProfile) -> Option<Container> {
    let sidecar = profile.sidecar()?;
    let mut resources = resources(sidecar);
    add_device(&mut resources, profile);
    let given = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    Some(Container {
        name: names::CONTAINER_SIDECAR.into(),
        image: Some(sidecar.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        command: given(&sidecar.command),
        args: given(&sidecar.args),
        ports: Some(vec![ContainerPort {
            name: Some("sidecar".into()),
            container_port: sidecar.port,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources),
        restart_policy: Some("Always".into()),
        security_context: Some(restricted()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![model_mount()]),
        ..Container::default()
    })
}

/// CPU and memory: the profile's, or our defaults.
#[must_use]
pub fn resources(sidecar: &Sidecar) -> ResourceRequirements {
    sidecar.resources.clone().unwrap_or_else(default_resources)
}

/// How the runtime is told of it.
#[must_use]
pub fn runtime_remote(sidecar: &Sidecar) -> Value {
    let scheme = match sidecar.protocol {
        SidecarProtocol::Rest => "http",
        SidecarProtocol::Grpc => "grpc",
    };
    json!({"endpoint": format!("{scheme}://127.0.0.1:{}", sidecar.port), "model": sidecar.model})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(backend: Value) -> HardwareProfile {
        let object = json!({
            "apiVersion": "perwatt.dev/v1alpha1", "kind": "HardwareProfile", "metadata": {"name": "npu-x"},
            "spec": {"class": "ASIC", "discovery": {"emulated": {"count": 1}}, "backend": backend}
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_sidecar_requests_the_device_and_is_restricted() {
        let sidecar = json!({"image": "vendor@sha256:0", "port": 8001, "protocol": "gRPC", "args": ["--model", "/model"]});
        let profile = profile(json!({"type": "OpenInference", "sidecar": sidecar}));
        let container = serde_json::to_value(build_sidecar(&profile).unwrap()).unwrap();
        assert_eq!(container["restartPolicy"], "Always");
        assert_eq!(container["resources"]["limits"]["perwatt.dev/npu-x"], "1");
        assert_eq!(container["resources"]["requests"]["cpu"], "50m");
        assert_eq!(
            container["securityContext"]["capabilities"]["drop"],
            json!(["ALL"])
        );
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["args"], json!(["--model", "/model"]));
        assert!(
            container.get("startupProbe").is_none(),
            "a broken one must not keep the runtime from starting"
        );
        let remote = runtime_remote(profile.sidecar().unwrap());
        assert_eq!(
            remote,
            json!({"endpoint": "grpc://127.0.0.1:8001", "model": null})
        );
    }

    #[test]
    fn a_profile_whose_models_the_runtime_runs_has_none() {
        assert!(build_sidecar(&profile(Value::Null)).is_none());
        assert!(build_sidecar(&profile(json!({"type": "Runtime"}))).is_none());
    }
}
