//! Writing children: the only place that does. Pods are created by POST under a name that the
//! plan fixes, so that a repeat is refused and never doubled, and deleted with preconditions;
//! everything else by server-side apply with one field manager.

pub mod children;
pub mod records;

use crate::build::pair::refusal;
use crate::build::pod::{Incumbent, build_pod};
use crate::observe::pod::is_ready;
use crate::observe::snapshot::Snapshot;
use crate::rollout::key::ControlKey;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use perwatt_crds::names;
use perwatt_planner::outcome::{Change, PodDelete, PodPlan};
use serde_json::Value;

/// Why a change was not carried out. The next pass plans it anew.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or did not answer.
    #[error("cannot {action}: {source}")]
    Api {
        /// What was tried.
        action: String,
        /// The answer.
        source: kube::Error,
    },
    /// A pod may not go: its survivor does not serve.
    #[error("pod {pod} stays: {survivor} does not serve yet ({why})")]
    SurvivorNotServing {
        /// The pod that was to go.
        pod: String,
        /// The pod that was to serve on.
        survivor: String,
        /// What is missing.
        why: &'static str,
    },
    /// The snapshot was older than the cluster.
    #[error("{what} changed since it was seen")]
    Stale {
        /// What changed.
        what: String,
    },
}

impl ApplyError {
    /// Ordinary in a system of many writers: planned anew without a word to the user.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::SurvivorNotServing { .. } | Self::Stale { .. })
    }

    /// Whether the object is there no more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. } if status.is_not_found())
    }

    /// Whether the change may have been carried out all the same: nothing, or a failure of the server's own, was answered.
    #[must_use]
    pub fn leaves_open(&self) -> bool {
        match self {
            Self::Api {
                source: kube::Error::Api(status),
                ..
            } => status.code >= 500,
            Self::Api { .. } => true,
            Self::SurvivorNotServing { .. } | Self::Stale { .. } => false,
        }
    }
}

/// What a change did.
#[derive(Debug)]
pub enum Applied {
    /// A pod was made, as the API server answered.
    Made(Box<Pod>),
    /// A pod was deleted: as the API server answered, none where it is no more.
    Deleted(Option<Box<Pod>>),
    /// It was so already.
    Already,
}

/// Carries out one change of a plan. `image` is that of the runtime, `key` that of the control ports.
///
/// # Errors
/// When the change was refused, or is not safe any more.
pub async fn apply(
    client: &Client,
    snapshot: &Snapshot,
    (image, key): (&str, &ControlKey),
    change: &Change,
) -> Result<Applied, ApplyError> {
    match change {
        Change::Create(plan) => {
            let pod = build(snapshot, (image, key), plan).ok_or_else(|| ApplyError::Stale {
                what: format!("workload {}", plan.workload),
            })?;
            create(client, &pod, plan).await
        }
        Change::Delete(delete) => remove(client, snapshot, delete).await,
    }
}

/// The pod of a plan: of the present revision, beside it the one that it is to replace where a rollout is on its way; or
/// of that one, where the slot is not open yet.
fn build(snapshot: &Snapshot, (image, key): (&str, &ControlKey), plan: &PodPlan) -> Option<Pod> {
    let workload = snapshot.workloads.get(&plan.workload)?;
    let name = plan.assignment.profile.as_ref();
    let profile = name
        .and_then(|name| snapshot.profiles.get(name))
        .map(AsRef::as_ref);
    let rolling = snapshot.rollouts.get(&plan.workload);
    let earlier = rolling.and_then(|rolling| rolling.earlier.as_deref());
    let Some(past) = earlier else {
        let class = snapshot.priorities.class(&workload.spec);
        return Some(build_pod(plan, workload, profile, class, image, None));
    };
    if plan.assignment.revision == past.revision {
        let profile = name
            .zip(profile)
            .map(|(name, profile)| past.profile(name, profile));
        let class = snapshot.priorities.class(&past.workload.spec);
        return Some(build_pod(
            plan,
            &past.workload,
            profile.as_ref(),
            class,
            &past.runtime_image,
            None,
        ));
    }
    let before = &past.workload.spec;
    let refusal = refusal(&workload.spec, before, profile, past.runtime_image == image);
    let digest = key.token_digest(&plan.workload.namespace, &plan.name);
    let incumbent = Incumbent {
        revision: &past.revision,
        spec: before,
        token_digest: &digest,
    };
    let incumbent = refusal.is_none().then_some(incumbent);
    let class = snapshot.priorities.class(&workload.spec);
    Some(build_pod(plan, workload, profile, class, image, incumbent))
}

async fn create(client: &Client, pod: &Pod, plan: &PodPlan) -> Result<Applied, ApplyError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &plan.workload.namespace);
    match api
        .create(
            &PostParams {
                field_manager: Some(names::FIELD_MANAGER.into()),
                ..PostParams::default()
            },
            pod,
        )
        .await
    {
        Ok(made) => Ok(Applied::Made(Box::new(made))),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Applied::Already),
        Err(source) => Err(ApplyError::Api {
            action: format!("create pod {}", plan.name),
            source,
        }),
    }
}

async fn remove(client: &Client, snapshot: &Snapshot, delete: &PodDelete) -> Result<Applied, ApplyError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &delete.namespace);
    let mut preconditions = Preconditions {
        uid: Some(delete.uid.clone()),
        resource_version: None,
    };
    match &delete.survivor {
        Some(survivor) => require_serving(client, &api, delete, survivor).await?,
        // Nothing takes over because the pod serves nothing: that must still be so.
        None => {
            preconditions.resource_version = snapshot
                .pod(&delete.namespace, &delete.name)
                .and_then(|pod| pod.resource_version());
        }
    }
    let parameters = DeleteParams::default().preconditions(preconditions);
    match api.delete(&delete.name, &parameters).await {
        Ok(answer) => Ok(Applied::Deleted(answer.left().map(Box::new))),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Applied::Already),
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(ApplyError::Stale {
            what: format!("pod {}", delete.name),
        }),
        Err(source) => Err(ApplyError::Api {
            action: format!("delete pod {}", delete.name),
            source,
        }),
    }
}

/// A live read, not the snapshot, must show that the survivor is ready and among the Service's endpoints.
async fn require_serving(
    client: &Client,
    pods: &Api<Pod>,
    delete: &PodDelete,
    survivor: &str,
) -> Result<(), ApplyError> {
    let refuse = |why| ApplyError::SurvivorNotServing {
        pod: delete.name.clone(),
        survivor: survivor.to_owned(),
        why,
    };
    let read = |source| ApplyError::Api {
        action: format!("read pod {survivor}"),
        source,
    };
    let pod = pods
        .get_opt(survivor)
        .await
        .map_err(read)?
        .ok_or_else(|| refuse("it is gone"))?;
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(refuse("it is being deleted"));
    }
    if !is_ready(&pod) {
        return Err(refuse("it is not ready"));
    }
    let Some(workload) = pod.labels().get(names::LABEL_WORKLOAD) else {
        return Err(refuse("it has no workload"));
    };
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &delete.namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={workload}"));
    let slices = slices.list(&of_service).await.map_err(|source| ApplyError::Api {
        action: format!("list the endpoints of {workload}"),
        source,
    })?;
    let listed = slices.iter().flat_map(|slice| &slice.endpoints).any(|endpoint| {
        let target = endpoint
            .target_ref
            .as_ref()
            .and_then(|target| target.name.as_deref());
        let ready = endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready);
        target == Some(survivor) && ready.unwrap_or(true)
    });
    if listed {
        Ok(())
    } else {
        Err(refuse("the Service does not list it"))
    }
}

/// Whether every field of `wanted` is in `observed` with the same value; more may be there.
#[must_use]
pub fn covers(observed: &Value, wanted: &Value) -> bool {
    match (observed, wanted) {
        (Value::Object(observed), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            key == "apiVersion" || key == "kind" || observed.get(key).is_some_and(|have| covers(have, value))
        }),
        (Value::Array(observed), Value::Array(wanted)) => {
            observed.len() == wanted.len()
                && observed.iter().zip(wanted).all(|(have, want)| covers(have, want))
        }
        _ => observed == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_that_the_server_adds_are_no_drift_and_changed_fields_are() {
        let wanted = json!({"spec": {"ports": [{"port": 8080}], "selector": {"a": "b"}}});
        let defaulted = json!({"spec": {"ports": [{"port": 8080, "protocol": "TCP"}], "selector": {"a": "b"}, "type": "ClusterIP"}});
        assert!(covers(&defaulted, &wanted));
        let edited = json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
        assert!(!covers(&edited, &wanted));
        let more_ports = json!({"spec": {"ports": [{"port": 8080}, {"port": 1}], "selector": {"a": "b"}}});
        assert!(!covers(&more_ports, &wanted));
    }
}
