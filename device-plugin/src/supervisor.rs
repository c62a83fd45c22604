//! Makes what runs follow what is known: devices, their sockets, and one plugin per profile.

use crate::cdi;
use crate::checkpoint::{Checkpoint, SavedDevice};
use crate::discovery::{Found, Source};
use crate::known::{Known, resource_name};
use crate::kubelet::plugin::{Context, Plugin};
use crate::kubelet::service::Life;
use crate::monitor::Monitor;
use crate::quiet::Quiet;
use crate::socket::DeviceSocket;
use crate::state::Device;
use jiff::Timestamp;
use perwatt_crds::HardwareProfileSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What runs for one device.
struct Running {
    found: Arc<Found>,
    monitor: JoinHandle<()>,
    _socket: Option<DeviceSocket>,
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
    refused: Quiet,
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
            saved,
            refused: Quiet::default(),
        }
    }

    /// Follows what is known now. `certain` when the API server said it: what nobody asks for
    /// is then removed, leftovers of an earlier agent included.
    pub async fn follow(&mut self, known: &Known, certain: bool) {
        let (profiles, refused) = known.split_profiles();
        let refused = refused.join("; ");
        if refused.is_empty() {
            self.refused.clear();
        } else if self.refused.is_news(&refused) {
            tracing::warn!("{refused}");
        }
        let wanted = self.find(&profiles, known);
        self.end_unwanted(&wanted).await;
        for (found, source) in wanted.values() {
            self.start_device(found, source).await;
        }
        self.show_profiles(&profiles, &wanted);
        if let Err(error) = cdi::write_all(&self.context.paths, &self.context.shared.now()) {
            tracing::error!("{error}");
        }
        self.start_plugins(&profiles, &wanted).await;
        if certain {
            let ids: BTreeSet<_> = wanted.keys().cloned().collect();
            self.sources.iter().for_each(|source| source.retire_all_but(&ids));
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

    fn find(
        &self,
        profiles: &BTreeMap<&str, &HardwareProfileSpec>,
        known: &Known,
    ) -> BTreeMap<String, (Arc<Found>, Arc<dyn Source>)> {
        let mut wanted = BTreeMap::new();
        for (profile, spec) in profiles {
            for source in &self.sources {
                for found in source.find(profile, spec, &known.node) {
                    wanted.insert(found.id.clone(), (Arc::new(found), source.clone()));
                }
            }
        }
        wanted
    }

    /// Plugins of profiles without devices end first, so that the kubelet sees one empty list
    /// and not every device going one by one.
    async fn end_unwanted(&mut self, wanted: &BTreeMap<String, (Arc<Found>, Arc<dyn Source>)>) {
        let profiles: BTreeSet<&str> = wanted.values().map(|(found, _)| found.profile.as_str()).collect();
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
        self.devices.retain(|id, _| wanted.contains_key(id));
        self.context
            .shared
            .update(|node| node.devices.retain(|id, _| wanted.contains_key(id)));
    }

    async fn start_device(&mut self, found: &Arc<Found>, source: &Arc<dyn Source>) {
        let id = &found.id;
        if self
            .devices
            .get(id)
            .is_some_and(|running| running.found == *found)
        {
            return;
        }
        // Also where the profile has changed: made ready anew, seen anew, its socket kept.
        let socket = match self.devices.remove(id) {
            Some(mut running) => running._socket.take(),
            None => None,
        };
        if let Err(error) = source.prepare(found) {
            tracing::error!(device = %id, "{error}");
        }
        let before = self.context.shared.now().devices.remove(id);
        let usable = before.as_ref().map(|device| device.view.usable);
        let usable = usable
            .or_else(|| self.saved.get(id).map(|saved| saved.usable))
            .unwrap_or(false);
        let mut monitor = Monitor::new(found.clone(), source.clone(), self.context.files.clone(), usable);
        let view = monitor.look().await;
        let device = match before {
            Some(before) => Device {
                found: found.clone(),
                ..before
            },
            None => self.build_device(found.clone(), view.clone()),
        };
        let shared = self.context.shared.clone();
        shared.update(|node| drop(node.devices.insert(id.clone(), device)));
        shared.set_view(id, view, Timestamp::now());
        let socket = socket.or_else(|| self.serve_socket(id));
        let monitor = tokio::spawn(monitor.run(shared));
        self.devices.insert(
            id.clone(),
            Running {
                found: found.clone(),
                monitor,
                _socket: socket,
            },
        );
    }

    /// A device goes on where the agent before left off, if it is what it was.
    fn build_device(&mut self, found: Arc<Found>, view: crate::health::View) -> Device {
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
        wanted: &BTreeMap<String, (Arc<Found>, Arc<dyn Source>)>,
    ) {
        let present: BTreeSet<&str> = wanted.values().map(|(found, _)| found.profile.as_str()).collect();
        let served = profiles.iter().filter(|(name, _)| present.contains(**name));
        let served: BTreeMap<_, _> = served
            .map(|(name, spec)| ((*name).to_owned(), Arc::new((*spec).clone())))
            .collect();
        self.context.shared.update(|node| node.profiles = served);
    }

    async fn start_plugins(
        &mut self,
        profiles: &BTreeMap<&str, &HardwareProfileSpec>,
        wanted: &BTreeMap<String, (Arc<Found>, Arc<dyn Source>)>,
    ) {
        let present: BTreeSet<&str> = wanted.values().map(|(found, _)| found.profile.as_str()).collect();
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
