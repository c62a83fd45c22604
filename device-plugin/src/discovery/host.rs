//! The source of real devices: profiles' rules over the last snapshot of the machine.
//!
//! A device that was found once is remembered by its place. When it vanishes it stays found, with
//! what was known of it last, and its probe says that it is lost; when it comes back at its place
//! it is the same device again.

use super::claims::{Claims, claim};
use super::ids::{build_id, build_other_id};
use super::nodes::{DeviceNode, Groups, choose};
use super::sighting::{Bus, Sighting};
use super::snapshot::{Snapshot, Uevent};
use super::{Discovered, Field, Found, Place, PrepareError, Reading, Rules, Search, Source, tree};
use crate::constants::DEVICE_GROUP;
use crate::nvml::{Library, NvmlTrouble};
use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::profile::Provider;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Real devices of the machine whose tree lies below a root.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    nvidia: Option<Library>,
}

impl Host {
    /// Devices as the newest of `snapshots` of the tree below `root` shows them.
    #[must_use]
    pub fn new(root: PathBuf, snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        Self {
            root,
            snapshots,
            nvidia: None,
        }
    }

    /// Asks NVIDIA's library of the devices that NVIDIA's driver holds.
    #[must_use]
    pub fn with_nvidia(mut self, library: Library) -> Self {
        self.nvidia = Some(library);
        self
    }

    /// What NVIDIA's library tells of a device; nothing where there is none, or it does not know the device.
    fn read_gpu(&self, found: &Found) -> Option<Reading> {
        let library = self
            .nvidia
            .as_ref()
            .filter(|_| found.driver.as_deref() == Some("nvidia"))?;
        match library.read(found.address.as_deref()?) {
            Ok(reading) => reading,
            Err(NvmlTrouble::Unusable(_)) => None,
            Err(trouble @ NvmlTrouble::Hangs(_)) => {
                Some(Reading::stale(format!("device {}: {trouble}", found.id)))
            }
        }
    }

    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// The host's groups. A host whose file cannot be read has none: their nodes then get the
    /// profile's own group.
    fn groups(&self) -> Groups {
        let text = tree::read(&self.root.join("etc/group")).unwrap_or_default();
        Groups::parse(&text)
    }
}

impl Source for Host {
    fn find(&self, search: &Search<'_>) -> Discovered {
        let snapshot = self.snapshot();
        let groups = self.groups();
        let Claims { taken, mut notes, .. } = claim(&search.profiles, search.node, &snapshot);
        notes.extend(snapshot.troubles.iter().cloned());
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for (profile, sighting) in &taken {
            let Some(spec) = search.profiles.get(profile.as_str()) else {
                continue;
            };
            let (nodes, missing) = choose(spec, sighting, &snapshot.nodes, &groups, DEVICE_GROUP);
            let mut id = build_id(profile, sighting.bus, &sighting.address);
            if found.contains_key(&id) {
                id = build_other_id(profile, sighting.bus, &sighting.address);
            }
            let place = place_of(sighting, nodes, missing);
            found.insert(id.clone(), build_found(id, profile, spec, place));
        }
        for lost in remember(search, &snapshot, &found) {
            found.insert(lost.id.clone(), lost);
        }
        Discovered {
            found: found.into_values().collect(),
            notes,
        }
    }

    fn prepare(&self, _: &Found) -> Result<(), PrepareError> {
        Ok(())
    }

    fn probe(&self, found: &Found) -> Reading {
        if let Err(text) = check_present(found) {
            return Reading {
                present: Field::Value(false),
                ..Reading::silent(Err(text))
            };
        }
        let node = check_node(found);
        if let Some(reading) = self.read_gpu(found) {
            return Reading { node, ..reading };
        }
        match &found.sysfs {
            Some(sysfs) => Reading::of_sysfs(&self.root, sysfs, node),
            None => Reading::silent(node),
        }
    }

    fn watched(&self, _: &Found) -> Vec<PathBuf> {
        // sysfs tells inotify nothing of devices that come and go: `hotplug` looks.
        Vec::new()
    }

    fn retire_all_but(&self, _: &BTreeSet<String>) {}
}

fn place_of(sighting: &Sighting, nodes: Vec<DeviceNode>, missing: Option<String>) -> Place {
    Place {
        bus: sighting.bus,
        address: sighting.address.clone(),
        sysfs: sighting.sysfs.clone(),
        ids: sighting.identity.to_string(),
        driver: sighting.driver.clone(),
        numa_node: sighting.numa_node,
        nodes,
        missing,
    }
}

fn build_found(id: String, profile: &str, spec: &HardwareProfileSpec, place: Place) -> Found {
    let first = place.nodes.first();
    Found {
        node: first.map_or_else(|| place.sysfs.clone(), |node| PathBuf::from(&node.path)),
        group: first.map_or(spec.device_group.unwrap_or(DEVICE_GROUP), |node| node.group),
        id,
        profile: profile.to_owned(),
        class: spec.class,
        emulated: false,
        external: spec.provider == Provider::External,
        power: spec.power.clone().unwrap_or_default(),
        sysfs: Some(place.sysfs.clone()),
        address: Some(place.address.clone()),
        driver: place.driver.clone(),
        numa_node: place.numa_node,
        place: Some(place),
        lost: false,
        drained: None,
        rules: Rules::of(spec),
    }
}

/// Devices found before that are at their place no more. One whose place another device has, or
/// that a profile's rules want no more, is forgotten.
fn remember(search: &Search<'_>, snapshot: &Snapshot, found: &BTreeMap<String, Found>) -> Vec<Found> {
    let taken: BTreeSet<_> = found.values().filter_map(Found::at).collect();
    let is_lost = |before: &(&String, &(String, Place))| {
        let (id, (_, place)) = before;
        let same = |sighting: &Sighting| {
            sighting.is_at(place.bus, &place.address) && sighting.identity.to_string() == place.ids
        };
        !found.contains_key(*id)
            && !taken.contains(&(place.bus, place.address.as_str()))
            && !snapshot.sightings.iter().any(same)
            && (place.bus != Bus::Node || snapshot.nodes.iter().all(|node| node.path != place.address))
    };
    let lost = search.before.iter().filter(is_lost);
    lost.filter_map(|(id, (profile, place))| {
        let spec = search.profiles.get(profile.as_str())?;
        let real = spec
            .discovery
            .as_ref()
            .is_some_and(|discovery| discovery.emulated.is_none());
        real.then(|| Found {
            lost: true,
            ..build_found(id.clone(), profile, spec, place.clone())
        })
    })
    .collect()
}

/// Whether the device is at its place, and no other one there.
fn check_present(found: &Found) -> Result<(), String> {
    let Some(place) = &found.place else {
        return Ok(());
    };
    let gone = |why: String| {
        format!(
            "device {} is gone from its place {} {}: {why}; see whether it is plugged in and powered",
            found.id,
            place.bus.as_str(),
            place.address
        )
    };
    let lookup = Uevent::read(&place.sysfs).map_err(|error| match error {
        tree::TreeError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            gone(format!("{} does not exist", place.sysfs.display()))
        }
        error => gone(error.to_string()),
    })?;
    match lookup.ids(place.bus).map(|ids| ids.to_string()) {
        Some(ids) if ids != place.ids => Err(gone(format!("{ids} is there, and not {}", place.ids))),
        _ => Ok(()),
    }
}

/// The first of its device nodes, if it has all that its profile gives to containers.
fn check_node(found: &Found) -> Result<(u32, u32), String> {
    let Some(place) = &found.place else {
        return Err(format!("device {} has no place", found.id));
    };
    if found.external {
        return Ok(place.nodes.first().map_or((0, 0), |node| node.numbers));
    }
    let driver = place.driver.as_deref().unwrap_or("none");
    if let Some(missing) = &place.missing {
        return Err(format!(
            "device {} has no device node {missing} (driver: {driver}): load its driver, or see deviceNodes of profile {}",
            found.id, found.profile
        ));
    }
    place.nodes.first().map(|node| node.numbers).ok_or_else(|| {
        format!(
            "device {} has no device node (driver: {driver}): load its driver, or see deviceNodes of profile {}",
            found.id, found.profile
        )
    })
}

/// A tree's devices at this moment, for those who look once.
#[must_use]
pub fn look(root: &Path) -> Host {
    let (_, snapshots) = watch::channel(Arc::new(Snapshot::take(root)));
    Host::new(root.to_owned(), snapshots)
}
