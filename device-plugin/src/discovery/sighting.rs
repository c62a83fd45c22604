//! What the kernel says of one device of a machine, whatever profile it may belong to.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// What a device hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// PCI and PCI Express.
    Pci,
    /// USB.
    Usb,
    /// The processor's own devices, of the devicetree or not.
    Platform,
    /// A device node alone.
    Node,
}

impl Bus {
    /// The name in texts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Usb => "usb",
            Self::Platform => "platform",
            Self::Node => "node",
        }
    }
}

/// A character device that the kernel made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNode {
    /// Path on the host, below /dev.
    pub path: String,
    /// Its class, or its bus where it is of no class.
    pub class: String,
    /// Major and minor number.
    pub numbers: (u32, u32),
    /// Its folder in sysfs.
    pub sysfs: PathBuf,
}

/// A device on one of the machine's buses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// What it hangs on.
    pub bus: Bus,
    /// Where, in words that are the same after every start of the machine: a PCI address, a USB
    /// controller with the port below it, a platform device's name, the path of a device node.
    pub address: String,
    /// Its folder in sysfs.
    pub sysfs: PathBuf,
    /// The driver that holds it.
    pub driver: Option<String>,
    /// NUMA node.
    pub numa_node: Option<u32>,
    /// What it says that it is.
    pub identity: Identity,
    /// Its device nodes, by path.
    pub nodes: Vec<HostNode>,
}

impl Sighting {
    /// Whether this and `other` are at the same place.
    #[must_use]
    pub fn is_at(&self, bus: Bus, address: &str) -> bool {
        self.bus == bus && self.address == address
    }
}

/// What a device says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Of a PCI device.
    Pci(PciIds),
    /// Of a USB device.
    Usb {
        /// Vendor.
        vendor: u16,
        /// Product.
        product: u16,
    },
    /// Of a platform device.
    Platform {
        /// Its name.
        name: String,
        /// What its devicetree node is compatible with, the most specific first.
        compatible: Vec<String>,
    },
    /// Of a device node: its path.
    Node(String),
}

/// Ids of a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIds {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Vendor of the board, and its number there.
    pub subsystem: Option<(u16, u16)>,
    /// Class code: base class, subclass, programming interface.
    pub class: u32,
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(ids) => write!(formatter, "{:04x}:{:04x}", ids.vendor, ids.device),
            Self::Usb { vendor, product } => write!(formatter, "{vendor:04x}:{product:04x}"),
            Self::Platform { name, compatible } => formatter.write_str(compatible.first().unwrap_or(name)),
            Self::Node(path) => formatter.write_str(path),
        }
    }
}
