//! One node: a network and a mount namespace of its own, and in them a real
//! containerd, kubelet and kube-proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::cleanup::make_folders;
use super::config::{self, KUBELET_HEALTH, NodeSettings, PROXY_HEALTH};
use super::control_plane::{kubeconfig, write_kubeconfig};
use super::error::{Error, Result};
use super::forward::Forward;
use super::network::{self, healthy, node_address, pod_subnet};
use super::preflight::snapshotter;
use super::process::{Launcher, Part, Process, tail};
use super::state::{NodeRecord, State, create_folder, write_file};
use super::tools::output;
use crate::wait::{DEADLINE, until};

/// Folders of the machine that each node has for itself, and the name of the
/// node's own folder that is mounted there. The kubelet's and the agent's paths
/// are fixed, so two nodes on one machine can only differ by mounts.
const OWN_FOLDERS: [(&str, &str); 10] = [
    ("kubelet", "/var/lib/kubelet"),
    ("containerd-run", "/run/containerd"),
    ("cni-config", "/etc/cni"),
    ("cni-plugins", "/opt/cni"),
    ("cni-results", "/var/lib/cni"),
    ("pod-logs", "/var/log/pods"),
    ("container-logs", "/var/log/containers"),
    ("cdi", "/run/cdi"),
    ("agent", AGENT),
    ("agent-data", "/var/lib/perwatt"),
];
const AGENT: &str = "/run/perwatt";

/// Runs as the process that keeps a node's mount namespace: mounts the pairs it
/// is given, says so by a file, and waits. Shared within the namespace only, so
/// that pods which ask for mount propagation get it.
const HOLD_MOUNTS: &str = r#"set -e
mount --make-rshared /
ready=$1; shift
while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
: >"$ready"
exec sleep infinity"#;

/// A node of a running cluster.
#[derive(Clone, Debug)]
pub struct Node {
    launcher: Launcher,
    record: NodeRecord,
    place: usize,
}

impl Node {
    pub(crate) fn new(launcher: &Launcher, record: &NodeRecord, place: usize) -> Self {
        Self {
            launcher: launcher.clone(),
            record: record.clone(),
            place,
        }
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Address of the node.
    pub fn address(&self) -> Ipv4Addr {
        node_address(self.place)
    }

    /// Where the machine sees the node's `/run/perwatt`.
    pub fn agent_dir(&self) -> PathBuf {
        self.folder("agent")
    }

    /// Where the machine sees the node's `/run/cdi`.
    pub fn cdi_dir(&self) -> PathBuf {
        self.folder("cdi")
    }

    /// Where the machine sees the node's `/var/lib/kubelet`.
    pub fn kubelet_dir(&self) -> PathBuf {
        self.folder("kubelet")
    }

    /// Path of the node's network namespace.
    pub fn network_namespace(&self) -> PathBuf {
        self.state().namespace_path(self.name())
    }

    /// A command that runs on the node's network: it reaches pods and Services.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.network_namespace().display()))
            .arg(program);
        command
    }

    /// A command that sees the node's network and its files, as its kubelet does.
    pub fn command_with_files(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.network_namespace().display()))
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder()?.pid))
            .arg(program);
        Ok(command)
    }

    /// A port on loopback of this machine whose connections come out of this
    /// node, for in-process clients of Services and pods.
    pub fn forward(&self, target: SocketAddr) -> Result<Forward> {
        Forward::start(([127, 0, 0, 1], 0).into(), &self.network_namespace(), target)
    }

    /// Imports an image (a tar in OCI layout) into this node's containerd.
    pub async fn load_image(&self, file: &Path) -> Result<()> {
        let mut command = self.ctr();
        command.args(["images", "import"]).arg(file);
        output(&mut command, None).await.map(|_| ())
    }

    /// References of the images that this node has.
    pub async fn images(&self) -> Result<Vec<String>> {
        let listed = output(self.ctr().args(["images", "list", "--quiet"]), None).await?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new(self.launcher.binary("ctr"));
        command
            .arg("--address")
            .arg(self.folder("containerd-run").join("containerd.sock"));
        command.args(["--namespace", "k8s.io"]);
        command
    }

    /// Process ids of the node's parts, by their names (`kubelet`, `containerd`, `kube-proxy`).
    pub fn pids(&self) -> Vec<(&'static str, u32)> {
        let pid = |part| Some((part, self.launcher.process(&self.part(part))?.pid));
        ["kubelet", "containerd", "kube-proxy"]
            .into_iter()
            .filter_map(pid)
            .collect()
    }

    /// Kills the kubelet at once. Pods go on running.
    pub async fn kill_kubelet(&self) -> Result<()> {
        self.kill("kubelet").await
    }

    /// Starts the kubelet and waits until it is healthy.
    pub async fn start_kubelet(&self) -> Result<()> {
        if self.is_running("kubelet") {
            return Ok(());
        }
        self.launcher.start(self.kubelet()?)?;
        self.wait("kubelet", "is healthy", || {
            healthy_owned(self.network_namespace(), KUBELET_HEALTH)
        })
        .await
    }

    /// Kills and starts the kubelet.
    pub async fn restart_kubelet(&self) -> Result<()> {
        self.kill_kubelet().await?;
        self.start_kubelet().await
    }

    /// Kills containerd at once. Containers go on running under their shims.
    pub async fn kill_containerd(&self) -> Result<()> {
        self.kill("containerd").await
    }

    /// Starts containerd and waits until it answers.
    pub async fn start_containerd(&self) -> Result<()> {
        if self.is_running("containerd") {
            return Ok(());
        }
        self.launcher.start(self.containerd()?)?;
        self.wait("containerd", "answers", || async {
            output(self.ctr().args(["--timeout", "5s", "version"]), None)
                .await
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
        .await
    }

    /// Kills and starts containerd.
    pub async fn restart_containerd(&self) -> Result<()> {
        self.kill_containerd().await?;
        self.start_containerd().await
    }

    /// Cuts the node off from every other and from the API server. What is on it goes on.
    pub fn disconnect(&self) -> Result<()> {
        network::plug(self.state(), self.place, false)
    }

    /// Ends that.
    pub fn reconnect(&self) -> Result<()> {
        network::plug(self.state(), self.place, true)
    }

    /// Names of the node's parts, also of their logs.
    pub(crate) fn parts(&self) -> Vec<String> {
        ["mounts", "containerd", "kubelet", "kube-proxy"]
            .map(|part| self.part(part))
            .to_vec()
    }

    fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.name())
    }

    fn state(&self) -> &State {
        &self.launcher.state
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.state().node(self.name()).join(name)
    }

    fn is_running(&self, part: &str) -> bool {
        self.launcher
            .process(&self.part(part))
            .is_some_and(|process| process.is_alive())
    }

    async fn kill(&self, part: &str) -> Result<()> {
        let (launcher, part) = (self.launcher.clone(), self.part(part));
        let killed = tokio::task::spawn_blocking(move || launcher.kill(&part)).await;
        killed.unwrap_or(Err(Error::Interrupted))
    }

    /// Waits for a part, and stops waiting where it has ended.
    async fn wait<F, Fut>(&self, part: &str, what: &str, mut look: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = std::result::Result<(), String>>,
    {
        let part = self.part(part);
        let what = format!("{part} {what}");
        let waited = until(&what, DEADLINE, || {
            let look = look();
            let alive = self.launcher.check_alive(std::slice::from_ref(&part));
            async move {
                match alive {
                    Err(ended) => Ok(Err(ended)),
                    Ok(()) => look.await.map(Ok),
                }
            }
        });
        waited.await.unwrap_or_else(|source| {
            let log = self.state().log(&part);
            let logs = format!("; the last lines of {}:\n{}", log.display(), tail(&log));
            Err(Error::TimedOut { source, logs })
        })
    }

    /// Makes the node's folders, files and mount namespace.
    pub(crate) async fn prepare(&self, sandbox: &str) -> Result<()> {
        self.write_files(sandbox)?;
        let targets = OWN_FOLDERS.map(|(_, target)| target);
        make_folders(self.state(), &targets)?;
        let ready = self.folder("mounted");
        self.launcher.start(self.mounts(&ready))?;
        self.wait("mounts", "are there", || async {
            if ready.exists() {
                Ok(())
            } else {
                Err(format!("no {}", ready.display()))
            }
        })
        .await
    }

    fn write_files(&self, sandbox: &str) -> Result<()> {
        for (own, _) in OWN_FOLDERS {
            create_folder(&self.folder(own))?;
        }
        let pods = pod_subnet(self.place);
        let settings = NodeSettings {
            state: self.state(),
            node: self.name(),
            pods: &pods,
            sandbox,
        };
        let snapshotter = snapshotter(&self.folder(""))?;
        write_file(
            &self.folder("containerd.toml"),
            config::containerd(&settings, snapshotter),
        )?;
        write_file(&self.folder("kubelet.yaml"), config::kubelet(&settings))?;
        write_file(
            &self.folder("cni-config/net.d/10-perwatt.conflist"),
            config::cni(&settings),
        )?;
        write_kubeconfig(self.state(), self.name())?;
        write_kubeconfig(self.state(), "kube-proxy")?;
        let proxy = config::kube_proxy(self.name(), &kubeconfig(self.state(), "kube-proxy"));
        write_file(&self.folder("kube-proxy.yaml"), proxy)
    }

    fn mounts(&self, ready: &Path) -> Part {
        let pairs = OWN_FOLDERS
            .iter()
            .flat_map(|(own, target)| [self.folder(own), PathBuf::from(target)]);
        Part::new(self.part("mounts"), "unshare")
            .args(["--mount", "sh", "-c", HOLD_MOUNTS, "sh"])
            .arg(ready)
            .args(pairs)
            .network(self.network_namespace())
    }

    /// The process that keeps the mount namespace.
    fn holder(&self) -> Result<Process> {
        let part = self.part("mounts");
        self.launcher.check_alive(std::slice::from_ref(&part))?;
        self.launcher.process(&part).ok_or_else(|| Error::NotRunning {
            name: self.state().name().to_owned(),
            why: format!("node {} has no mount namespace", self.name()),
        })
    }

    fn in_node(&self, part: &str) -> Result<Part> {
        Ok(Part::new(self.part(part), self.launcher.binary(part))
            .network(self.network_namespace())
            .mounts_of(&self.holder()?))
    }

    fn containerd(&self) -> Result<Part> {
        Ok(self
            .in_node("containerd")?
            .path("config", &self.folder("containerd.toml")))
    }

    fn kubelet(&self) -> Result<Part> {
        let pairs = self
            .record
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let labels = pairs.collect::<Vec<_>>().join(",");
        let part = self
            .in_node("kubelet")?
            .path("config", &self.folder("kubelet.yaml"))
            .path("kubeconfig", &kubeconfig(self.state(), self.name()))
            .flag("hostname-override", self.name())
            .flag("node-ip", self.address())
            .flag("v", 2);
        Ok(if labels.is_empty() {
            part
        } else {
            part.flag("node-labels", labels)
        })
    }

    /// Starts kube-proxy and waits until it has written its rules once.
    pub(crate) async fn start_proxy(&self) -> Result<()> {
        let part = self
            .in_node("kube-proxy")?
            .path("config", &self.folder("kube-proxy.yaml"));
        self.launcher.start(part)?;
        self.wait("kube-proxy", "is healthy", || {
            healthy_owned(self.network_namespace(), PROXY_HEALTH)
        })
        .await
    }

    /// Pods of the node's host network and the API server, for messages.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} at {}, pods {}",
            self.name(),
            self.address(),
            pod_subnet(self.place)
        )
    }
}

async fn healthy_owned(namespace: PathBuf, port: u16) -> std::result::Result<(), String> {
    healthy(&namespace, port, "/healthz").await
}
