//! A fleet of nodes that kwok plays, around a real control plane: what figures of many nodes are measured on.
//!
//! Nothing but the nodes is played: the API server, the controllers, the scheduler and our operator are the real
//! programs, the operator as the service account that the chart makes. Inventories are written by the harness, for
//! there is no agent, under a service account of its own ([`nodes`]); the chart's policy on what agents may write is in
//! force. No pod runs anything: kwok says that it is ready ([`pods`]).

pub mod nodes;
pub mod pods;

use std::path::PathBuf;

use super::{cluster, failed, install};
use crate::cluster::{Cluster, Guest, Identity, Process};
use crate::product::Result;
use crate::product::install::NAMESPACE as SYSTEM;
use crate::programs;
use crate::progress::Progress;
use crate::project;
use nodes::{DARK_SITE, SITES, ZONE};

/// Namespace of the fleet's workloads and of the harness's service account.
pub const NAMESPACE: &str = "fleet";
/// A runtime image that nobody pulls.
pub const IMAGE: &str = "registry.example/perwatt/runtime:fleet";
/// What a node of the fleet has one of.
pub const RESOURCE: &str = "perwatt.dev/fleet-asic";
/// Other numbers of nodes than a figure's own, with commas between.
const SIZES_VARIABLE: &str = "PERWATT_FLEET";
/// Name of the operator's process, also of its log.
pub const OPERATOR: &str = "operator";
const DARK_KWOK: &str = "kwok-dark";

const BASE: &str = "apiVersion: v1
kind: Namespace
metadata: {name: fleet}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: inventories, namespace: fleet}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: fleet-inventories}
rules:
- {apiGroups: [perwatt.dev], resources: [deviceinventories], verbs: [create]}
- {apiGroups: [perwatt.dev], resources: [deviceinventories/status], verbs: [patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: fleet-inventories}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: fleet-inventories}
subjects: [{kind: ServiceAccount, name: inventories, namespace: fleet}]
---
apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: fleet-asic}
spec:
  class: ASIC
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/os: linux}}}}
  power: {typicalMilliwatts: 2500, maxMilliwatts: 5000}
";

/// How many nodes a figure is measured with: its own numbers, or those of the environment.
pub fn sizes(own: &[usize]) -> Result<Vec<usize>> {
    let Ok(text) = std::env::var(SIZES_VARIABLE) else {
        return Ok(own.to_vec());
    };
    let number = |word: &str| match word.trim().parse::<usize>() {
        Ok(size) if size >= SITES => Ok(size),
        _ => Err(failed(
            SIZES_VARIABLE,
            format!("{word:?} is no number of nodes from {SITES} on: give some, with commas between"),
        )),
    };
    text.split(',').map(number).collect()
}

/// A running fleet; it ends with this value.
pub struct Fleet {
    /// Its control plane.
    pub cluster: Cluster,
    /// How many nodes it has.
    pub size: usize,
    /// Where to say what happens.
    pub progress: Progress,
    kwok: PathBuf,
}

impl Fleet {
    /// Starts a control plane with the product on it, and nodes with one device each; all are ready afterwards.
    ///
    /// # Errors
    /// When a part does not start, or a node does not become ready.
    pub async fn start(size: usize, progress: &Progress) -> Result<Self> {
        let kwok = install::kwok()?;
        let cluster = cluster::start(Vec::new(), progress).await?;
        let progress = progress.clone();
        let fleet = Self {
            cluster,
            size,
            progress,
            kwok,
        };
        fleet.install().await?;
        cluster::apply(&fleet.cluster, BASE).await?;
        fleet
            .play("kwok", &format!("{ZONE}!={DARK_SITE}"), "10.81.0.1/16")
            .await?;
        fleet.light_up().await?;
        nodes::create(&fleet).await?;
        nodes::until_all(&fleet.cluster, "", size, nodes::is_usable).await?;
        fleet.progress.say(format!("{size} nodes are ready"));
        Ok(fleet)
    }

    /// The chart as it is shipped; its operator runs as a process instead ([`Self::start_operator`]), and no node is one
    /// for agents.
    async fn install(&self) -> Result<()> {
        let chart = project().join("charts/perwatt").display().to_string();
        let mut arguments = vec![
            "install",
            "perwatt",
            &chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
        ];
        arguments.extend(["--set", "catalogue.enabled=false"]);
        arguments.extend(["--set", "agent.nodeSelector.fleet=none"]);
        self.cluster.helm(&arguments).await?;
        let none = [
            "-n",
            SYSTEM,
            "scale",
            "deployment/perwatt-operator",
            "--replicas=0",
        ];
        self.cluster.kubectl(&none).await?;
        Ok(())
    }

    /// Starts the operator with the rights that the chart gives it.
    ///
    /// # Errors
    /// When it is not built.
    pub async fn start_operator(&self) -> Result<Process> {
        let program = programs::find("perwatt-operator")?;
        let arguments = [
            "run".into(),
            format!("--runtime-image={IMAGE}"),
            format!("--namespace={SYSTEM}"),
            "--listen=127.0.0.1:8080".into(),
        ];
        let guest = Guest {
            name: OPERATOR,
            program: &program,
            arguments: &arguments,
            identity: Identity::ServiceAccount {
                namespace: SYSTEM,
                name: "perwatt-operator",
            },
        };
        Ok(self.cluster.start_guest(&guest).await?)
    }

    /// From now on nobody speaks for the nodes of [`DARK_SITE`].
    ///
    /// # Errors
    /// When what plays them does not end.
    pub fn go_dark(&self) -> Result<()> {
        Ok(self.cluster.kill_guest(DARK_KWOK)?)
    }

    /// The nodes of [`DARK_SITE`] are there, or there again.
    ///
    /// # Errors
    /// When what plays them does not start.
    pub async fn light_up(&self) -> Result<()> {
        self.play(DARK_KWOK, &format!("{ZONE}={DARK_SITE}"), "10.82.0.1/16")
            .await
    }

    /// Plays the nodes that a selector chooses. A lease is renewed after a quarter of its time.
    async fn play(&self, name: &str, nodes: &str, pods: &str) -> Result<()> {
        let settings = project().join("e2e/kwok/kwok.yaml");
        let arguments = [
            format!("--config={}", settings.display()),
            "--manage-all-nodes=false".into(),
            format!("--manage-nodes-with-label-selector={nodes}"),
            "--node-lease-duration-seconds=160".into(),
            format!("--cidr={pods}"),
        ];
        let guest = Guest {
            name,
            program: &self.kwok,
            arguments: &arguments,
            identity: Identity::Administrator,
        };
        self.cluster.start_guest(&guest).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_its_own_sizes_unless_told_otherwise() {
        assert_eq!(sizes(&[30, 70]).expect("no variable is set"), [30, 70]);
    }
}
