//! What the engine is asked and what it answers.

use crate::energy::Energy;
use crate::sequence::SequenceId;
use crate::stages::Stages;
use crate::tensor::Tensor;
use std::time::{Duration, Instant};

/// A request that was checked against the model.
#[derive(Debug, Clone)]
pub struct Query {
    /// One tensor for each input of `model.yaml`, in its order.
    pub inputs: Vec<Tensor>,
    /// The sequence it belongs to.
    pub sequence: Option<SequenceStep>,
    /// When it was whole.
    pub arrived: Instant,
    /// When the answer is worthless.
    pub deadline: Instant,
}

/// Where in its sequence a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceStep {
    /// The sequence.
    pub id: SequenceId,
    /// It is the first.
    pub start: bool,
    /// It is the last.
    pub end: bool,
}

/// An answer, with who gave it.
#[derive(Debug)]
pub struct Answer {
    /// One tensor for each output of `model.yaml`, in its order.
    pub outputs: Vec<Tensor>,
    /// Place in the chain of the variant that answered; nothing where the safe value is the answer.
    pub variant: Option<usize>,
    /// No variant answered: the outputs are what `model.yaml` declares for that.
    pub safe_value: bool,
    /// Reason and message where another than the planned best answered.
    pub degraded: Option<(String, String)>,
    /// The sequence's state was lost, or belongs to another variant.
    pub sequence_restarted: bool,
    /// From the request's last byte to here.
    pub latency: Duration,
    /// Where that time went.
    pub stages: Stages,
    /// Where a figure exists.
    pub energy: Option<Energy>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// Too much is under way.
    #[error("too many requests are under way: try again later")]
    Overloaded,
    /// Time is up.
    #[error("no variant answered within {milliseconds} ms{tried}")]
    Deadline {
        /// The time there was.
        milliseconds: u128,
        /// What each variant did.
        tried: String,
    },
    /// Every variant failed.
    #[error("every variant failed{tried}")]
    Failed {
        /// What each variant did.
        tried: String,
    },
    /// A step before the model refuses what the client sent.
    #[error("input {0}")]
    Invalid(String),
    /// No variant may serve.
    #[error("no variant can serve: {0}")]
    Unavailable(String),
}
