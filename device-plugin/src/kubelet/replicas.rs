//! One device as several of the kubelet's: where a profile lets containers share it. Pure.
//!
//! The first replica has the device's own id, so that a profile that begins or ends to share
//! leaves the ids that pods hold already as they are.

use crate::state::Node;

/// Between a device's id and the number of a replica.
const SEPARATOR: &str = "::";

/// How many containers may hold a device of the profile at a time.
#[must_use]
pub fn replicas_of(profile: &str, node: &Node) -> u32 {
    let sharing = node.profiles.get(profile).and_then(|spec| spec.sharing.as_ref());
    sharing.map_or(1, |sharing| sharing.replicas.clamp(1, 64))
}

/// What the kubelet calls the replicas of a device.
pub fn replica_ids(id: &str, replicas: u32) -> impl Iterator<Item = String> {
    (0..replicas).map(move |number| match number {
        0 => id.to_owned(),
        number => format!("{id}{SEPARATOR}{number}"),
    })
}

/// The device whose replica the kubelet calls `id`.
#[must_use]
pub fn device_of(id: &str) -> &str {
    id.split_once(SEPARATOR).map_or(id, |(device, _)| device)
}

/// The devices of these replicas, each once, in their order.
#[must_use]
pub fn devices_of(ids: &[String]) -> Vec<String> {
    let mut devices: Vec<String> = Vec::new();
    for id in ids {
        let device = device_of(id);
        if devices.iter().all(|known| known != device) {
            devices.push(device.to_owned());
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_lead_back_to_their_device() {
        let ids: Vec<_> = replica_ids("chip-01-00.0", 3).collect();
        assert_eq!(ids, ["chip-01-00.0", "chip-01-00.0::1", "chip-01-00.0::2"]);
        assert_eq!(devices_of(&ids), ["chip-01-00.0"]);
        assert_eq!(device_of("chip-0"), "chip-0");
    }
}
