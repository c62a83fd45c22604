//! What the steps share.

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_e2e::cluster::Cluster;
use perwatt_e2e::product::Example;
use perwatt_e2e::product::install::Product;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Instant;
use tempfile::TempDir;

/// The cluster with the product, and the demo's model on its nodes.
pub struct World<'a> {
    pub cluster: &'a Cluster,
    pub product: Product<'a>,
    pub model: String,
}

/// Steps that run one after the other; a failed one is told at the end.
#[derive(Default)]
pub struct Steps {
    passed: usize,
    failed: Vec<String>,
}

impl Steps {
    pub async fn run(&mut self, name: &str, step: impl Future<Output = ()>) {
        let only = std::env::var("PERWATT_STEP").unwrap_or_default();
        if !only.is_empty() && !only.split(',').any(|part| name.contains(part)) {
            return;
        }
        let began = Instant::now();
        println!("step {name} ...");
        if AssertUnwindSafe(step).catch_unwind().await.is_ok() {
            self.passed += 1;
            println!("step {name} ... ok ({} s)", began.elapsed().as_secs());
        } else {
            self.failed.push(name.to_owned());
            println!("step {name} ... FAILED ({} s)", began.elapsed().as_secs());
        }
    }

    /// A step that `make e2e-full` alone has the time for.
    pub async fn run_in_full(&mut self, name: &str, step: impl Future<Output = ()>) {
        if std::env::var_os("PERWATT_E2E_FULL").is_some() {
            self.run(name, step).await;
        }
    }

    pub fn finish(self) {
        println!("steps: {} passed, {} failed", self.passed, self.failed.len());
        assert!(
            self.failed.is_empty(),
            "these steps failed:\n  {}",
            self.failed.join("\n  ")
        );
    }
}

impl World<'_> {
    pub async fn kubectl(&self, arguments: &str) -> String {
        let words: Vec<_> = arguments.split_whitespace().collect();
        self.cluster
            .kubectl(&words)
            .await
            .unwrap_or_else(|error| panic!("kubectl {arguments}: {error}"))
    }

    /// Applies a manifest; gives what kubectl said, or its error.
    pub async fn apply(&self, manifest: &str) -> Result<String, String> {
        let manifest = manifest.replace("MODEL", &self.model);
        self.cluster
            .kubectl_with_input(&["apply", "-f", "-"], &manifest)
            .await
            .map_err(|error| error.to_string())
    }

    /// What `kubectl perwatt` prints.
    pub async fn perwatt(&self, arguments: &[&str]) -> String {
        let program = perwatt_e2e::programs::find("kubectl-perwatt").expect("it is built");
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .output()
            .await
            .expect("it runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub async fn status(
        &self,
        what: &str,
        workload: (&str, &str),
        wanted: impl Fn(&InferenceWorkloadStatus) -> bool,
    ) -> InferenceWorkloadStatus {
        self.product
            .wait_for_status(what, workload, wanted)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Pods of a workload that are not being deleted.
    pub async fn pods(&self, namespace: &str, workload: &str) -> Vec<Pod> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client().expect("a client"), namespace);
        let ours = ListParams::default().labels(&format!("perwatt.dev/workload={workload}"));
        let pods = api.list(&ours).await.expect("pods are listed").items;
        pods.into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect()
    }

    /// Waits until a workload has one pod and none that is still draining: its replies would be counted too.
    pub async fn alone(&self, namespace: &str, workload: &str) {
        self.count(namespace, workload, 1).await;
    }

    async fn count(&self, namespace: &str, workload: &str, wanted: usize) {
        self.product
            .wait_for_pods((namespace, workload), wanted)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Deletes a workload and waits until its pods are gone.
    pub async fn remove(&self, namespace: &str, workload: &str) {
        self.kubectl(&format!(
            "-n {namespace} delete inferenceworkload {workload} --wait=true"
        ))
        .await;
        self.count(namespace, workload, 0).await;
    }
}

/// A copy of an example's model, to be changed.
pub fn copy_model(example: Example) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(example.model_folder()).expect("the model is there") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    folder
}

/// Uids of pods.
pub fn uids(pods: &[Pod]) -> Vec<String> {
    let mut uids: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
    uids.sort();
    uids
}

/// Whether a status is served as planned, with nothing changing.
pub fn settled(status: &InferenceWorkloadStatus, serving: &str) -> bool {
    status.summary.serving == serving
        && status.summary.status == "Ready"
        && status.degraded_slots == 0
        && !perwatt_e2e::demo::changing(status)
}
