//! Events: what happened, told where the user looks. Derived from how a status changed, so that
//! a restart tells nothing twice.

use super::rollout;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_crds::conditions::{ConditionType, cut};
use perwatt_planner::outcome::{Change, PodPlan};

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether it is a warning.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// One sentence.
    pub note: String,
}

impl Told {
    pub(super) fn new(warning: bool, reason: &'static str, note: &str) -> Self {
        Self {
            warning,
            reason,
            note: cut(note),
        }
    }

    /// As the API takes it.
    #[must_use]
    pub fn event(&self) -> Event {
        Event {
            type_: if self.warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: self.reason.to_owned(),
            note: Some(self.note.clone()),
            action: self.reason.to_owned(),
            secondary: None,
        }
    }
}

/// What the change from one status to the next tells.
#[must_use]
pub fn of_status(previous: Option<&InferenceWorkloadStatus>, next: &InferenceWorkloadStatus) -> Vec<Told> {
    let before = |kind| previous.and_then(|status| find(&status.conditions, kind));
    let after = |kind| find(&next.conditions, kind);
    let mut told = Vec::new();
    if let Some(ready) = after(ConditionType::Ready) {
        let was = before(ConditionType::Ready);
        let was_true = was.is_some_and(is_true);
        if is_true(ready) && !was_true {
            told.push(Told::new(false, "Serving", &ready.message));
        } else if !is_true(ready) && (was_true || was.is_some_and(|was| was.reason != ready.reason)) {
            told.push(Told::new(
                true,
                "NotServed",
                &format!("{}: {}", ready.reason, ready.message),
            ));
        }
    }
    if let Some(degraded) = after(ConditionType::Degraded) {
        let was = before(ConditionType::Degraded);
        let was_true = was.is_some_and(is_true);
        // Told when it begins and when something else serves; the way back is in the condition.
        let moved = previous.is_none_or(|status| {
            status.summary.serving != next.summary.serving || status.summary.node != next.summary.node
        });
        if is_true(degraded) && next.summary.serving != "-" && (moved || !was_true) {
            let by = format!("served by {} on {}: ", next.summary.serving, next.summary.node);
            told.push(Told::new(true, "Fallback", &format!("{by}{}", degraded.message)));
        } else if !is_true(degraded) && was_true && next.summary.serving != "-" {
            let note = format!(
                "served by {} on {} again",
                next.summary.serving, next.summary.node
            );
            told.push(Told::new(false, "Failback", &note));
        }
    }
    if let Some(stalled) = after(ConditionType::Stalled).filter(|_| before(ConditionType::Stalled).is_none())
    {
        told.push(Told::new(true, "Stalled", &stalled.message));
    }
    told.extend(rollout::told(
        previous.and_then(|status| status.rollout.as_ref()),
        next.rollout.as_ref(),
    ));
    told
}

/// What a change that was carried out tells.
#[must_use]
pub fn of_change(change: &Change) -> Told {
    match change {
        Change::Create(plan) => Told::new(false, "Placed", &placed(plan)),
        Change::Delete(delete) => {
            let to = delete
                .survivor
                .as_ref()
                .map_or_else(String::new, |survivor| format!(", {survivor} serves on"));
            Told::new(
                false,
                "Removed",
                &format!("pod {}: {}{to}", delete.name, delete.why),
            )
        }
    }
}

fn placed(plan: &PodPlan) -> String {
    let device = plan
        .assignment
        .profile
        .as_ref()
        .map_or_else(String::new, |profile| format!(" ({profile})"));
    let role = if plan.role == perwatt_planner::world::Role::Bridge {
        " to bridge a move"
    } else {
        ""
    };
    format!(
        "slot {}: variant {} on node {}{device}{role}, pod {}; {}",
        plan.slot, plan.assignment.variant, plan.assignment.node, plan.name, plan.decision
    )
}

fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str())
}

fn is_true(condition: &Condition) -> bool {
    condition.status == "True"
}
