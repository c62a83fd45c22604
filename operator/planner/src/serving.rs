//! What serves a slot now, and whether that is less than planned.

use crate::choose::Choice;
use crate::explain;
use crate::index::OwnPod;
use crate::keep::Kept;
use crate::outcome::{Assignment, Reason, ReasonCode, ServingPod};
use crate::slot::Slot;
use crate::steps::moving;
use crate::ways::Way;

/// The pod that serves the slot: one that is ready, else the best that there is.
pub(crate) fn find_serving<'s, 'w>(
    slot: &'s Slot<'w>,
    ways: &[Way<'w>],
    kept: Option<Kept<'w>>,
) -> Option<&'s OwnPod<'w>> {
    let rank = |own: &OwnPod| ways.iter().position(|way| way.variant.name == own.owned.variant);
    slot.live().min_by_key(|own| {
        let is_kept = kept.is_some_and(|kept| kept.own.name() == own.name());
        (
            !own.is_ready(),
            !is_kept,
            own.is_bridge(),
            rank(own).unwrap_or(usize::MAX),
        )
    })
}

pub(crate) fn build_serving(own: &OwnPod<'_>) -> ServingPod {
    ServingPod {
        name: own.pod.name.clone(),
        assignment: Assignment {
            node: own.pod.node.clone().unwrap_or_default(),
            variant: own.owned.variant.clone(),
            profile: own.owned.profile.clone(),
            revision: own.owned.revision.clone(),
        },
        role: own.owned.role,
        state: own.owned.state.clone(),
    }
}

/// Why what serves is not the planned best: the target is not, or its pod is not there yet, or
/// the runtime in the pod fell back.
pub(crate) fn determine_degraded(
    ways: &[Way<'_>],
    choice: &Choice,
    serving: Option<&OwnPod<'_>>,
) -> Option<Reason> {
    if let Some(reason) = &choice.behind_best {
        return Some(reason.clone());
    }
    let own = serving.filter(|own| own.is_ready())?;
    let best = choice.best.map(|place| &ways[place].variant.name);
    if let Some(best) = best.filter(|best| **best != own.owned.variant) {
        return Some(moving(best));
    }
    let active = own
        .owned
        .active
        .as_ref()
        .filter(|active| !active.reason.is_empty())?;
    let message = format!("{} answers in pod {}: {}", active.name, own.name(), active.reason);
    Some(Reason {
        code: ReasonCode::RuntimeFallback,
        message: explain::cut(message),
    })
}
