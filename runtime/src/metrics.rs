//! Metrics of the runtime. `docs/metrics.md` lists them; a test holds the two together.

use crate::chain::Reason;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// Labels of what concerns one variant. Its names come from the configuration: at most 32.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VariantLabels {
    /// The variant.
    pub variant: String,
}

/// Labels of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    /// The variant.
    pub variant: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// With an answer.
    Answered,
    /// The model or its device failed.
    Failed,
    /// No answer within its share of the time.
    Late,
    /// Its queue was full.
    Busy,
}

/// Labels of a request that was served by a fallback.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FallbackLabels {
    /// The variant that answered.
    pub variant: String,
    /// Why not the first one: a [`Reason`].
    pub reason: &'static str,
}

/// Labels of a request that got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    /// Why.
    pub reason: Refusal,
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// The request is wrong.
    Invalid,
    /// Too much waits already.
    Overloaded,
    /// No variant answered in time.
    Deadline,
    /// Every variant failed, or none may serve.
    Failed,
}

/// Labels of a request that got the safe value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SafeLabels {
    /// Why no variant answered: `Deadline`, `AllFailed` or `NoVariant`.
    pub reason: &'static str,
}

/// Labels of what is sent off the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EgressLabels {
    /// What for.
    pub purpose: Purpose,
    /// The variant that sent it.
    pub variant: String,
}

/// What something is sent off the node for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Purpose {
    /// A variant whose server is elsewhere.
    Relay,
}

/// Labels of energy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EnergyLabels {
    /// The variant.
    pub variant: String,
    /// Where the figure comes from, such as `emulated nameplate`.
    pub source: &'static str,
}

/// All metrics, with the registry that renders them.
#[derive(Debug)]
#[allow(missing_docs)] // their help texts say it
pub struct Metrics {
    registry: Registry,
    pub attempts: Family<AttemptLabels, Counter>,
    pub errors: Family<ErrorLabels, Counter>,
    pub fallbacks: Family<FallbackLabels, Counter>,
    pub request_seconds: Family<VariantLabels, Histogram, fn() -> Histogram>,
    pub inference_seconds: Family<VariantLabels, Histogram, fn() -> Histogram>,
    pub energy_joules: Family<EnergyLabels, Counter<f64, AtomicU64>>,
    pub active: Family<VariantLabels, Gauge>,
    pub queued: Family<VariantLabels, Gauge>,
    pub degraded: Gauge,
    pub sequences: Gauge,
    pub sequences_restarted: Counter,
    pub in_flight: Gauge,
    pub load_seconds: Family<VariantLabels, Gauge<f64, AtomicU64>>,
    pub egress_bytes: Family<EgressLabels, Counter>,
    pub safe_values: Family<SafeLabels, Counter>,
    pub hung_threads: Family<VariantLabels, Gauge>,
}

fn latency() -> Histogram {
    // 50 microseconds to 13 seconds, doubling.
    Histogram::new(exponential_buckets(50e-6, 2.0, 19))
}

impl Metrics {
    /// The metrics of a runtime that serves this workload and revision.
    pub fn new(workload: &str, revision: &str) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("perwatt_runtime"),
            attempts: Family::default(),
            errors: Family::default(),
            fallbacks: Family::default(),
            request_seconds: Family::new_with_constructor(latency),
            inference_seconds: Family::new_with_constructor(latency),
            energy_joules: Family::default(),
            active: Family::default(),
            queued: Family::default(),
            degraded: Gauge::default(),
            sequences: Gauge::default(),
            sequences_restarted: Counter::default(),
            in_flight: Gauge::default(),
            load_seconds: Family::default(),
            egress_bytes: Family::default(),
            safe_values: Family::default(),
            hung_threads: Family::default(),
        };
        metrics.register(workload, revision);
        metrics
    }

    fn register(&mut self, workload: &str, revision: &str) {
        let info = Info::new(vec![
            ("workload", workload.to_owned()),
            ("revision", revision.to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        let r = &mut self.registry;
        r.register("build", "What this runtime is and serves", info);
        r.register(
            "attempts",
            "Calls of a variant, by how they ended",
            self.attempts.clone(),
        );
        r.register(
            "errors",
            "Requests that got an error, by reason",
            self.errors.clone(),
        );
        r.register(
            "fallbacks",
            "Requests that another variant than the first answered",
            self.fallbacks.clone(),
        );
        r.register(
            "request_duration_seconds",
            "Time from a request's last byte to its reply, by the variant that answered",
            self.request_seconds.clone(),
        );
        r.register(
            "inference_duration_seconds",
            "Time in the model",
            self.inference_seconds.clone(),
        );
        r.register(
            "energy_joules",
            "Energy of inferences on a device, by source of the figure",
            self.energy_joules.clone(),
        );
        r.register(
            "active",
            "1 for the variant that serves, 0 for the others",
            self.active.clone(),
        );
        r.register("queued", "Calls that wait before a variant", self.queued.clone());
        r.register(
            "degraded",
            "1 while another than the planned best serves",
            self.degraded.clone(),
        );
        r.register("sequences", "Sequences under way", self.sequences.clone());
        r.register(
            "sequences_restarted",
            "Requests at which a sequence lost its state",
            self.sequences_restarted.clone(),
        );
        r.register("in_flight", "Requests being served", self.in_flight.clone());
        r.register(
            "load_seconds",
            "Time to load a variant and run it once",
            self.load_seconds.clone(),
        );
        r.register(
            "egress_bytes",
            "Bytes sent off the node, by purpose and variant",
            self.egress_bytes.clone(),
        );
        r.register(
            "safe_values",
            "Requests that no variant answered, and that got the safe value, by reason",
            self.safe_values.clone(),
        );
        r.register(
            "hung_threads",
            "Threads that hang in a call and were given up",
            self.hung_threads.clone(),
        );
    }

    /// The metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a call of a variant.
    pub fn count_attempt(&self, variant: &str, outcome: Outcome) {
        let labels = AttemptLabels {
            variant: variant.to_owned(),
            outcome,
        };
        self.attempts.get_or_create(&labels).inc();
    }

    /// Counts a request that got an error.
    pub fn count_error(&self, reason: Refusal) {
        self.errors.get_or_create(&ErrorLabels { reason }).inc();
    }

    /// Counts what a variant sends off the node.
    pub fn egress(&self, purpose: Purpose, variant: &str) -> Counter {
        let labels = EgressLabels {
            purpose,
            variant: variant.to_owned(),
        };
        self.egress_bytes.get_or_create(&labels).clone()
    }

    /// Shows how many threads of a variant hang.
    pub fn show_hung(&self, variant: &str, threads: usize) {
        let labels = VariantLabels {
            variant: variant.to_owned(),
        };
        self.hung_threads.get_or_create(&labels).set(threads as i64);
    }

    /// Counts a request that a fallback answered.
    pub fn count_fallback(&self, variant: &str, reason: Reason) {
        let labels = FallbackLabels {
            variant: variant.to_owned(),
            reason: reason.as_str(),
        };
        self.fallbacks.get_or_create(&labels).inc();
    }
}
