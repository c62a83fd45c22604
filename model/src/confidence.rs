//! How sure a model's replies are, and how sure they were where the model was known to be well.

use crate::manifest::{Datatype, ManifestError, TensorSpec, field};
use crate::names::TensorName;
use serde::{Deserialize, Serialize};

/// Bins that a reference may have.
const BINS: std::ops::RangeInclusive<usize> = 2..=64;
/// Elements that an output may have: it is read in full for every reply.
const MOST_ELEMENTS: usize = 32_768;
/// More would not be exact as a float.
const MOST_SAMPLES: u64 = 1 << 53;

/// What a reply's confidence is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfidenceSpec {
    /// The output it is read from, FP32 or FP64.
    pub output: TensorName,
    /// How it is read.
    #[serde(default)]
    pub transform: Transform,
    /// How it was spread over data on which the model was well.
    pub reference: Histogram,
}

/// How one number comes out of an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transform {
    /// The largest element: for probabilities.
    #[default]
    Largest,
    /// The largest element after softmax over all elements: for logits of classes.
    Softmax,
    /// The logistic function of the largest element: for the logit of one yes or no.
    Sigmoid,
}

/// Counts of replies between edges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// Ends of the bins, in order, one more than there are bins. What lies outside belongs to the bin at that end.
    pub edges: Vec<f64>,
    /// Replies in each bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// The bin of a value: the one whose lower end is not above it. Nothing for what is no number.
    pub fn bin(&self, value: f64) -> Option<usize> {
        if value.is_nan() {
            return None;
        }
        let inner = self.edges.get(1..self.edges.len().saturating_sub(1))?;
        Some(inner.partition_point(|&edge| edge <= value))
    }
}

impl ConfidenceSpec {
    /// Checks the specification against the outputs of replies.
    pub(crate) fn check(&self, outputs: &[TensorSpec]) -> Result<(), ManifestError> {
        let Some(output) = outputs.iter().find(|output| output.name == self.output) else {
            let known: Vec<_> = outputs.iter().map(|output| output.name.as_str()).collect();
            let problem = format!(
                "no output is named {:?}, there are {known:?}",
                self.output.as_str()
            );
            return Err(field("confidence.output", problem));
        };
        if !matches!(output.datatype, Datatype::Fp32 | Datatype::Fp64) {
            let problem = format!(
                "{:?} is {}: confidence is read from FP32 or FP64",
                self.output.as_str(),
                output.datatype.as_str()
            );
            return Err(field("confidence.output", problem));
        }
        if output.elements() > MOST_ELEMENTS {
            let problem = format!(
                "{:?} has {} elements: confidence is read from at most {MOST_ELEMENTS}",
                self.output.as_str(),
                output.elements()
            );
            return Err(field("confidence.output", problem));
        }
        self.reference.check("confidence.reference")
    }
}

impl Histogram {
    fn check(&self, at: &str) -> Result<(), ManifestError> {
        let (bins, edges) = (self.counts.len(), self.edges.len());
        if !BINS.contains(&bins) {
            let problem = format!("{bins} bins are not between {} and {}", BINS.start(), BINS.end());
            return Err(field(format!("{at}.counts"), problem));
        }
        if edges != bins + 1 {
            let problem = format!("{bins} bins have {} edges, here are {edges}", bins + 1);
            return Err(field(format!("{at}.edges"), problem));
        }
        if self.edges.iter().any(|edge| !edge.is_finite()) {
            return Err(field(
                format!("{at}.edges"),
                "every edge must be a finite number; what lies outside is counted at the ends",
            ));
        }
        if self.edges.windows(2).any(|pair| pair.first() >= pair.last()) {
            return Err(field(
                format!("{at}.edges"),
                "every edge must be larger than the one before",
            ));
        }
        let total = self
            .counts
            .iter()
            .try_fold(0u64, |sum, &count| sum.checked_add(count));
        match total {
            Some(1..=MOST_SAMPLES) => Ok(()),
            Some(0) => Err(field(
                format!("{at}.counts"),
                "all are 0: count at least one reply",
            )),
            _ => Err(field(
                format!("{at}.counts"),
                format!("together they are more than {MOST_SAMPLES}"),
            )),
        }
    }
}
