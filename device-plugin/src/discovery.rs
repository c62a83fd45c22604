//! How devices are found and read, whatever their kind.
//!
//! A [`Source`] knows one family of discovery rules. Emulated devices are the only family now;
//! PCI, USB, device nodes and NVML join as further sources. What is judged from a [`Reading`]
//! is no matter of a source: see `health`.

use crate::known::NodeFacts;
use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::profile::{DeviceClass, Power};
use std::path::PathBuf;

/// A device that a rule found on this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Stable on its node, unique over all profiles, at most 63 characters.
    pub id: String,
    /// Name of its HardwareProfile.
    pub profile: String,
    /// What kind of silicon it is.
    pub class: DeviceClass,
    /// Whether the agent made it.
    pub emulated: bool,
    /// Its device node on the host.
    pub node: PathBuf,
    /// Group that may open the device node.
    pub group: u32,
    /// Nameplate power.
    pub power: Power,
}

impl Found {
    /// Where a container finds the device node.
    #[must_use]
    pub fn container_node(&self) -> String {
        format!("/dev/perwatt/{}", self.id)
    }
}

/// One value that a device tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<T> {
    /// The device does not tell it.
    Absent,
    /// What it tells.
    Value(T),
    /// It tells something that cannot be understood; the text names where and what is expected.
    Invalid(String),
}

/// What a device tells at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Major and minor number of the device node, or why there is none.
    pub node: Result<(u32, u32), String>,
    /// Whether the device is on its bus.
    pub present: Field<bool>,
    /// What the device says of its own health.
    pub health: Field<DeviceHealth>,
    /// Thousandths of a degree Celsius.
    pub temperature: Field<i32>,
    /// Milliwatts.
    pub power: Field<u32>,
    /// Firmware version.
    pub firmware: Field<String>,
    /// Set when the probe gave no answer in time; then nothing else counts.
    pub stale: Option<String>,
}

impl Reading {
    /// A probe that gave no answer.
    #[must_use]
    pub fn stale(text: String) -> Self {
        Self {
            node: Err(String::new()),
            present: Field::Absent,
            health: Field::Absent,
            temperature: Field::Absent,
            power: Field::Absent,
            firmware: Field::Absent,
            stale: Some(text),
        }
    }
}

/// Why a device could not be made ready.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}{hint}", hint = hint(.source))]
pub struct PrepareError {
    /// What was tried.
    pub what: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the system answered.
    pub source: std::io::Error,
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; the agent needs root with the capabilities MKNOD and CHOWN, see docs/agent.md"
        }
        std::io::ErrorKind::StorageFull => "; make room on that file system",
        _ => "",
    }
}

/// One family of discovery rules.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// The devices of a profile that this node has.
    fn find(&self, profile: &str, spec: &HardwareProfileSpec, node: &NodeFacts) -> Vec<Found>;

    /// Makes what must exist before the device can be read and given to a container.
    ///
    /// # Errors
    /// When it cannot be made; the device is then read as lost.
    fn prepare(&self, found: &Found) -> Result<(), PrepareError>;

    /// Reads the device now. Runs on a thread of its own and may block; a probe that takes
    /// too long makes the device `Unknown`.
    fn probe(&self, found: &Found) -> Reading;

    /// Folders whose changes are worth a probe.
    fn watched(&self, found: &Found) -> Vec<PathBuf>;

    /// Undoes what `prepare` made, for every device of this source that is not in `kept`.
    fn retire_all_but(&self, kept: &std::collections::BTreeSet<String>);
}
