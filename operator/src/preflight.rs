//! What must hold before anything is planned: the server keeps image volumes. An older server
//! drops the field without a word, and a pod would start without its model.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The server dropped the field.
    #[error(
        "this API server drops image volumes: models could not be mounted. Upgrade the cluster to Kubernetes or K3s 1.35 \
         or newer (containerd 2.1 or newer), or enable its feature gate ImageVolume"
    )]
    ImageVolumesDropped,
    /// The server refused the trial.
    #[error("cannot tell whether this API server keeps image volumes: the trial pod was refused: {0}")]
    Refused(#[source] Box<kube::Error>),
}

/// Creates a pod with an image volume as a dry run and looks whether the volume is still there.
///
/// # Errors
/// When image volumes are dropped, or the trial was refused.
pub async fn check_image_volumes(client: &Client, namespace: &str) -> Result<(), PreflightError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let refused = |error| PreflightError::Refused(Box::new(error));
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let created = pods
        .create(
            &dry_run,
            &trial().map_err(|error| refused(kube::Error::SerdeError(error)))?,
        )
        .await;
    let volumes = created
        .map_err(refused)?
        .spec
        .and_then(|spec| spec.volumes)
        .unwrap_or_default();
    if volumes.iter().any(|volume| volume.image.is_some()) {
        Ok(())
    } else {
        Err(PreflightError::ImageVolumesDropped)
    }
}

fn trial() -> Result<Pod, serde_json::Error> {
    serde_json::from_value(json!({
        "metadata": {"name": "perwatt-image-volume-trial"},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "trial",
                "image": "registry.example/trial",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
                "volumeMounts": [{"name": "model", "mountPath": "/model"}],
            }],
            "volumes": [{"name": "model", "image": {"reference": "registry.example/trial-model"}}],
        },
    }))
}
