//! Whether a pod is still on its slot's assignment.

use crate::device::is_device_dead;
use crate::index::{Index, NodeId, OwnPod};
use crate::power::{Meter, lightest};
use crate::slot::Slot;
use crate::ways::{Way, place_of};
use crate::world::Liveness;
use jiff::Timestamp;
use perwatt_crds::workload::PlacementMode;

/// A pod that stays where it is, unless something better turns up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept<'w> {
    pub own: OwnPod<'w>,
    pub node: NodeId,
    /// Place of its way among the workload's ways.
    pub place: usize,
}

/// The pod that the slot keeps: of those still on their assignment the best variant, then the
/// one that is ready, then the replacement of the other (when ready) or the other (when not).
pub(crate) fn kept_pod<'w>(
    index: &Index<'w>,
    meter: &Meter,
    slot: &Slot<'w>,
    ways: &[Way<'w>],
    now: Timestamp,
) -> Option<Kept<'w>> {
    if slot.sheds {
        return None;
    }
    let lightest = lightest(&slot.pods).filter(|_| meter.is_on());
    let fits = |own: &&OwnPod<'w>| lightest.is_none_or(|lightest| !meter.is_too_heavy(own, lightest));
    let kept = slot
        .live()
        .filter(fits)
        .filter(|own| slot.yields != Some(own.pod.name.as_str()))
        .filter_map(|own| check_kept(index, slot, ways, own, now));
    kept.enumerate()
        .min_by_key(|(age, kept)| {
            let age = i64::try_from(*age).unwrap_or(i64::MAX);
            let ready = kept.own.is_ready();
            (
                ways[kept.place].standing,
                !ready,
                kept.own.is_bridge(),
                if ready { -age } else { age },
            )
        })
        .map(|(_, kept)| kept)
}

/// The pod of a slot that already is on an assignment.
pub(crate) fn pod_on<'w>(
    index: &Index<'w>,
    slot: &Slot<'w>,
    ways: &[Way<'w>],
    target: Option<(usize, NodeId)>,
    now: Timestamp,
) -> Option<Kept<'w>> {
    let kept = slot
        .live()
        .filter_map(|own| check_kept(index, slot, ways, own, now));
    kept.filter(|kept| target == Some((kept.place, kept.node)))
        .min_by_key(|kept| !kept.own.is_ready())
}

/// The best of the pods that serve a slot now, kept or not.
pub(crate) fn ready_pod<'w>(slot: &Slot<'w>, ways: &[Way<'w>]) -> Option<Kept<'w>> {
    let ready = slot
        .ready()
        .filter(|own| own.owned.revision == slot.workload.revision);
    ready
        .filter_map(|own| {
            Some(Kept {
                own: *own,
                node: own.node?,
                place: place_of(ways, &own.owned.variant, own.owned.profile.as_deref())?,
            })
        })
        .min_by_key(|kept| (ways[kept.place].standing, kept.own.is_bridge()))
}

/// A pod is kept whatever its node's allocatable says, cordoned or not: the agent may restart.
fn check_kept<'w>(
    index: &Index<'w>,
    slot: &Slot<'w>,
    ways: &[Way<'w>],
    own: &OwnPod<'w>,
    now: Timestamp,
) -> Option<Kept<'w>> {
    let node = own.node?;
    let place = place_of(ways, &own.owned.variant, own.owned.profile.as_deref())?;
    let fits_spec = own.owned.revision == slot.workload.revision
        && !ways[place].must_leave
        && slot.workload.nodes.matches(&index.node(node).labels)
        && slot.node.is_none_or(|only| only == node)
        && slot.site.is_none_or(|site| index.sites.of(node) == Some(site));
    let stays = fits_spec
        && !is_given_up(index, slot, node, now)
        && !is_overtaken(index, slot, own)
        && !slot.inabilities.gives_up(own)
        && !is_device_dead(index, slot, own, now);
    stays.then_some(Kept {
        own: *own,
        node,
        place,
    })
}

/// When a replica on a silent node is served elsewhere; none where it never is.
pub(crate) fn autonomy_end(index: &Index<'_>, slot: &Slot<'_>, node: NodeId) -> Option<Timestamp> {
    match index.node(node).liveness {
        Liveness::Silent { since } if slot.workload.mode == PlacementMode::Replicas => Some(
            since
                .saturating_add(slot.workload.autonomy)
                .unwrap_or(Timestamp::MAX),
        ),
        _ => None,
    }
}

fn is_given_up(index: &Index<'_>, slot: &Slot<'_>, node: NodeId, now: Timestamp) -> bool {
    autonomy_end(index, slot, node).is_some_and(|end| end <= now)
}

/// Its node was lost before it was ready, and the slot is served elsewhere: there is no use in
/// waiting for it.
fn is_overtaken(index: &Index<'_>, slot: &Slot<'_>, own: &OwnPod<'_>) -> bool {
    let is_lost = |own: &OwnPod| {
        own.node
            .is_none_or(|node| index.node(node).liveness != Liveness::Ready)
    };
    is_lost(own) && !own.is_ready() && slot.ready().any(|other| !is_lost(other))
}

/// Whether the slot is left alone: in mode PerNode while its node is silent or not ready, in modes
/// PerSite and Replicas while every pod of it is on a silent node and none has been given up.
pub(crate) fn is_left_alone(index: &Index<'_>, slot: &Slot<'_>, now: Timestamp) -> bool {
    if let Some(node) = slot.node {
        return index.node(node).liveness != Liveness::Ready;
    }
    let waits = |node| match slot.site {
        Some(_) => is_silent(index, node),
        None => autonomy_end(index, slot, node).is_some_and(|end| end > now),
    };
    let mut nodes = slot.live().map(|own| own.node).peekable();
    nodes.peek().is_some() && nodes.all(|node| node.is_some_and(waits))
}

/// Whether a node's kubelet is not heard.
pub(crate) fn is_silent(index: &Index<'_>, node: NodeId) -> bool {
    matches!(index.node(node).liveness, Liveness::Silent { .. })
}
