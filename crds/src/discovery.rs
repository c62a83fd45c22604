//! How a node agent finds a kind of device, and which device nodes a container gets with it.

use crate::schema;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the node agent finds a kind of device: exactly one kind of rule. A device is found where
/// one of the rules holds; where several profiles claim a device, the one with the most specific
/// rule gets it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.pci), has(self.usb), has(self.deviceTree), has(self.platform), has(self.accel), has(self.deviceNodes), has(self.nvml), has(self.emulated)].filter(x, x).size() == 1").message("discovery takes exactly one kind of rule: pci, usb, deviceTree, platform, accel, deviceNodes, nvml or emulated; write a profile for each further kind"),
    validation = Rule::new("!has(self.emulated) || !has(self.nodes)").message("emulated devices have their nodes in emulated.nodes"))]
pub struct Discovery {
    /// PCI and PCI Express devices, by their ids.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci: Vec<PciRule>,
    /// USB devices, by their ids.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usb: Vec<UsbRule>,
    /// Devices of the devicetree, by what they are compatible with.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_tree: Vec<DeviceTreeRule>,
    /// Platform devices, by name or driver.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platform: Vec<PlatformRule>,
    /// Devices of the kernel's class accel (`/dev/accel`), by their driver.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accel: Vec<AccelRule>,
    /// Device nodes that the kernel made, by path: the last resort for a driver that says nothing else.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_nodes: Vec<DeviceNodeRule>,
    /// NVIDIA's graphics processors that its driver `nvidia` holds, the ones that its management
    /// library NVML speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvml: Option<NvmlRule>,
    /// On which nodes the rules count; on all where it is left out. A device goes to such a profile
    /// before one for all nodes: for devices that nothing but a person can tell apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeLabels>,
    /// Devices made by the agent: a real device node with a control directory, the work done by
    /// the CPU. Every figure of such a device is called emulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulated: Option<EmulatedDevices>,
}

/// A PCI device. What is left out may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.device) || has(self.class)").message("a pci rule with a vendor alone would take the vendor's bridges too: add device or class"),
    validation = Rule::new("!has(self.subsystemDevice) || has(self.subsystemVendor)").message("subsystemDevice is a number of subsystemVendor: add that")
)]
pub struct PciRule {
    /// Vendor id, four hexadecimal digits in quotes.
    #[schemars(schema_with = "hex4")]
    pub vendor: String,
    /// Device id.
    #[schemars(schema_with = "optional_hex4")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Vendor id of the board.
    #[schemars(schema_with = "optional_hex4")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsystem_vendor: Option<String>,
    /// Device id of the board.
    #[schemars(schema_with = "optional_hex4")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsystem_device: Option<String>,
    /// The beginning of the class code: base class ("12"), with subclass ("1200"), or whole ("120000").
    #[schemars(schema_with = "class_code")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// A USB device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsbRule {
    /// Vendor id, four hexadecimal digits in quotes.
    #[schemars(schema_with = "hex4")]
    pub vendor: String,
    /// Product id; every product of the vendor where it is left out.
    #[schemars(schema_with = "optional_hex4")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Ids that the same device has before its firmware is loaded: it then vanishes, appears anew
    /// on the same port, and is one device all the same.
    #[schemars(length(max = 8))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<UsbIds>,
}

/// Ids of a USB device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsbIds {
    /// Vendor id, four hexadecimal digits in quotes.
    #[schemars(schema_with = "hex4")]
    pub vendor: String,
    /// Product id.
    #[schemars(schema_with = "hex4")]
    pub product: String,
}

/// A device of the devicetree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceTreeRule {
    /// One of the strings of the node's property `compatible`, whole, such as `rockchip,rk3588-rknpu`.
    #[schemars(length(min = 1, max = 128))]
    pub compatible: String,
}

/// A platform device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.name) || has(self.driver)").message("a platform rule needs name or driver"))]
pub struct PlatformRule {
    /// The device's name in /sys/bus/platform/devices, whole.
    #[schemars(length(min = 1, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The driver that holds it.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

/// A device of the kernel's class accel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccelRule {
    /// The driver that holds it, such as `intel_vpu`.
    #[schemars(length(min = 1, max = 64))]
    pub driver: String,
}

/// Device nodes, each a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceNodeRule {
    /// Path below /dev, where `*` (at most four) stands for any characters but `/`, such as `/dev/akida*`.
    #[schemars(schema_with = "node_path")]
    pub path: String,
}

/// NVIDIA's graphics processors; nothing to set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NvmlRule {}

/// Devices that the node agent makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmulatedDevices {
    /// How many devices a node gets.
    #[schemars(range(min = 1, max = 128))]
    pub count: u32,
    /// Which nodes get them; all nodes where it is left out.
    #[serde(default)]
    pub nodes: NodeLabels,
}

/// Nodes, chosen by their labels. An empty selector chooses every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeLabels {
    /// Labels that a node must carry, each with exactly this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::match_labels")]
    pub match_labels: BTreeMap<String, String>,
}

impl NodeLabels {
    /// Whether a node with these labels is chosen.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Device nodes that a container gets with a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.sysfsClass) != has(self.path)").message("an entry of deviceNodes needs sysfsClass or path, and not both"))]
pub struct DeviceNodeChoice {
    /// Every node of this class (its folder in /sys/class, or `usb` for a USB device's own) that
    /// the kernel made for the device.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sysfs_class: Option<String>,
    /// Path below /dev. With `*`: every node of the device whose path fits. Without: that node,
    /// the device's own or one that the host has for all of them.
    #[schemars(schema_with = "optional_node_path")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Name of the group that may open the node, looked up in the host's /etc/group; `deviceGroup`
    /// where the host has no such group, or where it is left out.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// How containers share a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sharing {
    /// How many containers may hold the device at a time. They share its time and its memory, and
    /// nothing keeps them apart.
    #[schemars(range(min = 1, max = 64))]
    #[serde(default = "one")]
    pub replicas: u32,
    /// Whether the device runs several models at a time.
    #[serde(default)]
    pub multi_model: bool,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            replicas: one(),
            multi_model: false,
        }
    }
}

fn one() -> u32 {
    1
}

mod patterns {
    use schemars::{Schema, SchemaGenerator, json_schema};

    pub(super) fn hex4(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 4, "pattern": "^[0-9a-f]{4}$"})
    }

    pub(super) fn optional_hex4(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "nullable": true, "maxLength": 4, "pattern": "^[0-9a-f]{4}$"})
    }

    pub(super) fn class_code(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "nullable": true, "maxLength": 6, "pattern": "^[0-9a-f]{2}([0-9a-f]{2}){0,2}$"})
    }

    /// Few stars, so that no path takes long to be compared.
    const NODE_PATH: &str = r"^/dev/[A-Za-z0-9_.:/-]+(\*[A-Za-z0-9_.:/-]+){0,3}\*?$";

    pub(super) fn node_path(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 128, "pattern": NODE_PATH})
    }

    pub(super) fn optional_node_path(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "nullable": true, "maxLength": 128, "pattern": NODE_PATH})
    }
}
use patterns::{class_code, hex4, node_path, optional_hex4, optional_node_path};
