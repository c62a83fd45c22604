//! `DeviceInventory`: what the node agent knows of its node's devices.

use crate::profile::DeviceClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The devices of one node, as its agent sees them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "perwatt.dev",
    version = "v1alpha1",
    kind = "DeviceInventory",
    plural = "deviceinventories",
    singular = "deviceinventory",
    shortname = "devs",
    category = "perwatt",
    status = "DeviceInventoryStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The devices of one node and their health, written by that node's agent alone, on transitions. Named after the node. Cluster-scoped.",
    printcolumn(
        name = "Devices",
        type_ = "string",
        json_path = ".status.summary.devices",
        description = "The devices of the node"
    ),
    printcolumn(
        name = "Healthy",
        type_ = "string",
        json_path = ".status.summary.healthy",
        description = "Healthy devices / all devices"
    ),
    printcolumn(
        name = "Serving",
        type_ = "string",
        json_path = ".status.summary.serving",
        description = "workload:variant that uses a device"
    ),
    printcolumn(
        name = "Problem",
        type_ = "string",
        json_path = ".status.summary.problem",
        description = "The first device that is not healthy, and why"
    ),
    printcolumn(
        name = "Profiles",
        type_ = "string",
        json_path = ".status.summary.profiles",
        priority = 1
    ),
    printcolumn(
        name = "Class",
        type_ = "string",
        json_path = ".status.summary.classes",
        priority = 1
    ),
    printcolumn(
        name = "Driver",
        type_ = "string",
        json_path = ".status.summary.drivers",
        priority = 1
    ),
    printcolumn(
        name = "Firmware",
        type_ = "string",
        json_path = ".status.summary.firmware",
        priority = 1
    ),
    printcolumn(
        name = "Temperature",
        type_ = "string",
        json_path = ".status.summary.temperature",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInventorySpec {}

/// What the agent saw last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInventoryStatus {
    /// The devices of the node.
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    #[serde(default)]
    pub devices: Vec<DeviceStatus>,
    /// The same, in few words, for the columns of `kubectl get`.
    #[serde(default)]
    pub summary: InventorySummary,
}

/// A node's devices in few words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventorySummary {
    /// Device ids, the first few.
    #[serde(default)]
    pub devices: String,
    /// Healthy devices and all of them, as `1/2`.
    #[serde(default)]
    pub healthy: String,
    /// `workload:variant` that uses a device, the first few.
    #[serde(default)]
    pub serving: String,
    /// The first device that is not healthy, and why; empty when all are.
    #[serde(default)]
    pub problem: String,
    /// Their profiles, the first few.
    #[serde(default)]
    pub profiles: String,
    /// Their classes.
    #[serde(default)]
    pub classes: String,
    /// Drivers, the first few.
    #[serde(default)]
    pub drivers: String,
    /// Firmware versions, the first few.
    #[serde(default)]
    pub firmware: String,
    /// The hottest band.
    #[serde(default)]
    pub temperature: String,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// Stable id of the device on its node; also its id in the kubelet's device plugin API.
    #[schemars(length(max = 128))]
    pub id: String,
    /// Name of its HardwareProfile.
    #[schemars(length(max = 63))]
    pub profile: String,
    /// What kind of silicon it is.
    pub class: DeviceClass,
    /// Whether the device is emulated by the agent; then no figure of it is measured.
    #[serde(default)]
    pub emulated: bool,
    /// Whether it may be used.
    pub health: DeviceHealth,
    /// One entry for each dimension of health that is not well; empty while healthy.
    #[schemars(length(max = 9), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["dimension"]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<HealthReason>,
    /// When `health` last changed.
    pub last_transition_time: Time,
    /// Firmware version, where the device tells it.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Driver and its version, where the kernel tells it.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// NUMA node, where the kernel tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numa_node: Option<u32>,
    /// How hot it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<TemperatureBand>,
    /// The pod that the kubelet has given the device to; left out while it is free, or the kubelet
    /// does not say. Of a shared device it is the first by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// What the runtime that holds the device says of itself; left out when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeReport>,
}

/// Health of a device. To the kubelet, Healthy and Degraded are healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeviceHealth {
    /// Works as it should.
    Healthy,
    /// Works, slower or hotter than it should: keeps its pods, attracts no new ones.
    Degraded,
    /// Must not be used.
    Unhealthy,
    /// Nobody knows: its probes are stale, or its agent is gone.
    Unknown,
}

impl DeviceHealth {
    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Degraded => "Degraded",
            Self::Unhealthy => "Unhealthy",
            Self::Unknown => "Unknown",
        }
    }
}

/// Why a device is not healthy, in one dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthReason {
    /// What is not well.
    pub dimension: HealthDimension,
    /// What happened and what to do.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// What it takes for this to end.
    #[serde(default, skip_serializing_if = "Recovery::is_itself")]
    pub recovery: Recovery,
}

/// What it takes for a finding to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Recovery {
    /// It may end by itself.
    #[default]
    Itself,
    /// The device must be unplugged and plugged in again, or removed from its bus and found again.
    Replug,
    /// The node must restart.
    Reboot,
    /// A person must change something: firmware, driver, profile, or the device itself.
    Person,
}

impl Recovery {
    /// Whether it may end by itself.
    #[must_use]
    pub fn is_itself(&self) -> bool {
        *self == Self::Itself
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,
}

/// What of a device can be unwell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HealthDimension {
    /// It runs too hot.
    Thermal,
    /// It draws too much, or gets too little.
    Power,
    /// It is gone from its bus.
    Lost,
    /// Its firmware or driver is not one that may be used.
    Firmware,
    /// It reports an error of its own.
    Fault,
    /// Its probes gave no fresh answer.
    Unmonitored,
    /// No driver is bound to it.
    Driver,
    /// Its bus loses data, or is narrower or slower than both ends can do.
    Link,
    /// A person takes it out of use; it may be well.
    Drained,
}

impl HealthDimension {
    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thermal => "thermal",
            Self::Power => "power",
            Self::Lost => "lost",
            Self::Firmware => "firmware",
            Self::Fault => "fault",
            Self::Unmonitored => "unmonitored",
            Self::Driver => "driver",
            Self::Link => "link",
            Self::Drained => "drained",
        }
    }
}

/// How hot a device is. Bands, not degrees: the inventory changes on transitions only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum TemperatureBand {
    Cool,
    Warm,
    NearThrottle,
    Throttling,
}

/// What the runtime on a device says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeReport {
    /// Namespace of the workload.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the workload.
    #[schemars(length(max = 63))]
    pub workload: String,
    /// The slot that the pod serves: a node's name, or `replica-0`.
    #[schemars(length(max = 253))]
    #[serde(default)]
    pub slot: String,
    /// Revision that the pod runs.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// The variant that answers now; empty when none does.
    #[schemars(length(max = 63))]
    pub active_variant: String,
    /// Whether that is another than the pod's first.
    #[serde(default)]
    pub degraded: bool,
    /// Why, when degraded.
    #[schemars(length(max = 1024))]
    #[serde(default)]
    pub reason: String,
    /// Since when.
    pub since: Time,
}
