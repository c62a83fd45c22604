//! The move breaker: past so many moves in a window, slots that are served stay where they are.
//!
//! A move is a pod that was made to serve a slot elsewhere than where a pod of the same revision
//! served it; it is marked when it is made. Moves are counted from the pods that are there, by their
//! creation times, so that a new operator counts as the old one did. A slot's first pod, a new
//! revision and a slot that nothing serves are no moves.
//!
//! Where a person must let moves go on, that they are held is in the statuses of the workloads that
//! were held: a new operator goes on holding, and pods that go meanwhile change nothing.

use crate::explain::time;
use crate::index::{Index, OwnPod};
use crate::outcome::{BreakerState, Reason, ReasonCode};
use crate::slot::Slot;
use crate::world::{Breaker, Role};
use jiff::Timestamp;

/// In small clusters, where a share of the slots is less than a few, so many moves always may be.
pub const BREAKER_FLOOR: usize = 10;

/// The moves of a window.
pub(crate) struct Moves {
    counted: Vec<Timestamp>,
    limit: usize,
    settings: Breaker,
    begun: usize,
    held: usize,
}

impl Moves {
    /// Counts the moves that pods tell of.
    pub fn count(index: &Index<'_>, slots: usize, now: Timestamp) -> Self {
        let settings = index.world.breaker.clone();
        let from = now
            .saturating_sub(settings.window)
            .unwrap_or(Timestamp::MIN)
            .max(settings.reset_at.unwrap_or(Timestamp::MIN));
        let mut counted: Vec<_> = index.all_slots().flat_map(|pods| moves_of(pods, from)).collect();
        counted.sort_unstable();
        let percent = usize::try_from(settings.percent).unwrap_or(usize::MAX);
        let share = slots.saturating_mul(percent) / 100;
        let most = usize::try_from(settings.moves).unwrap_or(usize::MAX);
        Self {
            counted,
            limit: most.min(share.max(BREAKER_FLOOR)),
            settings,
            begun: 0,
            held: 0,
        }
    }

    /// Whether one more slot may begin to move; it is counted if it may, and held if not.
    pub fn admit(&mut self) -> bool {
        let may = !self.is_latched() && self.counted.len() + self.begun < self.limit;
        if may {
            self.begun += 1;
        } else {
            self.held += 1;
        }
        may
    }

    /// Since when moves have been held, if no person let them go on since.
    fn held_since(&self) -> Option<Timestamp> {
        let opened = self.settings.opened_at?;
        self.settings
            .reset_at
            .is_none_or(|reset| reset < opened)
            .then_some(opened)
    }

    /// Whether moves wait for a person.
    fn is_latched(&self) -> bool {
        self.settings.waits_for_person && self.held_since().is_some()
    }

    /// When the next move may begin; none where a person must let it.
    pub fn until(&self) -> Option<Timestamp> {
        if self.settings.waits_for_person {
            return None;
        }
        let over = (self.counted.len() + self.begun + 1).checked_sub(self.limit.max(1))?;
        let oldest = self.counted.get(over.saturating_sub(1))?;
        oldest.saturating_add(self.settings.window).ok()
    }

    /// Why a slot is held.
    pub fn reason(&self) -> Reason {
        let until = if self.settings.waits_for_person {
            " until a person sets the reset time of the move breaker (operator.moveBreaker.resetAt of the chart) to now"
                .to_owned()
        } else {
            self.until().map_or_else(String::new, |until| {
                format!("; the next may begin {}", time(until))
            })
        };
        let why = match self.held_since().filter(|_| self.is_latched()) {
            Some(since) => format!("too many slots moved, moves are held since {}", time(since)),
            None => format!(
                "{} slots moved within {} minutes, {} may",
                self.counted.len() + self.begun,
                self.settings.window.as_secs() / 60,
                self.limit
            ),
        };
        Reason {
            code: ReasonCode::MoveBreakerOpen,
            message: format!("{why}: what is served stays where it is{until}"),
        }
    }

    pub fn state(&self) -> BreakerState {
        BreakerState {
            moves: self.counted.len() + self.begun,
            limit: self.limit,
            held: self.held,
            until: self.until().filter(|_| self.held > 0),
            held_since: self.held_since(),
            waits_for_person: self.settings.waits_for_person,
        }
    }
}

/// A bridge counts until the pod that it bridges to does.
fn moves_of(pods: &[OwnPod<'_>], from: Timestamp) -> Vec<Timestamp> {
    let moved = |role: Role| {
        pods.iter()
            .filter(move |own| own.owned.moved && own.owned.role == role && own.owned.created > from)
            .map(|own| own.owned.created)
    };
    let serving: Vec<_> = moved(Role::Serving).collect();
    if serving.is_empty() {
        moved(Role::Bridge).take(1).collect()
    } else {
        serving
    }
}

/// Whether a slot that goes where it has no pod yet moves: it is served by this revision already.
/// A bridge of a new revision is on the way to that revision, not from elsewhere.
pub(crate) fn is_move(slot: &Slot<'_>) -> bool {
    slot.ready()
        .any(|own| own.owned.revision == slot.workload.revision && (!own.is_bridge() || own.owned.moved))
}
