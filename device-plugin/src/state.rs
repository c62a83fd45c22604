//! The one picture of the node that all parts of the agent share.
//!
//! Written by the supervisor (which devices exist), by each device's monitor (what it is) and
//! by its socket (who uses it); read by the kubelet plugins, the sockets, the CDI specs, the
//! inventory, the checkpoint and the metrics, each of which acts on what differs from what it
//! said last.

use crate::discovery::Found;
use crate::energy::holders::Holders;
use crate::health::View;
use jiff::Timestamp;
use perwatt_crds::HardwareProfileSpec;
use perwatt_crds::inventory::{DeviceHealth, PodRef, RuntimeReport};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// One device, as the agent sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What was found.
    pub found: Arc<Found>,
    /// What it is now.
    pub view: View,
    /// Since when `view.health` is what it is.
    pub since: Timestamp,
    /// Set while `since` is only when this agent saw the device first.
    pub since_start: bool,
    /// What the runtime that holds it said last.
    pub report: Option<RuntimeReport>,
    /// The pods that hold it, and the energy of each.
    pub holders: Holders,
}

/// The devices and the profiles that this node serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Profiles with at least one device here.
    pub profiles: BTreeMap<String, Arc<HardwareProfileSpec>>,
    /// Devices by id.
    pub devices: BTreeMap<String, Device>,
}

impl Node {
    /// The devices of one profile, by id.
    pub fn devices_of<'a>(&'a self, profile: &'a str) -> impl Iterator<Item = &'a Device> {
        self.devices
            .values()
            .filter(move |device| device.found.profile == profile)
    }
}

/// The shared picture. A change wakes whoever has subscribed.
#[derive(Clone, Debug)]
pub struct Shared(Arc<watch::Sender<Node>>);

impl Default for Shared {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Node::default())))
    }
}

impl Shared {
    /// Sees every later change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Node> {
        self.0.subscribe()
    }

    /// The picture now.
    #[must_use]
    pub fn now(&self) -> Node {
        self.0.borrow().clone()
    }

    /// Whether the kubelet may give the device to new pods, where it is there.
    #[must_use]
    pub fn usable(&self, id: &str) -> Option<bool> {
        self.0.borrow().devices.get(id).map(|device| device.view.usable)
    }

    /// Changes the picture; `change` tells whether it did, and nobody is woken where not.
    pub fn update(&self, change: impl FnOnce(&mut Node) -> bool) {
        self.0.send_if_modified(change);
    }

    /// Another picture altogether.
    pub fn replace(&self, node: Node) {
        self.0.send_replace(node);
    }

    /// Changes one device, where it is there.
    pub fn update_device(&self, id: &str, change: impl FnOnce(&mut Device)) {
        self.update(|node| {
            let Some(device) = node.devices.get_mut(id) else {
                return false;
            };
            let before = device.clone();
            change(device);
            *device != before
        });
    }

    /// What a device is now; `at` is the time of a change of its health. For figures alone, which
    /// change with every sample, nobody is woken.
    pub fn set_view(&self, id: &str, view: View, at: Timestamp) {
        self.update(|node| {
            let Some(device) = node.devices.get_mut(id) else {
                return false;
            };
            if device.view.health != view.health {
                tell_transition(id, device.view.health, &view);
                device.since = at;
                device.since_start = false;
            }
            let drawn = view.figures.energy.since(&device.view.figures.energy);
            device.holders.attribute(&drawn);
            let news = !device.view.says_the_same(&view);
            device.view = view;
            news
        });
    }

    /// The pods that hold each device, as the kubelet says; a device that it does not name is free.
    pub fn set_holders(&self, mut pods: BTreeMap<String, Vec<PodRef>>) {
        self.update(|node| {
            let mut news = false;
            for (id, device) in &mut node.devices {
                news |= device.holders.set(pods.remove(id).unwrap_or_default());
            }
            news
        });
    }

    /// What the runtime on a device says of itself; nothing when it is gone.
    pub fn set_report(&self, id: &str, report: Option<RuntimeReport>) {
        self.update_device(id, |device| device.report = report);
    }
}

fn tell_transition(id: &str, before: DeviceHealth, view: &View) {
    let reasons: Vec<_> = view
        .reasons
        .iter()
        .map(|reason| reason.message.as_str())
        .collect();
    let (from, to) = (before.as_str(), view.health.as_str());
    match view.health {
        DeviceHealth::Healthy => tracing::info!(device = id, from, to, "health changed"),
        _ => tracing::warn!(device = id, from, to, "health changed: {}", reasons.join("; ")),
    }
}
