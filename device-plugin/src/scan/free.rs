//! Devices that look like an accelerator and that no profile has, each with what came nearest. Pure.

use crate::discovery::claims::nearest;
use crate::discovery::sighting::{Identity, PciIds, Sighting};
use perwatt_crds::HardwareProfileSpec;
use std::collections::BTreeMap;

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

/// One line for each.
#[must_use]
pub(super) fn describe(profiles: &BTreeMap<&str, &HardwareProfileSpec>, free: &[Sighting]) -> Vec<String> {
    let mut lines: Vec<_> = free
        .iter()
        .filter_map(|sighting| {
            let what = looks_like(sighting)?;
            let why = nearest(profiles, sighting).unwrap_or_else(|| "no profile knows its vendor".to_owned());
            Some(format!(
                "{} {} {} ({what}, driver {}): {why}",
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
    if let Some(node) = sighting.nodes.iter().find(|node| node.class == "accel") {
        return Some(format!("accelerator {}", node.path));
    }
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
