//! Latencies as the runtime counts them: the buckets of an HDR histogram with two significant digits.

use crate::evidence::{EvidenceError, MAX_COUNT};
use serde::{Deserialize, Serialize};

/// Significant digits of the buckets.
pub const DIGITS: u8 = 2;
/// Longest latency that is told apart, in microseconds, and the end of the bucket that holds it.
const LONGEST: u64 = 603_979_775;
/// Most buckets that such a histogram has.
const MAX_BUCKETS: usize = 4_096;

/// The counts of a histogram, without its empty buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sketch {
    /// Significant digits of the buckets, [`DIGITS`].
    pub significant_digits: u8,
    /// Upper end of a bucket in microseconds, and how many latencies it holds; in order.
    pub microseconds: Vec<(u64, u64)>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            significant_digits: DIGITS,
            microseconds: Vec::new(),
        }
    }
}

/// Width of the bucket that holds a value: 1 up to 255, then twice as wide with every doubling of the value.
fn width(value: u64) -> u64 {
    1 << value.checked_ilog2().unwrap_or(0).saturating_sub(7)
}

/// Upper end of the bucket that holds a latency in microseconds.
#[must_use]
pub fn bucket_end(microseconds: u64) -> u64 {
    let value = microseconds.clamp(1, 600_000_000);
    value | (width(value) - 1)
}

impl Sketch {
    /// Of latencies in microseconds.
    #[must_use]
    pub fn of(latencies: &mut [u64]) -> Self {
        latencies.sort_unstable();
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        for &latency in latencies.iter() {
            let end = bucket_end(latency);
            match buckets.last_mut() {
                Some((last, count)) if *last == end => *count += 1,
                _ => buckets.push((end, 1)),
            }
        }
        Self {
            significant_digits: DIGITS,
            microseconds: buckets,
        }
    }

    /// How many latencies there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.microseconds
            .iter()
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// How many are above a limit in microseconds; of a bucket that the limit cuts, the part above it.
    #[must_use]
    pub fn above(&self, limit: f64) -> f64 {
        let first = self
            .microseconds
            .partition_point(|(end, _)| (*end as f64) <= limit);
        let Some((cut, rest)) = self.microseconds.get(first..).and_then(<[_]>::split_first) else {
            return 0.0;
        };
        let whole: u64 = rest.iter().map(|(_, count)| count).sum();
        let part = ((cut.0 as f64 - limit) / width(cut.0) as f64).min(1.0);
        whole as f64 + part * cut.1 as f64
    }

    /// End of the bucket below or at which `permille` of all are; nothing where there are none.
    #[must_use]
    pub fn quantile(&self, permille: u16) -> Option<u64> {
        let wanted = (u128::from(self.count()) * u128::from(permille)).div_ceil(1_000);
        let mut seen = 0u128;
        let reached = |(_, count): &&(u64, u64)| {
            seen += u128::from(*count);
            seen >= wanted
        };
        self.microseconds.iter().find(reached).map(|(end, _)| *end)
    }

    /// Adds the counts of another.
    pub fn add(&mut self, other: &Self) {
        let left = std::mem::take(&mut self.microseconds);
        let (mut left, mut right) = (
            left.into_iter().peekable(),
            other.microseconds.iter().copied().peekable(),
        );
        loop {
            let next = match (left.peek().copied(), right.peek().copied()) {
                (Some(l), Some(r)) if l.0 == r.0 => {
                    left.next();
                    right.next();
                    (l.0, l.1.saturating_add(r.1))
                }
                (Some(l), Some(r)) if l.0 > r.0 => {
                    right.next();
                    r
                }
                (Some(l), _) => {
                    left.next();
                    l
                }
                (None, Some(r)) => {
                    right.next();
                    r
                }
                (None, None) => return,
            };
            self.microseconds.push(next);
        }
    }

    /// Says what is wrong with it.
    ///
    /// # Errors
    /// Where its buckets are not those of the runtime, or not in order, or hold too much.
    pub fn check(&self) -> Result<(), EvidenceError> {
        if self.significant_digits != DIGITS {
            return Err(EvidenceError::Digits(self.significant_digits));
        }
        if self.microseconds.len() > MAX_BUCKETS {
            return Err(EvidenceError::Many(
                "buckets of latency",
                self.microseconds.len(),
                MAX_BUCKETS,
            ));
        }
        let mut before = 0;
        for &(end, count) in &self.microseconds {
            if end <= before || end > LONGEST || end | (width(end) - 1) != end {
                return Err(EvidenceError::Bucket(end));
            }
            if count > MAX_COUNT {
                return Err(EvidenceError::Count("latencies", count));
            }
            before = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_an_hdr_histogram_with_two_digits() {
        // What `hdrhistogram` gives for these, with bounds 1 to 600,000,000 and two digits.
        for (value, end) in [
            (1, 1),
            (255, 255),
            (256, 257),
            (1_000, 1_003),
            (2_015, 2_015),
            (80_000, 80_383),
        ] {
            assert_eq!(bucket_end(value), end, "{value}");
        }
        assert_eq!(bucket_end(u64::MAX), bucket_end(600_000_000));
    }

    #[test]
    fn what_is_above_a_limit_is_counted_and_a_cut_bucket_in_part() {
        let sketch = Sketch::of(&mut [100, 1_000, 1_001, 5_000]);
        assert_eq!(sketch.above(0.0), 4.0);
        assert_eq!(sketch.above(1_003.0), 1.0);
        assert_eq!(
            sketch.above(1_001.0),
            2.0,
            "half of the bucket 1,000 to 1,003 is above 1,001"
        );
        assert_eq!(sketch.above(1e9), 0.0);
    }

    #[test]
    fn merged_is_the_sketch_of_all_and_quantiles_are_ends_of_buckets() {
        let all: Vec<u64> = (0..500).map(|n| 1 + n * n).collect();
        let mut merged = Sketch::of(&mut all[..200].to_vec());
        merged.add(&Sketch::of(&mut all[200..].to_vec()));
        assert_eq!(merged, Sketch::of(&mut all.clone()));
        assert_eq!(merged.quantile(950), Some(bucket_end(all[474])));
        assert_eq!(Sketch::default().quantile(950), None);
        merged.check().unwrap();
    }

    #[test]
    fn foreign_buckets_are_refused() {
        let with = |buckets: &[(u64, u64)]| Sketch {
            significant_digits: 2,
            microseconds: buckets.to_vec(),
        };
        for bad in [
            &[(0, 1)][..],
            &[(5, 1), (5, 1)],
            &[(1_001, 1)],
            &[(u64::MAX, 1)],
            &[(5, u64::MAX)],
        ] {
            with(bad).check().unwrap_err();
        }
        Sketch {
            significant_digits: 3,
            ..with(&[])
        }
        .check()
        .unwrap_err();
    }
}
