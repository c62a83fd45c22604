//! What several tests of this crate need.

use crate::discovery::{Found, Reading};
use crate::emulated::Emulated;
use crate::known::{Known, NodeFacts};
use crate::paths::Paths;
use perwatt_crds::HardwareProfileSpec;

/// A profile of emulated devices on every node.
pub fn profile(count: u32) -> HardwareProfileSpec {
    serde_json::from_value(serde_json::json!({
        "class": "ASIC",
        "discovery": {"emulated": {"count": count}},
        "power": {"typicalMilliwatts": 2500, "maxMilliwatts": 8000}
    }))
    .unwrap()
}

/// A node that knows these profiles.
pub fn known(profiles: &[(&str, u32)]) -> Known {
    Known {
        node: NodeFacts {
            name: "edge-test".into(),
            uid: Some("uid-1".into()),
            labels: Default::default(),
            drained: Default::default(),
        },
        profiles: profiles
            .iter()
            .map(|(name, count)| ((*name).to_owned(), profile(*count)))
            .collect(),
    }
}

/// One found device named `chip-0`.
pub fn found(paths: &Paths) -> Found {
    let known = known(&[("chip", 1)]);
    Emulated::new(paths.clone())
        .devices_of("chip", &known.profiles["chip"], &known.node)
        .remove(0)
}

/// The place of a real device with two nodes.
pub fn place() -> crate::discovery::Place {
    let node = |path: &str, minor, group| crate::discovery::nodes::DeviceNode {
        path: path.into(),
        numbers: (226, minor),
        group,
    };
    crate::discovery::Place {
        bus: crate::discovery::sighting::Bus::Pci,
        address: "0000:03:00.0".into(),
        sysfs: "/sys/devices/pci0000:00/0000:03:00.0".into(),
        ids: "1e60:2864".into(),
        driver: Some("chipdrv".into()),
        numa_node: Some(1),
        nodes: vec![
            node("/dev/dri/card0", 0, 44),
            node("/dev/dri/renderD128", 128, 105),
        ],
        missing: None,
    }
}

/// What a device reads that is well.
pub fn well() -> Reading {
    Reading {
        present: crate::discovery::Field::Value(true),
        health: crate::discovery::Field::Value(perwatt_crds::inventory::DeviceHealth::Healthy),
        temperature: crate::discovery::Field::Value(40_000),
        power: crate::discovery::Field::Absent,
        firmware: crate::discovery::Field::Value("1.0.0".into()),
        telemetry: crate::telemetry::Telemetry {
            source: crate::telemetry::FigureSource::Modelled,
            ..Default::default()
        },
        ..Reading::silent(Ok((1, 3)))
    }
}

/// Whether device nodes can be made here; says so where not.
pub fn can_make_nodes() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: making device nodes needs root");
    }
    root
}

/// A node with the healthy device `chip-0` of profile `chip`.
pub fn node(paths: &Paths) -> crate::state::Node {
    let found = found(paths);
    let view = crate::health::Judge::default()
        .judge(&found, well(), std::time::Instant::now())
        .view;
    let device = crate::state::Device {
        found: found.into(),
        view,
        since: jiff::Timestamp::UNIX_EPOCH,
        since_start: false,
        report: None,
        holders: Default::default(),
    };
    crate::state::Node {
        profiles: [("chip".to_owned(), profile(1).into())].into(),
        devices: [("chip-0".to_owned(), device)].into(),
    }
}
