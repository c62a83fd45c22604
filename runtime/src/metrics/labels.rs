//! Labels of metrics: enums, and names that the configuration bounds.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

/// Labels of what concerns one variant. Its names come from the configuration: at most 32.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VariantLabels {
    /// The variant.
    pub variant: String,
}

impl VariantLabels {
    /// Labels of this variant.
    pub fn of(variant: &str) -> Self {
        Self {
            variant: variant.to_owned(),
        }
    }
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
    /// Why not the first one: a [`Reason`](crate::chain::Reason).
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

/// Labels of energy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EnergyLabels {
    /// The variant.
    pub variant: String,
    /// Where the figure comes from, such as `emulated nameplate`.
    pub source: &'static str,
}

/// Labels of the time in a stage.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabels {
    /// The variant that answered.
    pub variant: String,
    /// The stage.
    pub stage: Stage,
}

/// A part of a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Stage {
    /// Waiting before the variant.
    Queue,
    /// Steps before the model.
    Preprocess,
    /// In the model.
    Inference,
    /// Steps after the model.
    Postprocess,
}

/// Labels of jitter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlowLabels {
    /// What jitters.
    pub flow: Flow,
}

/// What comes at intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Flow {
    /// The requests of a sequence.
    Arrival,
    /// Its replies.
    Reply,
}

/// Labels of what came and went over a protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProtocolLabels {
    /// The protocol.
    pub protocol: Protocol,
}

/// How clients speak to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Protocol {
    /// HTTP and JSON.
    Rest,
    /// gRPC.
    Grpc,
}

/// Labels of what was sent off the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EgressLabels {
    /// What for.
    pub purpose: Purpose,
    /// The variant that sent it; empty where it was none.
    pub variant: String,
}

/// Why something is sent off the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Purpose {
    /// Inputs, to a variant that runs elsewhere.
    Relay,
    /// Traces, to the endpoint that the environment names. They hold no inputs.
    Traces,
}

/// Labels of recorded samples.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RecordingLabels {
    /// What became of them.
    pub outcome: Recording,
}

/// What became of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Recording {
    /// It was written.
    Written,
    /// The writer had too much to do.
    Skipped,
    /// It could not be written.
    Failed,
    /// It was removed again, as too old or one too many.
    Removed,
}

/// Labels of mirrored inputs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MirrorLabels {
    /// What became of them.
    pub outcome: Mirroring,
}

/// What became of an input that was drawn for the other revision too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Mirroring {
    /// Both said the same.
    Same,
    /// They did not.
    Different,
    /// There was no moment without requests, or no answer.
    Skipped,
}

/// Labels of spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SpansLabels {
    /// What became of them.
    pub outcome: Spans,
}

/// What became of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Spans {
    /// The endpoint took it.
    Sent,
    /// The endpoint was away, or too slow.
    Dropped,
}

/// Labels of feedback.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FeedbackLabels {
    /// The variant that answered; `unknown` where nobody remembers.
    pub variant: String,
    /// What the application says.
    pub kind: FeedbackKind,
}

/// What an application says of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue, serde::Serialize, serde::Deserialize)]
pub enum FeedbackKind {
    /// It reported something that was not there.
    FalseAlarm,
    /// It did not report something that was there.
    Miss,
    /// It was right.
    Correct,
}
