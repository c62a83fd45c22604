//! Metrics of the runtime. `docs/metrics.md` lists them; a test holds the two together.
//!
//! Labels are enums, or names of variants, of which there are at most 32. What one request
//! carries is never a label.

mod labels;
mod together;

pub use labels::{
    AttemptLabels, EgressLabels, EnergyLabels, ErrorLabels, FallbackLabels, FeedbackKind, FeedbackLabels,
    Flow, FlowLabels, MirrorLabels, Mirroring, Outcome, Protocol, ProtocolLabels, Purpose, Recording,
    RecordingLabels, Refusal, SafeLabels, Spans, SpansLabels, Stage, StageLabels, VariantLabels,
};

pub use together::together;

use crate::chain::Reason;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// All metrics, with the registry that renders them.
#[derive(Debug)]
#[allow(missing_docs)] // their help texts say it
pub struct Metrics {
    registry: Registry,
    pub attempts: Family<AttemptLabels, Counter>,
    pub errors: Family<ErrorLabels, Counter>,
    pub deadlines_missed: Counter,
    pub fallbacks: Family<FallbackLabels, Counter>,
    pub safe_values: Family<SafeLabels, Counter>,
    pub feedback: Family<FeedbackLabels, Counter>,
    pub request_seconds: Family<VariantLabels, Histogram, fn() -> Histogram>,
    pub stage_seconds: Family<StageLabels, Histogram, fn() -> Histogram>,
    pub jitter_seconds: Family<FlowLabels, Histogram, fn() -> Histogram>,
    pub load_seconds: Family<VariantLabels, Gauge<f64, AtomicU64>>,
    pub hung_threads: Family<VariantLabels, Gauge>,
    pub energy_joules: Family<EnergyLabels, Counter<f64, AtomicU64>>,
    pub energy_inferences: Family<EnergyLabels, Counter>,
    pub active: Family<VariantLabels, Gauge>,
    pub queued: Family<VariantLabels, Gauge>,
    pub batch_size: Family<VariantLabels, Histogram, fn() -> Histogram>,
    pub events_suppressed: Family<VariantLabels, Counter>,
    pub wake_ups: Family<VariantLabels, Counter>,
    pub confidence: Family<VariantLabels, Histogram, Buckets>,
    pub confidence_shift: Family<VariantLabels, Gauge<f64, AtomicU64>>,
    pub confidence_invalid: Family<VariantLabels, Counter>,
    pub degraded: Gauge,
    pub sequences: Gauge,
    pub sequences_restarted: Counter,
    pub in_flight: Gauge,
    pub received_bytes: Family<ProtocolLabels, Counter>,
    pub sent_bytes: Family<ProtocolLabels, Counter>,
    pub egress_bytes: Family<EgressLabels, Counter>,
    pub spans: Family<SpansLabels, Counter>,
    pub recordings: Family<RecordingLabels, Counter>,
    pub recorded_bytes: Gauge,
    pub recorded_samples: Gauge,
    pub resident_memory_bytes: Gauge,
    pub candidate_failed: Gauge,
    pub candidate_errors: Counter,
    pub mirrored: Family<MirrorLabels, Counter>,
}

/// Upper ends of a histogram's buckets, as `model.yaml` has them.
#[derive(Debug, Clone, Default)]
pub struct Buckets(Vec<f64>);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// Counts what an event-driven input spared the model; a copy counts into the same metrics.
#[derive(Debug, Clone)]
pub struct EventMeter {
    /// Samples that changed too little to be handed on.
    pub suppressed: Counter,
    /// Times the model was woken.
    pub wake_ups: Counter,
}

fn latency() -> Histogram {
    // 50 microseconds to 13 seconds, doubling.
    Histogram::new(exponential_buckets(50e-6, 2.0, 19))
}

fn stage() -> Histogram {
    // 1 microsecond to 17 seconds, fourfold: a stage may be next to nothing.
    Histogram::new(exponential_buckets(1e-6, 4.0, 13))
}

fn batch() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 8))
}

impl Metrics {
    /// The metrics of a runtime that serves this workload and revision. `confidence_edges` are the edges of
    /// the model's reference histogram; none where it has none.
    pub fn new(workload: &str, revision: &str, confidence_edges: &[f64]) -> Self {
        let ends = confidence_edges.get(1..).unwrap_or_default().to_vec();
        let mut metrics = Self {
            registry: Registry::with_prefix("perwatt_runtime"),
            attempts: Family::default(),
            errors: Family::default(),
            deadlines_missed: Counter::default(),
            fallbacks: Family::default(),
            safe_values: Family::default(),
            feedback: Family::default(),
            request_seconds: Family::new_with_constructor(latency),
            stage_seconds: Family::new_with_constructor(stage),
            jitter_seconds: Family::new_with_constructor(stage),
            load_seconds: Family::default(),
            hung_threads: Family::default(),
            energy_joules: Family::default(),
            energy_inferences: Family::default(),
            active: Family::default(),
            queued: Family::default(),
            batch_size: Family::new_with_constructor(batch),
            events_suppressed: Family::default(),
            wake_ups: Family::default(),
            confidence: Family::new_with_constructor(Buckets(ends)),
            confidence_shift: Family::default(),
            confidence_invalid: Family::default(),
            degraded: Gauge::default(),
            sequences: Gauge::default(),
            sequences_restarted: Counter::default(),
            in_flight: Gauge::default(),
            received_bytes: Family::default(),
            sent_bytes: Family::default(),
            egress_bytes: Family::default(),
            spans: Family::default(),
            recordings: Family::default(),
            recorded_bytes: Gauge::default(),
            recorded_samples: Gauge::default(),
            resident_memory_bytes: Gauge::default(),
            candidate_failed: Gauge::default(),
            candidate_errors: Counter::default(),
            mirrored: Family::default(),
        };
        metrics.register_build(workload, revision);
        metrics.register_requests();
        metrics.register_times();
        metrics.register_variants();
        metrics.register_answers();
        metrics.register_bytes();
        metrics.register_rollout();
        metrics
    }

    fn register_build(&mut self, workload: &str, revision: &str) {
        let info = Info::new(vec![
            ("workload", workload.to_owned()),
            ("revision", revision.to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        self.registry
            .register("build", "What this runtime is and serves", info);
    }

    fn register_requests(&mut self) {
        let r = &mut self.registry;
        r.register(
            "errors",
            "Requests that got an error, by reason",
            self.errors.clone(),
        );
        r.register(
            "deadlines_missed",
            "Requests without an answer before their deadline",
            self.deadlines_missed.clone(),
        );
        r.register(
            "fallbacks",
            "Requests that another variant than the first answered",
            self.fallbacks.clone(),
        );
        r.register(
            "safe_values",
            "Requests that no variant answered, and that got the safe value, by reason",
            self.safe_values.clone(),
        );
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
    }

    fn register_times(&mut self) {
        let r = &mut self.registry;
        r.register(
            "request_duration_seconds",
            "Time from a request's last byte to its reply, by the variant that answered",
            self.request_seconds.clone(),
        );
        r.register(
            "stage_duration_seconds",
            "Time of an answered request in each stage",
            self.stage_seconds.clone(),
        );
        r.register(
            "jitter_seconds",
            "Jitter of a sequence's requests and replies, as RFC 3550 estimates it",
            self.jitter_seconds.clone(),
        );
        r.register(
            "load_seconds",
            "Time to load a variant and run it once",
            self.load_seconds.clone(),
        );
    }

    fn register_variants(&mut self) {
        let r = &mut self.registry;
        r.register(
            "attempts",
            "Calls of a variant, by how they ended",
            self.attempts.clone(),
        );
        r.register(
            "active",
            "1 for the variant that serves, 0 for the others",
            self.active.clone(),
        );
        r.register("queued", "Calls that wait before a variant", self.queued.clone());
        r.register(
            "hung_threads",
            "Threads that hang in a call and were given up",
            self.hung_threads.clone(),
        );
        r.register(
            "batch_size",
            "Requests that one call of the model answered",
            self.batch_size.clone(),
        );
        r.register(
            "energy_joules",
            "Energy of inferences on a device, by source of the figure",
            self.energy_joules.clone(),
        );
        r.register(
            "energy_inferences",
            "Inferences whose energy was counted, by source of the figure",
            self.energy_inferences.clone(),
        );
        r.register(
            "events_suppressed",
            "Samples that changed too little to be handed to the model",
            self.events_suppressed.clone(),
        );
        r.register(
            "wake_ups",
            "Times that events woke the model",
            self.wake_ups.clone(),
        );
    }

    fn register_answers(&mut self) {
        let r = &mut self.registry;
        r.register(
            "confidence",
            "Confidence of answers, in the bins of the model's reference",
            self.confidence.clone(),
        );
        r.register(
            "confidence_shift",
            "Population stability index of the last answers against the model's reference",
            self.confidence_shift.clone(),
        );
        r.register(
            "confidence_invalid",
            "Answers whose confidence is no number",
            self.confidence_invalid.clone(),
        );
        r.register(
            "feedback",
            "What applications said of answers",
            self.feedback.clone(),
        );
    }

    fn register_rollout(&mut self) {
        self.registry.register(
            "candidate_failed",
            "1 where the candidate of this pod could not be loaded",
            self.candidate_failed.clone(),
        );
        self.registry.register(
            "candidate_errors",
            "Requests that the candidate did not answer, and the incumbent did",
            self.candidate_errors.clone(),
        );
        self.registry.register(
            "mirrored",
            "Inputs that were drawn for the other revision too, by what came of them",
            self.mirrored.clone(),
        );
    }

    fn register_bytes(&mut self) {
        let r = &mut self.registry;
        r.register(
            "received_bytes",
            "Bytes of request bodies",
            self.received_bytes.clone(),
        );
        r.register("sent_bytes", "Bytes of reply bodies", self.sent_bytes.clone());
        r.register(
            "egress_bytes",
            "Bytes that this runtime sent off the node by itself",
            self.egress_bytes.clone(),
        );
        r.register(
            "spans",
            "Spans of traces, by what became of them",
            self.spans.clone(),
        );
        r.register(
            "recordings",
            "Samples of requests, by what became of them",
            self.recordings.clone(),
        );
        r.register(
            "recorded_bytes",
            "Bytes of the samples on disk",
            self.recorded_bytes.clone(),
        );
        r.register(
            "recorded_samples",
            "Samples on disk",
            self.recorded_samples.clone(),
        );
        r.register(
            "resident_memory_bytes",
            "Resident memory of this process",
            self.resident_memory_bytes.clone(),
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

    /// Counts an input that was drawn for the other revision too.
    pub fn count_mirrored(&self, outcome: Mirroring) {
        self.mirrored.get_or_create(&MirrorLabels { outcome }).inc();
    }

    /// Counts a request that got an error.
    pub fn count_error(&self, reason: Refusal) {
        self.errors.get_or_create(&ErrorLabels { reason }).inc();
    }

    /// Shows how many threads of a variant hang.
    pub fn show_hung(&self, variant: &str, threads: usize) {
        let labels = VariantLabels::of(variant);
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

    /// Counts one call of a model, for so many requests.
    pub fn count_batch(&self, variant: &str, requests: usize) {
        let batch = self.batch_size.get_or_create_owned(&VariantLabels::of(variant));
        batch.observe(requests as f64);
    }

    /// Counts bytes of the bodies of requests.
    pub fn received(&self, protocol: Protocol) -> Counter {
        self.received_bytes
            .get_or_create_owned(&ProtocolLabels { protocol })
    }

    /// Counts bytes of the bodies of replies.
    pub fn sent(&self, protocol: Protocol) -> Counter {
        self.sent_bytes.get_or_create_owned(&ProtocolLabels { protocol })
    }

    /// The counter of bytes that one sender sends off the node. Whoever sends keeps it and counts every body
    /// before it goes out; a loopback address or a unix socket is not off the node.
    pub fn egress(&self, purpose: Purpose, variant: &str) -> Counter {
        let labels = EgressLabels {
            purpose,
            variant: variant.to_owned(),
        };
        self.egress_bytes.get_or_create_owned(&labels)
    }

    /// What counts events of a variant's input.
    pub fn events(&self, variant: &str) -> EventMeter {
        let labels = VariantLabels::of(variant);
        EventMeter {
            suppressed: self.events_suppressed.get_or_create_owned(&labels),
            wake_ups: self.wake_ups.get_or_create_owned(&labels),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Names of the rendered metrics, each with one value at least.
    fn rendered() -> BTreeSet<String> {
        let m = Metrics::new("w", "r", &[0.0, 0.5, 1.0]);
        let v = VariantLabels::of("v");
        m.count_attempt("v", Outcome::Answered);
        m.count_error(Refusal::Invalid);
        m.count_fallback("v", Reason::Late);
        m.count_batch("v", 1);
        m.received(Protocol::Rest).inc();
        m.sent(Protocol::Grpc).inc();
        m.egress(Purpose::Relay, "v").inc();
        m.events("v").suppressed.inc();
        let (variant, kind) = ("v".to_owned(), FeedbackKind::Miss);
        m.feedback.get_or_create(&FeedbackLabels { variant, kind }).inc();
        m.request_seconds.get_or_create(&v).observe(1.0);
        let (variant, stage) = ("v".to_owned(), Stage::Queue);
        m.stage_seconds
            .get_or_create(&StageLabels { variant, stage })
            .observe(1.0);
        let flow = Flow::Reply;
        m.jitter_seconds.get_or_create(&FlowLabels { flow }).observe(1.0);
        m.load_seconds.get_or_create(&v).set(1.0);
        let (variant, source) = ("v".to_owned(), "measured");
        let energy = EnergyLabels { variant, source };
        m.energy_joules.get_or_create(&energy).inc_by(1.0);
        m.energy_inferences.get_or_create(&energy).inc();
        m.active.get_or_create(&v).set(1);
        m.show_hung("v", 1);
        let reason = "Deadline";
        m.safe_values.get_or_create(&SafeLabels { reason }).inc();
        m.queued.get_or_create(&v).set(1);
        m.confidence.get_or_create(&v).observe(1.0);
        m.confidence_shift.get_or_create(&v).set(1.0);
        m.confidence_invalid.get_or_create(&v).inc();
        let outcome = Spans::Sent;
        m.spans.get_or_create(&SpansLabels { outcome }).inc();
        let outcome = Recording::Written;
        m.recordings.get_or_create(&RecordingLabels { outcome }).inc();
        m.count_mirrored(Mirroring::Same);
        let text = m.render();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect()
    }

    #[test]
    fn the_dashboard_asks_for_metrics_that_exist() {
        let dashboard = std::fs::read_to_string("../charts/perwatt/dashboards/runtime.json").unwrap();
        serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
        let names = rendered();
        let mut asked = 0;
        for part in dashboard.split("perwatt_runtime_").skip(1) {
            let end = part.find(|c: char| c != '_' && !c.is_ascii_lowercase()).unwrap();
            let name = format!("perwatt_runtime_{}", &part[..end]);
            let suffixes = ["_total", "_bucket", "_sum", "_count", "_info"];
            let base = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
            assert!(names.contains(base.unwrap_or(&name)), "there is no metric {name}");
            asked += 1;
        }
        assert!(asked > 20);
    }

    #[test]
    fn the_docs_list_every_metric_and_no_other() {
        let docs = std::fs::read_to_string("../docs/metrics.md").unwrap();
        let listed: BTreeSet<_> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `perwatt_runtime_")?.split('`').next())
            .map(|name| format!("perwatt_runtime_{name}"))
            .collect();
        assert_eq!(rendered(), listed, "docs/metrics.md and the program differ");
    }
}
