//! Where a request's time went.

use std::time::Duration;

/// Time that a request spent in each stage. What the server did around them is in the total alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages {
    /// In the queue of the variant that answered.
    pub queue: Duration,
    /// In the steps before the model.
    pub preprocess: Duration,
    /// In the model.
    pub inference: Duration,
    /// In the steps after the model.
    pub postprocess: Duration,
}
