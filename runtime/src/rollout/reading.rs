//! One look at the cumulative counters of a revision, and what was counted between two of them.

use crate::energy::Source;
use crate::evidence::{EnergySum, Record, Totals};
use perwatt_verdict::Sketch;
use perwatt_verdict::evidence::{Counts, Energy, EvidenceError, Feedback, Source as Meter};
use std::time::Duration;

/// Cumulative counters of one revision.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    counts: Counts,
    energy: Vec<EnergySum>,
}

impl Reading {
    /// Adds up the records of a revision, whatever variant and device they are of.
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>, totals: &Totals) -> Self {
        let mut reading = Self::default();
        let counts = &mut reading.counts;
        counts.failed = totals.unanswered;
        counts.fallbacks = totals.fallbacks;
        for record in records {
            counts.answered = counts.answered.saturating_add(record.answered);
            counts.latency.add(&Sketch {
                significant_digits: record.latency.significant_digits,
                microseconds: record.latency.microseconds.clone(),
            });
            add_confidence(&mut counts.confidence, record);
            let (sum, more) = (&mut counts.feedback, &record.feedback);
            *sum = Feedback {
                false_alarm: sum.false_alarm.saturating_add(more.false_alarm),
                miss: sum.miss.saturating_add(more.miss),
                correct: sum.correct.saturating_add(more.correct),
            };
            reading.energy.extend(&record.energy);
        }
        reading
    }

    /// What was counted since an earlier reading, in this time.
    ///
    /// # Errors
    /// Where a counter went back.
    pub fn since(&self, earlier: &Self, time: Duration) -> Result<Counts, EvidenceError> {
        Ok(Counts {
            milliseconds: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            energy: self.energy_since(earlier),
            ..self.counts.since(&earlier.counts)?
        })
    }

    /// Nothing where two kinds of figures grew: their sum would be a figure of neither.
    fn energy_since(&self, earlier: &Self) -> Option<Energy> {
        let mut grown = KINDS.iter().filter_map(|&(source, emulated)| {
            let now = sum(&self.energy, source, emulated);
            let before = sum(&earlier.energy, source, emulated);
            let inferences = now.1.checked_sub(before.1).filter(|count| *count > 0)?;
            Some(Energy {
                source: meter(source),
                emulated,
                nanojoules: now.0.saturating_sub(before.0),
                inferences,
                // Whoever knows the meter fills them in: the runtime does not.
                error_permille: 0,
                drift_permille: 0,
            })
        });
        let only = grown.next();
        only.filter(|_| grown.next().is_none())
    }
}

const KINDS: [(Source, bool); 6] = [
    (Source::Measured, false),
    (Source::Measured, true),
    (Source::Modelled, false),
    (Source::Modelled, true),
    (Source::Nameplate, false),
    (Source::Nameplate, true),
];

fn meter(source: Source) -> Meter {
    match source {
        Source::Measured => Meter::Measured,
        Source::Modelled => Meter::Modelled,
        Source::Nameplate => Meter::Nameplate,
    }
}

/// Nanojoules and inferences of one kind.
fn sum(sums: &[EnergySum], source: Source, emulated: bool) -> (u64, u64) {
    sums.iter()
        .filter(|sum| (sum.source, sum.emulated) == (source, emulated))
        .fold((0, 0), |(energy, count): (u64, u64), sum| {
            (
                energy.saturating_add(sum.nanojoules),
                count.saturating_add(sum.inferences),
            )
        })
}

/// Bins first, then what is no number.
fn add_confidence(sums: &mut Vec<u64>, record: &Record) {
    let Some(confidence) = &record.confidence else {
        return;
    };
    let counts = confidence.counts.iter().chain([&confidence.invalid]);
    if sums.is_empty() {
        sums.resize(confidence.counts.len() + 1, 0);
    }
    if sums.len() == confidence.counts.len() + 1 {
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum = sum.saturating_add(*count);
        }
    }
}
