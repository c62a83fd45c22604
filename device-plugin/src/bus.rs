//! What the kernel tells of a device's place on its bus: driver, error counters, link. What it
//! means is judged in `health`.
//!
//! Counters are those of the kernel's `Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats`;
//! they start at 0 when the device is found on its bus, so at a boot or when it is plugged in.

use crate::telemetry::files::{keep, line, text};
use crate::telemetry::is_asleep;
use perwatt_crds::text::tidy;
use std::path::Path;

/// A device on its bus. The default tells nothing, as of a device without one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bus {
    /// Name of the driver that is bound, and nothing inside where none is; absent where that is
    /// no question of this device.
    pub driver: Option<Option<String>>,
    /// Version of the driver's module, where it has one.
    pub driver_version: Option<String>,
    /// Errors since the device was found on its bus, where they are counted.
    pub errors: Option<Errors>,
    /// The link, of a PCI Express device that is awake.
    pub link: Option<Link>,
    /// What could not be understood; each names the file.
    pub complaints: Vec<String>,
}

/// Errors of the bus, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// The link was no longer reliable.
    pub fatal: u64,
    /// A transaction was lost, the link is reliable.
    pub nonfatal: u64,
    /// The hardware mended it.
    pub correctable: u64,
}

/// A PCI Express link now, and the most that both of its ends can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Lanes now.
    pub width: u8,
    /// Lanes that both ends have.
    pub width_limit: u8,
    /// Millions of transfers a second and lane, now.
    pub speed: u32,
    /// The same, at the most.
    pub speed_limit: u32,
}

/// Reads what the kernel tells of the device in the folder `sysfs`.
#[must_use]
pub fn read(sysfs: &Path) -> Bus {
    let mut complaints = Vec::new();
    let driver = sysfs.join("driver");
    let name = std::fs::read_link(&driver)
        .ok()
        .and_then(|target| Some(tidy(&target.file_name()?.to_string_lossy(), 32)));
    let version = keep(line(&driver.join("module/version")), &mut complaints);
    let asleep = is_asleep(sysfs);
    Bus {
        driver: sysfs.is_dir().then_some(name),
        driver_version: version.or_else(|| apex_driver(sysfs, &mut complaints)),
        errors: errors(sysfs, &mut complaints),
        link: if asleep {
            None
        } else {
            link(sysfs, &mut complaints)
        },
        complaints,
    }
}

/// Coral's driver tells its version in its class folder.
fn apex_driver(sysfs: &Path, complaints: &mut Vec<String>) -> Option<String> {
    let devices = crate::telemetry::files::entries(&sysfs.join("apex"), "apex_");
    keep(line(&devices.first()?.join("driver_version")), complaints)
}

fn errors(sysfs: &Path, complaints: &mut Vec<String>) -> Option<Errors> {
    let mut total = |name: &str, line: &str| {
        let path = sysfs.join(name);
        let text = keep(text(&path), complaints)?;
        let count = text.lines().find_map(|found| {
            let (key, count) = found.trim().rsplit_once(' ')?;
            (key.trim() == line).then(|| count.parse().ok())?
        });
        if count.is_none() {
            complaints.push(format!("{} holds no count {line}", path.display()));
        }
        count
    };
    Some(Errors {
        fatal: total("aer_dev_fatal", "TOTAL_ERR_FATAL")?,
        nonfatal: total("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL")?,
        correctable: total("aer_dev_correctable", "TOTAL_ERR_COR")?,
    })
}

fn link(sysfs: &Path, complaints: &mut Vec<String>) -> Option<Link> {
    let mut width = |folder: &Path, name: &str| {
        let text = keep(line(&folder.join(name)), complaints)?;
        text.parse::<u8>().ok().filter(|lanes| (1..=32).contains(lanes))
    };
    // The slot may be narrower than the device: what lies above it says so.
    let above = sysfs.parent()?;
    let limit = |own: Option<u8>, above: Option<u8>| own.map(|own| above.map_or(own, |above| own.min(above)));
    let width_limit = limit(width(sysfs, "max_link_width"), width(above, "max_link_width"))?;
    let width = width(sysfs, "current_link_width")?;
    let mut speed = |folder: &Path, name: &str| {
        let text = keep(line(&folder.join(name)), complaints)?;
        parse_speed(&text)
    };
    let own = speed(sysfs, "max_link_speed")?;
    let speed_limit = speed(above, "max_link_speed").map_or(own, |above| own.min(above));
    let speed = speed(sysfs, "current_link_speed")?;
    Some(Link {
        width,
        width_limit,
        speed,
        speed_limit,
    })
}

/// `8.0 GT/s PCIe` are 8,000 million transfers a second; `Unknown` is nothing.
fn parse_speed(text: &str) -> Option<u32> {
    let speed: f64 = text.split_whitespace().next()?.parse().ok()?;
    // The bounds also turn away what is no number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.1..=1024.0)
        .contains(&speed)
        .then(|| (speed * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
    }

    const COUNTS: [(&str, &str); 3] = [
        ("aer_dev_fatal", "Undefined 0\nDLP 1\nTOTAL_ERR_FATAL 1\n"),
        ("aer_dev_nonfatal", "Undefined 0\nTOTAL_ERR_NONFATAL 2\n"),
        ("aer_dev_correctable", "RxErr 3\nTOTAL_ERR_COR 3\n"),
    ];

    #[test]
    fn a_link_is_held_against_what_both_ends_can_do() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("0000:00:1c.0/0000:01:00.0");
        write(&device, &COUNTS);
        write(
            &device,
            &[
                ("max_link_width", "4"),
                ("current_link_width", "1"),
                ("max_link_speed", "8.0 GT/s PCIe"),
                ("current_link_speed", "5.0 GT/s PCIe"),
            ],
        );
        write(
            device.parent().unwrap(),
            &[("max_link_width", "2"), ("max_link_speed", "5.0 GT/s PCIe")],
        );
        let bus = read(&device);
        let link = Link {
            width: 1,
            width_limit: 2,
            speed: 5000,
            speed_limit: 5000,
        };
        assert_eq!(bus.link, Some(link));
        assert_eq!(
            bus.errors,
            Some(Errors {
                fatal: 1,
                nonfatal: 2,
                correctable: 3
            })
        );
        assert_eq!((bus.driver, bus.complaints), (Some(None), vec![]));
    }

    #[test]
    fn driver_and_version_are_those_of_the_module() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("devices/0000:01:00.0");
        write(&device, &[]);
        write(&dir.path().join("module/hailo_pci"), &[("version", "4.17.0\n")]);
        write(&dir.path().join("drivers/hailo"), &[]);
        let link = |target: &str, path: &Path| std::os::unix::fs::symlink(target, path).unwrap();
        link("../../drivers/hailo", &device.join("driver"));
        link("../../module/hailo_pci", &dir.path().join("drivers/hailo/module"));
        let bus = read(&device);
        assert_eq!(bus.driver, Some(Some("hailo".into())));
        assert_eq!(bus.driver_version.as_deref(), Some("4.17.0"));
        assert_eq!(read(&dir.path().join("gone")), Bus::default());
    }

    #[test]
    fn garbage_is_a_complaint_and_sleep_hides_the_link() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("aer_dev_fatal", "\u{1}"),
                ("max_link_width", "Unknown"),
                ("current_link_width", "999"),
            ],
        );
        let bus = read(dir.path());
        assert_eq!((bus.errors, bus.link), (None, None));
        assert!(
            bus.complaints[0].contains("aer_dev_fatal"),
            "{:?}",
            bus.complaints
        );
        write(&dir.path().join("power"), &[("runtime_status", "suspended")]);
        write(
            dir.path(),
            &[
                ("max_link_width", "4"),
                ("current_link_width", "1"),
                ("max_link_speed", "8"),
                ("current_link_speed", "8"),
            ],
        );
        assert_eq!(read(dir.path()).link, None);
        write(&dir.path().join("power"), &[("runtime_status", "active")]);
        assert!(read(dir.path()).link.is_some());
    }
}
