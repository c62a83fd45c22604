//! Metrics of the operator. Every name is listed in `docs/metrics.md`.

use perwatt_planner::outcome::{BreakerState, SlotPlan};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;

/// A workload's labels: bounded by the number of workloads, and removed with them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SlotLabels {
    /// Namespace of the workload.
    pub namespace: String,
    /// Name of the workload.
    pub workload: String,
    /// `wanted`, `served`, `degraded` or `offline`.
    pub state: &'static str,
}

/// Why slots are degraded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// As conditions and events write it.
    pub reason: &'static str,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChangeLabels {
    /// `create` or `delete`.
    pub action: &'static str,
    /// `done`, `already`, `deferred` or `failed`.
    pub result: &'static str,
}

/// The operator's metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Slots by state.
    pub slots: Family<SlotLabels, Gauge>,
    /// Degraded slots by reason.
    pub degraded: Family<ReasonLabels, Gauge>,
    /// Changes tried.
    pub changes: Family<ChangeLabels, Counter>,
    /// Duration of the pure part of a pass.
    pub plan_seconds: Histogram,
    /// Duration of a whole pass.
    pub pass_seconds: Histogram,
    /// Moves in the breaker's window.
    pub moves: Gauge,
    /// How many there may be.
    pub move_limit: Gauge,
    /// Slots that the move breaker holds.
    pub slots_held: Gauge,
    /// Nodes whose agent is silent.
    pub agents_silent: Gauge,
    /// Status writes.
    pub status_writes: Counter,
    /// 1 while this replica leads.
    pub leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = || exponential_buckets(0.000_1, 4.0, 10);
        let mut registry = Registry::with_prefix("perwatt_operator");
        let slots = Family::default();
        let degraded = Family::default();
        let changes = Family::default();
        let plan_seconds = Histogram::new(buckets());
        let pass_seconds = Histogram::new(buckets());
        let (moves, move_limit, slots_held) = (Gauge::default(), Gauge::default(), Gauge::default());
        let agents_silent = Gauge::default();
        let status_writes = Counter::default();
        let leader = Gauge::default();
        registry.register("slots", "Slots of a workload by state", slots.clone());
        registry.register("degraded_slots", "Degraded slots by reason", degraded.clone());
        registry.register("changes", "Changes of pods by action and result", changes.clone());
        registry.register(
            "plan_seconds",
            "Duration of planning, without any I/O",
            plan_seconds.clone(),
        );
        registry.register(
            "pass_seconds",
            "Duration of a pass with its writes",
            pass_seconds.clone(),
        );
        registry.register("moves", "Moves in the breaker's window", moves.clone());
        registry.register("move_limit", "Moves that there may be in it", move_limit.clone());
        registry.register(
            "slots_held",
            "Slots that the move breaker holds where they are",
            slots_held.clone(),
        );
        registry.register(
            "agents_silent",
            "Nodes that are ready, and whose agent is silent",
            agents_silent.clone(),
        );
        registry.register("status_writes", "Statuses written", status_writes.clone());
        registry.register("leader", "1 while this replica leads", leader.clone());
        Self {
            registry: Arc::new(registry),
            slots,
            degraded,
            changes,
            plan_seconds,
            pass_seconds,
            moves,
            move_limit,
            slots_held,
            agents_silent,
            status_writes,
            leader,
        }
    }
}

impl Metrics {
    /// Shows the moves that a plan counted.
    pub fn show_breaker(&self, breaker: BreakerState) {
        let count = |slots: usize| i64::try_from(slots).unwrap_or(i64::MAX);
        self.moves.set(count(breaker.moves));
        self.move_limit.set(count(breaker.limit));
        self.slots_held.set(count(breaker.held));
    }

    /// Shows why the slots of a plan are degraded.
    pub fn show_degraded(&self, slots: &[SlotPlan]) {
        self.degraded.clear();
        for reason in slots.iter().filter_map(|slot| slot.degraded.as_ref()) {
            let reason = reason.code.as_str();
            self.degraded.get_or_create(&ReasonLabels { reason }).inc();
        }
    }

    /// Shows how many nodes have an agent that is silent.
    pub fn show_silent_agents(&self, count: usize) {
        self.agents_silent.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let docs = std::fs::read_to_string("../docs/metrics.md").unwrap();
        let metrics = Metrics::default();
        let slots = SlotLabels {
            namespace: "lines".into(),
            workload: "gate".into(),
            state: "wanted",
        };
        metrics.slots.get_or_create(&slots).set(1);
        let reason = ReasonLabels {
            reason: "ModelUnavailable",
        };
        metrics.degraded.get_or_create(&reason).set(1);
        metrics
            .changes
            .get_or_create(&ChangeLabels {
                action: "create",
                result: "done",
            })
            .inc();
        let text = metrics.text().unwrap();
        let names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        assert_eq!(names.len(), 11, "{names:?}");
        for name in names {
            assert!(
                docs.contains(&format!("`{name}`")),
                "docs/metrics.md does not list {name}"
            );
        }
    }
}
