//! Makes what runs follow what is known: devices, their sockets, and one plugin per profile.

use crate::cdi;
use crate::checkpoint::{Checkpoint, SavedDevice};
use crate::discovery::{Found, Place, Search, Source};
use crate::energy::holders::Holders;
use crate::files::remove_socket;
use crate::health::View;
use crate::known::{Known, Split, resource_name};
use crate::kubelet::plugin::{Context, Plugin};
use crate::kubelet::service::Life;
use crate::monitor::Monitor;
use crate::quiet::Quiet;
use crate::socket::DeviceSocket;
use crate::state::Device;
use jiff::Timestamp;
use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::text::tidy;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A device that should be served, and who can read it.
type Wanted = (Arc<Found>, Arc<dyn Source>);

/// What runs for one device.
struct Running {
    found: Arc<Found>,
    monitor: JoinHandle<()>,
    updates: watch::Sender<Arc<Found>>,
    socket: Option<DeviceSocket>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.monitor.abort();
    }
}

/// What runs for one profile.
struct Served {
    resource: String,
    plugin: Plugin,
}

/// Starts and ends devices and plugins.
pub struct Supervisor {
    context: Context,
    sources: Vec<Arc<dyn Source>>,
    devices: BTreeMap<String, Running>,
    plugins: BTreeMap<String, Served>,
    saved: BTreeMap<String, SavedDevice>,
    places: BTreeMap<String, (String, Place)>,
    refused: Quiet,
    notes: Quiet,
}

impl Supervisor {
    /// Nothing runs yet; devices go on from what `checkpoint` says of them.
    #[must_use]
    pub fn new(context: Context, sources: Vec<Arc<dyn Source>>, checkpoint: Option<&Checkpoint>) -> Self {
        let saved = checkpoint
            .map(|checkpoint| checkpoint.devices.clone())
            .unwrap_or_default();
        Self {
            context,
            sources,
            devices: BTreeMap::new(),
            plugins: BTreeMap::new(),
            places: saved
                .iter()
                .filter_map(|(id, device)| Some((id.clone(), device.place.clone()?)))
                .collect(),
            saved,
            refused: Quiet::default(),
            notes: Quiet::default(),
        }
    }

    /// Follows what is known now. `certain` when the API server said it: what nobody asks for
    /// is then removed, leftovers of an earlier agent included.
    pub async fn follow(&mut self, known: &Known, certain: bool) {
        let split = known.split_profiles();
        tell_news(&mut self.refused, &split.refused);
        let wanted = self.find(&split, known);
        let profiles = split.served;
        self.end_unwanted(&wanted).await;
        self.start_devices(&wanted).await;
        self.show_profiles(&profiles, &wanted);
        if let Err(error) = cdi::write_all(&self.context.paths, &self.context.shared.now()) {
            tracing::error!("{error}");
        }
        self.start_plugins(&profiles, &wanted).await;
        if certain {
            let ids: BTreeSet<_> = wanted.keys().cloned().collect();
            self.sources.iter().for_each(|source| source.retire_all_but(&ids));
            self.remove_leftover_sockets();
        }
    }

    /// Sockets of plugins that an agent before this one did not live to remove.
    fn remove_leftover_sockets(&self) {
        let Ok(entries) = std::fs::read_dir(&self.context.paths.kubelet) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let profile = name
                .strip_prefix("perwatt-")
                .and_then(|rest| rest.strip_suffix(".sock"));
            if profile.is_some_and(|profile| !self.plugins.contains_key(profile)) {
                let _ = remove_socket(&entry.path());
            }
        }
    }

    /// Ends everything; the kubelet is told nothing, for the devices are what they were.
    pub async fn end(self) {
        let plugins = self
            .plugins
            .into_values()
            .map(|served| served.plugin.end(Life::Stopping));
        futures::future::join_all(plugins).await;
    }

    /// Every device of every source; the first has an id that two would have.
    fn find(&mut self, split: &Split<'_>, known: &Known) -> BTreeMap<String, Wanted> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        let mut notes = Vec::new();
        let search = Search {
            profiles: split.found(),
            node: &known.node,
            before: &self.places,
        };
        for source in &self.sources {
            let discovered = source.find(&search);
            notes.extend(discovered.notes);
            for mut found in discovered.found {
                let id = found.id.clone();
                found.drained = known.node.drained.get(&id).cloned();
                if wanted.contains_key(&id) {
                    notes.push(format!(
                        "device {id} of profile {} is not served: another device has that id already; rename the profile",
                        found.profile
                    ));
                    continue;
                }
                wanted.insert(id, (Arc::new(found), source.clone()));
            }
        }
        tell_news(&mut self.notes, &notes);
        let places = wanted
            .iter()
            .filter_map(|(id, (found, _))| Some((id.clone(), found.remembered()?)));
        self.places = places.collect();
        wanted
    }

    /// Plugins of profiles without devices end first, so that the kubelet sees one empty list
    /// and not every device going one by one.
    async fn end_unwanted(&mut self, wanted: &BTreeMap<String, Wanted>) {
        let profiles = registered(wanted);
        let gone: Vec<_> = self
            .plugins
            .keys()
            .filter(|profile| !profiles.contains(profile.as_str()))
            .cloned()
            .collect();
        for profile in gone {
            if let Some(served) = self.plugins.remove(&profile) {
                tracing::info!(%profile, "not served any more: no device of it is wanted on this node");
                served.plugin.end(Life::Removed).await;
            }
        }
        // First, so that the sockets have a last word.
        self.context.shared.update(|node| {
            let before = node.devices.len();
            node.devices.retain(|id, _| wanted.contains_key(id));
            node.devices.len() != before
        });
        for (id, running) in &mut self.devices {
            if !wanted.contains_key(id) {
                running.socket.take().into_iter().for_each(DeviceSocket::leave);
            }
        }
        self.devices.retain(|id, _| wanted.contains_key(id));
    }

    /// New devices, and those whose profile has changed: made ready and read side by side, so
    /// that one that hangs does not hold up the others. A real device of which something else was
    /// found goes on.
    async fn start_devices(&mut self, wanted: &BTreeMap<String, Wanted>) {
        for (found, _) in wanted.values() {
            self.update(found);
        }
        let is_new = |found: &Arc<Found>| self.devices.get(&found.id).is_none_or(|r| r.found != *found);
        let new = wanted.values().filter(|(found, _)| is_new(found));
        let ready = new.map(|(found, source)| self.ready(found.clone(), source.clone()));
        for (found, monitor, view) in futures::future::join_all(ready).await {
            self.install(found, monitor, view);
        }
    }

    /// Tells a running device's monitor that a person drains it, and of a real one what was found of it since.
    fn update(&mut self, found: &Arc<Found>) {
        let Some(running) = self.devices.get_mut(&found.id) else {
            return;
        };
        let before = &running.found;
        let is_real = before.place.is_some() && found.place.is_some() && before.external == found.external;
        let drain_alone = before.differs_by_drain_alone(found);
        if before == found || !(is_real || drain_alone) {
            return;
        }
        running.found = found.clone();
        self.context
            .shared
            .update_device(&found.id, |device| device.found = found.clone());
        running.updates.send_replace(found.clone());
    }

    async fn ready(&self, found: Arc<Found>, source: Arc<dyn Source>) -> (Arc<Found>, Monitor, View) {
        let prepared = {
            let (found, source) = (found.clone(), source.clone());
            tokio::task::spawn_blocking(move || source.prepare(&found)).await
        };
        if let Ok(Err(error)) = prepared {
            tracing::error!(device = %found.id, "{error}");
        }
        let before = self.context.shared.usable(&found.id);
        let usable = before.or_else(|| self.saved.get(&found.id).map(|saved| saved.usable));
        let files = self.context.files.clone();
        let probes = &self.context.paths.services.probes;
        let mut monitor =
            Monitor::new(found.clone(), source, files, usable.unwrap_or(false)).with_vendor_probe(probes);
        let view = monitor.look().await;
        (found, monitor, view)
    }

    fn install(&mut self, found: Arc<Found>, monitor: Monitor, view: View) {
        let (id, shared) = (found.id.clone(), self.context.shared.clone());
        // Where the profile has changed, the socket and what is known of the device are kept.
        let socket = self
            .devices
            .remove(&id)
            .and_then(|mut running| running.socket.take());
        if let Some((bus, address)) = found.at().filter(|_| !self.devices.contains_key(&id)) {
            let driver = found.driver.as_deref().unwrap_or("none");
            tracing::info!(device = %id, bus = bus.as_str(), %address, driver, "device found");
        }
        let device = match shared.now().devices.remove(&id) {
            Some(before) => Device {
                found: found.clone(),
                ..before
            },
            None => self.build_device(found.clone(), view.clone()),
        };
        shared.update(|node| {
            node.devices.insert(id.clone(), device);
            true
        });
        shared.set_view(&id, view, Timestamp::now());
        // No pod gets one that another plugin gives.
        let socket = socket
            .filter(|_| !found.external)
            .or_else(|| (!found.external).then(|| self.serve_socket(&id)).flatten());
        let (updates, seen) = watch::channel(found.clone());
        let monitor = tokio::spawn(monitor.run(shared, seen));
        self.devices.insert(
            id,
            Running {
                found,
                monitor,
                updates,
                socket,
            },
        );
    }

    /// A device goes on where the agent before left off, if it is what it was.
    fn build_device(&mut self, found: Arc<Found>, view: View) -> Device {
        let saved = self.saved.remove(&found.id);
        let same = saved.as_ref().filter(|saved| saved.health == view.health);
        let (since, since_start) = match (same, &saved) {
            (Some(same), _) => (same.since, false),
            (None, Some(_)) => (Timestamp::now(), false),
            (None, None) => (Timestamp::now(), true),
        };
        Device {
            found,
            view,
            since,
            since_start,
            report: saved.and_then(|saved| saved.report),
            holders: Holders::default(),
        }
    }

    fn serve_socket(&self, id: &str) -> Option<DeviceSocket> {
        DeviceSocket::serve(&self.context.paths, id, self.context.shared.clone())
            .inspect_err(|error| tracing::error!(device = %id, "{error}"))
            .ok()
    }

    fn show_profiles(
        &self,
        profiles: &BTreeMap<&str, &HardwareProfileSpec>,
        wanted: &BTreeMap<String, Wanted>,
    ) {
        let present = registered(wanted);
        let served = profiles.iter().filter(|(name, _)| present.contains(**name));
        let served: BTreeMap<_, _> = served
            .map(|(name, spec)| ((*name).to_owned(), Arc::new((*spec).clone())))
            .collect();
        self.context.shared.update(|node| {
            let before = std::mem::replace(&mut node.profiles, served);
            before != node.profiles
        });
    }

    async fn start_plugins(
        &mut self,
        profiles: &BTreeMap<&str, &HardwareProfileSpec>,
        wanted: &BTreeMap<String, Wanted>,
    ) {
        let present = registered(wanted);
        for (name, spec) in profiles.iter().filter(|(name, _)| present.contains(**name)) {
            let resource = resource_name(name, spec);
            if let Some(served) = self.plugins.get(*name) {
                if served.resource == resource {
                    continue;
                }
                if let Some(served) = self.plugins.remove(*name) {
                    served.plugin.end(Life::Removed).await;
                }
            }
            let plugin = Plugin::start(self.context.clone(), name, resource.clone());
            self.plugins
                .insert((*name).to_owned(), Served { resource, plugin });
        }
    }
}

/// Profiles with a device that this agent registers.
fn registered(wanted: &BTreeMap<String, Wanted>) -> BTreeSet<&str> {
    let ours = wanted.values().filter(|(found, _)| !found.external);
    ours.map(|(found, _)| found.profile.as_str()).collect()
}

/// Says them where they are others than before.
fn tell_news(quiet: &mut Quiet, sentences: &[String]) {
    let text = tidy(&sentences.join("; "), 4096);
    if text.is_empty() {
        quiet.clear();
    } else if quiet.is_news(&text) {
        tracing::warn!("{text}");
    }
}
