//! What devices a machine has, read from its sysfs at one moment.
//!
//! A device's `uevent` holds all that rules ask, so that one small file a device is read. Device
//! nodes come from `/sys/dev/char`, not from `/dev`: inside a container `/dev` is another one.

use super::sighting::{Bus, HostNode, Identity, PciIds, Sighting};
use super::tree::{Entry, Tree, TreeError, read};
use super::usb;
use perwatt_crds::text::tidy;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

const PCI: &str = "sys/bus/pci/devices";
const USB: &str = "sys/bus/usb/devices";
const PLATFORM: &str = "sys/bus/platform/devices";
const NODES: &str = "sys/dev/char";

/// Classes of device nodes that are never an accelerator's, and many.
const UNINTERESTING: [&str; 4] = ["tty", "vc", "input", "mem"];

/// The most that is taken of a name, in bytes: they go into logs, ids and manifests.
const NAME_BYTES: usize = 128;

/// The most troubles that are told of one tree.
const TROUBLES: usize = 16;

/// The devices of a machine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Devices by bus and address.
    pub sightings: Vec<Sighting>,
    /// Every device node that may matter, by path.
    pub nodes: Vec<HostNode>,
    /// What could not be read, and where.
    pub troubles: Vec<String>,
}

impl Snapshot {
    /// Reads the tree below `root`. What cannot be read is told and left out.
    #[must_use]
    pub fn take(root: &Path) -> Self {
        let mut reader = match Tree::open(root) {
            Ok(tree) => Reader {
                tree,
                snapshot: Self::default(),
            },
            Err(error) => {
                return Self {
                    troubles: vec![error.to_string()],
                    ..Self::default()
                };
            }
        };
        reader.read_bus(PCI, read_pci);
        reader.read_bus(USB, read_usb);
        reader.read_bus(PLATFORM, read_platform);
        reader.read_nodes();
        let mut snapshot = reader.snapshot;
        snapshot.attach_nodes();
        snapshot
    }

    /// Gives each device the nodes below it; the nearest device above a node has it.
    fn attach_nodes(&mut self) {
        let by_folder: BTreeMap<PathBuf, usize> = self
            .sightings
            .iter()
            .enumerate()
            .map(|(index, sighting)| (sighting.sysfs.clone(), index))
            .collect();
        for node in &self.nodes {
            let owner = node.sysfs.ancestors().find_map(|folder| by_folder.get(folder));
            if let Some(owner) = owner {
                self.sightings[*owner].nodes.push(node.clone());
            }
        }
    }
}

/// A number that differs when a device came, went or was made anew; much cheaper than a snapshot.
/// It does not see a driver that takes a device and makes no device node.
#[must_use]
pub fn fingerprint(root: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Ok(tree) = Tree::open(root) {
        for folder in [PCI, USB, PLATFORM, NODES] {
            for Entry { name, inode } in tree.list(&tree.at(folder)).0 {
                (name, inode).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

/// The lines `KEY=VALUE` of a device's `uevent`.
pub(super) struct Uevent(String);

impl Uevent {
    pub(super) fn read(folder: &Path) -> Result<Self, TreeError> {
        read(&folder.join("uevent")).map(Self)
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// What the device says that it is on a bus with ids.
    pub(super) fn ids(&self, bus: Bus) -> Option<Identity> {
        match bus {
            Bus::Pci => {
                let (vendor, device) = self.get("PCI_ID").and_then(|text| pair(text, ':'))?;
                Some(Identity::Pci(PciIds {
                    vendor,
                    device,
                    subsystem: self.get("PCI_SUBSYS_ID").and_then(|text| pair(text, ':')),
                    class: u32::from_str_radix(self.get("PCI_CLASS")?, 16).ok()?,
                }))
            }
            Bus::Usb => {
                let (vendor, rest) = self.get("PRODUCT")?.split_once('/')?;
                let product = rest.split('/').next()?;
                Some(Identity::Usb {
                    vendor: u16::from_str_radix(vendor, 16).ok()?,
                    product: u16::from_str_radix(product, 16).ok()?,
                })
            }
            Bus::Platform | Bus::Node => None,
        }
    }

    fn compatible(&self) -> Vec<String> {
        (0..32)
            .map_while(|index| self.get(&format!("OF_COMPATIBLE_{index}")))
            .map(str::to_owned)
            .collect()
    }
}

fn pair(text: &str, separator: char) -> Option<(u16, u16)> {
    let (first, second) = text.split_once(separator)?;
    let number = |text| u16::from_str_radix(text, 16).ok();
    Some((number(first)?, number(second)?))
}

struct Reader {
    tree: Tree,
    snapshot: Snapshot,
}

/// A device of a bus, before its file is understood.
struct Candidate<'a> {
    name: &'a str,
    folder: PathBuf,
    uevent: Uevent,
}

type ReadDevice = fn(&Tree, &Candidate<'_>) -> Result<Option<(String, Identity)>, String>;

impl Reader {
    fn read_bus(&mut self, bus: &str, understand: ReadDevice) {
        let folder = self.tree.at(bus);
        let (entries, trouble) = self.tree.list(&folder);
        self.tell(trouble.map(|error| error.to_string()));
        // A USB device's interfaces are on its bus too; their names have a colon.
        let is_device = |entry: &Entry| bus != USB || !entry.name.contains(':');
        for entry in entries.into_iter().filter(is_device) {
            match self.read_device(&folder.join(&entry.name), &entry.name, bus, understand) {
                Ok(found) => self.snapshot.sightings.extend(found),
                Err(text) => self.tell(Some(text)),
            }
        }
    }

    fn read_device(
        &self,
        link: &Path,
        name: &str,
        bus: &str,
        understand: ReadDevice,
    ) -> Result<Option<Sighting>, String> {
        // A device that goes while it is read is no trouble.
        let folder = match self.tree.resolve(link) {
            Err(TreeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            resolved => resolved.map_err(|error| error.to_string())?,
        };
        let uevent = Uevent::read(&folder).map_err(|error| error.to_string())?;
        let candidate = Candidate { name, folder, uevent };
        let Some((address, identity)) = understand(&self.tree, &candidate)? else {
            return Ok(None);
        };
        let numa = read(&candidate.folder.join("numa_node")).ok();
        Ok(Some(Sighting {
            bus: match bus {
                PCI => Bus::Pci,
                USB => Bus::Usb,
                _ => Bus::Platform,
            },
            address,
            driver: candidate.uevent.get("DRIVER").map(|name| tidy(name, NAME_BYTES)),
            // Without NUMA the kernel says -1, which is no number of a node.
            numa_node: numa.and_then(|text| text.trim().parse().ok()),
            sysfs: candidate.folder,
            identity,
            nodes: Vec::new(),
        }))
    }

    fn read_nodes(&mut self) {
        let folder = self.tree.at(NODES);
        let (entries, trouble) = self.tree.list(&folder);
        self.tell(trouble.map(|error| error.to_string()));
        let mut nodes: Vec<_> = entries
            .iter()
            .filter_map(|entry| read_node(&self.tree, &folder, &entry.name))
            .collect();
        nodes.sort_by(|one, other| one.path.cmp(&other.path));
        self.snapshot.nodes = nodes;
    }

    fn tell(&mut self, trouble: Option<String>) {
        if self.snapshot.troubles.len() < TROUBLES {
            self.snapshot.troubles.extend(trouble);
        }
    }
}

fn read_pci(_: &Tree, device: &Candidate<'_>) -> Result<Option<(String, Identity)>, String> {
    let Some(ids) = device.uevent.ids(Bus::Pci) else {
        return Err(format!(
            "{} tells no PCI_ID and PCI_CLASS: the device is not looked at",
            device.folder.join("uevent").display()
        ));
    };
    Ok(Some((tidy(device.name, NAME_BYTES), ids)))
}

fn read_usb(tree: &Tree, device: &Candidate<'_>) -> Result<Option<(String, Identity)>, String> {
    // Root hubs are on the bus too.
    if device.uevent.get("DEVTYPE") != Some("usb_device") || device.name.starts_with("usb") {
        return Ok(None);
    }
    let Some(ids) = device.uevent.ids(Bus::Usb) else {
        return Err(format!(
            "{} tells no PRODUCT: the device is not looked at",
            device.folder.join("uevent").display()
        ));
    };
    let address = usb::stable_address(tree, &device.folder, device.name);
    Ok(Some((tidy(&address, NAME_BYTES), ids)))
}

fn read_platform(_: &Tree, device: &Candidate<'_>) -> Result<Option<(String, Identity)>, String> {
    let identity = Identity::Platform {
        name: device.name.to_owned(),
        compatible: device.uevent.compatible(),
    };
    Ok(Some((tidy(device.name, NAME_BYTES), identity)))
}

/// A node by its link `MAJOR:MINOR`; nothing for one that cannot be an accelerator's, or that goes
/// while it is read.
fn read_node(tree: &Tree, folder: &Path, numbers: &str) -> Option<HostNode> {
    let (major, minor) = numbers.split_once(':')?;
    let link = folder.join(numbers);
    let target = std::fs::read_link(&link).ok()?;
    let class = target.parent()?.file_name()?.to_str()?.to_owned();
    if UNINTERESTING.contains(&class.as_str()) {
        return None;
    }
    let sysfs = tree.resolve(&link).ok()?;
    let uevent = Uevent::read(&sysfs).ok()?;
    let name = uevent.get("DEVNAME")?;
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return None;
    }
    Some(HostNode {
        path: format!("/dev/{}", tidy(name, NAME_BYTES)),
        class: tree.link_name(&sysfs.join("subsystem")).unwrap_or(class),
        numbers: (major.parse().ok()?, minor.parse().ok()?),
        sysfs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn pci(root: &Path, name: &str, uevent: &[u8]) {
        let folder = root.join("sys/devices/pci0000:00").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(root.join(PCI)).unwrap();
        fs::write(folder.join("uevent"), uevent).unwrap();
        let target = Path::new("../../../devices/pci0000:00").join(name);
        symlink(target, root.join(PCI).join(name)).unwrap();
    }

    const GOOD: &[u8] = b"DRIVER=chip\nPCI_CLASS=B4000\nPCI_ID=1E60:2864\nPCI_SUBSYS_ID=1E60:2864\n";

    #[test]
    fn garbage_is_told_and_hides_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        pci(root, "0000:01:00.0", GOOD);
        pci(root, "0000:02:00.0", b"\xff\x00\nPCI_ID=xyz\n");
        pci(root, "0000:03:00.0", &vec![b'x'; 1 << 20]);
        symlink("/etc", root.join(PCI).join("0000:04:00.0")).unwrap();
        symlink("0000:05:00.0", root.join(PCI).join("0000:05:00.0")).unwrap();
        symlink("../../../devices/gone", root.join(PCI).join("0000:06:00.0")).unwrap();
        let snapshot = Snapshot::take(root);
        let seen: Vec<_> = snapshot.sightings.iter().map(|s| s.address.as_str()).collect();
        assert_eq!(seen, ["0000:01:00.0"]);
        let troubles = snapshot.troubles.join("\n");
        for part in ["0000:02:00.0", "0000:03:00.0", "0000:04:00.0", "0000:05:00.0"] {
            assert!(troubles.contains(part), "{part} is missing in {troubles}");
        }
        assert!(
            !troubles.contains("0000:06:00.0"),
            "a device that just went is no trouble"
        );
    }

    #[test]
    fn a_thousand_troubles_are_not_told_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..1000 {
            pci(dir.path(), &format!("{number:04x}:00:00.0"), b"");
        }
        let snapshot = Snapshot::take(dir.path());
        assert_eq!((snapshot.sightings.len(), snapshot.troubles.len()), (0, TROUBLES));
    }

    #[test]
    fn a_device_made_anew_under_its_name_changes_the_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        pci(dir.path(), "0000:01:00.0", GOOD);
        let first = fingerprint(dir.path());
        assert_eq!(fingerprint(dir.path()), first);
        pci(dir.path(), "0000:02:00.0", GOOD);
        assert_ne!(fingerprint(dir.path()), first);
    }

    #[test]
    fn a_node_belongs_to_the_nearest_device_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        pci(root, "0000:01:00.0", GOOD);
        let folder = root.join("sys/devices/pci0000:00/0000:01:00.0/chips/chip0");
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(root.join(NODES)).unwrap();
        fs::write(folder.join("uevent"), "DEVNAME=chip0\n").unwrap();
        let target = "../../devices/pci0000:00/0000:01:00.0/chips/chip0";
        symlink(target, root.join(NODES).join("235:0")).unwrap();
        // One that would lead out of /dev.
        let hostile = root.join("sys/devices/virtual/x/hostile");
        fs::create_dir_all(&hostile).unwrap();
        fs::write(hostile.join("uevent"), "DEVNAME=../etc/shadow\n").unwrap();
        symlink("../../devices/virtual/x/hostile", root.join(NODES).join("9:9")).unwrap();
        let snapshot = Snapshot::take(root);
        let node = &snapshot.sightings[0].nodes[0];
        assert_eq!(
            (node.path.as_str(), node.class.as_str(), node.numbers),
            ("/dev/chip0", "chips", (235, 0))
        );
        assert_eq!(snapshot.nodes.len(), 1);
    }
}
