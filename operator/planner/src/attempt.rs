//! Which attempt a pod is, and how long the next one waits after a failure.

use crate::explain::{cut, time};
use crate::outcome::{Reason, ReasonCode};
use crate::slot::Slot;
use crate::world::{PodState, Role};
use jiff::Timestamp;
use std::time::Duration;

/// Wait after the first failure; it doubles with each attempt.
pub const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// The longest wait.
pub const BACK_OFF_LONGEST: Duration = Duration::from_secs(300);
/// A pod that lived this long before it failed starts the waits anew.
pub const BACK_OFF_RESET: Duration = Duration::from_secs(600);

/// A failed pod whose successor has to wait.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    pub reason: Reason,
    pub until: Timestamp,
}

/// Number of the next pod of a slot that runs this variant in this role.
///
/// # Errors
/// The back-off of the pod that failed last, while it lasts.
pub(crate) fn next_attempt(
    slot: &Slot<'_>,
    variant: &str,
    role: Role,
    now: Timestamp,
) -> Result<u32, BackOff> {
    let before = slot.pods.iter().filter(|own| {
        own.owned.revision == slot.workload.revision && own.owned.variant == variant && own.owned.role == role
    });
    let mut next = 0;
    let mut longest: Option<BackOff> = None;
    for own in before {
        next = next.max(own.owned.attempt.saturating_add(1));
        let PodState::Failed { reason, message, at } = &own.owned.state else {
            continue;
        };
        let until = at
            .saturating_add(wait(own.owned.attempt, own.owned.created, *at))
            .unwrap_or(Timestamp::MAX);
        if until > now && longest.as_ref().is_none_or(|longest| longest.until < until) {
            let message = format!(
                "pod {} failed: {reason}{}{message}; attempt {} at {}",
                own.name(),
                if message.is_empty() { "" } else { ": " },
                own.owned.attempt.saturating_add(2),
                time(until)
            );
            longest = Some(BackOff {
                reason: Reason {
                    code: ReasonCode::BackOff,
                    message: cut(message),
                },
                until,
            });
        }
    }
    longest.map_or(Ok(next), Err)
}

fn wait(attempt: u32, created: Timestamp, failed: Timestamp) -> Duration {
    let lived = Duration::try_from(failed.duration_since(created)).unwrap_or_default();
    let doublings = if lived >= BACK_OFF_RESET {
        0
    } else {
        attempt.min(8)
    };
    (BACK_OFF_FIRST * 2_u32.pow(doublings)).min(BACK_OFF_LONGEST)
}
