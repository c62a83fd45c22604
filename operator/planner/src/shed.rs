//! Which slots give watts back where a budget is exceeded: those that give most for the least quality.

use crate::check::{Scene, check};
use crate::index::{Index, NodeId, OwnPod};
use crate::keep::is_left_alone;
use crate::ledger::Ledger;
use crate::power::{Beside, Domain, lightest};
use crate::slot::Slot;
use crate::survey::{Survey, Terms};
use crate::ways::{Way, place_of};
use jiff::Timestamp;

/// On the way down budgets are not asked: the slot itself is what makes room.
const TERMS: Terms = Terms {
    stable: false,
    respect_wishes: true,
    release_own: true,
    watts: Beside::Nothing,
};

/// What a slot would give back by its next cheaper way.
#[derive(Clone, Copy, Debug)]
struct Offer {
    /// Place of the slot in the list.
    slot: usize,
    gives: i64,
    /// Accuracy that is lost, in thousandths; a step down the order of variants where it is not known.
    costs: i64,
    priority: i32,
}

/// Marks the slots that must give watts back, and takes them out of what slots draw at the least.
pub(crate) fn mark_sheds<'w>(
    index: &Index<'w>,
    ledger: &mut Ledger<'w>,
    survey: &mut Survey<'w>,
    slots: &mut [&mut Slot<'w>],
    now: Timestamp,
) {
    for domain in ledger.meter.exceeded() {
        let scene = Scene { index, ledger, now };
        let mut offers: Vec<Offer> = slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| !slot.sheds && !slot.workload.deleting && !is_left_alone(index, slot, now))
            .filter_map(|(place, slot)| offer(scene, survey, slot, place, domain))
            .collect();
        offers.sort_by(|left, right| compare(*left, *right));
        for offer in offers {
            if ledger.meter.excess(domain) <= 0 {
                break;
            }
            let slot = &mut slots[offer.slot];
            slot.sheds = true;
            // What it ends up with counts again: the cheaper way is assumed here.
            ledger.lift(lightest(&slot.pods));
        }
    }
}

/// Most watts for the least quality first; then the lowest priority, then the last slot.
fn compare(left: Offer, right: Offer) -> std::cmp::Ordering {
    let worth = |one: Offer, other: Offer| i128::from(one.gives) * i128::from(other.costs + 1);
    worth(right, left)
        .cmp(&worth(left, right))
        .then(left.priority.cmp(&right.priority))
        .then(right.slot.cmp(&left.slot))
}

fn offer<'w>(
    scene: Scene<'_, 'w>,
    survey: &mut Survey<'w>,
    slot: &Slot<'w>,
    place: usize,
    domain: Domain,
) -> Option<Offer> {
    let own = lightest(&slot.pods)?;
    let node = own.node.filter(|node| scene.ledger.meter.is_in(*node, domain))?;
    let ways = scene.index.ways(slot.key, &slot.name);
    let present = place_of(ways, &own.owned.variant, own.owned.profile.as_deref());
    let present = present.map(|place| &ways[place]);
    ways.iter().filter(|way| way.ruled_out.is_none()).find_map(|way| {
        let gives = gives_back(scene, survey, slot, own, way, (node, domain))?;
        Some(Offer {
            slot: place,
            gives,
            costs: present.map_or(0, |present| quality_lost(present, way)),
            priority: slot.workload.priority,
        })
    })
}

/// Milliwatts that a domain gets back when a slot is served in this way instead.
fn gives_back<'w>(
    scene: Scene<'_, 'w>,
    survey: &mut Survey<'w>,
    slot: &Slot<'w>,
    own: &OwnPod<'w>,
    way: &Way<'w>,
    (node, domain): (NodeId, Domain),
) -> Option<i64> {
    let all = own.load.milliwatts;
    if all > 0 && survey.is_feasible_outside(scene, slot, way, TERMS, domain) {
        return Some(all);
    }
    let gives = all - way.load.milliwatts;
    let release = slot.release_on(node);
    let fits = || {
        check(scene, node, way, slot.ask(way, &release, TERMS))
            .outcome
            .is_ok()
    };
    (gives > 0 && fits()).then_some(gives)
}

fn quality_lost(present: &Way<'_>, way: &Way<'_>) -> i64 {
    match (present.variant.accuracy_permille, way.variant.accuracy_permille) {
        (Some(now), Some(then)) => (i64::from(now) - i64::from(then)).max(0),
        _ => i64::try_from(way.rank.saturating_sub(present.rank)).unwrap_or(i64::MAX - 1),
    }
}
