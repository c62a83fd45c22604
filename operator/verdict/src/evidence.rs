//! Evidence of one rollout, as it is collected: counts of closed blocks, for each unit (a node, or one of several
//! slots on it). What is in it never changes, it only grows; merging two is putting their blocks together.

use crate::sketch::Sketch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::intake::EvidenceError;

/// Version of the format. Within one version fields are only added.
pub const SCHEMA: u32 = 1;
/// Most units.
pub const MAX_UNITS: usize = 20_000;
/// Most turns, or windows, of one unit: with the blocks of [`crate::schedule`] two years.
pub const MAX_TURNS: usize = 1_024;
/// Most bins of confidence.
pub const MAX_BINS: usize = 256;
/// Most bytes of a name.
pub const MAX_NAME: usize = 253;
/// Largest count: above it a 64-bit counter has wrapped, or something else went wrong.
pub const MAX_COUNT: u64 = 1 << 53;

/// Evidence of one canary against one incumbent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// The revision that is judged.
    pub canary: String,
    /// The revision that it is compared with.
    pub incumbent: String,
    /// What each unit counted, by its name.
    #[serde(default)]
    pub units: BTreeMap<String, Unit>,
}

/// What one unit counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unit {
    /// What it is compared among, such as `npu on hailo-8`: each series gets a verdict of its own.
    pub series: String,
    /// Closed turns, where it alternates both revisions.
    #[serde(default)]
    pub turns: Vec<Turn>,
    /// Where it runs one revision only.
    #[serde(default)]
    pub alone: Option<Alone>,
    /// Counts under the incumbent before the rollout: what its quantiles are about, and what sets this unit apart.
    #[serde(default)]
    pub before: Option<Counts>,
    /// Ends of the bins of confidence, the same for both revisions; empty where none is declared.
    #[serde(default)]
    pub confidence_edges: Vec<f64>,
    /// How often it was asked for its evidence, and gave none that could be read.
    #[serde(default)]
    pub measuring: Measuring,
}

/// Two neighbouring blocks of one unit, one of each revision, in an order that a coin decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Turn {
    /// The epoch of the counters, as the runtime names it: a number of a turn is used once in an epoch.
    pub epoch: String,
    /// When that epoch began, by the unit's own clock: only orders the epochs of one unit.
    pub epoch_unix_seconds: u64,
    /// Its number in the epoch.
    pub number: u32,
    /// Which revision went first: what the coin said.
    pub first: Arm,
    /// Counts of the canary's block.
    pub canary: Counts,
    /// Counts of the incumbent's block.
    pub incumbent: Counts,
    /// Inputs that both answered.
    #[serde(default)]
    pub mirrored: Mirrored,
}

/// One of the two revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Arm {
    /// The new one.
    Canary,
    /// The one that it is to replace.
    Incumbent,
}

/// What a unit counted that runs one revision only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alone {
    /// The revision.
    pub arm: Arm,
    /// Closed windows of the rollout.
    pub windows: Vec<Window>,
}

/// A window of time of the rollout; window `number` begins and ends with that of all other units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Its number since the rollout began.
    pub number: u32,
    /// What was counted in it.
    pub counts: Counts,
}

/// Inputs that were given to both revisions: each request is drawn by a coin of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirrored {
    /// How many were compared.
    pub compared: u64,
    /// How many got different answers.
    pub different: u64,
}

/// How measuring goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measuring {
    /// How often evidence was asked for.
    pub asked: u64,
    /// How often none came, or none that could be read.
    pub failed: u64,
}

/// Counts of one block: what was over by its end, less what was over when carry-over from the block before had ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// How long was counted, by a clock that never goes back.
    pub milliseconds: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests without an answer of this revision.
    pub failed: u64,
    /// Requests that another variant than the planned best answered.
    pub fallbacks: u64,
    /// How often the process, or its model, was started again.
    pub restarts: u64,
    /// Latency of answers.
    pub latency: Sketch,
    /// Energy of inferences; nothing where no figure exists.
    pub energy: Option<Energy>,
    /// Answers in each bin of confidence, and last those whose confidence is no number; empty where none is declared.
    pub confidence: Vec<u64>,
    /// What applications said of answers.
    pub feedback: Feedback,
}

/// Energy of inferences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Energy {
    /// Where the figure comes from.
    pub source: Source,
    /// Whether the device is emulated.
    pub emulated: bool,
    /// Nanojoules of all of them.
    pub nanojoules: u64,
    /// How many inferences.
    pub inferences: u64,
    /// By how much two meters of this kind may differ, in thousandths of the reading.
    pub error_permille: u16,
    /// By how much one meter may differ from itself within a turn, in thousandths of the reading.
    pub drift_permille: u16,
}

/// Where a figure of energy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A meter of the device or its supply.
    Measured,
    /// A model of the device's power.
    Modelled,
    /// What its maker says.
    Nameplate,
}

/// What applications said of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Feedback {
    /// It told of something that was not there.
    pub false_alarm: u64,
    /// It did not tell of something that was there.
    pub miss: u64,
    /// It was right.
    pub correct: u64,
}

impl Evidence {
    /// Without any units.
    #[must_use]
    pub fn new(canary: &str, incumbent: &str) -> Self {
        Self {
            schema: SCHEMA,
            canary: canary.to_owned(),
            incumbent: incumbent.to_owned(),
            units: BTreeMap::new(),
        }
    }
}

impl Counts {
    /// Requests, answered or not.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.answered.saturating_add(self.failed)
    }
}

impl Feedback {
    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.false_alarm
            .saturating_add(self.miss)
            .saturating_add(self.correct)
    }
}
