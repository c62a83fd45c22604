//! Status of a workload, from the plan of its slots.

use super::breaker::{self, is_held};
use super::{figures, measured, rollout, summary};
use crate::evidence::{Energy, Evidence, Report};
use crate::rollout::Rolling;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use perwatt_crds::conditions::{self, ConditionType, condition, cut};
use perwatt_crds::workload::{PlacementMode, RolloutEnd, RolloutStatus, SlotProblem, WorkloadSummary};
use perwatt_crds::{InferenceWorkload, InferenceWorkloadStatus, names};
use perwatt_planner::figure::Figure;
use perwatt_planner::outcome::{BreakerState, Reason, ReasonCode, SlotPlan};
use perwatt_planner::world::{OwnedPod, PodState};
use std::collections::HashMap;

/// Problem slots that a status lists.
const PROBLEM_LIMIT: usize = 20;

/// What a workload's status is computed from.
pub struct Facts<'a> {
    /// The workload.
    pub workload: &'a InferenceWorkload,
    /// Its slots, as planned.
    pub slots: &'a [&'a SlotPlan],
    /// Its pods by name: uid, and what is known of it.
    pub pods: &'a HashMap<&'a str, (&'a str, &'a OwnedPod)>,
    /// What its runtimes say.
    pub evidence: &'a Evidence,
    /// Hash of what is to run.
    pub revision: &'a str,
    /// The moves that were counted.
    pub breaker: BreakerState,
    /// The rollout of the present revision.
    pub rolling: Option<&'a Rolling>,
    /// The rollouts that ended.
    pub history: Vec<RolloutEnd>,
}

/// One slot that is served: by what, where.
struct Served<'a> {
    variant: &'a str,
    profile: Option<&'a str>,
    node: &'a str,
    report: Option<Report>,
}

/// The status of a workload.
#[must_use]
pub fn compute(facts: &Facts<'_>, now: Timestamp) -> InferenceWorkloadStatus {
    let slots = facts.slots;
    let served: Vec<_> = slots.iter().filter_map(|slot| served(facts, slot)).collect();
    let count = |of: &dyn Fn(&SlotPlan) -> bool| {
        i32::try_from(slots.iter().filter(|slot| of(slot)).count()).unwrap_or(i32::MAX)
    };
    let total = count(&|_| true);
    let previous = facts.workload.status.as_ref();
    let rolled = rollout::compute(facts);
    let wanted = build_conditions(facts, served.len(), &served, rolled.as_ref());
    let status_word = status_word(&wanted);
    InferenceWorkloadStatus {
        observed_generation: facts.workload.metadata.generation,
        replicas: total,
        ready_slots: i32::try_from(served.len()).unwrap_or(i32::MAX),
        degraded_slots: count(&|slot| slot.degraded.is_some()),
        offline_slots: count(&|slot| slot.offline),
        selector: format!(
            "{}={}",
            names::LABEL_WORKLOAD,
            facts.workload.metadata.name.as_deref().unwrap_or_default()
        ),
        revision: Some(facts.revision.to_owned()),
        summary: WorkloadSummary {
            ready: format!("{}/{total}", served.len()),
            serving: summary::counts(served.iter().map(|slot| slot.variant)),
            device: summary::names(served.iter().filter_map(|slot| slot.profile)),
            node: summary::names(served.iter().map(|slot| slot.node)),
            latency_p95: latency(&served),
            energy: energy(&served),
            watts: watts(slots),
            status: status_word,
            rollout: rollout::summary(rolled.as_ref()),
        },
        rollout: rolled,
        history: facts.history.clone(),
        figures: measured::compute(facts),
        conditions: conditions::merge(previous.map_or(&[], |status| &status.conditions), wanted, now),
        moves_held_since: breaker::held_since(facts, now),
        problems: problems(facts),
    }
}

fn served<'a>(facts: &Facts<'a>, slot: &'a SlotPlan) -> Option<Served<'a>> {
    let pod = slot.serving.as_ref().filter(|pod| pod.state == PodState::Ready)?;
    let (uid, owned) = facts.pods.get(pod.name.as_str())?;
    let active = owned
        .active
        .as_ref()
        .map(|active| active.name.as_str())
        .filter(|name| !name.is_empty());
    let variant = active.unwrap_or(&owned.variant);
    Some(Served {
        variant,
        profile: owned.profile.as_deref().filter(|_| variant == owned.variant),
        node: &pod.assignment.node,
        report: facts.evidence.report(uid),
    })
}

/// The slowest of the slots that were asked; `-` while none has answered a request.
fn latency(served: &[Served<'_>]) -> String {
    let slowest = served
        .iter()
        .filter_map(|slot| active_variant(slot)?.latency_seconds.as_ref())
        .filter(|latency| latency.count > 0)
        .map(|latency| latency.p95)
        .max_by(f64::total_cmp);
    slowest.map_or_else(|| "-".to_owned(), figures::latency)
}

/// What the slots are expected to draw together, with the weakest source; `-` where a rate or an energy is missing.
fn watts(slots: &[&SlotPlan]) -> String {
    let placed = slots.iter().filter_map(|slot| slot.expected);
    let mut sum = 0_u64;
    let mut weakest: Option<Figure> = None;
    for expected in placed {
        let (Some(microwatts), Some(figure)) = (expected.microwatts, expected.microjoules) else {
            return "-".to_owned();
        };
        sum = sum.saturating_add(microwatts);
        weakest = weakest
            .into_iter()
            .chain([figure])
            .max_by_key(|figure| (figure.origin, figure.source));
    }
    weakest.map_or_else(
        || "-".to_owned(),
        |figure| format!("{} {}", figures::power(sum), figure.words()),
    )
}

/// The costliest of the slots that were asked, with the source of the figure; `-` where none is known.
fn energy(served: &[Served<'_>]) -> String {
    let costliest = served
        .iter()
        .filter_map(|slot| active_variant(slot)?.energy.as_ref())
        .max_by_key(|energy| energy.microjoules_per_inference);
    costliest.map_or_else(
        || "-".to_owned(),
        |energy| {
            format!(
                "{} {}",
                figures::energy(energy.microjoules_per_inference),
                source(energy)
            )
        },
    )
}

fn source(energy: &Energy) -> &str {
    if energy.emulated {
        "emulated"
    } else {
        &energy.source
    }
}

fn active_variant<'a>(slot: &'a Served<'_>) -> Option<&'a crate::evidence::VariantReport> {
    slot.report
        .as_ref()?
        .variants
        .iter()
        .find(|variant| variant.name == slot.variant)
}

fn build_conditions(
    facts: &Facts<'_>,
    ready: usize,
    served: &[Served<'_>],
    rolled: Option<&RolloutStatus>,
) -> Vec<Condition> {
    let generation = facts.workload.metadata.generation;
    let mut wanted = vec![build_ready(facts, ready, served)];
    if facts.slots.iter().any(|slot| slot.changing) {
        let changing = facts.slots.iter().filter(|slot| slot.changing).count();
        let message = format!("pods of {changing} of {} slots are changing", facts.slots.len());
        wanted.push(condition(
            ConditionType::Reconciling,
            true,
            "PodsChanging",
            &message,
            generation,
        ));
    }
    let of_rollout = rollout::conditions(rolled, generation);
    let rejected = of_rollout
        .iter()
        .any(|found| found.type_ == ConditionType::Stalled.as_str());
    wanted.extend(of_rollout);
    if let Some(reason) = stalled(facts).filter(|_| !rejected) {
        wanted.push(condition(
            ConditionType::Stalled,
            true,
            reason.code.as_str(),
            &reason.message,
            generation,
        ));
    }
    let degraded: Vec<_> = facts
        .slots
        .iter()
        .filter_map(|slot| Some((slot, slot.degraded.as_ref()?)))
        .collect();
    wanted.push(
        match degraded
            .iter()
            .find(|(_, reason)| is_held(reason))
            .or(degraded.first())
        {
            Some((slot, reason)) => {
                let message = format!(
                    "{}{}",
                    of_slots(&slot.slot, degraded.len(), facts.slots.len()),
                    reason.message
                );
                condition(
                    ConditionType::Degraded,
                    true,
                    reason.code.as_str(),
                    &message,
                    generation,
                )
            }
            None => condition(
                ConditionType::Degraded,
                false,
                "AsPlanned",
                "every served slot has its planned best",
                generation,
            ),
        },
    );
    wanted
}

/// Says of which slots a message speaks; nothing where there is one slot.
fn of_slots(slot: &str, affected: usize, total: usize) -> String {
    match (affected, total) {
        (_, 1) => String::new(),
        (1, _) => format!("slot {slot}: "),
        (affected, total) => format!("{affected} of {total} slots, first {slot}: "),
    }
}

fn build_ready(facts: &Facts<'_>, ready: usize, served: &[Served<'_>]) -> Condition {
    let generation = facts.workload.metadata.generation;
    let total = facts.slots.len();
    let reachable = facts.slots.iter().filter(|slot| !slot.offline).count();
    let unserved = facts.slots.iter().find(|slot| !slot.offline && !is_served(slot));
    if total == 0 && facts.workload.spec.placement.mode != PlacementMode::Replicas {
        let message = "no node carries the labels of placement.nodes: label a node, or change the selector";
        return condition(
            ConditionType::Ready,
            false,
            ReasonCode::NoNodeMatches.as_str(),
            message,
            generation,
        );
    }
    let Some(slot) = unserved else {
        let offline = if reachable < total {
            format!(", {} on silent nodes", total - reachable)
        } else {
            String::new()
        };
        let message = format!(
            "{ready} of {total} slots served by {} on {}{offline}{}",
            summary::counts(served.iter().map(|slot| slot.variant)),
            summary::names(served.iter().map(|slot| slot.node)),
            remarks(facts),
        );
        return condition(ConditionType::Ready, true, "Serving", &message, generation);
    };
    let affected = facts
        .slots
        .iter()
        .filter(|slot| !slot.offline && !is_served(slot))
        .count();
    let reason = slot.problem.clone().unwrap_or(Reason {
        code: ReasonCode::PodStarting,
        message: "its pod is starting".to_owned(),
    });
    let message = format!("{}{}", of_slots(&slot.slot, affected, total), reason.message);
    condition(
        ConditionType::Ready,
        false,
        reason.code.as_str(),
        &message,
        generation,
    )
}

fn is_served(slot: &SlotPlan) -> bool {
    slot.serving
        .as_ref()
        .is_some_and(|pod| pod.state == PodState::Ready)
}

/// What is served all the same and worth a word: profiles that variants name and that do not exist,
/// devices whose support ends.
fn remarks(facts: &Facts<'_>) -> String {
    let unknown = missing_profile(facts).map(|reason| reason.message.as_str());
    let candidates = facts.slots.iter().flat_map(|slot| &slot.candidates);
    let note = candidates
        .filter(|candidate| candidate.chosen)
        .find_map(|candidate| candidate.note.as_deref());
    let remarks = unknown.into_iter().chain(note);
    remarks.map(|remark| format!("; {remark}")).collect()
}

fn missing_profile<'a>(facts: &'a Facts<'_>) -> Option<&'a Reason> {
    let candidates = facts.slots.iter().flat_map(|slot| &slot.candidates);
    candidates
        .filter_map(|candidate| candidate.rejected.as_ref())
        .find(|reason| reason.code == ReasonCode::ProfileNotFound)
}

/// The spec cannot be carried out: its PriorityClass is refused, or nothing may serve a slot and a profile that it
/// names does not exist.
fn stalled<'a>(facts: &'a Facts<'_>) -> Option<&'a Reason> {
    let infeasible = facts.slots.iter().any(|slot| {
        !is_served(slot)
            && slot
                .problem
                .as_ref()
                .is_some_and(|problem| problem.code == ReasonCode::NoFeasibleVariant)
    });
    refused_class(facts).or_else(|| infeasible.then(|| missing_profile(facts)).flatten())
}

fn refused_class<'a>(facts: &'a Facts<'_>) -> Option<&'a Reason> {
    let candidates = facts.slots.iter().flat_map(|slot| &slot.candidates);
    candidates
        .filter_map(|candidate| candidate.rejected.as_ref())
        .find(|reason| reason.code == ReasonCode::PriorityClassRefused)
}

/// One word for the column: what is wrong, or Ready.
fn status_word(conditions: &[Condition]) -> String {
    let of = |kind: ConditionType| {
        conditions
            .iter()
            .find(|condition| condition.type_ == kind.as_str())
    };
    let is = |kind, status: &str| of(kind).filter(|condition| condition.status == status);
    is(ConditionType::Stalled, "True")
        .or(is(ConditionType::Ready, "False"))
        .or(is(ConditionType::Degraded, "True"))
        .map_or_else(|| "Ready".to_owned(), |condition| condition.reason.clone())
}

fn problems(facts: &Facts<'_>) -> Vec<SlotProblem> {
    let faulty = facts.slots.iter().filter_map(|slot| {
        let reason = slot.problem.as_ref().or(slot.degraded.as_ref())?;
        let serving = slot.serving.as_ref();
        Some(SlotProblem {
            slot: slot.slot.clone(),
            node: serving.map(|pod| pod.assignment.node.clone()),
            variant: serving.map(|pod| {
                let owned = facts.pods.get(pod.name.as_str()).map(|(_, owned)| *owned);
                let active = owned
                    .and_then(|owned| owned.active.as_ref())
                    .map(|active| active.name.clone());
                active
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| pod.assignment.variant.clone())
            }),
            reason: reason.code.as_str().to_owned(),
            message: cut(&reason.message),
        })
    });
    faulty.take(PROBLEM_LIMIT).collect()
}
