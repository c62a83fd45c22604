//! Where a USB device is plugged in, in words that outlive a restart.
//!
//! The kernel names a device `BUS-PORT.PORT…`, and numbers buses in the order in which it finds
//! controllers. A USB 3 port is also two ports, one on each bus of its controller, and a device
//! may come back on the other one with its firmware loaded. So a place is the controller (its
//! PCI address or platform name) and the path of ports on the first of its buses that has it.

use super::tree::Tree;
use std::path::Path;

/// The place of the device in `folder` that the kernel calls `name`.
pub(super) fn stable_address(tree: &Tree, folder: &Path, name: &str) -> String {
    let own = parse(name);
    let peer = own
        .as_ref()
        .and_then(|(bus, ports)| peer(tree, folder.parent()?, *bus, ports));
    let peer = peer.as_deref().and_then(parse);
    let Some((bus, ports)) = [own, peer].into_iter().flatten().min() else {
        return name.to_owned();
    };
    let controller = folder.ancestors().find(|above| {
        let hub = above.file_name().and_then(|name| name.to_str());
        hub.is_some_and(|hub| root_hub(hub).is_some())
    });
    let controller = controller.and_then(Path::parent);
    let Some(controller) = controller else {
        return name.to_owned();
    };
    let first_bus = tree
        .list(controller)
        .0
        .iter()
        .filter_map(|entry| root_hub(&entry.name))
        .min();
    let controller = controller
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // A port that its second bus has alone, such as a soldered one.
    let suffix = if first_bus.is_some_and(|first| first < bus) {
        "s"
    } else {
        ""
    };
    let ports = ports.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
    format!("{controller}/{ports}{suffix}")
}

/// Number of the bus that a root hub's name `usbN` tells.
fn root_hub(name: &str) -> Option<u32> {
    name.strip_prefix("usb")?.parse().ok()
}

/// Bus and ports of a name `1-4.2`.
fn parse(name: &str) -> Option<(u32, Vec<u32>)> {
    let (bus, ports) = name.split_once('-')?;
    let ports = ports.split('.').map(|port| port.parse().ok());
    Some((bus.parse().ok()?, ports.collect::<Option<_>>()?))
}

/// What a device on the other side of the same socket would be called. The folder `hub` holds the
/// port, whose link `peer` leads to a port `usb1-port4` of a root hub or `1-4-port2` of a hub. The
/// device has a link to its port too, but only a moment after it appears.
fn peer(tree: &Tree, hub: &Path, bus: u32, ports: &[u32]) -> Option<String> {
    let (last, above) = ports.split_last()?;
    let above = above.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
    let port = if above.is_empty() {
        format!("{bus}-0:1.0/usb{bus}-port{last}")
    } else {
        format!("{bus}-{above}:1.0/{bus}-{above}-port{last}")
    };
    let port = tree.resolve(&hub.join(port)).ok()?;
    let peer = tree.link_name(&port.join("peer"))?;
    let (hub, port) = peer.split_once("-port")?;
    Some(match root_hub(hub) {
        Some(bus) => format!("{bus}-{port}"),
        None => format!("{hub}.{port}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_buses_and_ports() {
        assert_eq!(parse("1-4.2"), Some((1, vec![4, 2])));
        for garbage in ["usb1", "1-", "1-0:1.0", "x-1", "1-4.x", ""] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
        assert_eq!(root_hub("usb12"), Some(12));
        assert_eq!(root_hub("1-4"), None);
    }

    #[test]
    fn a_socket_has_two_sides_and_one_address() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let controller = tree.root().join("0000:00:14.0");
        let link = |port: &str, peer: &str| {
            std::fs::create_dir_all(controller.join(port)).unwrap();
            std::os::unix::fs::symlink(peer, controller.join(port).join("peer")).unwrap();
        };
        link("usb1/1-4/1-4:1.0/1-4-port2", "x/2-1-port2");
        link("usb2/2-1/2-1:1.0/2-1-port2", "x/1-4-port2");
        link("usb2/2-0:1.0/usb2-port1", "x/usb1-port4");
        let address = |folder: &str, name| stable_address(&tree, &controller.join(folder), name);
        assert_eq!(address("usb1/1-4/1-4.2", "1-4.2"), "0000:00:14.0/4.2");
        assert_eq!(address("usb2/2-1/2-1.2", "2-1.2"), "0000:00:14.0/4.2");
        assert_eq!(address("usb2/2-1", "2-1"), "0000:00:14.0/4");
        // A port that has no other side.
        assert_eq!(address("usb2/2-6", "2-6"), "0000:00:14.0/6s");
        assert_eq!(address("usb1/1-6", "1-6"), "0000:00:14.0/6");
    }
}
