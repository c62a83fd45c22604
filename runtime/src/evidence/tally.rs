//! The counts of one variant, as they grow.

use super::sketch::{self, Sketch};
use super::{ConfidenceCounts, EnergyEvidence, EnergySum, FeedbackCounts, Latency, Record, TallyReading};
use crate::energy::{Energy, Source};
use crate::metrics::FeedbackKind;
use crate::telemetry::confidence::Window;
use hdrhistogram::Histogram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counts of one variant.
#[derive(Debug)]
pub struct Tally {
    inner: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    answered: u64,
    failed: u64,
    /// Microseconds from a request's last byte to its reply.
    latency: Histogram<u64>,
    /// At most one for each source, emulated or not.
    energy: Vec<EnergySum>,
    confidence: Vec<u64>,
    invalid: u64,
    window: Window,
    feedback: FeedbackCounts,
}

/// The confidence of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sureness {
    /// It lies in this bin of the reference.
    Bin(usize),
    /// It is no number.
    Invalid,
}

impl Tally {
    /// No requests yet; nothing where the latency histogram cannot be made. `bins` of confidence, 0 where the
    /// model declares none.
    pub fn new(bins: usize) -> Option<Self> {
        let counts = Counts {
            answered: 0,
            failed: 0,
            latency: sketch::empty()?,
            energy: Vec::new(),
            confidence: vec![0; bins],
            invalid: 0,
            window: Window::new(bins),
            feedback: FeedbackCounts::default(),
        };
        Some(Self {
            inner: Mutex::new(counts),
        })
    }

    // Nothing panics under this lock, so a poisoned lock holds whole counts.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an answer.
    pub fn answered(&self, latency: Duration, energy: Option<&Energy>, sureness: Option<Sureness>) {
        let mut counts = self.lock();
        counts.answered += 1;
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        counts
            .latency
            .saturating_record(microseconds.clamp(1, sketch::LONGEST));
        if let Some(energy) = energy {
            add_energy(&mut counts.energy, &EnergySum::of(energy));
        }
        match sureness {
            Some(Sureness::Bin(bin)) => {
                if let Some(count) = counts.confidence.get_mut(bin) {
                    *count += 1;
                }
                counts.window.add(bin);
            }
            Some(Sureness::Invalid) => counts.invalid += 1,
            None => {}
        }
    }

    /// Counts a call that gave no answer.
    pub fn failed(&self) {
        self.lock().failed += 1;
    }

    /// Counts what an application said of an answer.
    pub fn feedback(&self, kind: FeedbackKind) {
        self.lock().feedback.add(kind);
    }

    /// How far the last answers' confidence is from the reference; nothing while there are too few.
    pub fn shift(&self, reference: &[u64]) -> Option<f64> {
        self.lock().window.shift(reference)
    }

    /// What was counted so far, for display.
    pub fn read(&self) -> TallyReading {
        let counts = self.lock();
        let seconds = |quantile| match counts.latency.is_empty() {
            true => 0.0,
            false => counts.latency.value_at_quantile(quantile) as f64 / 1e6,
        };
        TallyReading {
            requests: counts.answered + counts.failed,
            failures: counts.failed,
            latency_seconds: Latency {
                p50: seconds(0.50),
                p95: seconds(0.95),
                p99: seconds(0.99),
                count: counts.latency.len(),
            },
            energy: counts.energy.last().map(EnergyEvidence::of),
        }
    }

    /// What was counted so far, to be merged with others; nothing while nothing was.
    pub fn record(
        &self,
        revision: &str,
        variant: &str,
        device: Option<&str>,
        edges: &[f64],
    ) -> Option<Record> {
        let counts = self.lock();
        if counts.answered + counts.failed + counts.feedback.total() == 0 {
            return None;
        }
        let confidence = (!edges.is_empty()).then(|| ConfidenceCounts {
            edges: edges.to_vec(),
            counts: counts.confidence.clone(),
            invalid: counts.invalid,
        });
        Some(Record {
            revision: revision.to_owned(),
            variant: variant.to_owned(),
            device: device.map(str::to_owned),
            answered: counts.answered,
            failed: counts.failed,
            latency: Sketch::of(&counts.latency),
            energy: counts.energy.clone(),
            confidence,
            feedback: counts.feedback,
        })
    }

    /// Adds what an earlier process counted; false where it does not fit, and then nothing was added.
    #[must_use]
    pub fn restore(&self, record: &Record, edges: &[f64]) -> bool {
        let mut counts = self.lock();
        let confidence = record.confidence.as_ref();
        let same_bins = confidence.map_or(edges.is_empty(), |saved| {
            same_edges(&saved.edges, edges) && saved.counts.len() == counts.confidence.len()
        });
        if !same_bins || record.latency.add_to(&mut counts.latency).is_err() {
            return false;
        }
        counts.answered = counts.answered.saturating_add(record.answered);
        counts.failed = counts.failed.saturating_add(record.failed);
        for sum in &record.energy {
            add_energy(&mut counts.energy, sum);
        }
        if let Some(saved) = confidence {
            for (count, saved) in counts.confidence.iter_mut().zip(&saved.counts) {
                *count = count.saturating_add(*saved);
            }
            counts.invalid = counts.invalid.saturating_add(saved.invalid);
        }
        counts.feedback.merge(&record.feedback);
        true
    }
}

/// Whether edges are the same: the JSON between may have cost a last digit.
fn same_edges(left: &[f64], right: &[f64]) -> bool {
    let same = |(l, r): (&f64, &f64)| (l - r).abs() <= 1e-12 * l.abs().max(r.abs());
    left.len() == right.len() && left.iter().zip(right).all(same)
}

/// Adds to the sum of the same source, which becomes the last: it is the one that is shown.
fn add_energy(sums: &mut Vec<EnergySum>, more: &EnergySum) {
    let same = |sum: &EnergySum| (sum.source, sum.emulated) == (more.source, more.emulated);
    let mut sum = match sums.iter().position(same) {
        Some(place) => sums.remove(place),
        None => EnergySum {
            nanojoules: 0,
            inferences: 0,
            ..*more
        },
    };
    sum.nanojoules = sum.nanojoules.saturating_add(more.nanojoules);
    sum.inferences = sum.inferences.saturating_add(more.inferences);
    sums.push(sum);
}

impl EnergySum {
    fn of(energy: &Energy) -> Self {
        Self {
            source: energy.source,
            emulated: energy.emulated,
            // A float that is too large, or no number, becomes the nearest integer or 0.
            nanojoules: (energy.microjoules * 1e3).round() as u64,
            inferences: 1,
        }
    }
}

impl EnergyEvidence {
    fn of(sum: &EnergySum) -> Self {
        let source: Source = sum.source;
        Self {
            microjoules_per_inference: (sum.nanojoules as f64 / sum.inferences.max(1) as f64 / 1e3).round()
                as u64,
            source: source.as_str(),
            emulated: sum.emulated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: [f64; 3] = [0.0, 0.5, 1.0];

    fn energy(microjoules: f64, source: Source) -> Energy {
        Energy {
            microjoules,
            source,
            emulated: true,
        }
    }

    fn filled() -> Tally {
        let tally = Tally::new(2).unwrap();
        let (cheap, dear) = (energy(2.5, Source::Nameplate), energy(4.0, Source::Measured));
        tally.answered(Duration::from_micros(700), Some(&dear), Some(Sureness::Bin(1)));
        tally.answered(Duration::from_micros(900), Some(&cheap), Some(Sureness::Bin(1)));
        tally.answered(Duration::from_millis(80), Some(&cheap), Some(Sureness::Invalid));
        tally.failed();
        tally.feedback(FeedbackKind::Miss);
        tally
    }

    #[test]
    fn every_source_of_energy_has_its_own_sum_and_the_last_is_shown() {
        let tally = filled();
        let record = tally.record("r", "npu", Some("d"), &EDGES).unwrap();
        let sums: Vec<_> = record
            .energy
            .iter()
            .map(|e| (e.source, e.nanojoules, e.inferences))
            .collect();
        assert_eq!(
            sums,
            [(Source::Measured, 4_000, 1), (Source::Nameplate, 5_000, 2)]
        );
        let shown = tally.read().energy.unwrap();
        assert_eq!((shown.microjoules_per_inference, shown.source), (3, "nameplate"));
    }

    #[test]
    fn what_is_restored_counts_as_if_it_had_never_been_away() {
        let record = filled().record("r", "npu", None, &EDGES).unwrap();
        let text = serde_json::to_string(&record).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(read, record);
        let tally = filled();
        assert!(tally.restore(&read, &EDGES));
        let both = tally.record("r", "npu", None, &EDGES).unwrap();
        assert_eq!((both.answered, both.failed), (6, 2));
        assert_eq!(both.confidence.as_ref().unwrap().counts, [0, 4]);
        assert_eq!(both.confidence.unwrap().invalid, 2);
        assert_eq!(both.feedback.miss, 2);
        assert_eq!(both.energy.iter().map(|e| e.inferences).sum::<u64>(), 6);
        assert_eq!(both.latency.microseconds.iter().map(|b| b.1).sum::<u64>(), 6);
    }

    #[test]
    fn other_bins_are_not_mixed_in() {
        let record = filled().record("r", "npu", None, &EDGES).unwrap();
        for (bins, edges) in [(0, &[][..]), (2, &[0.0, 0.4, 1.0]), (3, &[0.0, 0.2, 0.5, 1.0])] {
            let tally = Tally::new(bins).unwrap();
            assert!(!tally.restore(&record, edges));
            assert!(
                tally.record("r", "npu", None, edges).is_none(),
                "nothing was added"
            );
        }
    }
}
