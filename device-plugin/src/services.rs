//! Services of the node that the agent asks, each where the node's distribution puts it. None
//! is needed: without it the agent knows less.

use std::path::{Path, PathBuf};

/// Where they are.
#[derive(Clone, Debug, clap::Args)]
pub struct Services {
    /// Socket of the kubelet's PodResources API, which tells the pod that holds a device.
    #[arg(
        long = "pod-resources",
        env = "PERWATT_POD_RESOURCES",
        default_value = "/var/lib/kubelet/pod-resources/kubelet.sock",
        global = true
    )]
    pub pod_resources: PathBuf,
    /// Folder of vendors' probes, executables named after a profile.
    #[arg(
        long = "probes",
        env = "PERWATT_PROBES",
        default_value = "/etc/perwatt/probes",
        global = true
    )]
    pub probes: PathBuf,
    /// NVIDIA's management library; where it is left out, the linker's own search finds it.
    #[arg(long = "nvml", env = "PERWATT_NVML", global = true)]
    pub nvml: Option<PathBuf>,
}

impl Services {
    /// The default names below one folder, for tests and dry runs.
    #[must_use]
    pub fn below(folder: &Path) -> Self {
        Self {
            pod_resources: folder.join("kubelet/pod-resources/kubelet.sock"),
            probes: folder.join("etc/perwatt/probes"),
            nvml: Some(folder.join("lib/libnvidia-ml.so.1")),
        }
    }
}
