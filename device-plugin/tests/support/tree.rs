//! Builds a host's tree from a short description, in the layout of the kernel's sysfs.
//!
//! A description is YAML: devices with what their `uevent` says, and the device nodes below them.
//! Trees are reconstructed from the sources that each names, not recorded.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A machine, or a part of one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tree {
    pub pci: Vec<Pci>,
    pub usb: Vec<Usb>,
    pub platform: Vec<Platform>,
    /// Device nodes of no device of a bus.
    pub virtual_nodes: Vec<Node>,
    /// Further files, by path.
    pub files: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pci {
    /// Folder below /sys/devices; its last part is the address.
    pub at: String,
    pub ids: String,
    #[serde(default)]
    pub subsystem: Option<String>,
    pub class: String,
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub numa: Option<i32>,
    #[serde(default)]
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usb {
    /// Folder below /sys/devices; its last part is the device's name.
    pub at: String,
    pub ids: String,
    pub devnum: u32,
    /// Name of the port's other side, such as `usb1-port4`.
    #[serde(default)]
    pub peer: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    pub at: String,
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub compatible: Vec<String>,
    #[serde(default)]
    pub nodes: Vec<Node>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub class: String,
    pub name: String,
    pub numbers: String,
    /// Path below /dev, where it is another than the name.
    #[serde(default)]
    pub path: Option<String>,
}

impl Tree {
    pub fn parse(text: &str) -> Self {
        serde_yaml::from_str(text).unwrap()
    }

    /// Makes the tree below `root`, which may hold parts of it already.
    pub fn build(&self, root: &Path) {
        let builder = Builder {
            root: root.to_owned(),
        };
        for folder in [
            "bus/pci/devices",
            "bus/usb/devices",
            "bus/platform/devices",
            "dev/char",
        ] {
            fs::create_dir_all(root.join("sys").join(folder)).unwrap();
        }
        self.pci.iter().for_each(|device| builder.pci(device));
        self.usb.iter().for_each(|device| builder.usb(device));
        self.platform.iter().for_each(|device| builder.platform(device));
        for node in &self.virtual_nodes {
            builder.node("virtual", node);
        }
        for (path, content) in &self.files {
            builder.write(&root.join(path), content);
        }
    }
}

struct Builder {
    root: PathBuf,
}

impl Builder {
    fn write(&self, path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn device(&self, at: &str, bus: &str, lines: &[Option<String>]) {
        let folder = self.root.join("sys/devices").join(at);
        let lines: String = lines.iter().flatten().map(|line| format!("{line}\n")).collect();
        self.write(&folder.join("uevent"), &lines);
        let name = folder.file_name().unwrap();
        let link = self.root.join("sys/bus").join(bus).join("devices").join(name);
        symlink(Path::new("../../../devices").join(at), link).unwrap();
        let up = "../".repeat(at.split('/').count() + 1);
        symlink(format!("{up}bus/{bus}"), folder.join("subsystem")).unwrap();
        // The kernel tells the driver twice: in the uevent, and by a link.
        if let Some(driver) = lines.lines().find_map(|line| line.strip_prefix("DRIVER=")) {
            let driver = format!("bus/{bus}/drivers/{driver}");
            fs::create_dir_all(self.root.join("sys").join(&driver)).unwrap();
            symlink(format!("{up}{driver}"), folder.join("driver")).unwrap();
        }
    }

    fn pci(&self, device: &Pci) {
        let upper = |text: &str| text.to_uppercase();
        let lines = [
            device.driver.as_ref().map(|driver| format!("DRIVER={driver}")),
            Some(format!(
                "PCI_CLASS={}",
                upper(device.class.trim_start_matches('0'))
            )),
            Some(format!("PCI_ID={}", upper(&device.ids))),
            Some(format!(
                "PCI_SUBSYS_ID={}",
                upper(device.subsystem.as_ref().unwrap_or(&device.ids))
            )),
            Some(format!("PCI_SLOT_NAME={}", device.at.rsplit('/').next().unwrap())),
        ];
        self.device(&device.at, "pci", &lines);
        let folder = self.root.join("sys/devices").join(&device.at);
        let numa = device.numa.unwrap_or(-1);
        self.write(&folder.join("numa_node"), &format!("{numa}\n"));
        self.write(&folder.join("class"), &format!("0x{:0>6}\n", device.class));
        device.nodes.iter().for_each(|node| self.node(&device.at, node));
    }

    fn usb(&self, device: &Usb) {
        let name = device.at.rsplit('/').next().unwrap();
        let bus: u32 = name.split('-').next().unwrap().parse().unwrap();
        let minor = (bus - 1) * 128 + device.devnum - 1;
        let (vendor, product) = device.ids.split_once(':').unwrap();
        let product = format!(
            "{}/{}/100",
            vendor.trim_start_matches('0'),
            product.trim_start_matches('0')
        );
        let lines = [
            "MAJOR=189".to_owned(),
            format!("MINOR={minor}"),
            format!("DEVNAME=bus/usb/{bus:03}/{:03}", device.devnum),
            "DEVTYPE=usb_device".to_owned(),
            "DRIVER=usb".to_owned(),
            format!("PRODUCT={product}"),
        ];
        if let Some(peer) = &device.peer {
            self.port(&device.at, peer);
        }
        self.device(&device.at, "usb", &lines.map(Some));
        let folder = self.root.join("sys/devices").join(&device.at);
        let (id, _) = device.ids.split_once(':').unwrap();
        let facts = [
            ("idVendor", id.to_owned()),
            ("busnum", bus.to_string()),
            ("devnum", device.devnum.to_string()),
        ];
        for (name, value) in facts {
            self.write(&folder.join(name), &format!("{value}\n"));
        }
        self.link_node(&device.at, &format!("189:{minor}"));
    }

    /// The port of the hub above, with its other side.
    fn port(&self, at: &str, peer: &str) {
        let (hub, name) = at.rsplit_once('/').unwrap();
        let (bus, ports) = name.split_once('-').unwrap();
        let port = match ports.rsplit_once('.') {
            None => format!("{bus}-0:1.0/usb{bus}-port{ports}"),
            Some((above, last)) => format!("{bus}-{above}:1.0/{bus}-{above}-port{last}"),
        };
        let port = self.root.join("sys/devices").join(hub).join(port);
        fs::create_dir_all(&port).unwrap();
        let link = port.join("peer");
        if !link.is_symlink() {
            symlink(format!("../../../elsewhere/{peer}"), link).unwrap();
        }
    }

    fn platform(&self, device: &Platform) {
        let mut lines = vec![device.driver.as_ref().map(|driver| format!("DRIVER={driver}"))];
        for (index, text) in device.compatible.iter().enumerate() {
            lines.push(Some(format!("OF_COMPATIBLE_{index}={text}")));
        }
        self.device(&device.at, "platform", &lines);
        device.nodes.iter().for_each(|node| self.node(&device.at, node));
    }

    fn node(&self, at: &str, node: &Node) {
        let folder = format!("{at}/{}/{}", node.class, node.name);
        let (major, minor) = node.numbers.split_once(':').unwrap();
        let path = node.path.as_ref().unwrap_or(&node.name);
        let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={path}\n");
        let absolute = self.root.join("sys/devices").join(&folder);
        self.write(&absolute.join("uevent"), &uevent);
        let up = "../".repeat(folder.split('/').count() + 1);
        symlink(format!("{up}class/{}", node.class), absolute.join("subsystem")).unwrap();
        self.link_node(&folder, &node.numbers);
    }

    fn link_node(&self, folder: &str, numbers: &str) {
        let link = self.root.join("sys/dev/char").join(numbers);
        symlink(Path::new("../../devices").join(folder), link).unwrap();
    }
}
