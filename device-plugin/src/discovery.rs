//! How devices are found and read, whatever their kind.
//!
//! A [`Source`] knows one way to have devices: `emulated` makes them, `host` finds those of the
//! machine. What is judged from a [`Reading`] is no matter of a source: see `health`.
//!
//! Real devices: `tree` reads files below a root, `snapshot` makes `sighting`s of them, `rules`
//! and `claims` say whose each is, `nodes` and `ids` what a container gets and how the device is
//! called (all pure from `sighting` on), `hotplug` looks again when something changes, and
//! `catalogue` holds the profiles that the product ships.

pub mod catalogue;
pub mod claims;
pub mod host;
pub mod hotplug;
pub mod ids;
pub mod nodes;
pub mod rules;
pub mod sighting;
pub mod snapshot;
pub mod tree;
mod usb;

use crate::bus::Bus;
use crate::known::NodeFacts;
use crate::telemetry::Telemetry;
use crate::vendor::VendorReport;
use nodes::DeviceNode;
use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::inventory::{DeviceHealth, Recovery};
use perwatt_crds::profile::{DeviceClass, FirmwarePolicy, Power, Thermal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Whether another plugin registers it: it is observed alone.
    pub external: bool,
    /// Its first device node on the host; its folder in sysfs where it has none.
    pub node: PathBuf,
    /// Group that may open the device node.
    pub group: u32,
    /// Nameplate power.
    pub power: Power,
    /// Its folder in sysfs, below the host's root; none of an emulated device.
    pub sysfs: Option<PathBuf>,
    /// Its address on its bus, the same after every start.
    pub address: Option<String>,
    /// The driver that holds it.
    pub driver: Option<String>,
    /// NUMA node, where the kernel tells it.
    pub numa_node: Option<u32>,
    /// Where a real device was found, with what a container gets of it.
    pub place: Option<Place>,
    /// Whether the last look at the machine did not see it at its place. What it is then its probe
    /// says.
    pub lost: bool,
    /// Why a person takes it out of use; what the node's annotation says, which may be nothing.
    pub drained: Option<String>,
    /// What its profile says of its health.
    pub rules: Rules,
}

/// Where a device was found, and what was there: all that is remembered of one that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// What it hangs on.
    pub bus: sighting::Bus,
    /// Its address there.
    pub address: String,
    /// Its folder in sysfs.
    pub sysfs: PathBuf,
    /// What it says that it is.
    pub ids: String,
    /// The driver that holds it.
    #[serde(default)]
    pub driver: Option<String>,
    /// NUMA node.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// The device nodes that a container gets.
    #[serde(default)]
    pub nodes: Vec<DeviceNode>,
    /// Device nodes that its profile asks for and it has not.
    #[serde(default)]
    pub missing: Option<String>,
}

/// What a profile says of the health of its devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Temperatures at which it changes.
    pub thermal: Option<Thermal>,
    /// Firmware and driver that it may be used with.
    pub firmware: Option<FirmwarePolicy>,
}

impl Rules {
    /// The rules of a profile.
    #[must_use]
    pub fn of(spec: &HardwareProfileSpec) -> Self {
        Self {
            thermal: spec.thermal.clone(),
            firmware: spec.firmware.clone(),
        }
    }
}

impl Found {
    /// Whether all that differs is that a person takes it out of use, or does so no more.
    #[must_use]
    pub fn differs_by_drain_alone(&self, other: &Self) -> bool {
        let drained = other.drained.clone();
        *self != *other
            && Self {
                drained,
                ..self.clone()
            } == *other
    }

    /// Where a container finds the first device node; nothing where there is none.
    #[must_use]
    pub fn container_node(&self) -> Option<String> {
        match &self.place {
            Some(place) => Some(place.nodes.first()?.path.clone()),
            None => Some(format!("/dev/perwatt/{}", self.id)),
        }
    }

    /// Profile and place of a real device: what a search is told of it later.
    #[must_use]
    pub fn remembered(&self) -> Option<(String, Place)> {
        let place = self.place.clone()?;
        Some((self.profile.clone(), place))
    }

    /// Bus and address of a real device.
    #[must_use]
    pub fn at(&self) -> Option<(sighting::Bus, &str)> {
        self.place
            .as_ref()
            .map(|place| (place.bus, place.address.as_str()))
    }
}

/// What devices are searched for.
#[derive(Debug)]
pub struct Search<'a> {
    /// The profiles, by name.
    pub profiles: BTreeMap<&'a str, &'a HardwareProfileSpec>,
    /// The node.
    pub node: &'a NodeFacts,
    /// Profile and place of real devices that were found before, by id.
    pub before: &'a BTreeMap<String, (String, Place)>,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovered {
    /// The devices.
    pub found: Vec<Found>,
    /// What a person should know of it, one sentence each.
    pub notes: Vec<String>,
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
    /// The rest of what its sensors tell.
    pub telemetry: Telemetry,
    /// Its driver, errors and link.
    pub bus: Bus,
    /// Errors that it reports of itself, beside `health`.
    pub faults: Vec<Fault>,
    /// What the vendor's own probe said last, where there is one.
    pub vendor: Option<VendorReport>,
    /// Set when the probe gave no answer in time; then nothing else counts.
    pub stale: Option<String>,
    /// When the source knows that it will tell something else, without a file that changes.
    pub again: Option<std::time::Duration>,
}

/// An error that a device reports of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it makes of the device.
    pub health: DeviceHealth,
    /// What it takes to end.
    pub recovery: Recovery,
    /// What happened and what to do; the device is named before it.
    pub text: String,
}

impl Reading {
    /// Of a device that tells nothing; a source fills in what its devices tell.
    #[must_use]
    pub fn silent(node: Result<(u32, u32), String>) -> Self {
        Self {
            node,
            present: Field::Absent,
            health: Field::Absent,
            temperature: Field::Absent,
            power: Field::Absent,
            firmware: Field::Absent,
            telemetry: Telemetry::default(),
            bus: Bus::default(),
            faults: Vec::new(),
            vendor: None,
            stale: None,
            again: None,
        }
    }

    /// What the kernel tells of the device whose folder in sysfs is `sysfs`, on a host whose
    /// file system begins at `root`: sensors, driver, errors, link and firmware. Whether it is
    /// present, and its device node, are the source's to say.
    #[must_use]
    pub fn of_sysfs(
        root: &std::path::Path,
        sysfs: &std::path::Path,
        node: Result<(u32, u32), String>,
    ) -> Self {
        let readings = crate::telemetry::read(root, sysfs);
        // A device's firmware is asked of it, and a sleeping one is left to sleep.
        let firmware = match readings.telemetry.asleep {
            true => Field::Absent,
            false => crate::firmware::read(sysfs),
        };
        Self {
            present: Field::Value(sysfs.is_dir()),
            temperature: readings.temperature,
            power: readings.power,
            telemetry: readings.telemetry,
            firmware,
            bus: crate::bus::read(sysfs),
            ..Self::silent(node)
        }
    }

    /// A probe that gave no answer.
    #[must_use]
    pub fn stale(text: String) -> Self {
        Self {
            stale: Some(text),
            ..Self::silent(Err(String::new()))
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
    /// The devices of these profiles that this node has.
    fn find(&self, search: &Search<'_>) -> Discovered;

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
