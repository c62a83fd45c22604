//! Since when the move breaker holds slots, kept in the statuses of their workloads: where a person must
//! let moves go on, a new operator knows that none has.

use super::workload::Facts;
use crate::observe::snapshot::Snapshot;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use perwatt_planner::outcome::{BreakerState, Reason, ReasonCode};

/// Since when moves have been held, as the statuses of workloads tell.
#[must_use]
pub fn opened_at(snapshot: &Snapshot) -> Option<Timestamp> {
    let workloads = snapshot.workloads.values();
    let statuses = workloads.filter_map(|workload| workload.status.as_ref());
    statuses
        .filter_map(|status| Some(status.moves_held_since.as_ref()?.0))
        .max()
}

/// Since when the slots of a workload have been held, for its status.
pub(super) fn held_since(facts: &Facts<'_>, now: Timestamp) -> Option<Time> {
    let mut degraded = facts.slots.iter().filter_map(|slot| slot.degraded.as_ref());
    let holds = degraded.any(is_held);
    let status = facts.workload.status.as_ref();
    let known = status.and_then(|status| Some(status.moves_held_since.as_ref()?.0));
    determine_since(holds, known, facts.breaker, now).map(Time)
}

/// Whether a slot stays where it is because too many moved.
pub(super) fn is_held(reason: &Reason) -> bool {
    reason.code == ReasonCode::MoveBreakerOpen
}

/// Where moves wait for a person, the time stays though nothing of the workload wants to move any more.
/// A time from before a person let them go on is not that of a new hold.
fn determine_since(
    holds: bool,
    known: Option<Timestamp>,
    breaker: BreakerState,
    now: Timestamp,
) -> Option<Timestamp> {
    if holds {
        return breaker.held_since.or(Some(now));
    }
    let latched = breaker.waits_for_person && breaker.held_since.is_some();
    known.filter(|_| latched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_keeps_its_time_and_outlives_the_wish_to_move_where_a_person_must_end_it() {
        let at = |second| Timestamp::from_second(second).ok();
        let now = Timestamp::UNIX_EPOCH;
        let breaker = |held_since, waits_for_person| BreakerState {
            held_since,
            waits_for_person,
            ..BreakerState::default()
        };
        for waits in [true, false] {
            assert_eq!(determine_since(true, None, breaker(None, waits), now), Some(now));
            assert_eq!(determine_since(true, at(5), breaker(at(5), waits), now), at(5));
            assert_eq!(determine_since(false, None, breaker(at(5), waits), now), None);
            // A person let them go on.
            assert_eq!(determine_since(true, at(5), breaker(None, waits), now), Some(now));
            assert_eq!(determine_since(false, at(5), breaker(None, waits), now), None);
        }
        assert_eq!(determine_since(false, at(5), breaker(at(5), true), now), at(5));
        assert_eq!(determine_since(false, at(5), breaker(at(5), false), now), None);
    }
}
