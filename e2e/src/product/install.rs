//! Installing the product, and what its user does with kubectl afterwards.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use perwatt_crds::{DeviceInventory, InferenceWorkload, InferenceWorkloadStatus};

use super::{Error, Example, Result, pack_model};
use crate::cluster::Cluster;
use crate::images;
use crate::progress::Progress;
use crate::project;
use crate::wait::{DEADLINE, until};

/// Namespace of the product.
pub const NAMESPACE: &str = "perwatt-system";

/// A cluster with the product on it.
pub struct Product<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Where to say what happens.
    pub progress: Progress,
}

impl<'a> Product<'a> {
    /// Loads the product's images and installs the chart; an installed one is upgraded.
    ///
    /// # Errors
    /// When an image cannot be made or loaded, or Helm fails.
    pub async fn install(cluster: &'a Cluster, progress: &Progress) -> Result<Self> {
        let packed = images::product(progress)?;
        for image in packed.all() {
            cluster.load_image(&image.file).await?;
        }
        let chart = project().join("charts/perwatt");
        let set = |key: &str, reference: &str| {
            format!(
                "images.{key}={}",
                reference.rsplit('/').next().unwrap_or(reference)
            )
        };
        cluster
            .helm(&[
                "upgrade",
                "--install",
                "perwatt",
                &chart.display().to_string(),
                "--namespace",
                NAMESPACE,
                "--create-namespace",
                "--set",
                &set("operator", &packed.operator.reference),
                "--set",
                &set("agent", &packed.device_plugin.reference),
                "--set",
                &set("runtime", &packed.runtime.reference),
                "--set",
                "operator.evidenceInterval=2s",
                // The machine of the tests has what it has; snapshots show the tests' own profiles.
                "--set",
                "catalogue.enabled=false",
                "--wait",
                "--timeout",
                "4m",
            ])
            .await?;
        Ok(Self {
            cluster,
            progress: progress.clone(),
        })
    }

    /// The product as it is installed already.
    #[must_use]
    pub fn attach(cluster: &'a Cluster, progress: &Progress) -> Self {
        Self {
            cluster,
            progress: progress.clone(),
        }
    }

    /// Packs an example's model and loads it on every node; returns its reference.
    ///
    /// # Errors
    /// When the model is not as it should be.
    pub async fn load_model(&self, example: Example) -> Result<String> {
        let (reference, file) = pack_model(example)?;
        self.cluster.load_image(&file).await?;
        Ok(reference)
    }

    /// Applies the manifests of an example, after checking that they name `model`.
    ///
    /// # Errors
    /// When a manifest names another model, or kubectl fails.
    pub async fn apply_example(&self, example: Example, model: &str) -> Result<()> {
        let folder = project().join("examples").join(example.name);
        check_names(&folder.join("workload.yaml"), model)?;
        self.cluster
            .kubectl(&["apply", "-f", &folder.display().to_string()])
            .await?;
        Ok(())
    }

    /// The status of a workload.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn status(&self, namespace: &str, name: &str) -> Result<InferenceWorkloadStatus> {
        let api: Api<InferenceWorkload> = Api::namespaced(self.cluster.client()?, namespace);
        Ok(api.get(name).await?.status.unwrap_or_default())
    }

    /// Waits until a workload's status is as `wanted` says; the error tells what it is instead.
    ///
    /// # Errors
    /// When it does not come about.
    pub async fn wait_for_status(
        &self,
        what: &str,
        workload: (&str, &str),
        wanted: impl Fn(&InferenceWorkloadStatus) -> bool,
    ) -> Result<InferenceWorkloadStatus> {
        let (namespace, name) = workload;
        let api: Api<InferenceWorkload> = Api::namespaced(self.cluster.client()?, namespace);
        let wanted = &wanted;
        let api = &api;
        let status = until(what, DEADLINE, || async move {
            let found = api.get_opt(name).await.map_err(|error| error.to_string())?;
            let generation = found.as_ref().and_then(|workload| workload.metadata.generation);
            let status = found.and_then(|workload| workload.status).unwrap_or_default();
            let current = status.observed_generation == generation;
            if current && wanted(&status) {
                Ok(status)
            } else {
                let rollout = status.rollout.map(|rollout| rollout.message);
                Err(format!("{:?} {:?} {rollout:?}", status.summary, status.problems))
            }
        });
        Ok(status.await?)
    }

    /// Waits until a workload has this many pods, those included that are being deleted.
    ///
    /// # Errors
    /// When it does not come about.
    pub async fn wait_for_pods(&self, (namespace, name): (&str, &str), wanted: usize) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client()?, namespace);
        let ours = ListParams::default().labels(&format!("perwatt.dev/workload={name}"));
        let (pods, ours) = (&pods, &ours);
        let counted = until("as many pods as wanted", DEADLINE, || async move {
            let found = pods.list(ours).await.map_err(|error| error.to_string())?;
            match found.items.len() {
                count if count == wanted => Ok(()),
                count => Err(format!("{count} pods of {name}, not {wanted}")),
            }
        });
        Ok(counted.await?)
    }

    /// Waits until the inventory of a node says what `wanted` asks.
    ///
    /// # Errors
    /// When it does not come about.
    pub async fn wait_for_inventory(
        &self,
        what: &str,
        node: &str,
        wanted: impl Fn(&DeviceInventory) -> bool,
    ) -> Result<DeviceInventory> {
        let api: Api<DeviceInventory> = Api::all(self.cluster.client()?);
        let (api, wanted) = (&api, &wanted);
        let inventory = until(what, DEADLINE, || async move {
            let found = api.get_opt(node).await.map_err(|error| error.to_string())?;
            let found = found.ok_or("there is no inventory")?;
            if wanted(&found) {
                Ok(found)
            } else {
                Err(format!("{:?}", found.status))
            }
        });
        Ok(inventory.await?)
    }

    /// Name of the agent's pod on a node.
    ///
    /// # Errors
    /// When there is none.
    pub async fn agent(&self, node: &str) -> Result<String> {
        Ok(self.agent_pod(node).await?.name_any())
    }

    /// The agent's pod on a node.
    ///
    /// # Errors
    /// When there is none.
    pub async fn agent_pod(&self, node: &str) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client()?, NAMESPACE);
        let on_node = ListParams::default()
            .labels("app.kubernetes.io/name=perwatt-device-plugin")
            .fields(&format!("spec.nodeName={node}"));
        let pods = &pods;
        let on_node = &on_node;
        let pod = until("an agent pod", DEADLINE, || async move {
            let found = pods.list(on_node).await.map_err(|error| error.to_string())?;
            let alive = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
            let alive = found.items.into_iter().find(alive);
            alive.ok_or_else(|| format!("no agent on {node}"))
        });
        Ok(pod.await?)
    }

    /// The command by which a user changes an emulated device.
    ///
    /// # Errors
    /// When there is no agent on the node.
    pub async fn emulate_command(&self, node: &str, device: &str, setting: &str) -> Result<Vec<String>> {
        let agent = self.agent(node).await?;
        let words = [
            "-n",
            NAMESPACE,
            "exec",
            &agent,
            "--",
            "perwatt-device-plugin",
            "emulate",
            device,
            setting,
        ];
        Ok(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// Changes an emulated device, as a user does.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn emulate(&self, node: &str, device: &str, setting: &str) -> Result<()> {
        let command = self.emulate_command(node, device, setting).await?;
        self.cluster
            .kubectl(&command.iter().map(String::as_str).collect::<Vec<_>>())
            .await?;
        Ok(())
    }
}

fn check_names(manifest: &Path, model: &str) -> Result<()> {
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    if text.contains(model) {
        return Ok(());
    }
    Err(Error::StaleManifest {
        manifest: manifest.to_owned(),
        reference: model.to_owned(),
    })
}
