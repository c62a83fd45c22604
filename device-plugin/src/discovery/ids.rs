//! Ids of devices: the same after every start, fit for a folder, a label and an annotation. Pure.

use super::sighting::Bus;
use sha2::{Digest, Sha256};

/// The longest id: a part of an annotation's name has no more.
const LONGEST: usize = 63;

/// The id of the device of `profile` at a place. Two places never share one: where a place's own
/// words do not fit, a hash of them follows.
#[must_use]
pub fn build_id(profile: &str, bus: Bus, address: &str) -> String {
    let words = match bus {
        // As people know it from lspci.
        Bus::Pci => address.strip_prefix("0000:").unwrap_or(address).replace(':', "-"),
        Bus::Usb => {
            let (controller, ports) = address.split_once('/').unwrap_or(("usb", address));
            let controller = controller.strip_prefix("0000:").unwrap_or(controller);
            format!("{}-usb{ports}", controller.replace(':', "-"))
        }
        Bus::Platform => address.to_owned(),
        Bus::Node => address.strip_prefix("/dev/").unwrap_or(address).replace('/', "-"),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let ends_well = words.ends_with(|c: char| c.is_ascii_alphanumeric());
    if words.chars().all(plain) && ends_well && profile.len() + 1 + words.len() <= LONGEST {
        return format!("{profile}-{words}");
    }
    with_hash(profile, &words.replace(|c: char| !plain(c), "-"), address)
}

/// The id for a place whose first id another device has already.
#[must_use]
pub fn build_other_id(profile: &str, bus: Bus, address: &str) -> String {
    with_hash(profile, bus.as_str(), address)
}

fn with_hash(profile: &str, words: &str, address: &str) -> String {
    let digest = Sha256::digest(format!("{profile}\n{address}"));
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let start: String = format!("{profile}-{words}")
        .chars()
        .take(LONGEST - hash.len() - 1)
        .collect();
    format!("{start}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_like_the_place() {
        for (bus, address, id) in [
            (Bus::Pci, "0000:01:00.0", "chip-01-00.0"),
            (Bus::Pci, "0001:01:00.0", "chip-0001-01-00.0"),
            (Bus::Usb, "0000:00:14.0/1.4", "chip-00-14.0-usb1.4"),
            (Bus::Usb, "xhci-hcd.0.auto/2s", "chip-xhci-hcd.0.auto-usb2s"),
            (Bus::Platform, "fdab0000.npu", "chip-fdab0000.npu"),
            (Bus::Node, "/dev/akida0", "chip-akida0"),
        ] {
            assert_eq!(build_id("chip", bus, address), id);
        }
    }

    #[test]
    fn what_does_not_fit_gets_a_hash_of_its_own() {
        let long = "x".repeat(80);
        let other = format!("{}y", "x".repeat(79));
        let one = build_id("chip", Bus::Platform, &long);
        assert_eq!(one.len(), LONGEST);
        assert_ne!(one, build_id("chip", Bus::Platform, &other));
        let odd = build_id("chip", Bus::Platform, "a b");
        assert!(
            odd.starts_with("chip-a-b-") && odd != build_id("chip", Bus::Platform, "a-b"),
            "{odd}"
        );
        let pattern = |id: &str| id.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        assert!(pattern(&build_id(&"p".repeat(50), Bus::Node, "/dev/\u{fffd}/é")));
    }
}
