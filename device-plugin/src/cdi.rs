//! Container Device Interface specs: how containerd gives a device to a container.
//!
//! One file for each profile. A device without a device node (lost, or of a profile that is
//! gone) keeps its entry, with the group alone: a container that restarts must still find the
//! name it was given at admission, or its device-less variants would die with the device.

use crate::discovery::Found;
use crate::discovery::nodes::DeviceNode;
use crate::files::{make_dir, write_atomically};
use crate::paths::Paths;
use crate::quiet::Quiet;
use crate::state::{Device, Node, Shared};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The first version with `additionalGids`.
const CDI_VERSION: &str = "0.7.0";

/// Why a spec could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the CDI spec {path}: {source}; containers cannot get devices before it can")]
pub struct CdiError {
    /// The spec.
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

/// The CDI kind of a profile's devices. A kind must start with a letter, a profile need not.
fn kind(profile: &str) -> String {
    let prefix = if profile.starts_with(|first: char| first.is_ascii_alphabetic()) {
        ""
    } else {
        "p-"
    };
    format!("{}/{prefix}{profile}", perwatt_crds::names::GROUP)
}

/// Name by which a container asks for a device.
#[must_use]
pub fn device_name(profile: &str, id: &str) -> String {
    format!("{}={id}", kind(profile))
}

/// What a container gets with a device.
fn build_edits(device: &Device) -> Value {
    let found = &device.found;
    let Some(numbers) = device.view.node else {
        return json!({"additionalGids": groups(found)});
    };
    let nodes: Vec<_> = match &found.place {
        Some(place) => place.nodes.iter().map(build_real_node).collect(),
        None => vec![build_node(
            &found.container_node().unwrap_or_default(),
            &found.node,
            numbers,
            found.group,
        )],
    };
    json!({"deviceNodes": nodes, "additionalGids": groups(found)})
}

fn groups(found: &Found) -> BTreeSet<u32> {
    match &found.place {
        Some(place) if !place.nodes.is_empty() => place.nodes.iter().map(|node| node.group).collect(),
        _ => [found.group].into(),
    }
}

fn build_real_node(node: &DeviceNode) -> Value {
    build_node(&node.path, Path::new(&node.path), node.numbers, node.group)
}

fn build_node(path: &str, host_path: &Path, (major, minor): (u32, u32), group: u32) -> Value {
    json!({
        "path": path,
        "hostPath": host_path,
        "type": "c",
        "major": major,
        "minor": minor,
        "permissions": "rw",
        "fileMode": 0o660,
        "uid": 0,
        "gid": group,
    })
}

/// The spec of a profile: its devices, and those that `before` had and are gone.
fn build_spec(profile: &str, node: &Node, before: &BTreeMap<String, Value>) -> Value {
    let mut edits: BTreeMap<String, Value> = node
        .devices_of(profile)
        .map(|device| (device.found.id.clone(), build_edits(device)))
        .collect();
    for (id, old) in before {
        let without_node = json!({"additionalGids": old.get("additionalGids").cloned().unwrap_or_default()});
        edits.entry(id.clone()).or_insert(without_node);
    }
    let devices: Vec<_> = edits
        .into_iter()
        .map(|(name, edits)| json!({"name": name, "containerEdits": edits}))
        .collect();
    json!({"cdiVersion": CDI_VERSION, "kind": kind(profile), "devices": devices})
}

/// The entries of a spec file by device; empty where there is none that can be read.
fn read_edits(spec: &Value) -> BTreeMap<String, Value> {
    let devices = spec
        .get("devices")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    devices
        .into_iter()
        .filter_map(|device| {
            let name = device.get("name")?.as_str()?.to_owned();
            Some((name, device.get("containerEdits")?.clone()))
        })
        .collect()
}

/// Writes the spec of one profile where it differs from what is there.
///
/// # Errors
/// When it cannot be written.
pub fn write_spec(paths: &Paths, profile: &str, node: &Node) -> Result<(), CdiError> {
    let path = paths.cdi_spec(profile);
    let error = |source| CdiError {
        path: path.clone(),
        source,
    };
    let before: Value = fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let spec = build_spec(profile, node, &read_edits(&before));
    if spec == before {
        return Ok(());
    }
    if !paths.cdi.is_dir() {
        make_dir(&paths.cdi, 0o755).map_err(error)?;
    }
    let bytes = serde_json::to_vec_pretty(&spec).map_err(|source| error(source.into()))?;
    write_atomically(&path, &bytes, 0o644).map_err(error)
}

/// Profiles that have a spec of ours, served or not.
fn existing_profiles(paths: &Paths) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(&paths.cdi) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(
                name.strip_prefix("perwatt.dev-")?
                    .strip_suffix(".json")?
                    .to_owned(),
            )
        })
        .collect()
}

/// Writes every spec that differs from what `node` says.
///
/// # Errors
/// The first spec that cannot be written; the others are written all the same.
pub fn write_all(paths: &Paths, node: &Node) -> Result<(), CdiError> {
    let mut profiles = existing_profiles(paths);
    profiles.extend(node.profiles.keys().cloned());
    let results: Vec<_> = profiles
        .iter()
        .map(|profile| write_spec(paths, profile, node))
        .collect();
    results.into_iter().collect()
}

/// Keeps the specs true while the agent runs.
pub async fn keep(paths: Paths, shared: Shared) {
    let mut node = shared.subscribe();
    let mut quiet = Quiet::default();
    while node.changed().await.is_ok() {
        let picture = node.borrow_and_update().clone();
        match write_all(&paths, &picture) {
            Ok(()) => drop(quiet.clear()),
            Err(error) if quiet.is_news(&error.to_string()) => tracing::error!("{error}"),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn spec(paths: &Paths) -> Value {
        serde_json::from_slice(&fs::read(paths.cdi_spec("chip")).unwrap()).unwrap()
    }

    #[test]
    fn a_lost_or_retired_device_keeps_its_name_without_its_node() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let mut node = fixtures::node(&paths);
        write_all(&paths, &node).unwrap();
        let first = spec(&paths);
        assert_eq!(first["kind"], "perwatt.dev/chip");
        let edits = &first["devices"][0]["containerEdits"];
        assert_eq!(edits["deviceNodes"][0]["path"], "/dev/perwatt/chip-0");
        assert_eq!(edits["deviceNodes"][0]["permissions"], "rw");
        assert_eq!(edits["additionalGids"], json!([44_210]));

        node.devices.get_mut("chip-0").unwrap().view.node = None;
        write_all(&paths, &node).unwrap();
        let alone = json!([{"name": "chip-0", "containerEdits": {"additionalGids": [44_210]}}]);
        assert_eq!(spec(&paths)["devices"], alone);

        write_all(&paths, &Node::default()).unwrap();
        assert_eq!(spec(&paths)["devices"], alone);
    }

    #[test]
    fn a_real_device_gets_all_its_nodes_and_their_groups() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let mut node = fixtures::node(&paths);
        let found = std::sync::Arc::make_mut(&mut node.devices.get_mut("chip-0").unwrap().found);
        found.place = Some(fixtures::place());
        write_all(&paths, &node).unwrap();
        let edits = &spec(&paths)["devices"][0]["containerEdits"];
        assert_eq!(edits["additionalGids"], json!([44, 105]));
        let nodes: Vec<_> = edits["deviceNodes"].as_array().unwrap().iter().collect();
        assert_eq!(nodes.len(), 2);
        assert_eq!(
            (&nodes[1]["path"], &nodes[1]["hostPath"]),
            (&json!("/dev/dri/renderD128"), &json!("/dev/dri/renderD128"))
        );
        assert_eq!((&nodes[1]["minor"], &nodes[1]["gid"]), (&json!(128), &json!(105)));
    }

    #[test]
    fn a_kind_starts_with_a_letter() {
        assert_eq!(device_name("chip", "chip-0"), "perwatt.dev/chip=chip-0");
        assert_eq!(device_name("910b", "910b-0"), "perwatt.dev/p-910b=910b-0");
    }
}
