//! `HardwareProfile`: one kind of device.

pub use crate::discovery::{Discovery, EmulatedDevices, NodeLabels};

use crate::discovery::{DeviceNodeChoice, Sharing};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One kind of device: how nodes find it, what it can run, what it draws, and the extended
/// resource under which pods get it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "perwatt.dev",
    version = "v1alpha1",
    kind = "HardwareProfile",
    plural = "hardwareprofiles",
    shortname = "hwp",
    category = "perwatt",
    status = "HardwareProfileStatus",
    derive = "PartialEq",
    doc = "One kind of device (Hailo-8, Jetson Orin iGPU, Akida AKD1000): how nodes find it, what it can run, what it draws. Cluster-scoped.",
    validation = Rule::new("size(self.metadata.name) <= 50").message("metadata.name becomes the resource perwatt.dev/<name>: use at most 50 characters"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.class", description = "GPU, ASIC or Neuromorphic"),
    printcolumn(name = "Vendor", type_ = "string", json_path = ".spec.vendor"),
    printcolumn(name = "Resource", type_ = "string", json_path = ".status.resourceName", description = "What a pod requests"),
    printcolumn(name = "Emulated", type_ = "boolean", json_path = ".status.emulated"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes", description = "Nodes that have such a device"),
    printcolumn(name = "Healthy", type_ = "string", json_path = ".status.healthy", description = "Healthy devices / all devices"),
    printcolumn(name = "Used by", type_ = "string", json_path = ".status.usedBy", description = "Workloads with a pod on such a device"),
    printcolumn(name = "Typical mW", type_ = "integer", json_path = ".spec.power.typicalMilliwatts", priority = 1),
    printcolumn(name = "Verified", type_ = "boolean", json_path = ".spec.verified", description = "Whether somebody has run it on the real device", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.provider != 'External' || has(self.resourceName)").message("provider External needs resourceName: the resource that the other plugin registers, such as nvidia.com/gpu"),
    validation = Rule::new("self.provider != 'External' || !has(self.discovery) || !has(self.discovery.emulated)").message("provider External takes no emulated devices: discovery finds what the other plugin registers, and reports it"),
    validation = Rule::new("self.provider != 'Perwatt' || has(self.discovery)").message("provider Perwatt needs discovery: how the node agent finds the device"),
    validation = Rule::new("self.provider != 'Perwatt' || !has(self.discovery) || has(self.deviceNodes) || !(has(self.discovery.pci) || has(self.discovery.deviceTree) || has(self.discovery.platform) || has(self.discovery.nvml))").message("discovery by pci, deviceTree, platform or nvml needs deviceNodes: which device nodes a container gets, such as {sysfsClass: hailo_chardev}"),
    validation = Rule::new("!has(self.resourceName) || self.provider == 'External' || self.resourceName.startsWith('perwatt.dev/')").message("a resource that Perwatt registers is named perwatt.dev/<name>; leave resourceName out for the default")
)]
pub struct HardwareProfileSpec {
    /// What kind of silicon this is.
    pub class: DeviceClass,
    /// Who makes the device, for people.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Who registers the device with the kubelet: Perwatt's node agent, or External for another
    /// plugin. External devices are observed and never registered twice.
    #[serde(default)]
    pub provider: Provider,
    /// The extended resource that a pod requests. Default: perwatt.dev/<metadata.name>.
    #[schemars(length(max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// How the node agent finds such devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// Device nodes that a container gets with a device. Left out, it is the node by which the
    /// device was found (discovery by usb, accel or deviceNodes).
    #[schemars(length(min = 1, max = 16))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNodeChoice>,
    /// Group id that may open the device nodes whose entry names no group of the host; the runtime
    /// runs as non-root and is given this group. Default: 44210.
    #[schemars(range(min = 1, max = 65535))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_group: Option<u32>,
    /// What the device can run.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// Nameplate power, in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
    /// How containers share a device; left out, one container holds it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// Whether somebody has run this profile on the real device, with these rules.
    #[serde(default)]
    pub verified: bool,
    /// Where ids, nodes and figures were taken from, for people: one source an entry.
    #[schemars(length(max = 16), inner(length(max = 512)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// At which temperatures the device slows down, returns, and must not be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thermal: Option<Thermal>,
    /// Which firmware and driver the device may be used with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwarePolicy>,
    /// How long the maker supports the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// Who runs models on the device; left out, the runtime does, as `model.yaml` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<ProfileBackend>,
}

/// Who runs models on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'OpenInference') == has(self.sidecar)").message("backend.type OpenInference needs sidecar (the vendor's server), and no other type takes one"))]
pub struct ProfileBackend {
    /// What runs the file: the runtime itself, or a server of the Open Inference Protocol beside it.
    #[serde(rename = "type")]
    pub kind: BackendKind,
    /// The vendor's server. It gets the device and the model, and the runtime asks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
}

/// What runs a model's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendKind {
    /// The runtime, as `model.yaml` says of the file.
    Runtime,
    /// A server of the Open Inference Protocol.
    OpenInference,
}

/// A vendor's server of the Open Inference Protocol. It runs beside the runtime in its pod, under restricted
/// Pod Security, is the one that requests the device, finds the model image at /model, and is restarted when it ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.image.matches('^[^@ ]+@sha256:[0-9a-f]{64}$')").message("sidecar.image must be pinned by digest, as NAME@sha256:…"),
    validation = Rule::new("!(self.port in [8080, 8081, 9090])").message("sidecar.port is one of the runtime's own (8080, 8081, 9090), and both share one network: choose another")
)]
pub struct Sidecar {
    /// Reference of its image by digest.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// Where it listens on the loopback interface.
    #[schemars(range(min = 1024, max = 65535))]
    pub port: i32,
    /// How it is spoken to.
    #[serde(default)]
    pub protocol: SidecarProtocol,
    /// Its command, where not the image's own.
    #[schemars(length(max = 16), inner(length(max = 256)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its arguments.
    #[schemars(length(max = 32), inner(length(max = 256)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The model's name there; the name in `model.yaml` where it is left out.
    #[schemars(length(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// CPU and memory. Default: requests of 50m and 64Mi, a limit of 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::workload::resources_schema")]
    pub resources: Option<ResourceRequirements>,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SidecarProtocol {
    /// Over HTTP.
    #[default]
    #[serde(rename = "REST")]
    Rest,
    /// Over gRPC.
    #[serde(rename = "gRPC")]
    Grpc,
}

/// What kind of silicon a device is. A CPU is not a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum DeviceClass {
    /// A graphics processor, discrete or integrated.
    #[serde(rename = "GPU")]
    Gpu,
    /// A chip for inference alone: Hailo, Coral, Rockchip NPU, Axelera.
    #[serde(rename = "ASIC")]
    Asic,
    /// An event-driven chip: Akida, Loihi, Speck.
    Neuromorphic,
}

impl DeviceClass {
    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gpu => "GPU",
            Self::Asic => "ASIC",
            Self::Neuromorphic => "Neuromorphic",
        }
    }
}

/// Who registers a device with the kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Provider {
    /// Perwatt's node agent.
    #[default]
    Perwatt,
    /// Another device plugin.
    External,
}

/// What a device can run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Number formats that the device computes in.
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "set"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub precisions: Vec<Precision>,
    /// Memory of the device for models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
}

/// A number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Precision {
    Float32,
    Float16,
    Bfloat16,
    Int8,
    Int4,
}

impl Precision {
    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

/// Nameplate power of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Power {
    /// Asleep, in milliwatts; left out where the device cannot sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_000_000))]
    pub sleep_milliwatts: Option<u32>,
    /// Awake without work, in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_000_000))]
    pub idle_milliwatts: Option<u32>,
    /// While it runs a model, in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_000_000))]
    pub typical_milliwatts: Option<u32>,
    /// The most that it can draw, in milliwatts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_000_000))]
    pub max_milliwatts: Option<u32>,
}

/// Temperatures at which a device changes what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.resumeCelsius) || self.resumeCelsius < self.throttleCelsius").message("thermal.resumeCelsius must lie below throttleCelsius: there the device has cooled down"),
    validation = Rule::new("!has(self.criticalCelsius) || self.criticalCelsius > self.throttleCelsius").message("thermal.criticalCelsius must lie above throttleCelsius: there the device must not be used")
)]
pub struct Thermal {
    /// From here on the device slows itself down: Degraded.
    #[schemars(range(min = 20, max = 150))]
    pub throttle_celsius: i32,
    /// Down to here it must cool before it counts as no longer throttling. Default: 3 degrees below throttleCelsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 150))]
    pub resume_celsius: Option<i32>,
    /// From here on it must not be used: Unhealthy. Default: 10 degrees above throttleCelsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 200))]
    pub critical_celsius: Option<i32>,
}

/// Which firmware a device may be used with. Versions are compared number by number, so that
/// 10.0 is newer than 9.0; a version without any number cannot be compared, and that is a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.minimum) || self.minimum.matches('[0-9]')").message("firmware.minimum must contain a number, such as \"4.17.0\": it is compared number by number"),
    validation = Rule::new("!has(self.maximum) || self.maximum.matches('[0-9]')").message("firmware.maximum must contain a number, such as \"4.99\": it is compared number by number")
)]
pub struct FirmwarePolicy {
    /// The oldest firmware that may be used; an older one is Degraded: it keeps its pods and gets no new ones.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<String>,
    /// The newest firmware that may be used, as far as it is written out: "4.17" holds 4.17.9 too.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<String>,
    /// Firmware that must not be used: Unhealthy.
    #[schemars(length(max = 16), inner(length(min = 1, max = 64)), extend("x-kubernetes-list-type" = "set"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<String>,
    /// What the driver's version must be to the firmware's.
    #[serde(default)]
    pub driver: DriverPolicy,
}

/// What a driver's version must be to the firmware's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriverPolicy {
    /// Nothing.
    #[default]
    Any,
    /// The same, as far as both are written out; else the device is Unhealthy.
    MustMatch,
}

/// How long a device is supported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// The last day on which the maker supports it, as YYYY-MM-DD.
    #[schemars(
        length(max = 10),
        regex(pattern = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supported_until: Option<String>,
}

/// Where such devices are, summed over the nodes' inventories.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HardwareProfileStatus {
    /// The generation of the profile that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The extended resource that a pod requests.
    #[serde(default)]
    pub resource_name: String,
    /// Whether such devices are emulated.
    #[serde(default)]
    pub emulated: bool,
    /// Nodes that have such a device.
    #[serde(default)]
    pub nodes: u32,
    /// Devices in all.
    #[serde(default)]
    pub devices: u32,
    /// Devices that may be used.
    #[serde(default)]
    pub healthy_devices: u32,
    /// Healthy devices and all of them, as `1/2`.
    #[serde(default)]
    pub healthy: String,
    /// Workloads with a pod on such a device; the first few by name.
    #[serde(default)]
    pub used_by: String,
}

impl HardwareProfile {
    /// The vendor's server that runs models on such devices; nothing where the runtime does.
    #[must_use]
    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.spec.backend.as_ref()?.sidecar.as_ref()
    }

    /// The extended resource under which the scheduler knows such devices.
    #[must_use]
    pub fn resource_name(&self) -> String {
        self.spec.resource_name.clone().unwrap_or_else(|| {
            format!(
                "{}/{}",
                crate::names::GROUP,
                self.metadata.name.as_deref().unwrap_or_default()
            )
        })
    }

    /// Whether the devices are emulated by the node agent.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        self.spec
            .discovery
            .as_ref()
            .is_some_and(|discovery| discovery.emulated.is_some())
    }
}
