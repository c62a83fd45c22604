//! What evidence must be before anything is concluded from it, and how it is put together.

use crate::evidence::{
    Alone, Counts, Energy, Evidence, MAX_BINS, MAX_COUNT, MAX_NAME, MAX_TURNS, MAX_UNITS, Measuring,
    Mirrored, SCHEMA, Turn, Unit,
};
use crate::sketch::Sketch;
use std::collections::BTreeMap;

/// What is wrong with evidence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvidenceError {
    /// Another format.
    #[error("its schema is {0}, {SCHEMA} can be read: upgrade the older side")]
    Schema(u32),
    /// It is about other revisions.
    #[error("it compares {0} with {1}, wanted is {2} with {3}")]
    OtherRevisions(String, String, String, String),
    /// A name is empty, or too long.
    #[error("a name has {0} bytes; 1 to {MAX_NAME} are allowed")]
    Name(usize),
    /// More than is kept.
    #[error("it has {1} {0}; at most {2} are read")]
    Many(&'static str, usize, usize),
    /// A counter is so large that it must have wrapped.
    #[error("{1} {0} cannot be: a counter wrapped or was read wrongly")]
    Count(&'static str, u64),
    /// A part is larger than what it is part of.
    #[error("it has {1} {0}, more than the {2} that there can be")]
    Part(&'static str, u64, u64),
    /// Latency in other buckets.
    #[error("its latencies have {0} significant digits, 2 can be read")]
    Digits(u8),
    /// A bucket that such a histogram does not have, or not in this place.
    #[error("a bucket of latency that ends at {0} microseconds does not belong there")]
    Bucket(u64),
    /// Bins of confidence.
    #[error("the ends of the bins of confidence are not numbers in rising order")]
    Edges,
    /// Counts of confidence in other bins.
    #[error("it has counts of {0} bins of confidence, declared are {1}")]
    Bins(usize, usize),
    /// Two versions of what should never change.
    #[error("block {1} of epoch {0:?} was reported twice with different counts")]
    Conflict(String, u32),
    /// A unit changed what it is.
    #[error("it was reported with series {0:?} and {1:?}, or with other bins, or with another time before")]
    OtherUnit(String, String),
    /// A cumulative counter went back.
    #[error(
        "{0} went back from {1} to {2}: the counter was reset or wrapped, and a block with that has no counts"
    )]
    WentBack(&'static str, u64, u64),
}

impl Evidence {
    /// Says what is wrong with the whole; each unit is checked for itself.
    ///
    /// # Errors
    /// Where the format is another, or there is too much.
    pub fn check(&self) -> Result<(), EvidenceError> {
        if self.schema != SCHEMA {
            return Err(EvidenceError::Schema(self.schema));
        }
        check_many("units", self.units.len(), MAX_UNITS)?;
        [&self.canary, &self.incumbent]
            .into_iter()
            .chain(self.units.keys())
            .try_for_each(|name| check_name(name))
    }

    /// Puts the evidence of others beside its own. What both have counts once, in whatever order it comes.
    ///
    /// # Errors
    /// Where it is about other revisions, or contradicts what is there; then nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvidenceError> {
        if (&self.canary, &self.incumbent) != (&other.canary, &other.incumbent) {
            let [canary, incumbent] = [other.canary.clone(), other.incumbent.clone()];
            let wanted = (self.canary.clone(), self.incumbent.clone());
            return Err(EvidenceError::OtherRevisions(
                canary, incumbent, wanted.0, wanted.1,
            ));
        }
        let mut merged = Vec::with_capacity(other.units.len());
        for (name, unit) in &other.units {
            let mut whole = self.units.get(name).cloned().unwrap_or_else(|| unit.like());
            whole.merge(unit)?;
            merged.push((name.clone(), whole));
        }
        self.units.extend(merged);
        Ok(())
    }
}

impl Unit {
    /// The same unit before it counted anything.
    fn like(&self) -> Self {
        Self {
            series: self.series.clone(),
            confidence_edges: self.confidence_edges.clone(),
            before: self.before.clone(),
            ..Self::default()
        }
    }

    /// Adds blocks that are new; those that are there already must be the same.
    ///
    /// # Errors
    /// Where the two contradict one another; then nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvidenceError> {
        let own = (&self.series, &self.confidence_edges, &self.before);
        if own != (&other.series, &other.confidence_edges, &other.before) {
            return Err(EvidenceError::OtherUnit(
                self.series.clone(),
                other.series.clone(),
            ));
        }
        let turns = merge_turns(&self.turns, &other.turns)?;
        self.alone = merge_alone(self.alone.as_ref(), other.alone.as_ref())?;
        self.turns = turns;
        self.measuring = self.measuring.newer(other.measuring);
        Ok(())
    }

    /// Says what is wrong with it.
    ///
    /// # Errors
    /// What is wrong, where something is: then nothing in it is to be used.
    pub fn check(&self) -> Result<(), EvidenceError> {
        check_name(&self.series)?;
        check_many("turns", self.turns.len(), MAX_TURNS)?;
        check_many("bins of confidence", self.confidence_edges.len(), MAX_BINS)?;
        let rising = self.confidence_edges.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || self.confidence_edges.iter().any(|edge| !edge.is_finite()) {
            return Err(EvidenceError::Edges);
        }
        merge_turns(&self.turns, &[])?;
        for turn in &self.turns {
            check_name(&turn.epoch)?;
            check_part(
                "different answers",
                turn.mirrored.different,
                turn.mirrored.compared,
            )?;
            check_count("mirrored inputs", turn.mirrored.compared)?;
            turn.canary.check(self.confidence_edges.len())?;
            turn.incumbent.check(self.confidence_edges.len())?;
        }
        if let Some(before) = &self.before {
            before.check(self.confidence_edges.len())?;
        }
        let Some(alone) = &self.alone else { return Ok(()) };
        check_many("windows", alone.windows.len(), MAX_TURNS)?;
        merge_alone(Some(alone), None)?;
        let mut windows = alone.windows.iter();
        windows.try_for_each(|window| window.counts.check(self.confidence_edges.len()))
    }

    /// Turns in the order in which they were.
    pub(crate) fn in_order(&self) -> Vec<&Turn> {
        let mut turns: Vec<&Turn> = self.turns.iter().collect();
        turns.sort_by_key(|turn| turn.place());
        turns
    }
}

impl Turn {
    fn place(&self) -> (u64, &str, u32) {
        (self.epoch_unix_seconds, &self.epoch, self.number)
    }
}

impl Measuring {
    /// The one that has seen more: both are cumulative.
    fn newer(self, other: Self) -> Self {
        if (other.asked, other.failed) > (self.asked, self.failed) {
            other
        } else {
            self
        }
    }
}

fn merge_turns(left: &[Turn], right: &[Turn]) -> Result<Vec<Turn>, EvidenceError> {
    let mut known: BTreeMap<(&str, u32), &Turn> = BTreeMap::new();
    for turn in left.iter().chain(right) {
        let earlier = *known.entry((&turn.epoch, turn.number)).or_insert(turn);
        if earlier != turn {
            return Err(EvidenceError::Conflict(turn.epoch.clone(), turn.number));
        }
    }
    let mut turns: Vec<Turn> = known.into_values().cloned().collect();
    turns.sort_by(|left, right| left.place().cmp(&right.place()));
    check_many("turns", turns.len(), MAX_TURNS)?;
    Ok(turns)
}

fn merge_alone(left: Option<&Alone>, right: Option<&Alone>) -> Result<Option<Alone>, EvidenceError> {
    let Some(first) = left.or(right) else {
        return Ok(None);
    };
    let mut windows = BTreeMap::new();
    for alone in [left, right].into_iter().flatten() {
        let conflict = |number| EvidenceError::Conflict("alone".into(), number);
        if alone.arm != first.arm {
            return Err(conflict(0));
        }
        for window in &alone.windows {
            if *windows.entry(window.number).or_insert(window) != window {
                return Err(conflict(window.number));
            }
        }
    }
    Ok(Some(Alone {
        windows: windows.into_values().cloned().collect(),
        ..first.clone()
    }))
}

impl Counts {
    /// What was counted between two readings of cumulative counters of one epoch.
    ///
    /// # Errors
    /// Where a counter went back: it was reset or wrapped, and what is between is not known.
    pub fn since(&self, earlier: &Self) -> Result<Self, EvidenceError> {
        Ok(Self {
            milliseconds: less("milliseconds", self.milliseconds, earlier.milliseconds)?,
            answered: less("answered requests", self.answered, earlier.answered)?,
            failed: less("failed requests", self.failed, earlier.failed)?,
            fallbacks: less("fallbacks", self.fallbacks, earlier.fallbacks)?,
            restarts: less("restarts", self.restarts, earlier.restarts)?,
            latency: self.latency.since(&earlier.latency)?,
            energy: self
                .energy
                .map(|energy| energy.since(earlier.energy))
                .transpose()?,
            confidence: (self.confidence.iter().enumerate())
                .map(|(bin, count)| {
                    less(
                        "confidences",
                        *count,
                        earlier.confidence.get(bin).copied().unwrap_or(0),
                    )
                })
                .collect::<Result<_, _>>()?,
            feedback: crate::evidence::Feedback {
                false_alarm: less(
                    "false alarms",
                    self.feedback.false_alarm,
                    earlier.feedback.false_alarm,
                )?,
                miss: less("misses", self.feedback.miss, earlier.feedback.miss)?,
                correct: less("correct answers", self.feedback.correct, earlier.feedback.correct)?,
            },
        })
    }

    fn check(&self, edges: usize) -> Result<(), EvidenceError> {
        let energy = self.energy.as_ref();
        for (what, count) in [
            ("milliseconds", self.milliseconds),
            ("answered requests", self.answered),
            ("failed requests", self.failed),
            ("restarts", self.restarts),
            ("nanojoules", energy.map_or(0, |energy| energy.nanojoules)),
            ("inferences", energy.map_or(0, |energy| energy.inferences)),
            ("feedbacks", self.feedback.total()),
        ] {
            check_count(what, count)?;
        }
        self.latency.check()?;
        check_part("latencies", self.latency.count(), self.answered)?;
        check_part("fallbacks", self.fallbacks, self.requests())?;
        let sure = self
            .confidence
            .iter()
            .fold(0, |sum: u64, count| sum.saturating_add(*count));
        check_part("confidences", sure, self.answered)?;
        // As many bins as there are spaces between the edges, and one for what is no number.
        if self.confidence.is_empty() || self.confidence.len() == edges {
            Ok(())
        } else {
            Err(EvidenceError::Bins(self.confidence.len(), edges))
        }
    }
}

impl Energy {
    fn since(&self, earlier: Option<Self>) -> Result<Self, EvidenceError> {
        let Some(earlier) = earlier else { return Ok(*self) };
        // Of another source nothing can be taken off: both sums began at 0 with the source.
        if (earlier.source, earlier.emulated) != (self.source, self.emulated) {
            return Ok(*self);
        }
        Ok(Self {
            nanojoules: less("nanojoules", self.nanojoules, earlier.nanojoules)?,
            inferences: less("inferences", self.inferences, earlier.inferences)?,
            ..*self
        })
    }
}

impl Sketch {
    /// The latencies between two readings.
    fn since(&self, earlier: &Self) -> Result<Self, EvidenceError> {
        let before: BTreeMap<u64, u64> = earlier.microseconds.iter().copied().collect();
        let now: BTreeMap<u64, u64> = self.microseconds.iter().copied().collect();
        if let Some((_, count)) = before
            .iter()
            .find(|(end, count)| **count > 0 && !now.contains_key(*end))
        {
            return Err(EvidenceError::WentBack("latencies", *count, 0));
        }
        let grown = now.into_iter().map(|(end, count)| {
            let count = less("latencies", count, before.get(&end).copied().unwrap_or(0))?;
            Ok((end, count))
        });
        Ok(Self {
            significant_digits: self.significant_digits,
            microseconds: grown
                .filter(|bucket| !matches!(bucket, Ok((_, 0))))
                .collect::<Result<_, EvidenceError>>()?,
        })
    }
}

impl Mirrored {
    /// Adds those of another turn.
    pub(crate) fn add(&mut self, other: Self) {
        self.compared = self.compared.saturating_add(other.compared);
        self.different = self.different.saturating_add(other.different);
    }
}

fn less(what: &'static str, now: u64, before: u64) -> Result<u64, EvidenceError> {
    now.checked_sub(before)
        .ok_or(EvidenceError::WentBack(what, before, now))
}

fn check_name(name: &str) -> Result<(), EvidenceError> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(EvidenceError::Name(name.len()));
    }
    Ok(())
}

fn check_many(what: &'static str, have: usize, most: usize) -> Result<(), EvidenceError> {
    if have > most {
        Err(EvidenceError::Many(what, have, most))
    } else {
        Ok(())
    }
}

fn check_count(what: &'static str, count: u64) -> Result<(), EvidenceError> {
    if count > MAX_COUNT {
        Err(EvidenceError::Count(what, count))
    } else {
        Ok(())
    }
}

fn check_part(what: &'static str, part: u64, whole: u64) -> Result<(), EvidenceError> {
    if part > whole {
        Err(EvidenceError::Part(what, part, whole))
    } else {
        Ok(())
    }
}
