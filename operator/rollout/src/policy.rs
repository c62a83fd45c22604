//! What a rollout must keep to.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Most cohorts of a rollout.
pub const MAX_COHORTS: usize = 32;
/// Most windows in which nothing is changed.
pub const MAX_FREEZES: usize = 64;

/// How a new revision spreads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Cohorts, in the order in which they get a revision.
    pub cohorts: Vec<Cohort>,
    /// Most slots of all cohorts together that change at once.
    pub max_concurrent: u32,
    /// What becomes of a cohort that is not judged by its deadline.
    pub on_inconclusive: OnInconclusive,
    /// Times in which no slot gets the new revision; what is bad is still rolled back.
    #[serde(default)]
    pub freezes: Vec<Span>,
}

/// A named group of slots that gets a revision together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cohort {
    /// Its name.
    pub name: String,
    /// How long it runs the revision before it may be judged good.
    pub bake: SignedDuration,
    /// How long after it opened it may take to pass; for ever where there is none. A pause does not stop this clock, but
    /// nothing is late while it lasts.
    #[serde(default)]
    pub deadline: Option<SignedDuration>,
    /// Most of its slots that may be out of service at once.
    pub max_unavailable: Limit,
    /// Who lets it begin.
    pub approval: Approval,
}

/// A number of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// So many.
    Count(u32),
    /// So many of a hundred that can be reached, rounded down, but at least one.
    Percent(u8),
}

/// Who lets a cohort begin, once those before it are through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Approval {
    /// The verdicts before it.
    Automatic,
    /// A person besides.
    Manual,
}

/// What becomes of a cohort that is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnInconclusive {
    /// It waits.
    Hold,
    /// It is rolled back.
    Rollback,
}

/// From one time until before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first moment.
    pub from: Timestamp,
    /// The moment after the last.
    pub until: Timestamp,
}

/// Why a policy cannot be kept to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too few or too many cohorts.
    #[error("there are {0} cohorts; 1 to {MAX_COHORTS} are allowed")]
    Cohorts(usize),
    /// A name is used twice, or empty.
    #[error("a cohort's name is {0:?}: names must differ and not be empty")]
    Name(String),
    /// Nothing may ever change.
    #[error("{0} is 0: no slot could ever change; set at least 1")]
    Zero(&'static str),
    /// A duration below nothing.
    #[error("{0} of cohort {1:?} is negative")]
    Negative(&'static str, String),
    /// Too many windows, or one that ends before it begins.
    #[error("freeze windows must be at most {MAX_FREEZES}, and each must end after it begins")]
    Freezes,
}

impl Policy {
    /// Says what is wrong with it.
    ///
    /// # Errors
    /// What is wrong, and what is allowed.
    pub fn check(&self) -> Result<(), PolicyError> {
        if !(1..=MAX_COHORTS).contains(&self.cohorts.len()) {
            return Err(PolicyError::Cohorts(self.cohorts.len()));
        }
        if self.max_concurrent == 0 {
            return Err(PolicyError::Zero("maxConcurrent"));
        }
        for (place, cohort) in self.cohorts.iter().enumerate() {
            let twice = self
                .cohorts
                .iter()
                .take(place)
                .any(|other| other.name == cohort.name);
            if twice || cohort.name.is_empty() {
                return Err(PolicyError::Name(cohort.name.clone()));
            }
            cohort.check()?;
        }
        let wrong = self.freezes.iter().any(|span| span.from >= span.until);
        if wrong || self.freezes.len() > MAX_FREEZES {
            return Err(PolicyError::Freezes);
        }
        Ok(())
    }

    /// Until when nothing is changed, where that is so now.
    #[must_use]
    pub fn frozen(&self, now: Timestamp) -> Option<Timestamp> {
        let now_in = self
            .freezes
            .iter()
            .filter(|span| (span.from..span.until).contains(&now));
        now_in.map(|span| span.until).max()
    }
}

impl Cohort {
    fn check(&self) -> Result<(), PolicyError> {
        if matches!(self.max_unavailable, Limit::Count(0) | Limit::Percent(0)) {
            return Err(PolicyError::Zero("maxUnavailable"));
        }
        for (name, duration) in [("the bake", Some(self.bake)), ("the deadline", self.deadline)] {
            if duration.is_some_and(|duration| duration.is_negative()) {
                return Err(PolicyError::Negative(name, self.name.clone()));
            }
        }
        Ok(())
    }
}

impl Limit {
    /// How many of so many slots.
    #[must_use]
    pub fn of(self, slots: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => (slots * usize::from(percent.min(100)) / 100).max(1),
        }
    }
}
