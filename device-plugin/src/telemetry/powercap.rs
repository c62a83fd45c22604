//! Energy counters of the kernel's powercap class (RAPL), which wrap at a stated range.

use super::EnergyCounter;
use super::files::{entries, line, number};
use crate::discovery::Field;
use std::path::Path;

/// The domain of the package that is an integrated GPU on client processors.
const INTEGRATED_GPU: &str = "uncore";

/// The counter of the first domain of that name, such as `package-0` or `uncore`.
#[must_use]
pub fn domain(root: &Path, name: &str) -> Field<EnergyCounter> {
    entries(&root.join("sys/class/powercap"), "intel-rapl:")
        .into_iter()
        .find(|folder| line(&folder.join("name")) == Field::Value(name.to_owned()))
        .map_or(Field::Absent, |folder| counter(&folder))
}

fn counter(folder: &Path) -> Field<EnergyCounter> {
    let range = match number(&folder.join("max_energy_range_uj"), 1, u64::MAX, "microjoules") {
        Field::Value(range) => Some(range),
        _ => None,
    };
    match number(&folder.join("energy_uj"), 0, u64::MAX, "microjoules") {
        Field::Value(microjoules) => Field::Value(EnergyCounter { microjoules, range }),
        Field::Absent => Field::Absent,
        Field::Invalid(text) => Field::Invalid(text),
    }
}

/// An Intel GPU without a sensor of its own is part of the processor, and has its domain there.
pub(super) fn of_device(root: &Path, sysfs: &Path) -> Field<EnergyCounter> {
    let driver = std::fs::read_link(sysfs.join("driver")).unwrap_or_default();
    match driver.file_name().and_then(|name| name.to_str()) {
        Some("i915" | "xe") => domain(root, INTEGRATED_GPU),
        _ => Field::Absent,
    }
}
