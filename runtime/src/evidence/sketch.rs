//! Latencies as a histogram that can be added to another one without loss.
//!
//! The buckets are those of an HDR histogram with two significant digits: integer arithmetic alone decides which
//! bucket a latency is in, so that two machines never disagree. Merging adds counts, bucket by bucket.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart, in microseconds; longer ones count as this.
pub const LONGEST: u64 = 600_000_000;
/// Digits of a latency that are kept: 1 percent.
pub const DIGITS: u8 = 2;

/// The counts of a histogram, without its empty buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sketch {
    /// Significant digits of the buckets, [`DIGITS`].
    pub significant_digits: u8,
    /// Upper end of a bucket in microseconds, and how many latencies it holds; in order.
    pub microseconds: Vec<(u64, u64)>,
}

/// Why a sketch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SketchError {
    /// Its buckets are others than ours.
    #[error("its latencies have {0} significant digits, {DIGITS} can be read")]
    Digits(u8),
    /// A latency is outside of what is told apart.
    #[error("a latency of {0} microseconds is not between 1 and {LONGEST}")]
    Value(u64),
}

/// An empty histogram; nothing where it cannot be made.
pub fn empty() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).ok()
}

impl Sketch {
    /// The counts of a histogram that [`empty`] made.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let buckets = histogram.iter_recorded();
        Self {
            significant_digits: DIGITS,
            microseconds: buckets
                .map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()))
                .collect(),
        }
    }

    /// Adds the counts to a histogram that [`empty`] made.
    ///
    /// # Errors
    /// When the buckets are others; then nothing was added.
    pub fn add_to(&self, histogram: &mut Histogram<u64>) -> Result<(), SketchError> {
        if self.significant_digits != DIGITS {
            return Err(SketchError::Digits(self.significant_digits));
        }
        // The last bucket ends a little above the longest latency.
        let longest = histogram.highest_equivalent(LONGEST);
        let wrong = self
            .microseconds
            .iter()
            .find(|(value, _)| !(1..=longest).contains(value));
        if let Some(&(value, _)) = wrong {
            return Err(SketchError::Value(value));
        }
        for &(value, count) in &self.microseconds {
            histogram.saturating_record_n(value.min(LONGEST), count);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = empty().unwrap();
        for value in values {
            histogram.saturating_record(value);
        }
        histogram
    }

    #[test]
    fn merged_sketches_are_the_sketch_of_all() {
        let all = (0..5_000u64).map(|n| 1 + n * n * 24);
        let (left, right): (Vec<_>, Vec<_>) = all.clone().partition(|n| n % 3 == 0);
        let mut merged = empty().unwrap();
        for part in [filled(left), filled(right)] {
            // Through JSON, as the operator gets it.
            let text = serde_json::to_string(&Sketch::of(&part)).unwrap();
            let read: Sketch = serde_json::from_str(&text).unwrap();
            read.add_to(&mut merged).unwrap();
        }
        let whole = filled(all);
        assert_eq!(Sketch::of(&merged), Sketch::of(&whole));
        for q in [0.5, 0.95, 0.99, 1.0] {
            assert_eq!(merged.value_at_quantile(q), whole.value_at_quantile(q));
        }
    }

    #[test]
    fn a_latency_keeps_two_digits_from_one_microsecond_to_the_longest() {
        for value in [1, 9, 99, 1234, 56_789, 12_345_678, LONGEST, u64::MAX] {
            let sketch = Sketch::of(&filled([value]));
            let &[(upper, 1)] = &sketch.microseconds[..] else {
                panic!("{sketch:?}")
            };
            let expected = value.min(LONGEST) as f64;
            assert!(
                (upper as f64 - expected).abs() <= expected * 0.01,
                "{value}: {upper}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_adds_nothing() {
        let mut histogram = empty().unwrap();
        let sketch = |digits, microseconds: &[(u64, u64)]| Sketch {
            significant_digits: digits,
            microseconds: microseconds.to_vec(),
        };
        for bad in [
            sketch(3, &[(5, 1)]),
            sketch(2, &[(5, 1), (0, 1)]),
            sketch(2, &[(5, 1), (u64::MAX, 1)]),
        ] {
            bad.add_to(&mut histogram).unwrap_err();
        }
        assert!(histogram.is_empty());
        sketch(2, &[(5, u64::MAX), (5, 7)])
            .add_to(&mut histogram)
            .unwrap();
        assert_eq!(histogram.count_at(5), u64::MAX, "it stops at the largest count");
    }
}
