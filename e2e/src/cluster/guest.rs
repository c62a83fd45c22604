//! Programs that run beside the control plane without being a part of every cluster: what plays nodes, or the operator
//! as a process. They end with the cluster.

use std::path::Path;

use super::Cluster;
use super::config::kubeconfig_with_token;
use super::control_plane::{kubeconfig, server, write_kubeconfig};
use super::error::Result;
use super::process::{Part, Process};
use super::state::{CONTROL, write_file};

/// Whose certificate the administrator's is.
const ADMINISTRATOR: &str = "admin";

/// A program, and who it is to the API server.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// Name of the process, also of its log.
    pub name: &'a str,
    /// The program.
    pub program: &'a Path,
    /// Its arguments; its kubeconfig is in `KUBECONFIG`.
    pub arguments: &'a [String],
    /// As whom it asks.
    pub identity: Identity<'a>,
}

/// Who a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// The administrator.
    Administrator,
    /// A service account, with the rights that it has.
    ServiceAccount {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
}

impl Cluster {
    /// Starts a program in the control plane's network, straight beside the API server.
    ///
    /// # Errors
    /// When it cannot be started, or there is no such service account.
    pub async fn start_guest(&self, guest: &Guest<'_>) -> Result<Process> {
        let state = self.state();
        let file = match guest.identity {
            Identity::Administrator => {
                write_kubeconfig(state, ADMINISTRATOR)?;
                kubeconfig(state, ADMINISTRATOR)
            }
            Identity::ServiceAccount { namespace, name } => {
                let asked = ["-n", namespace, "create", "token", name, "--duration=24h"];
                let token = self.kubectl(&asked).await?;
                let file = kubeconfig(state, guest.name);
                write_file(&file, kubeconfig_with_token(state, &server(), name, token.trim()))?;
                file
            }
        };
        let part = Part::new(guest.name, "env")
            .arg(format!("KUBECONFIG={}", file.display()))
            .arg(guest.program)
            .args(guest.arguments)
            .network(state.namespace_path(CONTROL));
        self.launcher.start(part)
    }

    /// Kills a guest at once.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_guest(&self, name: &str) -> Result<()> {
        self.launcher.kill(name)
    }
}
