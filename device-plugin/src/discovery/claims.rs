//! Which profile has which device. Pure: the same profiles and sightings give the same claims.

use super::rules::{Fit, fit};
use super::sighting::{Bus, HostNode, Identity, Sighting};
use super::snapshot::Snapshot;
use crate::known::NodeFacts;
use perwatt_crds::HardwareProfileSpec;
use std::collections::BTreeMap;

/// The most devices of one node: what an inventory holds.
const DEVICES: usize = 256;

/// What a profile bound to chosen nodes is ahead of one for all.
const BOUND_TO_NODES: u32 = 100;

/// Who has what.
#[derive(Debug, Default)]
pub struct Claims {
    /// Profile and device, by the device's place.
    pub taken: Vec<(String, Sighting)>,
    /// Devices that no profile has.
    pub free: Vec<Sighting>,
    /// What a person should know: a device that several profiles want, too many devices.
    pub notes: Vec<String>,
}

/// Gives each device to the profile whose rule asks the most of it, and of equals to the first by name.
#[must_use]
pub fn claim(
    profiles: &BTreeMap<&str, &HardwareProfileSpec>,
    node: &NodeFacts,
    snapshot: &Snapshot,
) -> Claims {
    let mut claims = Claims::default();
    let lone = lone_nodes(profiles, snapshot);
    for sighting in snapshot.sightings.iter().chain(&lone) {
        let mut suitors: Vec<_> = profiles
            .iter()
            .filter_map(|(name, spec)| Some((points(spec, node, sighting)?, *name)))
            .collect();
        suitors.sort_by_key(|(points, name)| (std::cmp::Reverse(*points), *name));
        let Some((best, winner)) = suitors.first() else {
            claims.free.push(sighting.clone());
            continue;
        };
        for (points, loser) in &suitors[1..] {
            let how = if points == best {
                "an equally specific rule, and the first by name has it"
            } else {
                "a less specific rule"
            };
            claims.notes.push(format!(
                "device {} ({}) belongs to profile {winner}; profile {loser} wants it too, by {how}",
                sighting.address, sighting.identity
            ));
        }
        if claims.taken.len() < DEVICES {
            claims.taken.push(((*winner).to_owned(), sighting.clone()));
        } else if claims.taken.len() == DEVICES && claims.free.is_empty() {
            claims.notes.push(format!(
                "this node has more than {DEVICES} devices: the others are not served; make the rules of its profiles narrower"
            ));
        }
    }
    claims
}

/// How much the profile's rules ask of a device that they hold for.
fn points(spec: &HardwareProfileSpec, node: &NodeFacts, sighting: &Sighting) -> Option<u32> {
    let discovery = spec.discovery.as_ref()?;
    let bound = discovery.nodes.as_ref();
    if bound.is_some_and(|nodes| !nodes.matches(&node.labels)) {
        return None;
    }
    match fit(discovery, sighting)? {
        Fit::Holds(points) if bound.is_some() => Some(points + BOUND_TO_NODES),
        Fit::Holds(points) => Some(points),
        Fit::Fails { .. } => None,
    }
}

/// The nodes that rules by path find, each as a device of its own.
fn lone_nodes(profiles: &BTreeMap<&str, &HardwareProfileSpec>, snapshot: &Snapshot) -> Vec<Sighting> {
    let rules: Vec<_> = profiles
        .values()
        .filter_map(|spec| spec.discovery.as_ref())
        .flat_map(|discovery| &discovery.device_nodes)
        .collect();
    let wanted = |node: &&HostNode| {
        rules
            .iter()
            .any(|rule| super::rules::path_fits(&rule.path, &node.path))
    };
    snapshot.nodes.iter().filter(wanted).map(lone_node).collect()
}

fn lone_node(node: &HostNode) -> Sighting {
    Sighting {
        bus: Bus::Node,
        address: node.path.clone(),
        sysfs: node.sysfs.clone(),
        driver: None,
        numa_node: None,
        identity: Identity::Node(node.path.clone()),
        nodes: vec![node.clone()],
    }
}

/// The profile whose rule comes nearest to a device that none has, and on what it fails; nothing
/// where no rule knows as much as the vendor.
#[must_use]
pub fn nearest(profiles: &BTreeMap<&str, &HardwareProfileSpec>, sighting: &Sighting) -> Option<String> {
    let near = profiles.iter().filter_map(|(name, spec)| {
        match fit(spec.discovery.as_ref()?, sighting)? {
            Fit::Fails { near, text } if near > 0 => Some((near, *name, text)),
            // Its rule holds, and its nodes are others.
            Fit::Holds(points) => Some((
                points + BOUND_TO_NODES,
                *name,
                "this node does not carry the labels that it asks for".to_owned(),
            )),
            Fit::Fails { .. } => None,
        }
    });
    let (_, name, text) = near.max_by_key(|(near, name, _)| (*near, std::cmp::Reverse(*name)))?;
    Some(format!("nearest is profile {name}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(discovery: Value) -> HardwareProfileSpec {
        serde_json::from_value(json!({"class": "ASIC", "discovery": discovery})).unwrap()
    }

    fn usb(address: &str, vendor: u16, product: u16) -> Sighting {
        Sighting {
            bus: Bus::Usb,
            address: address.into(),
            sysfs: format!("/sys/{address}").into(),
            driver: None,
            numa_node: None,
            identity: Identity::Usb { vendor, product },
            nodes: vec![],
        }
    }

    fn owners(specs: &[(&str, HardwareProfileSpec)], node: &NodeFacts, snapshot: &Snapshot) -> Claims {
        let profiles = specs.iter().map(|(name, spec)| (*name, spec)).collect();
        claim(&profiles, node, snapshot)
    }

    fn one() -> Snapshot {
        Snapshot {
            sightings: vec![usb("a/1", 0x18d1, 0x9302)],
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_most_specific_rule_has_the_device_and_then_the_first_name() {
        let exact = spec(json!({"usb": [{"vendor": "18d1", "product": "9302"}]}));
        let wide = spec(json!({"usb": [{"vendor": "18d1"}]}));
        let node = NodeFacts::default();
        let claims = owners(&[("a-wide", wide), ("b-exact", exact.clone())], &node, &one());
        assert_eq!(claims.taken[0].0, "b-exact");
        assert!(claims.notes[0].contains("profile a-wide wants it too, by a less specific rule"));
        let claims = owners(&[("c", exact.clone()), ("b", exact)], &node, &one());
        assert_eq!(claims.taken[0].0, "b");
        assert!(
            claims.notes[0].contains("the first by name has it"),
            "{:?}",
            claims.notes
        );
    }

    #[test]
    fn a_profile_for_chosen_nodes_goes_before_one_for_all_and_stays_on_them() {
        let all = spec(json!({"usb": [{"vendor": "18d1", "product": "9302"}]}));
        let chosen = spec(json!({
            "usb": [{"vendor": "18d1"}], "nodes": {"matchLabels": {"kind": "b"}}
        }));
        let specs = [("all", all), ("chosen", chosen)];
        let mut node = NodeFacts::default();
        assert_eq!(owners(&specs, &node, &one()).taken[0].0, "all");
        node.labels.insert("kind".into(), "b".into());
        assert_eq!(owners(&specs, &node, &one()).taken[0].0, "chosen");
    }

    #[test]
    fn a_node_has_no_more_devices_than_an_inventory_holds() {
        let snapshot = Snapshot {
            sightings: (0..2000).map(|n| usb(&format!("a/{n}"), 0x18d1, 1)).collect(),
            ..Snapshot::default()
        };
        let specs = [("chip", spec(json!({"usb": [{"vendor": "18d1"}]})))];
        let claims = owners(&specs, &NodeFacts::default(), &snapshot);
        assert_eq!(claims.taken.len(), DEVICES);
        assert!(
            claims.notes.iter().any(|note| note.contains("more than 256")),
            "{:?}",
            claims.notes
        );
    }
}
