//! Emulated devices: a real device node and a control directory each, made by the agent.
//!
//! ```text
//! <root>/emulated/<profile>-<n>/device       character device, mode 0660, the profile's group
//! <root>/emulated/<profile>-<n>/control/     health, temperature, power, firmware, present,
//!                                                 utilisation, delay, flap
//! ```
//!
//! The device node is one like `/dev/null`: it opens, reads and writes, and does nothing. The
//! work of such a device is done by the CPU, and every figure of it is called emulated.

pub mod control;

use crate::constants::DEVICE_GROUP;
use crate::discovery::{Discovered, Field, Found, PrepareError, Reading, Rules, Search, Source};
use crate::files::make_dir;
use crate::known::NodeFacts;
use crate::paths::Paths;
use crate::telemetry::files::keep;
use crate::telemetry::{Busy, FigureSource, Telemetry};
use control::Key;
use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::inventory::DeviceHealth;
use rustix::fs::{CWD, FileType, Gid, Mode, Uid};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Numbers of the device that every emulated device node is: the null device.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Permissions of a device node: its owner and its group, nobody else.
const NODE_MODE: u32 = 0o660;

/// The source of emulated devices.
#[derive(Clone, Debug)]
pub struct Emulated {
    paths: Paths,
}

impl Emulated {
    /// Devices below the state root.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// Ids of the emulated devices that exist on this node, served or not.
    #[must_use]
    pub fn existing(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.paths.emulated()) else {
            return BTreeSet::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.path().join("control").is_dir() || entry.path().join("device").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// The devices of one profile that this node has.
    #[must_use]
    pub fn devices_of(&self, profile: &str, spec: &HardwareProfileSpec, node: &NodeFacts) -> Vec<Found> {
        let rule = spec
            .discovery
            .as_ref()
            .and_then(|discovery| discovery.emulated.as_ref())
            .filter(|rule| rule.nodes.matches(&node.labels));
        let count = rule.map_or(0, |rule| rule.count);
        (0..count)
            .map(|ordinal| {
                let id = format!("{profile}-{ordinal}");
                Found {
                    node: self.paths.emulated_node(&id),
                    id,
                    profile: profile.to_owned(),
                    class: spec.class,
                    emulated: true,
                    external: false,
                    group: spec.device_group.unwrap_or(DEVICE_GROUP),
                    power: spec.power.clone().unwrap_or_default(),
                    sysfs: None,
                    address: None,
                    driver: None,
                    numa_node: None,
                    place: None,
                    lost: false,
                    drained: None,
                    rules: Rules::of(spec),
                }
            })
            .collect()
    }

    fn make_node(path: &Path, group: u32) -> Result<(), PrepareError> {
        let error = |what, source: io::Error| PrepareError {
            what,
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_char_device() => {
                fs::remove_file(path).map_err(|source| error("replace", source))?;
            }
            _ => {}
        }
        let device = rustix::fs::makedev(NULL_DEVICE.0, NULL_DEVICE.1);
        match rustix::fs::mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            Mode::from(NODE_MODE),
            device,
        ) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(source) => return Err(error("make device node", source.into())),
        }
        rustix::fs::chown(path, Some(Uid::ROOT), Some(Gid::from_raw(group)))
            .map_err(|source| error("change the group of", source.into()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(NODE_MODE))
            .map_err(|source| error("change the mode of", source))
    }

    fn node_numbers(path: &Path) -> Result<(u32, u32), String> {
        let gone =
            "start the node agent again or set present=true with its command `emulate` to bring it back";
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_char_device() => {
                Ok((rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())))
            }
            Ok(_) => Err(format!("{} is no character device: {gone}", path.display())),
            Err(source) => Err(format!(
                "device node {} is gone ({source}): {gone}",
                path.display()
            )),
        }
    }
}

/// Takes as long as the control file says; less, once it says less.
fn wait(control: &Path) {
    let start = Instant::now();
    loop {
        let Field::Value(delay) = control::read(control, Key::Delay, control::parse_delay) else {
            return;
        };
        let left = delay.saturating_sub(start.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// A device that flaps is broken for every other stretch of time; and when the stretch ends.
fn flap(control: &Path) -> (Option<Field<DeviceHealth>>, Option<Duration>) {
    let every = match control::read(control, Key::Flap, control::parse_flap) {
        Field::Value(every) if !every.is_zero() => every.as_millis(),
        Field::Invalid(text) => return (Some(Field::Invalid(text)), None),
        _ => return (None, None),
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (stretch, into) = (now.as_millis() / every, now.as_millis() % every);
    let left = u64::try_from(every - into).unwrap_or(u64::MAX);
    let broken = (stretch % 2 == 1).then_some(Field::Value(DeviceHealth::Unhealthy));
    (broken, Some(Duration::from_millis(left)))
}

impl Source for Emulated {
    fn find(&self, search: &Search<'_>) -> Discovered {
        let profiles = search.profiles.iter();
        let found = profiles.flat_map(|(name, spec)| self.devices_of(name, spec, search.node));
        Discovered {
            found: found.collect(),
            notes: Vec::new(),
        }
    }

    fn prepare(&self, found: &Found) -> Result<(), PrepareError> {
        let control = self.paths.control(&found.id);
        make_dir(&control, 0o755).map_err(|source| PrepareError {
            what: "make folder",
            path: control.clone(),
            source,
        })?;
        Self::make_node(&found.node, found.group)?;
        for (key, value) in Key::DEFAULTS {
            if !control.join(key.name()).exists() {
                control::write(&control, key, value).map_err(|source| PrepareError {
                    what: "write control file",
                    path: control.join(key.name()),
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn probe(&self, found: &Found) -> Reading {
        let control = self.paths.control(&found.id);
        wait(&control);
        let (flap, again) = flap(&control);
        let busy = control::read(&control, Key::Utilisation, control::parse_utilisation);
        let mut telemetry = Telemetry {
            source: FigureSource::Modelled,
            ..Telemetry::default()
        };
        telemetry.busy = keep(busy, &mut telemetry.complaints).map(Busy::Permille);
        Reading {
            present: control::read(&control, Key::Present, control::parse_present),
            health: flap.unwrap_or_else(|| control::read(&control, Key::Health, control::parse_health)),
            temperature: control::read(&control, Key::Temperature, control::parse_temperature),
            power: control::read(&control, Key::Power, control::parse_power),
            firmware: control::read(&control, Key::Firmware, control::parse_firmware),
            telemetry,
            again,
            ..Reading::silent(Self::node_numbers(&found.node))
        }
    }

    fn watched(&self, found: &Found) -> Vec<PathBuf> {
        vec![
            self.paths.emulated_device(&found.id),
            self.paths.control(&found.id),
        ]
    }

    fn retire_all_but(&self, kept: &BTreeSet<String>) {
        for id in self.existing().difference(kept) {
            let folder = self.paths.emulated_device(id);
            match fs::remove_dir_all(&folder) {
                Ok(()) => tracing::info!(device = %id, "emulated device removed: no profile asks for it"),
                Err(error) => tracing::warn!(device = %id, %error, "cannot remove {}", folder.display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_flaps_says_when_it_changes_and_a_slow_one_takes_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let control = paths.control("chip-0");
        fs::create_dir_all(&control).unwrap();
        assert_eq!(flap(&control), (None, None));
        fs::write(control.join("flap"), "3600").unwrap();
        let (_, again) = flap(&control);
        assert!(again.unwrap() <= Duration::from_secs(3600));
        fs::write(control.join("flap"), "often").unwrap();
        assert!(matches!(flap(&control), (Some(Field::Invalid(_)), None)));
        fs::write(control.join("delay"), "120").unwrap();
        let start = Instant::now();
        wait(&control);
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[test]
    fn utilisation_is_told_and_garbage_in_it_is_a_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let (source, found) = (Emulated::new(paths.clone()), fixtures::found(&paths));
        let control = paths.control("chip-0");
        fs::create_dir_all(&control).unwrap();
        fs::write(control.join("utilisation"), "37\n").unwrap();
        assert_eq!(source.probe(&found).telemetry.busy, Some(Busy::Permille(370)));
        fs::write(control.join("utilisation"), "all").unwrap();
        let telemetry = source.probe(&found).telemetry;
        assert_eq!(telemetry.busy, None);
        assert!(telemetry.complaints[0].contains("utilisation"), "{telemetry:?}");
    }
    use crate::discovery::Field;
    use crate::fixtures;

    #[test]
    fn a_prepared_device_is_a_node_for_its_group_and_reads_as_well() {
        if !fixtures::can_make_nodes() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let source = Emulated::new(paths.clone());
        let found = fixtures::found(&paths);
        source.prepare(&found).unwrap();
        source.prepare(&found).unwrap();
        let node = fs::metadata(paths.emulated_node("chip-0")).unwrap();
        assert!(node.file_type().is_char_device());
        assert_eq!(node.mode() & 0o777, 0o660);
        assert_eq!((node.uid(), node.gid()), (0, DEVICE_GROUP));
        assert_eq!(source.probe(&found), fixtures::well());
    }

    #[test]
    fn a_device_whose_folder_is_gone_reads_as_without_node() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let reading = Emulated::new(paths.clone()).probe(&fixtures::found(&paths));
        let text = reading.node.unwrap_err();
        assert!(text.contains("chip-0/device is gone"), "{text}");
        assert_eq!(reading.health, Field::Absent);
    }

    #[test]
    fn devices_are_on_nodes_whose_labels_match() {
        let paths = Paths::below(Path::new("/nowhere"));
        let source = Emulated::new(paths);
        let spec: HardwareProfileSpec = serde_json::from_value(serde_json::json!({
            "class": "GPU",
            "discovery": {"emulated": {"count": 2, "nodes": {"matchLabels": {"site": "a"}}}}
        }))
        .unwrap();
        let mut node = NodeFacts::default();
        assert!(source.devices_of("gpu", &spec, &node).is_empty());
        node.labels.insert("site".into(), "a".into());
        let ids: Vec<_> = source
            .devices_of("gpu", &spec, &node)
            .into_iter()
            .map(|found| found.id)
            .collect();
        assert_eq!(ids, ["gpu-0", "gpu-1"]);
    }

    #[test]
    fn a_retired_device_leaves_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for id in ["chip-0", "chip-1"] {
            fs::create_dir_all(paths.control(id)).unwrap();
        }
        let source = Emulated::new(paths);
        source.retire_all_but(&BTreeSet::from(["chip-1".to_owned()]));
        assert_eq!(source.existing(), BTreeSet::from(["chip-1".to_owned()]));
    }
}
