//! In which order slots choose.
//!
//! Slots that must give watts back, then by priority. Among equals slots whose move has begun come first,
//! then slots whose watts are known come in the order of their regret: what a slot loses when it does
//! not get a device of its best kind. It is worked out against the devices that are free (Vogel's
//! rule): when a kind runs out, what is lost without it is known, and the regrets change. All others
//! come by age.

use crate::index::Index;
use crate::ledger::Ledger;
use crate::slot::Slot;
use crate::ways::Way;
use perwatt_crds::workload::Objective;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A slot, and where its workload stands by age.
pub(crate) type Aged<'w> = (usize, Slot<'w>);

/// Puts slots into the order in which they choose.
pub(crate) fn put_in_turn<'w>(index: &Index<'w>, ledger: &Ledger<'w>, slots: Vec<Aged<'w>>) -> Vec<Aged<'w>> {
    let sequence = sequence(index, ledger, &slots);
    let mut keyed: Vec<_> = slots.into_iter().zip(sequence).collect();
    keyed.sort_by_key(|((age, slot), sequence)| {
        let priority = Reverse(slot.workload.priority);
        let begun = !slot.is_in_transit();
        (!slot.sheds, priority, begun, *sequence, *age, slot.ordinal)
    });
    keyed.into_iter().map(|(slot, _)| slot).collect()
}

/// The new slots of one workload.
struct Group<'a, 'w> {
    ways: &'a [Way<'w>],
    priority: i32,
    age: usize,
    /// Places in the list of slots.
    slots: Vec<usize>,
    next: usize,
}

/// For each slot its place in the order of regret; the last place for all whose watts are not known.
fn sequence<'w>(index: &Index<'w>, ledger: &Ledger<'w>, slots: &[Aged<'w>]) -> Vec<usize> {
    let mut sequence = vec![usize::MAX; slots.len()];
    let mut groups: BTreeMap<(usize, bool), Group<'_, 'w>> = BTreeMap::new();
    for (place, (age, slot)) in slots.iter().enumerate() {
        let ways = index.ways(slot.key, &slot.name);
        let by_watts =
            slot.workload.objective == Objective::Energy && ways.iter().any(|way| way.cost.is_some());
        if !by_watts {
            continue;
        }
        if slot.live().next().is_some() {
            sequence[place] = 0;
            continue;
        }
        let empty = || Group {
            ways,
            priority: slot.workload.priority,
            age: *age,
            slots: Vec::new(),
            next: 0,
        };
        // Slots that a rollout has not reached have other ways.
        let kind = (*age, slot.workload.earlier.is_none());
        groups.entry(kind).or_insert_with(empty).slots.push(place);
    }
    if groups.is_empty() {
        return sequence;
    }
    let mut free = ledger.free_devices();
    let mut groups: Vec<_> = groups.into_values().collect();
    let mut turn = 1;
    while let Some(place) = most_urgent(&groups, &free) {
        let group = &mut groups[place];
        let left = group.slots.len() - group.next;
        let taken = match best(group.ways, &free).and_then(Way::resource) {
            Some(resource) => {
                let free = free.entry(resource).or_default();
                let taken = left.min(usize::try_from(*free).unwrap_or_default()).max(1);
                *free -= i64::try_from(taken).unwrap_or_default();
                taken
            }
            None => left,
        };
        for slot in &group.slots[group.next..group.next + taken] {
            sequence[*slot] = turn;
        }
        turn += 1;
        group.next += taken;
        groups.retain(|group| group.next < group.slots.len());
    }
    sequence
}

type Free<'w> = BTreeMap<&'w str, i64>;

fn most_urgent(groups: &[Group<'_, '_>], free: &Free<'_>) -> Option<usize> {
    let urgency = |group: &Group<'_, '_>| (group.priority, regret(group.ways, free), Reverse(group.age));
    (0..groups.len()).max_by_key(|place| urgency(&groups[*place]))
}

/// The ways that are left, best first.
fn able<'a, 'w>(ways: &'a [Way<'w>], free: &'a Free<'_>) -> impl Iterator<Item = &'a Way<'w>> {
    let is_free = |resource: &str| free.get(resource).is_some_and(|count| *count > 0);
    ways.iter()
        .filter(move |way| way.ruled_out.is_none() && way.resource().is_none_or(is_free))
}

fn best<'a, 'w>(ways: &'a [Way<'w>], free: &'a Free<'_>) -> Option<&'a Way<'w>> {
    able(ways, free).next()
}

/// What a slot loses, in microwatts, when it does not get a device of its best kind; nothing where
/// that needs none, or where it is not known.
fn regret(ways: &[Way<'_>], free: &Free<'_>) -> u64 {
    let mut able = able(ways, free);
    let Some(best) = able.next().filter(|best| !best.is_device_less()) else {
        return 0;
    };
    let Some(cost) = best.cost else { return 0 };
    let Some(next) = able.find(|way| way.profile_name != best.profile_name) else {
        return u64::MAX;
    };
    next.both_costs(best)
        .map_or(0, |(of_next, _)| of_next.saturating_sub(cost))
}
