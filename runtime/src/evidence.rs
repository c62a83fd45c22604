//! Cumulative evidence, as the operator pulls it: counts and histograms that can be added to those of
//! other runtimes. How it outlives a process is the business of [`crate::state`].

pub mod sketch;
pub mod tally;

use crate::energy::Source;
use crate::metrics::FeedbackKind;
use crate::rollout::turns::Comparison;
use serde::{Deserialize, Serialize};
use sketch::Sketch;

/// Version of the format. Within one version fields are only added; another number means that some changed.
pub const SCHEMA: u32 = 2;

/// Counts of one variant on one device, running one revision. Two of the same three are merged by adding
/// every count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The revision.
    pub revision: String,
    /// The variant.
    pub variant: String,
    /// The device; nothing for a device-less variant.
    pub device: Option<String>,
    /// Requests that it answered.
    pub answered: u64,
    /// Calls without an answer, where another variant gave one.
    pub failed: u64,
    /// From a request's last byte to its reply.
    pub latency: Sketch,
    /// Energy of inferences, one sum for each source.
    pub energy: Vec<EnergySum>,
    /// Confidence of answers; nothing where the model declares none.
    pub confidence: Option<ConfidenceCounts>,
    /// What applications said of answers.
    pub feedback: FeedbackCounts,
}

/// Energy of inferences, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnergySum {
    /// Where the power figure comes from.
    pub source: Source,
    /// Whether the device is emulated.
    pub emulated: bool,
    /// Nanojoules of all of them.
    pub nanojoules: u64,
    /// How many.
    pub inferences: u64,
}

/// Answers by their confidence, in the bins of the model's reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfidenceCounts {
    /// Ends of the bins.
    pub edges: Vec<f64>,
    /// Answers in each bin.
    pub counts: Vec<u64>,
    /// Answers whose confidence is no number; they are in no bin.
    pub invalid: u64,
}

/// What applications said of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // as `FeedbackKind` says
pub struct FeedbackCounts {
    pub false_alarm: u64,
    pub miss: u64,
    pub correct: u64,
}

impl FeedbackCounts {
    /// Counts one.
    pub fn add(&mut self, kind: FeedbackKind) {
        match kind {
            FeedbackKind::FalseAlarm => self.false_alarm += 1,
            FeedbackKind::Miss => self.miss += 1,
            FeedbackKind::Correct => self.correct += 1,
        }
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        self.false_alarm = self.false_alarm.saturating_add(other.false_alarm);
        self.miss = self.miss.saturating_add(other.miss);
        self.correct = self.correct.saturating_add(other.correct);
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.false_alarm
            .saturating_add(self.miss)
            .saturating_add(self.correct)
    }
}

/// Counts that belong to no one variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Requests at which a sequence lost its state.
    pub sequences_restarted: u64,
    /// Requests that another variant than the first answered.
    pub fallbacks: u64,
    /// Requests that no variant answered, and that got the safe value.
    #[serde(default)]
    pub safe_values: u64,
    /// Requests that no variant answered, whether a safe value stood in or not.
    #[serde(default)]
    pub unanswered: u64,
    /// Requests without an answer before their deadline.
    pub deadlines_missed: u64,
    /// Feedback on answers of which nobody knows who gave them.
    #[serde(default)]
    pub feedback_unattributed: FeedbackCounts,
}

impl Totals {
    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        let add = |own: &mut u64, more: u64| *own = own.saturating_add(more);
        add(&mut self.sequences_restarted, other.sequences_restarted);
        add(&mut self.fallbacks, other.fallbacks);
        add(&mut self.safe_values, other.safe_values);
        add(&mut self.unanswered, other.unanswered);
        add(&mut self.deadlines_missed, other.deadlines_missed);
        self.feedback_unattributed.merge(&other.feedback_unattributed);
    }
}

/// When and why the counts began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// Differs from epoch to epoch: counts under another one began at 0.
    #[serde(rename = "epoch")]
    pub id: String,
    /// When it began.
    #[serde(rename = "epochUnixSeconds")]
    pub unix_seconds: u64,
    /// Why it began.
    #[serde(rename = "epochReason")]
    pub reason: EpochReason,
}

/// Why an epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EpochReason {
    /// Nothing is kept: there is no folder for it.
    NotKept,
    /// The folder held nothing.
    FirstStart,
    /// What the folder held cannot be read.
    StateDamaged,
    /// What the folder held belongs to another workload.
    OtherWorkload,
}

impl Epoch {
    /// One that begins now.
    pub fn begin(reason: EpochReason) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        Self {
            id: format!("{:x}-{:x}", since.as_nanos(), std::process::id()),
            unix_seconds: since.as_secs(),
            reason,
        }
    }
}

/// Counts of one variant, as they are shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TallyReading {
    /// Calls, answered or not.
    pub requests: u64,
    /// Calls without an answer.
    pub failures: u64,
    /// From a request's last byte to its reply.
    pub latency_seconds: Latency,
    /// By the source that was used last; nothing where no figure exists.
    pub energy: Option<EnergyEvidence>,
}

/// Quantiles of latency.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the names say all
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub count: u64,
}

/// Energy of an inference, on average.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnergyEvidence {
    /// Microjoules.
    pub microjoules_per_inference: u64,
    /// `measured`, `modelled` or `nameplate`.
    pub source: &'static str,
    /// Whether the device is emulated: such a figure is never measured.
    pub emulated: bool,
}

/// One variant in the evidence.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VariantEvidence {
    /// Its name.
    pub name: String,
    /// The device it runs on.
    pub device: Option<String>,
    /// What runs its model; empty where it could not be loaded.
    pub engine: String,
    /// Its counts.
    #[serde(flatten)]
    pub tally: TallyReading,
    /// How it is doing.
    pub state: VariantState,
    /// Why it is not well; empty while it is.
    pub message: String,
}

/// How a variant is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum VariantState {
    /// It serves.
    Active,
    /// It could serve.
    Standby,
    /// Its device is unhealthy or recovering, or its breaker is open.
    Tainted,
    /// It could not be loaded, or the workload forbids it.
    Failed,
}

/// What `GET /evidence` answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Version of this format, [`SCHEMA`].
    pub schema: u32,
    /// The workload.
    pub workload: String,
    /// The revision.
    pub revision: String,
    /// When the counts began.
    #[serde(flatten)]
    pub epoch: Epoch,
    /// The variant that serves; nothing when none may.
    pub active_variant: Option<String>,
    /// Whether another than the planned best serves.
    pub degraded: bool,
    /// Why.
    pub reason: Option<String>,
    /// All variants, in the chain's order: for display.
    pub variants: Vec<VariantEvidence>,
    /// Counts that belong to no one variant.
    #[serde(flatten)]
    pub totals: Totals,
    /// Counts to be merged with those of other runtimes.
    pub records: Vec<Record>,
    /// What comparing two revisions gave; nothing where this pod carries one.
    pub comparison: Option<Comparison>,
}
