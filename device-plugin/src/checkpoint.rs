//! What the agent knew last, in a file: so that it serves after a restart while the API server
//! is away, keeps the times of transitions, and does not startle the kubelet.

use crate::discovery::Place;
use crate::files::write_atomically;
use crate::known::Known;
use crate::paths::Paths;
use crate::quiet::Quiet;
use crate::state::{Node, Shared};
use jiff::Timestamp;
use perwatt_crds::inventory::{DeviceHealth, RuntimeReport};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use tokio::sync::watch;

/// Version of the file's shape; another one is not read.
const VERSION: u32 = 1;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    version: u32,
    /// What the API server said last.
    pub known: Known,
    /// What was said of each device last.
    pub devices: BTreeMap<String, SavedDevice>,
}

/// What was said of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedDevice {
    /// Its health.
    pub health: DeviceHealth,
    /// Since when.
    pub since: Timestamp,
    /// Whether the kubelet may give it to pods.
    pub usable: bool,
    /// What its runtime said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<RuntimeReport>,
    /// Its profile and place, of a real device: it is known by them when it is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<(String, Place)>,
}

impl Checkpoint {
    /// Of what is known and seen now.
    #[must_use]
    pub fn of(known: Known, node: &Node) -> Self {
        let devices = node.devices.iter().map(|(id, device)| {
            let saved = SavedDevice {
                health: device.view.health,
                since: device.since,
                usable: device.view.usable,
                report: device.report.clone(),
                place: device.found.remembered(),
            };
            (id.clone(), saved)
        });
        Self {
            version: VERSION,
            known,
            devices: devices.collect(),
        }
    }

    /// The last one of this node, where there is one that can be read.
    #[must_use]
    pub fn load(paths: &Paths, node_name: &str) -> Option<Self> {
        let checkpoint = Self::load_any(paths)?;
        let other = &checkpoint.known.node.name;
        if other == node_name {
            return Some(checkpoint);
        }
        tracing::warn!(%other, "{} is of another node: starting without it", paths.checkpoint().display());
        None
    }

    /// The last one, whatever node it is of.
    #[must_use]
    pub fn load_any(paths: &Paths) -> Option<Self> {
        let path = paths.checkpoint();
        let unusable = |why: String| {
            tracing::warn!("{} {why}: starting without it", path.display());
            None
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return unusable(format!("cannot be read ({error})")),
        };
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(checkpoint) if checkpoint.version == VERSION => Some(checkpoint),
            Ok(other) => unusable(format!("is of version {}", other.version)),
            Err(error) => unusable(format!("is damaged ({error})")),
        }
    }

    fn save(&self, paths: &Paths) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        write_atomically(&paths.checkpoint(), &bytes, 0o600)
    }
}

/// Saves whatever changes, until it is dropped. A full disk costs the checkpoint, nothing else.
pub async fn keep(paths: Paths, mut known: watch::Receiver<Option<Known>>, shared: Shared) {
    let mut node = shared.subscribe();
    let mut saved = None;
    let mut quiet = Quiet::default();
    loop {
        if let Some(known) = known.borrow_and_update().clone() {
            let checkpoint = Checkpoint::of(known, &node.borrow_and_update());
            if saved.as_ref() != Some(&checkpoint) {
                match checkpoint.save(&paths) {
                    Ok(()) => drop(quiet.clear()),
                    Err(error) if quiet.is_news(&error.to_string()) => {
                        tracing::error!(%error, "cannot write {}: after a restart without the API server this node would serve what it knew before", paths.checkpoint().display());
                    }
                    Err(_) => {}
                }
                saved = Some(checkpoint);
            }
        }
        tokio::select! {
            changed = known.changed() => if changed.is_err() { return },
            changed = node.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        std::fs::create_dir_all(&paths.state).unwrap();
        assert_eq!(Checkpoint::load_any(&paths), None);
        let checkpoint = Checkpoint::of(fixtures::known(&[("chip", 1)]), &fixtures::node(&paths));
        checkpoint.save(&paths).unwrap();
        assert_eq!(Checkpoint::load_any(&paths), Some(checkpoint));
        assert!(Checkpoint::load(&paths, "edge-test").is_some());
        assert_eq!(Checkpoint::load(&paths, "edge-other"), None);
        std::fs::write(paths.checkpoint(), "{\"version\":1,").unwrap();
        assert_eq!(Checkpoint::load_any(&paths), None);
        std::fs::write(
            paths.checkpoint(),
            "{\"version\":2,\"known\":{\"node\":{\"name\":\"a\"},\"profiles\":{}},\"devices\":{}}",
        )
        .unwrap();
        assert_eq!(Checkpoint::load_any(&paths), None);
    }
}
