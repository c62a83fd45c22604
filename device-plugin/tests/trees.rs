//! The shipped profiles against trees of machines: reconstructed, not recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/tree.rs"]
mod tree;

use perwatt_device_plugin::discovery::{Found, Search, Source, catalogue, host};
use perwatt_device_plugin::known::{Known, NodeFacts};
use perwatt_device_plugin::paths::Paths;
use perwatt_device_plugin::scan;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use tree::Tree;

/// A profile's trees.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What they were reconstructed from.
    source: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    found: Tree,
    ids: Vec<String>,
    nodes: Vec<String>,
    miss: Tree,
}

fn cases() -> BTreeMap<String, Case> {
    serde_yaml::from_str(include_str!("trees/catalogue/cases.yaml")).unwrap()
}

/// What the whole catalogue finds on a tree.
fn find(tree: &Tree, labels: &BTreeMap<String, String>) -> Vec<Found> {
    let dir = tempfile::tempdir().unwrap();
    tree.build(dir.path());
    let known = Known {
        profiles: catalogue::profiles().unwrap(),
        node: NodeFacts {
            labels: labels.clone(),
            ..NodeFacts::default()
        },
    };
    let search = Search {
        profiles: known.split_profiles().found(),
        node: &known.node,
        before: &BTreeMap::new(),
    };
    host::look(dir.path()).find(&search).found
}

#[test]
fn every_profile_has_a_tree_on_which_it_is_found() {
    let cases = cases();
    let names: Vec<_> = catalogue::profiles().unwrap().into_keys().collect();
    assert_eq!(cases.keys().cloned().collect::<Vec<_>>(), names);
    for (name, case) in &cases {
        assert!(!case.source.is_empty());
        let found = find(&case.found, &case.labels);
        assert!(
            found.iter().all(|found| found.profile == *name),
            "{name}: {found:?}"
        );
        let ids: Vec<_> = found.iter().map(|found| found.id.clone()).collect();
        assert_eq!(ids, case.ids, "{name}");
        let nodes = found.iter().filter_map(|found| found.place.as_ref());
        let nodes: Vec<_> = nodes
            .flat_map(|place| &place.nodes)
            .map(|node| node.path.clone())
            .collect();
        assert_eq!(nodes, case.nodes, "{name}");
    }
}

#[test]
fn every_profile_has_a_near_miss_on_which_nothing_is_found() {
    for (name, case) in &cases() {
        let found = find(&case.miss, &case.labels);
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}

#[test]
fn a_hailo_is_the_lesser_one_only_where_a_label_says_so() {
    let tree = &cases()["hailo-8l"].found;
    assert_eq!(find(tree, &BTreeMap::new())[0].profile, "hailo-8");
}

fn scan(machine: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    Tree::parse(machine).build(dir.path());
    let paths = Paths {
        host: dir.path().to_owned(),
        ..Paths::below(Path::new("/nowhere"))
    };
    let text = scan::run(&paths, &[]).unwrap();
    let root = dir.path().canonicalize().unwrap();
    text.replace(root.to_str().unwrap(), "ROOT")
}

#[test]
fn an_industrial_pc() {
    insta::assert_snapshot!(scan(include_str!("trees/machines/industrial-pc.yaml")));
}

#[test]
fn a_rockchip_board() {
    insta::assert_snapshot!(scan(include_str!("trees/machines/rk3588-board.yaml")));
}

#[test]
fn a_workstation_with_two_numa_nodes() {
    insta::assert_snapshot!(scan(include_str!("trees/machines/two-socket-pc.yaml")));
}
