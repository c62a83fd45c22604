//! What sensors tell of a device: temperature, watts, utilisation, clocks, memory, throttling.
//!
//! Every reader is a function over folders, so that it runs on a recorded tree: `root` is the
//! root of the host's file system, `sysfs` the folder of the device below `root/sys/devices`.
//! Every read is bounded and waits for nobody; garbage is a complaint and never a figure.
//! What the figures mean for the health of a device is judged in `health`; what they add up to
//! is `energy`.

pub mod drm;
pub mod files;
mod hwmon;
mod load;
mod powercap;
mod thermal;

pub use hwmon::{Rail, rails};
pub use powercap::domain;
pub use thermal::zone;

use crate::discovery::Field;
use std::path::Path;

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FigureSource {
    /// A sensor.
    #[default]
    Measured,
    /// A model: of a device that is emulated, or from utilisation and nameplate.
    Modelled,
    /// The maker's data sheet.
    Nameplate,
}

impl FigureSource {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::Measured, Self::Modelled, Self::Nameplate];

    /// The name as metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Modelled => "modelled",
            Self::Nameplate => "nameplate",
        }
    }
}

/// A counter of energy that only grows, but for wraps and resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnergyCounter {
    /// Microjoules.
    pub microjoules: u64,
    /// The most it shows before it starts again at 0; nothing where it does not wrap in practice.
    pub range: Option<u64>,
}

/// How busy a device is, as it tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Thousandths of full use, now.
    Permille(u16),
    /// Microseconds of work since it started; how busy it is, is the difference of two.
    Microseconds(u64),
}

/// Why a device runs slower than it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Throttle {
    /// It is too hot.
    Thermal,
    /// It would draw more than it is allowed.
    Power,
    /// Its supply gives too little current.
    Current,
    /// Something else slows it down.
    Other,
}

impl Throttle {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Thermal, Self::Power, Self::Current, Self::Other];

    /// The name as metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thermal => "thermal",
            Self::Power => "power",
            Self::Current => "current",
            Self::Other => "other",
        }
    }
}

/// Memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In use.
    pub used: u64,
    /// In all, where it is told.
    pub total: Option<u64>,
}

/// What a device tells of itself beside temperature and power.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// Where these figures, temperature and power come from.
    pub source: FigureSource,
    /// Energy since some start.
    pub energy: Option<EnergyCounter>,
    /// How busy it is.
    pub busy: Option<Busy>,
    /// Clock now, in hertz.
    pub clock_hertz: Option<u64>,
    /// The fastest clock, in hertz.
    pub clock_limit_hertz: Option<u64>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Why it is slowed down; nothing where it does not tell, empty where it is not.
    pub throttles: Option<Vec<Throttle>>,
    /// The temperature at which it stops itself, in thousandths of a degree Celsius, by its sensor.
    pub critical_millicelsius: Option<i32>,
    /// Whether it sleeps (runtime power management): then nothing else is read, for that could wake it.
    pub asleep: bool,
    /// What could not be understood; each names the file.
    pub complaints: Vec<String>,
}

/// Everything that sensors tell of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Readings {
    /// Thousandths of a degree Celsius.
    pub temperature: Field<i32>,
    /// Milliwatts.
    pub power: Field<u32>,
    /// The rest.
    pub telemetry: Telemetry,
}

/// Reads what the kernel tells of the device in the folder `sysfs`. A sleeping device is left
/// to sleep: reading its sensors would wake it.
#[must_use]
pub fn read(root: &Path, sysfs: &Path) -> Readings {
    let mut telemetry = Telemetry {
        asleep: is_asleep(sysfs),
        ..Telemetry::default()
    };
    if telemetry.asleep {
        return Readings {
            temperature: Field::Absent,
            power: Field::Absent,
            telemetry,
        };
    }
    let sensors = hwmon::read(sysfs);
    let temperature = first([
        sensors.temperature,
        thermal::apex(sysfs),
        thermal::zone(root, sysfs),
    ]);
    telemetry.critical_millicelsius = sensors.critical;
    telemetry.energy = files::keep(
        first([sensors.energy, powercap::of_device(root, sysfs)]),
        &mut telemetry.complaints,
    );
    telemetry.complaints.extend(sensors.complaints);
    load::read(sysfs, &mut telemetry);
    telemetry.complaints.truncate(MOST_COMPLAINTS);
    Readings {
        temperature,
        power: sensors.power,
        telemetry,
    }
}

/// A device whose every file is garbage says so in a few lines.
const MOST_COMPLAINTS: usize = 4;

/// Whether the kernel has put the device to sleep. This file is answered without the device.
#[must_use]
pub fn is_asleep(sysfs: &Path) -> bool {
    matches!(files::line(&sysfs.join("power/runtime_status")), Field::Value(status) if status == "suspended")
}

/// The first that is told at all.
fn first<T, const N: usize>(fields: [Field<T>; N]) -> Field<T> {
    fields
        .into_iter()
        .find(|field| !matches!(field, Field::Absent))
        .unwrap_or(Field::Absent)
}

#[cfg(test)]
mod tests;
