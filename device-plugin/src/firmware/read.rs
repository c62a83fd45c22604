//! Where the kernel tells firmware and driver versions.
//!
//! | device | firmware | driver |
//! |---|---|---|
//! | any on PCI, USB or the platform bus | attribute `fw_version`, `firmware_version` or `fw_ver`, of the device or of a class device below it | `version` of the module of the driver that is bound |
//! | AMD GPU | `vbios_version` | likewise |
//! | Coral (gasket, apex) | none | `driver_version` of `apex/apex_*` where the module has none |
//! | USB | `bcdDevice`, the release that the device states of itself | likewise |
//! | Jetson | L4T release of `/etc/nv_tegra_release` | |
//! | Hailo, Intel NPU | none in sysfs: tools of the vendor ask over the device node | `hailo_pci` and `intel_vpu` where the module has a version |

use crate::discovery::Field;
use crate::telemetry::files;
use std::path::Path;

/// Attributes that hold a firmware version, the most particular first.
const ATTRIBUTES: [&str; 5] = [
    "fw_version",
    "firmware_version",
    "fw_ver",
    "vbios_version",
    "bcdDevice",
];

/// Class folders below a device's own, whose entries may hold its attributes.
const CLASSES: [&str; 5] = ["accel", "hailo_chardev", "apex", "misc", "drm"];

/// The firmware that the device in the folder `sysfs` tells of.
#[must_use]
pub fn read(sysfs: &Path) -> Field<String> {
    let own = std::iter::once(sysfs.to_owned());
    let below = CLASSES
        .iter()
        .flat_map(|class| files::entries(&sysfs.join(class), ""));
    let folders: Vec<_> = own.chain(below).collect();
    for name in ATTRIBUTES {
        for folder in &folders {
            match files::line(&folder.join(name)) {
                Field::Absent => {}
                told => return told,
            }
        }
    }
    Field::Absent
}

/// The release of a Jetson's L4T below the host root, such as `r35.4.1`: its firmware.
#[must_use]
pub fn release(root: &Path) -> Field<String> {
    let path = root.join("etc/nv_tegra_release");
    let text = match files::line(&path) {
        Field::Value(text) => text,
        other => return other,
    };
    let parse = || {
        let major = text.split_whitespace().find_map(|word| word.strip_prefix('R'))?;
        let minor = text.split("REVISION:").nth(1)?.split(',').next()?.trim();
        let numbers = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
        (numbers(major) && numbers(minor)).then(|| format!("r{major}.{minor}"))
    };
    parse().map_or_else(
        || {
            Field::Invalid(format!(
                "{} holds no release such as \"# R35 (release), REVISION: 4.1\"",
                path.display()
            ))
        },
        Field::Value,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn firmware_is_read_from_the_device_or_a_class_device_below_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), Field::Absent);
        let below = dir.path().join("accel/accel0");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("fw_version"), "1.2.3\n").unwrap();
        assert_eq!(read(dir.path()), Field::Value("1.2.3".into()));
        fs::write(dir.path().join("fw_version"), [0xff, 0]).unwrap();
        assert!(matches!(read(dir.path()), Field::Invalid(_)));
    }

    #[test]
    fn a_jetson_tells_its_release() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        let path = dir.path().join("etc/nv_tegra_release");
        assert_eq!(release(dir.path()), Field::Absent);
        fs::write(
            &path,
            "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\nmore\n",
        )
        .unwrap();
        assert_eq!(release(dir.path()), Field::Value("r35.4.1".into()));
        fs::write(&path, "Rubbish REVISION: , R").unwrap();
        assert!(matches!(release(dir.path()), Field::Invalid(_)));
    }
}
