//! Where the agent reads and writes on its node.

use crate::services::Services;
use std::path::{Path, PathBuf};

/// The folders of the agent. Each but the host's tree is the same path inside and outside its
/// container, because the kubelet and containerd are told of paths below them.
#[derive(Clone, Debug, clap::Args)]
pub struct Paths {
    /// State of the agent: emulated devices, sockets for runtimes, checkpoint, lock.
    #[arg(
        long = "state-dir",
        env = "PERWATT_STATE_DIR",
        default_value = "/run/perwatt",
        global = true
    )]
    pub state: PathBuf,
    /// The tree of the host whose devices are looked for: its sys, proc and etc.
    #[arg(long = "root", env = "PERWATT_HOST_ROOT", default_value = "/", global = true)]
    pub host: PathBuf,
    /// The kubelet's device plugin folder.
    #[arg(
        long = "kubelet-dir",
        env = "PERWATT_KUBELET_DIR",
        default_value = "/var/lib/kubelet/device-plugins",
        global = true
    )]
    pub kubelet: PathBuf,
    /// Folder of the Container Device Interface specs that containerd reads.
    #[arg(
        long = "cdi-dir",
        env = "PERWATT_CDI_DIR",
        default_value = "/var/run/cdi",
        global = true
    )]
    pub cdi: PathBuf,
    /// Services of the node that the agent asks.
    #[command(flatten)]
    pub services: Services,
}

impl Paths {
    /// The default names below one folder, for tests and dry runs.
    #[must_use]
    pub fn below(folder: &Path) -> Self {
        Self {
            state: folder.join("run/perwatt"),
            host: folder.join("host"),
            kubelet: folder.join("kubelet/device-plugins"),
            cdi: folder.join("run/cdi"),
            services: Services::below(folder),
        }
    }

    /// Folder of all emulated devices.
    #[must_use]
    pub fn emulated(&self) -> PathBuf {
        self.state.join("emulated")
    }

    /// Folder of one emulated device.
    #[must_use]
    pub fn emulated_device(&self, id: &str) -> PathBuf {
        self.emulated().join(id)
    }

    /// Device node of an emulated device.
    #[must_use]
    pub fn emulated_node(&self, id: &str) -> PathBuf {
        self.emulated_device(id).join("device")
    }

    /// Control directory of an emulated device.
    #[must_use]
    pub fn control(&self, id: &str) -> PathBuf {
        self.emulated_device(id).join("control")
    }

    /// Folder of all sockets for runtimes; nobody but root enters it from outside.
    #[must_use]
    pub fn sockets(&self) -> PathBuf {
        self.state.join("devices")
    }

    /// Folder of one device's socket, mounted into the pod that holds the device.
    #[must_use]
    pub fn socket_dir(&self, id: &str) -> PathBuf {
        self.sockets().join(id)
    }

    /// What the agent knew last, so that it serves when the API server is away.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.state.join("checkpoint.json")
    }

    /// Held by the one agent of the node.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Where the kubelet takes registrations.
    #[must_use]
    pub fn kubelet_socket(&self) -> PathBuf {
        self.kubelet.join("kubelet.sock")
    }

    /// File name of a profile's plugin socket, as the kubelet is told it.
    #[must_use]
    pub fn plugin_endpoint(profile: &str) -> String {
        format!("perwatt-{profile}.sock")
    }

    /// A profile's plugin socket.
    #[must_use]
    pub fn plugin_socket(&self, profile: &str) -> PathBuf {
        self.kubelet.join(Self::plugin_endpoint(profile))
    }

    /// A profile's CDI spec.
    #[must_use]
    pub fn cdi_spec(&self, profile: &str) -> PathBuf {
        self.cdi.join(format!("perwatt.dev-{profile}.json"))
    }
}
