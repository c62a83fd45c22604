//! Temperatures outside hwmon: thermal zones of a chip whose parts are devices, and Coral.

use super::files::{entries, line, number};
use crate::discovery::Field;
use std::path::Path;

/// What the name of a platform device ends with, and what its thermal zone is called after.
const PARTS: [(&str, &str); 5] = [
    ("npu", "npu"),
    ("gpu", "gpu"),
    ("gv11b", "gpu"),
    ("ga10b", "gpu"),
    ("dla", "cv"),
];

/// The thermal zone that belongs to the platform device in `sysfs`, by its type: `npu-thermal`
/// for `fdab0000.npu`, `gpu-thermal` for `17000000.ga10b`. In thousandths of a degree Celsius.
#[must_use]
pub fn zone(root: &Path, sysfs: &Path) -> Field<i32> {
    let name = sysfs
        .file_name()
        .map(|name| name.to_string_lossy().to_ascii_lowercase());
    let Some(wanted) = name.as_deref().and_then(part) else {
        return Field::Absent;
    };
    let zones = entries(&root.join("sys/class/thermal"), "thermal_zone");
    let is_wanted = |zone: &&std::path::PathBuf| matches!(line(&zone.join("type")), Field::Value(kind) if kind.to_ascii_lowercase().starts_with(wanted));
    zones
        .iter()
        .find(is_wanted)
        .map_or(Field::Absent, |zone| degrees(&zone.join("temp")))
}

fn part(name: &str) -> Option<&'static str> {
    let last = name.rsplit('.').next()?;
    PARTS.iter().find(|(end, _)| last == *end).map(|(_, part)| *part)
}

/// Coral's driver tells the temperature in its own class folder.
pub(super) fn apex(sysfs: &Path) -> Field<i32> {
    entries(&sysfs.join("apex"), "apex_")
        .first()
        .map_or(Field::Absent, |device| degrees(&device.join("temp")))
}

fn degrees(path: &Path) -> Field<i32> {
    number(path, -60_000, 250_000, "thousandths of a degree")
}
