//! Who gives a device up for a workload of higher priority: nobody who would be left unserved.
//!
//! A slot whose better way lacks nothing but a device that lower priority holds waits for it (nobody
//! else may have it meanwhile), and the holder moves by its own next steps, without a gap. Priority
//! comes before all other turns, so that each pass sees the same who waits for whom.

use crate::check::{Ask, Scene, check};
use crate::index::{NodeId, OwnPod};
use crate::ledger::Release;
use crate::outcome::{Candidate, ReasonCode};
use crate::power::Beside;
use crate::slot::{Slot, place_named};
use crate::survey::{Survey, Terms};
use crate::ways::Way;
use crate::world::WorkloadKey;
use std::collections::BTreeMap;

/// The pods that give their devices up, by slot.
pub(crate) type Yields<'w> = BTreeMap<(&'w WorkloadKey, &'w str), &'w str>;

const TERMS: Terms = Terms {
    stable: true,
    respect_wishes: true,
    release_own: true,
    watts: Beside::All,
};

/// Finds the device that a slot gets from lower priority: the place of the way, the node, and who yields
/// where nobody does already.
pub(crate) fn find_yield<'w>(
    scene: Scene<'_, 'w>,
    survey: &mut Survey<'w>,
    slot: &Slot<'w>,
    ways: &[Way<'w>],
    candidates: &[Candidate],
) -> Option<(usize, NodeId, Option<OwnPod<'w>>)> {
    let is_busy = |candidate: &Candidate| {
        let code = candidate.rejected.as_ref().map(|reason| reason.code);
        !candidate.chosen && code == Some(ReasonCode::DeviceBusy)
    };
    let better = candidates
        .iter()
        .take_while(|candidate| !candidate.chosen)
        .enumerate();
    better
        .filter(|(_, candidate)| is_busy(candidate))
        .find_map(|(place, _)| {
            let (node, holder) = find_holder(scene, survey, slot, &ways[place])?;
            Some((place, node, holder))
        })
}

/// The pod that gives way: one that stops already, else of the lowest priority the youngest.
fn find_holder<'w>(
    scene: Scene<'_, 'w>,
    survey: &mut Survey<'w>,
    slot: &Slot<'w>,
    way: &Way<'w>,
) -> Option<(NodeId, Option<OwnPod<'w>>)> {
    let index = scene.index;
    let mut holders: Vec<_> = index
        .all_slots()
        .flatten()
        .filter(|own| own.owned.profile.as_deref() == way.profile_name && own.pod.holds_resources)
        .filter_map(|own| {
            let priority = index.world.workloads.get(&own.owned.workload)?.priority;
            (priority < slot.workload.priority).then_some((own.is_live(), priority, own))
        })
        .collect();
    holders.sort_by(|left, right| {
        let age = right.2.owned.created.cmp(&left.2.owned.created);
        (left.0, left.1)
            .cmp(&(right.0, right.1))
            .then(age)
            .then(left.2.name().cmp(right.2.name()))
    });
    holders.into_iter().find_map(|(live, _, own)| {
        let node = own.node.filter(|node| may_serve(slot, scene, *node))?;
        let release = Release::of(std::iter::once(own));
        // The device that its runtime says it holds is the one that comes free.
        let ask = Ask {
            slot: (&own.owned.workload, &own.owned.slot),
            ..slot.ask(way, &release, TERMS)
        };
        let fits = check(scene, node, way, ask).outcome.is_ok();
        if !fits || (live && !has_another_way(scene, survey, own)) {
            return None;
        }
        Some((node, live.then_some(*own)))
    })
}

fn may_serve(slot: &Slot<'_>, scene: Scene<'_, '_>, node: NodeId) -> bool {
    let index = scene.index;
    slot.node.is_none_or(|only| only == node)
        && slot.site.is_none_or(|site| index.sites.of(node) == Some(site))
        && slot.workload.nodes.matches(&index.node(node).labels)
}

/// Whether the slot of a pod could be served without the profile that it gives up.
fn has_another_way<'w>(scene: Scene<'_, 'w>, survey: &mut Survey<'w>, own: &OwnPod<'w>) -> bool {
    let index = scene.index;
    let Some((key, workload)) = index.world.workloads.get_key_value(&own.owned.workload) else {
        return false;
    };
    if workload.deleting || place_named(index, workload, &own.owned.slot).is_none() {
        return false;
    }
    let Some(loser) = crate::slot::slot_named(index, key, workload, &own.owned.slot) else {
        return false;
    };
    let ways = index.ways(key, &loser.name);
    (0..ways.len()).any(|place| {
        let other = &ways[place];
        other.ruled_out.is_none()
            && other.profile_name != own.owned.profile.as_deref()
            && survey.find(scene, &loser, ways, place, TERMS).feasible.is_some()
    })
}
