//! Which slot is in which cohort: settled when a rollout begins, so that a label that changes in the middle moves
//! nobody past a gate.

use std::collections::BTreeMap;

/// Which cohorts' selectors fit a slot, in the order of the cohorts.
pub type Fit = Vec<bool>;

/// The cohort of each slot at the start: the first that fits. What fits none is in the last.
#[must_use]
pub fn snapshot(slots: &BTreeMap<String, Fit>, cohorts: usize) -> BTreeMap<String, usize> {
    let place = |fit: &Fit| {
        fit.iter()
            .take(cohorts)
            .position(|fits| *fits)
            .unwrap_or(cohorts.saturating_sub(1))
    };
    slots
        .iter()
        .map(|(slot, fit)| (slot.clone(), place(fit)))
        .collect()
}

/// Adds slots that came since: each to the last cohort that fits, and what fits none to the last.
pub fn join(members: &mut BTreeMap<String, usize>, slots: &BTreeMap<String, Fit>, cohorts: usize) {
    for (slot, fit) in slots {
        if members.contains_key(slot) {
            continue;
        }
        let last = fit.iter().take(cohorts).rposition(|fits| *fits);
        members.insert(slot.clone(), last.unwrap_or(cohorts.saturating_sub(1)));
    }
}
