//! The command `scan` against what a person would write down by hand: read from other files than
//! those that it reads, on this machine and on the reconstructed ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/tree.rs"]
#[allow(dead_code)]
mod tree;

use serde_yaml::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tree::Tree;

/// What the built program prints of the machine below `root`; no agent ran here.
fn scan(root: &Path) -> String {
    let state = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_perwatt-device-plugin"))
        .args(["scan".as_ref(), "--root".as_ref(), root.as_os_str()])
        .args(["--state-dir".as_ref(), state.path().as_os_str()])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && error.is_empty(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// PCI addresses of display controllers, co-processors and processing accelerators, as `lspci` shows them.
fn pci(root: &Path) -> Vec<String> {
    let devices = list(&root.join("sys/bus/pci/devices"));
    let is_one = |device: &&PathBuf| {
        let class = read(&device.join("class"));
        ["0x03", "0x0b40", "0x12"]
            .iter()
            .any(|kind| class.starts_with(kind))
    };
    devices.iter().filter(is_one).map(|device| name(device)).collect()
}

/// USB vendor ids that the shipped profiles name.
fn usb_vendors() -> BTreeSet<String> {
    let catalogue = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/perwatt/catalogue");
    let profiles = list(&catalogue);
    assert!(!profiles.is_empty(), "{}", catalogue.display());
    let profile = |path: &PathBuf| serde_yaml::from_str::<Value>(&read(path)).unwrap();
    let rules = |profile: Value| {
        let rules = profile["spec"]["discovery"]["usb"].as_sequence();
        rules.cloned().unwrap_or_default()
    };
    let before = |rule: Value| {
        let before = rule["before"].as_sequence().cloned().unwrap_or_default();
        before.into_iter().chain([rule])
    };
    let rules = profiles.iter().map(profile).flat_map(rules).flat_map(before);
    rules
        .map(|rule| rule["vendor"].as_str().unwrap().to_owned())
        .collect()
}

/// Nodes of USB devices of those vendors, as `lsusb` shows bus and device.
fn usb(root: &Path) -> Vec<String> {
    let vendors = usb_vendors();
    let devices = list(&root.join("sys/bus/usb/devices"));
    let is_one = |device: &&PathBuf| vendors.contains(&read(&device.join("idVendor")));
    let node = |device: &PathBuf| {
        let number = |file| read(&device.join(file)).parse::<u32>().unwrap();
        format!("/dev/bus/usb/{:03}/{:03}", number("busnum"), number("devnum"))
    };
    devices.iter().filter(is_one).map(node).collect()
}

/// Whether only drivers of accelerators make nodes of that name.
fn is_accelerators(name: &str) -> bool {
    let words = ["accel", "akida", "apex_", "hailo", "loihi", "nvidia", "renderD"];
    let numbered = |word: &str| {
        let rest = name.strip_prefix(word);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    name == "kfd" || words.iter().any(|word| numbered(word))
}

/// Nodes of accelerators: paths in `/dev`, and names as `ls -l /sys/dev/char` shows them.
fn nodes(root: &Path) -> Vec<String> {
    let is_node = |path: &PathBuf| {
        let node = path.symlink_metadata();
        node.is_ok_and(|node| node.file_type().is_char_device()) && is_accelerators(&name(path))
    };
    let folders = ["dev", "dev/accel", "dev/dri"];
    let made = folders.iter().flat_map(|folder| list(&root.join(folder)));
    let made = made
        .filter(is_node)
        .map(|path| format!("/{}", path.strip_prefix(root).unwrap().display()));
    let links = list(&root.join("sys/dev/char")).into_iter();
    let told = links.filter_map(|link| Some(name(&fs::read_link(link).ok()?)));
    made.chain(told.filter(|name| is_accelerators(name))).collect()
}

/// Holds a scan against the view by hand, and gives that.
fn compare(root: &Path) -> Vec<String> {
    let text = scan(root);
    let expected = [pci(root), usb(root), nodes(root)].concat();
    for device in &expected {
        assert!(text.contains(device.as_str()), "{device} is not named in\n{text}");
    }
    let counted = format!(
        ": PCI devices ({}), ",
        list(&root.join("sys/bus/pci/devices")).len()
    );
    assert!(text.contains(&counted), "{counted} is not in\n{text}");
    // A processor's own accelerator is on no bus that was looked at by hand.
    if expected.is_empty() && !text.starts_with("DEVICE ") && !text.contains("no profile: platform") {
        assert!(text.starts_with("no accelerator was found"), "{text}");
    }
    if !expected.is_empty() {
        assert!(!text.contains("no accelerator was found"), "{text}");
    }
    expected
}

#[test]
fn this_machine() {
    let found = compare(Path::new("/"));
    println!("by hand: {found:?}\n{}", scan(Path::new("/")));
}

#[test]
fn a_reconstructed_machine_is_seen_as_a_person_sees_it() {
    let machines = [
        (include_str!("trees/machines/industrial-pc.yaml"), 6),
        (include_str!("trees/machines/rk3588-board.yaml"), 2),
        (include_str!("trees/machines/two-socket-pc.yaml"), 8),
    ];
    for (machine, devices) in machines {
        let dir = tempfile::tempdir().unwrap();
        Tree::parse(machine).build(dir.path());
        assert_eq!(compare(dir.path()).len(), devices, "{machine}");
    }
}

#[test]
fn a_node_that_no_device_has_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let machine = "virtual_nodes: [{class: kfd, name: kfd, numbers: '511:0'}]";
    Tree::parse(machine).build(dir.path());
    assert_eq!(compare(dir.path()), ["kfd"]);
    assert!(scan(dir.path()).contains("note: device node /dev/kfd: a driver of accelerators made it"));
}
