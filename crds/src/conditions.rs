//! Conditions and their reasons, and how a set of them changes.
//!
//! The meaning is kstatus's: `Reconciling` and `Stalled` are abnormal and present only while
//! true; `Ready` is always there. A GitOps tool that waits on health needs no more.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message of a condition, event or problem, in bytes.
pub const MESSAGE_LIMIT: usize = 1024;

/// Types of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// Every reachable slot is served by an allowed variant.
    Ready,
    /// Pods are changing.
    Reconciling,
    /// The spec cannot be carried out until somebody changes it.
    Stalled,
    /// Served from a fallback, or a slot without a feasible variant.
    Degraded,
    /// The present revision has passed all cohorts; there only while it needs to, or did.
    RolloutComplete,
}

impl ConditionType {
    /// The name as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Degraded => "Degraded",
            Self::RolloutComplete => "RolloutComplete",
        }
    }
}

/// Cuts a message at [`MESSAGE_LIMIT`] bytes, at a character's edge.
#[must_use]
pub fn cut(message: &str) -> String {
    crate::text::cut(message.to_owned(), MESSAGE_LIMIT)
}

/// A condition to be: its time is filled in by [`merge`].
#[must_use]
pub fn condition(
    kind: ConditionType,
    status: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
) -> Condition {
    Condition {
        type_: kind.as_str().to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: cut(message),
        observed_generation: generation,
        last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
    }
}

/// The wanted conditions with their transition times: kept where the status did not change, `now` where it did.
#[must_use]
pub fn merge(
    previous: &[Condition],
    wanted: Vec<Condition>,
    now: k8s_openapi::jiff::Timestamp,
) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(|mut condition| {
            let same = previous
                .iter()
                .find(|old| old.type_ == condition.type_ && old.status == condition.status);
            condition.last_transition_time = same.map_or(Time(now), |old| old.last_transition_time.clone());
            condition
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let then = Timestamp::from_second(1_000).unwrap();
        let now = Timestamp::from_second(2_000).unwrap();
        let first = merge(
            &[],
            vec![condition(ConditionType::Ready, false, "Starting", "", Some(1))],
            then,
        );
        let second = merge(
            &first,
            vec![condition(ConditionType::Ready, false, "Waiting", "", Some(1))],
            now,
        );
        assert_eq!(second[0].last_transition_time.0, then);
        assert_eq!(second[0].reason, "Waiting");
        let third = merge(
            &second,
            vec![condition(ConditionType::Ready, true, "Served", "", Some(1))],
            now,
        );
        assert_eq!(third[0].last_transition_time.0, now);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let cut_message = cut(&"é".repeat(1_000));
        assert!(cut_message.len() <= MESSAGE_LIMIT);
        assert!(cut_message.ends_with('…'));
        assert_eq!(cut("short"), "short");
    }
}
