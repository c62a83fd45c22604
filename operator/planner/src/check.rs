//! Whether one node can serve one slot in one way, and what rules it out.

use crate::agent::silent_since;
use crate::index::{Index, NodeId};
use crate::ledger::{Amounts, Demand, Ledger, Release};
use crate::outcome::ReasonCode;
use crate::power::{Beside, Exceeded};
use crate::unavailable::{Inabilities, Inability};
use crate::ways::Way;
use crate::world::{Device, Liveness, WorkloadKey};
use jiff::Timestamp;
use perwatt_crds::inventory::{DeviceHealth, TemperatureBand};
use std::time::Duration;

/// What a check may look at.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a, 'w> {
    pub index: &'a Index<'w>,
    pub ledger: &'a Ledger<'w>,
    pub now: Timestamp,
}

/// One pod of one slot, asked of a node.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a, 'w> {
    pub slot: (&'a WorkloadKey, &'a str),
    pub demand: Demand<'w>,
    /// What the slot's own pods give back on the node before the pod starts.
    pub release: &'a Release<'w>,
    /// How long the device must have been healthy.
    pub stable_for: Duration,
    /// Leave alone the devices that other slots wait for.
    pub respect_wishes: bool,
    /// The slot is served, and holds a device there: it can wait until the kubelet offers one
    /// again. An agent that restarts is no reason to go elsewhere.
    pub can_wait: bool,
    /// Where the slot's model cannot be run; none where every slot is asked alike.
    pub inabilities: Option<&'a Inabilities<'w>>,
    /// Keep to the power budgets: of where a slot ends, not of what it passes on the way.
    pub watts: Beside,
}

impl Ask<'_, '_> {
    /// The same of any slot that asks for as much.
    pub fn of_anybody(self) -> Self {
        Self {
            inabilities: None,
            ..self
        }
    }
}

/// What a check found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub outcome: Result<Score, Reject>,
    /// Whether it would do if every device were healthy.
    pub possible: bool,
}

/// How good a node is among equals: the most free devices, then the least requested CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    minus_free_devices: i64,
    cpu_share_permille: i64,
}

/// What rules a node out. In order: the further down, the closer the node is to serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    NoSuchDevice {
        offered: i64,
    },
    NotReady,
    Tainted,
    Cordoned,
    Full {
        lack: Lack,
        need: i64,
        free: i64,
    },
    Busy {
        devices: i64,
        requested: i64,
    },
    NotOffered {
        offered: i64,
        requested: i64,
    },
    Unhealthy,
    Refused,
    Hot,
    AgentSilent {
        since: Timestamp,
    },
    Unable {
        why: Inability,
        until: Timestamp,
        places: usize,
    },
    Power(Exceeded),
    Recovering {
        since: Timestamp,
        until: Timestamp,
    },
}

/// What a node has too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    Cpu,
    Memory,
    Pods,
}

impl Reject {
    pub fn code(self) -> ReasonCode {
        match self {
            Self::NoSuchDevice { .. } => ReasonCode::NoSuchDevice,
            Self::NotReady => ReasonCode::NodeNotReady,
            Self::Tainted => ReasonCode::NodeTainted,
            Self::Cordoned => ReasonCode::NodeCordoned,
            Self::Full { .. } => ReasonCode::NodeFull,
            Self::Busy { .. } => ReasonCode::DeviceBusy,
            Self::NotOffered { .. } | Self::Unhealthy => ReasonCode::DeviceUnhealthy,
            Self::Refused => ReasonCode::FirmwareRefused,
            Self::Hot => ReasonCode::ThermalHeadroom,
            Self::AgentSilent { .. } => ReasonCode::AgentSilent,
            Self::Unable { .. } => ReasonCode::ModelUnavailable,
            Self::Power(exceeded) if exceeded.of_site => ReasonCode::SitePowerBudget,
            Self::Power(_) => ReasonCode::NodePowerBudget,
            Self::Recovering { .. } => ReasonCode::DeviceRecovering,
        }
    }
}

/// Whether a node can serve, from what it is to what its devices are.
pub(crate) fn check(scene: Scene<'_, '_>, node: NodeId, way: &Way<'_>, ask: Ask<'_, '_>) -> Verdict {
    let no = |reject| Verdict {
        outcome: Err(reject),
        possible: false,
    };
    let devices = way
        .resource()
        .map(|resource| Devices::count(scene, node, way, resource, ask));
    if let Some(Devices {
        exist: Err(reject), ..
    }) = devices
    {
        return no(reject);
    }
    if let Some(reject) = check_node(scene, node).or_else(|| check_room(scene, node, ask)) {
        return no(reject);
    }
    let rejected = devices.as_ref().and_then(|devices| devices.check(scene.now, ask));
    if let Some(reject) = rejected {
        return Verdict {
            outcome: Err(reject),
            possible: devices.is_some_and(|devices| devices.would_be_free),
        };
    }
    if let Some(exceeded) = check_power(scene, node, ask) {
        return no(Reject::Power(exceeded));
    }
    Verdict {
        outcome: Ok(scene.score(node, devices.map_or(0, |devices| devices.free))),
        possible: true,
    }
}

/// Whether the node's own budget is kept; the site's is the survey's to keep, for it changes with
/// every booking on any of its nodes.
fn check_power(scene: Scene<'_, '_>, node: NodeId, ask: Ask<'_, '_>) -> Option<Exceeded> {
    let (adds, gives_back) = (ask.demand.milliwatts, ask.release.milliwatts);
    scene.ledger.meter.check_node(node, ask.watts, adds, gives_back)
}

impl Scene<'_, '_> {
    fn score(&self, node: NodeId, free_devices: i64) -> Score {
        Score {
            minus_free_devices: -free_devices,
            cpu_share_permille: self.ledger.cpu_share_permille(node),
        }
    }
}

fn check_node(scene: Scene<'_, '_>, node: NodeId) -> Option<Reject> {
    let node = scene.index.node(node);
    if node.liveness != Liveness::Ready {
        return Some(Reject::NotReady);
    }
    if !node.foreign_taints.is_empty() {
        return Some(Reject::Tainted);
    }
    node.unschedulable.then_some(Reject::Cordoned)
}

fn check_room(scene: Scene<'_, '_>, node: NodeId, ask: Ask<'_, '_>) -> Option<Reject> {
    let free = scene.ledger.free(node).plus(ask.release.amounts);
    let Amounts {
        cpu_millis,
        memory_bytes,
        pods,
    } = ask.demand.amounts;
    let lacks =
        |lack, need: i64, free: i64| (need > 0 && need > free).then_some(Reject::Full { lack, need, free });
    lacks(Lack::Cpu, cpu_millis, free.cpu_millis)
        .or_else(|| lacks(Lack::Memory, memory_bytes, free.memory_bytes))
        .or_else(|| lacks(Lack::Pods, pods, free.pods))
}

/// The devices of one profile on one node, as one slot sees them.
struct Devices {
    exist: Result<(), Reject>,
    external: bool,
    /// The slot's model cannot be run on another plugin's devices there.
    unable: Option<Reject>,
    /// Since when the agent that reports them is silent.
    silent_since: Option<Timestamp>,
    /// Devices that the agent reports.
    listed: i64,
    /// Those of them that it tells the kubelet may be used.
    usable: i64,
    offered: i64,
    /// Requested by others, or awaited by them.
    taken: i64,
    /// The kubelet's word: what it offers less what is taken.
    free: i64,
    /// One would be free if all were healthy.
    would_be_free: bool,
    /// The slot gives one back itself.
    gives_back: bool,
    /// Since when there has been a healthy one for this slot, counting the others' out.
    healthy_since: Option<Timestamp>,
    /// One that would do but for what is held against new pods on it.
    refused: Option<Reject>,
}

impl Devices {
    fn count(scene: Scene<'_, '_>, node: NodeId, way: &Way<'_>, resource: &str, ask: Ask<'_, '_>) -> Self {
        let row = scene.ledger.extended(node, resource);
        let external = way.profile.is_some_and(|profile| profile.external);
        let released = ask.release.of_resource(resource);
        let Listed {
            listed,
            usable,
            held_by_slot,
            mut healthy,
            refused,
        } = listed_devices(scene, node, way, released > 0, ask);
        let wished = if ask.respect_wishes { row.wished } else { 0 };
        let others = row.requested - released;
        let taken = others + wished;
        // Whose device is not known may be any healthy one: count those out too.
        let named = row.named - held_by_slot.min(released);
        let unnamed = usize::try_from(others - named + wished).unwrap_or(0);
        healthy.sort_unstable();
        let none = if external {
            row.allocatable == 0 && !scene.offers(node, resource)
        } else {
            listed == 0
        };
        Self {
            exist: if none {
                Err(Reject::NoSuchDevice {
                    offered: row.allocatable,
                })
            } else {
                Ok(())
            },
            external,
            unable: ask
                .inabilities
                .filter(|_| external)
                .and_then(|known| known.on_node(way, scene.index.name(node), scene.now)),
            silent_since: silent_since(scene.index.world, scene.index.node(node), scene.now)
                .filter(|_| !external),
            listed,
            usable,
            offered: row.allocatable,
            taken,
            free: row.allocatable - taken,
            would_be_free: !external && listed - taken >= 1,
            gives_back: released > 0,
            healthy_since: healthy.get(unnamed).copied(),
            refused,
        }
    }

    fn check(&self, now: Timestamp, ask: Ask<'_, '_>) -> Option<Reject> {
        if self.external {
            return self.check_external();
        }
        if !self.would_be_free {
            return Some(Reject::Busy {
                devices: self.listed,
                requested: self.taken,
            });
        }
        let Some(since) = self.healthy_since else {
            return Some(self.refused.unwrap_or(Reject::Unhealthy));
        };
        let can_wait = ask.can_wait && self.gives_back;
        if let Some(since) = self.silent_since.filter(|_| !can_wait) {
            return Some(Reject::AgentSilent { since });
        }
        if self.free < 1 && !(can_wait && self.offered < self.usable) {
            return Some(Reject::NotOffered {
                offered: self.offered,
                requested: self.taken,
            });
        }
        let until = since.saturating_add(ask.stable_for).unwrap_or(Timestamp::MAX);
        (until > now).then_some(Reject::Recovering { since, until })
    }

    /// Another plugin's devices: the kubelet's word is all there is.
    fn check_external(&self) -> Option<Reject> {
        if self.free >= 1 {
            return self.unable;
        }
        if self.offered == 0 {
            return Some(Reject::NotOffered {
                offered: 0,
                requested: self.taken,
            });
        }
        Some(Reject::Busy {
            devices: self.offered,
            requested: self.taken,
        })
    }
}

impl Scene<'_, '_> {
    fn offers(&self, node: NodeId, resource: &str) -> bool {
        self.index.node(node).allocatable.extended.contains_key(resource)
    }
}

/// The devices of a profile that a node's agent reports.
#[derive(Default)]
struct Listed {
    listed: i64,
    usable: i64,
    held_by_slot: i64,
    /// Since when those that the slot could get have been healthy.
    healthy: Vec<Timestamp>,
    /// Why the first of the others, if it is well or for its firmware, gets nothing new.
    refused: Option<Reject>,
}

fn listed_devices(
    scene: Scene<'_, '_>,
    node: NodeId,
    way: &Way<'_>,
    gives_back: bool,
    ask: Ask<'_, '_>,
) -> Listed {
    let name = scene.index.name(node);
    let mut found = Listed::default();
    for (place, device) in scene.index.node(node).devices.iter().enumerate() {
        if Some(device.profile.as_str()) != way.profile_name {
            continue;
        }
        found.listed += 1;
        found.usable += i64::from(matches!(
            device.health,
            DeviceHealth::Healthy | DeviceHealth::Degraded
        ));
        let holder = device
            .held_by
            .as_ref()
            .filter(|_| scene.ledger.is_held(node, place));
        let is_own = holder.is_some_and(|(key, name)| key == ask.slot.0 && name == ask.slot.1);
        found.held_by_slot += i64::from(is_own);
        let available = holder.is_none() || (is_own && gives_back);
        let healthy = device.health == DeviceHealth::Healthy;
        let unable = ask
            .inabilities
            .and_then(|known| known.on_device(way, name, &device.id, scene.now));
        match check_device(device).or(unable).filter(|_| available) {
            None if available && healthy => found.healthy.push(device.health_since),
            Some(reject) if healthy || reject == Reject::Refused => {
                found.refused = found.refused.or(Some(reject));
            }
            _ => {}
        }
    }
    found
}

/// What is held against new pods on a healthy device.
fn check_device(device: &Device) -> Option<Reject> {
    if device.firmware_refused.is_some() {
        return Some(Reject::Refused);
    }
    let near = |band| band >= TemperatureBand::NearThrottle;
    let hot = device.throttling_since.is_some() || device.temperature.is_some_and(near);
    hot.then_some(Reject::Hot)
}
