//! Devices that look like an accelerator and that no profile has, each with what came nearest.

use crate::discovery::claims::{Claims, nearest};
use crate::discovery::rules::{ACCEL, path_fits};
use crate::discovery::sighting::{Identity, PciIds, Sighting};
use crate::discovery::snapshot::Snapshot;
use perwatt_crds::HardwareProfileSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Lines of a scan before it says how many more there are.
const MOST: usize = 32;

/// PCI classes of accelerators: the beginning of the class code, and what it is called.
const CLASSES: [(u32, u32, &str); 3] = [
    (0x1200, 8, "processing accelerator"),
    (0x0b40, 8, "co-processor"),
    (0x03, 16, "display controller"),
];

/// Vendors of little but accelerators.
const VENDORS: [(u16, &str); 4] = [
    (0x1e60, "Hailo"),
    (0x1ac1, "Google Coral"),
    (0x1e7c, "BrainChip"),
    (0x337d, "SynSense"),
];

/// Device nodes that drivers of accelerators make.
const NODES: [&str; 9] = [
    "/dev/accel*",
    "/dev/accel/accel*",
    "/dev/akida*",
    "/dev/apex_*",
    "/dev/dri/renderD*",
    "/dev/hailo*",
    "/dev/kfd",
    "/dev/loihi*",
    "/dev/nvidia[0-9]*",
];

fn is_accelerators(path: &str) -> bool {
    NODES.iter().any(|pattern| path_fits(pattern, path))
}

/// Device nodes of drivers of accelerators that no device has: some drivers tell sysfs nothing of
/// theirs, and then they lie in `/dev` alone.
pub(super) fn describe_stray(root: &Path, snapshot: &Snapshot, claims: &Claims) -> Vec<String> {
    let devices = claims.taken.iter().map(|(_, device)| device).chain(&claims.free);
    let owned: BTreeSet<_> = devices
        .flat_map(|device| &device.nodes)
        .map(|node| &node.path)
        .collect();
    let told = snapshot
        .nodes
        .iter()
        .filter(|node| node.class == ACCEL || is_accelerators(&node.path));
    let made = list_nodes(&root.join("dev"))
        .into_iter()
        .filter(|path| is_accelerators(path));
    let all: BTreeSet<_> = told.map(|node| node.path.clone()).chain(made).collect();
    let stray = all.iter().filter(|path| !owned.contains(path));
    stray
        .take(MOST)
        .map(|path| {
            format!(
                "device node {path}: a driver of accelerators made it, and sysfs shows no device that has it"
            )
        })
        .collect()
}

/// Character devices in the folders of `dev` where such drivers make theirs.
fn list_nodes(dev: &Path) -> Vec<String> {
    let list = |folder: &'static str| {
        let entries = std::fs::read_dir(dev.join(folder)).into_iter().flatten();
        let nodes = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_char_device()));
        nodes.filter_map(move |entry| Some(format!("/dev/{folder}{}", entry.file_name().to_str()?)))
    };
    ["", "accel/", "dri/"].into_iter().flat_map(list).collect()
}

/// One line for each.
#[must_use]
pub(super) fn describe(profiles: &BTreeMap<&str, &HardwareProfileSpec>, free: &[Sighting]) -> Vec<String> {
    let mut lines: Vec<_> = free
        .iter()
        .filter_map(|sighting| {
            let what = looks_like(sighting)?;
            let why = nearest(profiles, sighting).unwrap_or_else(|| "no profile knows its vendor".to_owned());
            let nodes: Vec<_> = sighting.nodes.iter().map(|node| node.path.as_str()).collect();
            let nodes = if nodes.is_empty() {
                "none".to_owned()
            } else {
                nodes.join(" ")
            };
            Some(format!(
                "{} {} {} ({what}, driver {}, nodes {nodes}): {why}",
                sighting.bus.as_str(),
                sighting.address,
                sighting.identity,
                sighting.driver.as_deref().unwrap_or("none"),
            ))
        })
        .collect();
    if lines.len() > MOST {
        let more = lines.len() - MOST;
        lines.truncate(MOST);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// Why somebody may take it for an accelerator; nothing where nobody would.
fn looks_like(sighting: &Sighting) -> Option<String> {
    if sighting.nodes.iter().any(|node| node.class == ACCEL) {
        return Some("of class accel".to_owned());
    }
    looks_like_by_name(sighting).or_else(|| {
        let made = sighting.nodes.iter().any(|node| is_accelerators(&node.path));
        made.then(|| "its nodes are an accelerator's".to_owned())
    })
}

fn looks_like_by_name(sighting: &Sighting) -> Option<String> {
    let vendor = |id: u16| VENDORS.iter().find(|(vendor, _)| *vendor == id);
    match &sighting.identity {
        Identity::Pci(PciIds {
            vendor: id, class, ..
        }) => {
            let kind = CLASSES.iter().find(|(code, bits, _)| class >> bits == *code);
            match (kind, vendor(*id)) {
                (Some((_, _, kind)), _) => Some(format!("{kind} {class:06x}")),
                (None, Some((_, name))) => Some(format!("of {name}, class {class:06x}")),
                (None, None) => None,
            }
        }
        Identity::Usb { vendor: id, .. } => vendor(*id).map(|(_, name)| format!("of {name}")),
        Identity::Platform { compatible, .. } => {
            let words = ["npu", "rknn", "nvdla", "tpu"];
            let first = compatible.first()?;
            let says = |word: &&&str| {
                let mut parts = first.split(|c: char| !c.is_ascii_alphanumeric());
                parts.any(|part| {
                    part.trim_end_matches(|c: char| c.is_ascii_digit())
                        .ends_with(**word)
                })
            };
            words
                .iter()
                .find(says)
                .map(|word| format!("its name says {word}"))
        }
        Identity::Node(_) => None,
    }
}
