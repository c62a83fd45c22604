//! Whether the device under a pod is dead.
//!
//! The kubelet picks the device, and the runtime that holds it says so. Nothing known means
//! nothing wrong.

use crate::index::{Index, OwnPod};
use crate::slot::Slot;
use crate::ways::stand_ins;
use crate::world::Device;
use jiff::Timestamp;
use perwatt_crds::inventory::DeviceHealth;
use std::time::Duration;

/// How long a pod that is not ready, and whose device is not known, may be so after a device that
/// nobody claims died on its node.
pub const SILENT_START_PATIENCE: Duration = Duration::from_secs(60);

/// How long a device may throttle before its pods are served elsewhere.
pub const THROTTLING_PATIENCE: Duration = Duration::from_secs(60);

/// What is known of the device under a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Dead,
    /// It may be the one that died; if the pod is still not ready by then, it is.
    Suspect {
        until: Timestamp,
    },
}

/// Whether the device under a pod must not be used.
pub(crate) fn is_device_dead(index: &Index<'_>, slot: &Slot<'_>, own: &OwnPod<'_>, now: Timestamp) -> bool {
    match determine(index, slot, own, now) {
        Verdict::Fine => false,
        Verdict::Dead => true,
        Verdict::Suspect { until } => until <= now,
    }
}

/// When the device under a pod counts as dead: unless the pod is ready by then, or the device
/// throttles no more.
pub(crate) fn suspicion_end(
    index: &Index<'_>,
    slot: &Slot<'_>,
    own: &OwnPod<'_>,
    now: Timestamp,
) -> Option<Timestamp> {
    let throttling = devices_of(index, own)
        .into_iter()
        .filter_map(throttling_end)
        .filter(|end| *end > now)
        .min();
    match determine(index, slot, own, now) {
        Verdict::Suspect { until } => Some(until),
        Verdict::Fine | Verdict::Dead => throttling,
    }
}

fn throttling_end(device: &Device) -> Option<Timestamp> {
    let since = device.throttling_since?;
    Some(
        since
            .saturating_add(THROTTLING_PATIENCE)
            .unwrap_or(Timestamp::MAX),
    )
}

fn determine(index: &Index<'_>, slot: &Slot<'_>, own: &OwnPod<'_>, now: Timestamp) -> Verdict {
    let is_unhealthy = |device: &&Device| {
        device.health == DeviceHealth::Unhealthy || throttling_end(device).is_some_and(|end| end <= now)
    };
    let devices = devices_of(index, own);
    let is_own = |device: &&Device| {
        device
            .held_by
            .as_ref()
            .is_some_and(|(key, name)| key == slot.key && *name == slot.name)
    };
    let claims = devices.iter().copied().filter(is_own).count();
    if claims == 0 && !devices.is_empty() && devices.iter().all(is_unhealthy) {
        return Verdict::Dead;
    }
    let dead = devices
        .iter()
        .copied()
        .filter(is_own)
        .filter(is_unhealthy)
        .count();
    let beside = slot.pods.iter().filter(|other| {
        other.node == own.node && other.owned.profile == own.owned.profile && other.pod.holds_resources
    });
    let mut beside: Vec<_> = beside.collect();
    beside.sort_by_key(|other| !shows_it(slot, other));
    let all_claimed = claims >= beside.len();
    let mut on_dead = beside.into_iter().take(dead);
    if on_dead.any(|other| other.name() == own.name()) {
        return Verdict::Dead;
    }
    if all_claimed {
        Verdict::Fine
    } else {
        determine_unclaimed(&devices, own)
    }
}

/// Whether a pod behaves as one whose device is dead. Of several pods of a slot that behave alike
/// the older ones are on the dead devices: the kubelet gives none of those to a new pod.
fn shows_it(slot: &Slot<'_>, own: &OwnPod<'_>) -> bool {
    let fell_back = own
        .owned
        .active
        .as_ref()
        .is_some_and(|active| !active.reason.is_empty());
    fell_back || (!own.is_ready() && stand_ins(slot.workload, &own.owned.variant).is_empty())
}

/// No runtime says which device the pod holds. One that is not ready since a device died after it
/// was made is given some time.
fn determine_unclaimed(devices: &[&Device], own: &OwnPod<'_>) -> Verdict {
    let may_be_under = |device: &&&Device| {
        device.health == DeviceHealth::Unhealthy
            && device.held_by.is_none()
            && device.health_since > own.owned.created
    };
    let last = devices
        .iter()
        .filter(may_be_under)
        .map(|device| device.health_since)
        .max();
    match last.filter(|_| !own.is_ready()) {
        Some(since) => Verdict::Suspect {
            until: since
                .saturating_add(SILENT_START_PATIENCE)
                .unwrap_or(Timestamp::MAX),
        },
        None => Verdict::Fine,
    }
}

/// The devices of a pod's profile on its node, as the node's agent reports them.
fn devices_of<'w>(index: &Index<'w>, own: &OwnPod<'_>) -> Vec<&'w Device> {
    let (Some(node), Some(profile)) = (own.node, own.owned.profile.as_deref()) else {
        return Vec::new();
    };
    if index
        .world
        .profiles
        .get(profile)
        .is_none_or(|profile| profile.external)
    {
        return Vec::new();
    }
    index
        .node(node)
        .devices
        .iter()
        .filter(|device| device.profile == profile)
        .collect()
}
