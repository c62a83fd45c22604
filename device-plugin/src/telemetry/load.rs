//! How busy a device is, how fast, how full, and what holds it back: as its driver tells it.

use super::files::{self, entries, keep, number};
use super::{Busy, Memory, Telemetry, Throttle};
use std::path::{Path, PathBuf};

/// Reads utilisation, clocks, memory and throttle reasons of the device in `sysfs`.
pub(super) fn read(sysfs: &Path, telemetry: &mut Telemetry) {
    let mut complaints = std::mem::take(&mut telemetry.complaints);
    telemetry.busy = busy(sysfs, &mut complaints);
    (telemetry.clock_hertz, telemetry.clock_limit_hertz) = clocks(sysfs, &mut complaints);
    telemetry.memory = memory(sysfs, &mut complaints);
    telemetry.throttles = throttles(sysfs, &mut complaints);
    telemetry.complaints = complaints;
}

/// Intel's NPU counts microseconds, AMD's GPU and devfreq give per cent, Tegra thousandths.
fn busy(sysfs: &Path, complaints: &mut Vec<String>) -> Option<Busy> {
    if let Some(time) = keep(
        number(&sysfs.join("npu_busy_time_us"), 0, u64::MAX, "microseconds"),
        complaints,
    ) {
        return Some(Busy::Microseconds(time));
    }
    if let Some(percent) = keep(
        number(&sysfs.join("gpu_busy_percent"), 0u16, 100, "per cent"),
        complaints,
    ) {
        return Some(Busy::Permille(percent * 10));
    }
    let devfreq = entries(&sysfs.join("devfreq"), "");
    if let Some(load) = devfreq
        .first()
        .and_then(|folder| devfreq_load(&folder.join("load"), complaints))
    {
        return Some(Busy::Permille(load));
    }
    keep(number(&sysfs.join("load"), 0u16, 1000, "thousandths"), complaints).map(Busy::Permille)
}

/// Rockchip's devfreq writes `23@1000000000Hz`.
fn devfreq_load(path: &Path, complaints: &mut Vec<String>) -> Option<u16> {
    let text = keep(files::line(path), complaints)?;
    let percent = text
        .split('@')
        .next()
        .and_then(|load| load.trim().parse::<u16>().ok());
    let percent = percent.filter(|percent| *percent <= 100);
    if percent.is_none() {
        complaints.push(format!(
            "{} holds no load such as \"23@1000000000Hz\"",
            path.display()
        ));
    }
    percent.map(|percent| percent * 10)
}

/// Files that tell a clock and its limit, and what they count in hertz.
const CLOCKS: [(&str, &str, u64); 3] = [
    ("npu_current_frequency_mhz", "npu_max_frequency_mhz", 1_000_000),
    ("gt_act_freq_mhz", "gt_RP0_freq_mhz", 1_000_000),
    ("cur_freq", "max_freq", 1),
];

fn clocks(sysfs: &Path, complaints: &mut Vec<String>) -> (Option<u64>, Option<u64>) {
    let mut folders = vec![sysfs.to_owned()];
    folders.extend(entries(&sysfs.join("drm"), "card"));
    folders.extend(entries(&sysfs.join("devfreq"), ""));
    let mut read = |path: PathBuf, unit: u64| {
        keep(
            number(&path, 0u64, 100_000_000_000 / unit, "a frequency"),
            complaints,
        )
        .map(|clock| clock * unit)
    };
    for (now, limit, unit) in CLOCKS {
        for folder in &folders {
            if let Some(clock) = read(folder.join(now), unit) {
                return (Some(clock), read(folder.join(limit), unit));
            }
        }
    }
    // xe: one folder for each tile and engine group; the first stands for all.
    for folder in tiles(sysfs) {
        if let Some(clock) = read(folder.join("act_freq"), 1_000_000) {
            return (Some(clock), read(folder.join("rp0_freq"), 1_000_000));
        }
    }
    (None, None)
}

fn tiles(sysfs: &Path) -> Vec<PathBuf> {
    let groups = entries(sysfs, "tile")
        .into_iter()
        .flat_map(|tile| entries(&tile, "gt"));
    groups.flat_map(|group| entries(&group, "freq")).collect()
}

fn memory(sysfs: &Path, complaints: &mut Vec<String>) -> Option<Memory> {
    let mut bytes = |name: &str| keep(number(&sysfs.join(name), 0, 1u64 << 48, "bytes"), complaints);
    if let Some(used) = bytes("mem_info_vram_used") {
        let total = bytes("mem_info_vram_total");
        return Some(Memory { used, total });
    }
    bytes("npu_memory_utilization").map(|used| Memory { used, total: None })
}

/// Intel's GPUs tell each reason in a file that holds 0 or 1: i915 as `throttle_reason_pl1`
/// in `gt/gt0`, xe as `reason_pl1` in `throttle`.
fn throttles(sysfs: &Path, complaints: &mut Vec<String>) -> Option<Vec<Throttle>> {
    let i915 = entries(&sysfs.join("drm"), "card")
        .into_iter()
        .flat_map(|card| entries(&card.join("gt"), "gt"))
        .flat_map(|group| entries(&group, "throttle_reason_"));
    let xe = tiles(sysfs)
        .into_iter()
        .flat_map(|folder| entries(&folder.join("throttle"), "reason_"));
    let files: Vec<_> = i915.chain(xe).collect();
    if files.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(reason) = name.rsplit_once("reason_").map(|(_, reason)| reason) else {
            continue;
        };
        if reason != "status" && keep(number(&file, 0u8, 1, "0 or 1"), complaints) == Some(1) {
            found.push(throttle(reason));
        }
    }
    found.sort();
    found.dedup();
    Some(found)
}

fn throttle(reason: &str) -> Throttle {
    match reason {
        "thermal" | "prochot" | "vr_thermalert" | "soc_thermal" | "mem_thermal" => Throttle::Thermal,
        "pl1" | "pl2" | "pl4" | "ratl" | "psys_pl1" | "psys_pl2" => Throttle::Power,
        "vr_tdc" | "iccmax" | "psys_crit" => Throttle::Current,
        _ => Throttle::Other,
    }
}
