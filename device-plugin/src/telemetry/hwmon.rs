//! Sensors of the kernel's hwmon class that belong to a device: temperatures, power, energy,
//! and power as voltage times current (INA2xx, INA3221).
//!
//! Units as in the kernel's `Documentation/hwmon/sysfs-interface.rst`: millidegrees, microwatts,
//! microjoules, millivolts, milliamperes.

use super::EnergyCounter;
use super::files::{self, entries, keep, number};
use crate::discovery::Field;
use std::path::{Path, PathBuf};

/// The most channels of one kind.
const MOST_CHANNELS: u32 = 16;

/// The most that a device draws, in milliwatts: more is garbage.
const MOST_MILLIWATTS: u64 = 2_000_000;

/// What hwmon tells of a device.
pub(super) struct Sensors {
    pub(super) temperature: Field<i32>,
    pub(super) critical: Option<i32>,
    pub(super) power: Field<u32>,
    pub(super) energy: Field<EnergyCounter>,
    pub(super) complaints: Vec<String>,
}

/// All sensors of the device in `sysfs`, the hottest temperature of all.
pub(super) fn read(sysfs: &Path) -> Sensors {
    let folders = entries(&sysfs.join("hwmon"), "hwmon");
    let mut complaints = Vec::new();
    let hottest = folders.iter().flat_map(|folder| temperatures(folder)).fold(
        (Field::Absent, None),
        |hottest: (Field<i32>, Option<i32>), next| match (&hottest.0, &next.0) {
            (Field::Value(one), Field::Value(two)) if two <= one => hottest,
            (Field::Value(_), Field::Invalid(_) | Field::Absent) | (_, Field::Absent) => hottest,
            _ => next,
        },
    );
    let power = folders
        .iter()
        .map(|folder| power(folder, &mut complaints))
        .find(|field| !matches!(field, Field::Absent))
        .unwrap_or(Field::Absent);
    let energy = folders.iter().find_map(|folder| {
        channels(folder, "energy", "_input").find_map(|path| keep(counter(&path), &mut complaints))
    });
    Sensors {
        temperature: hottest.0,
        critical: hottest.1,
        power,
        energy: energy.map_or(Field::Absent, Field::Value),
        complaints,
    }
}

/// Each temperature with the critical one of the same sensor.
fn temperatures(folder: &Path) -> Vec<(Field<i32>, Option<i32>)> {
    channels(folder, "temp", "_input")
        .map(|path| {
            let critical = PathBuf::from(path.to_string_lossy().replace("_input", "_crit"));
            let critical = number(&critical, 20_000, 200_000, "thousandths of a degree");
            (
                number(&path, -60_000, 250_000, "thousandths of a degree"),
                keep(critical, &mut Vec::new()),
            )
        })
        .collect()
}

fn counter(path: &Path) -> Field<EnergyCounter> {
    match number(path, 0, u64::MAX, "microjoules") {
        Field::Value(microjoules) => Field::Value(EnergyCounter {
            microjoules,
            range: None,
        }),
        Field::Absent => Field::Absent,
        Field::Invalid(text) => Field::Invalid(text),
    }
}

/// Power of one chip, in milliwatts: its own figure, an average before an instant, else the sum
/// of its rails.
fn power(folder: &Path, complaints: &mut Vec<String>) -> Field<u32> {
    let mut told = ["_average", "_input"]
        .into_iter()
        .flat_map(|suffix| channels(folder, "power", suffix));
    if let Some(path) = told.next() {
        return milliwatts(number(&path, 0, MOST_MILLIWATTS * 1000, "microwatts"), 1000);
    }
    let rails = rails(folder, complaints);
    let sum: u64 = rails.iter().map(|rail| u64::from(rail.milliwatts)).sum();
    if rails.is_empty() {
        return Field::Absent;
    }
    milliwatts(Field::Value(sum), 1)
}

fn milliwatts(field: Field<u64>, divisor: u64) -> Field<u32> {
    match field {
        Field::Value(value) => u32::try_from(value / divisor).map_or(Field::Absent, Field::Value),
        Field::Absent => Field::Absent,
        Field::Invalid(text) => Field::Invalid(text),
    }
}

/// One supply rail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rail {
    /// Its name, such as `VDD_GPU_SOC`; the number of its channel where it has none.
    pub label: String,
    /// Milliwatts.
    pub milliwatts: u32,
}

/// The rails of a power monitor in the hwmon folder `folder`: voltage times current of each
/// channel that has both. What cannot be understood joins `complaints`.
#[must_use]
pub fn rails(folder: &Path, complaints: &mut Vec<String>) -> Vec<Rail> {
    let mut rails = Vec::new();
    for channel in 1..=MOST_CHANNELS {
        let file = |kind: &str, suffix: &str| folder.join(format!("{kind}{channel}_{suffix}"));
        let volts = number(&file("in", "input"), 0u64, 1_000_000, "millivolts");
        let amperes = number(&file("curr", "input"), 0u64, 10_000_000, "milliamperes");
        if matches!(volts, Field::Absent) || matches!(amperes, Field::Absent) {
            continue;
        }
        let (Some(volts), Some(amperes)) = (keep(volts, complaints), keep(amperes, complaints)) else {
            continue;
        };
        let label = keep(files::line(&file("in", "label")), complaints);
        // A chip's own sum of its rails would count them twice.
        if label
            .as_deref()
            .is_some_and(|label| label.to_ascii_lowercase().starts_with("sum"))
        {
            continue;
        }
        // Millivolts times milliamperes are microwatts.
        let milliwatts = (volts * amperes / 1000).min(MOST_MILLIWATTS);
        rails.push(Rail {
            label: label.unwrap_or_else(|| channel.to_string()),
            milliwatts: u32::try_from(milliwatts).unwrap_or(u32::MAX),
        });
    }
    rails
}

/// Files `<kind><n><suffix>` that are there.
fn channels<'a>(folder: &'a Path, kind: &'a str, suffix: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    (1..=MOST_CHANNELS)
        .map(move |channel| folder.join(format!("{kind}{channel}{suffix}")))
        .filter(|path| path.exists())
}
