//! What is kept of a rollout between passes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A rollout of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The revision.
    pub revision: String,
    /// The cohort of each slot.
    pub members: BTreeMap<String, usize>,
    /// Each cohort, in the policy's order.
    pub cohorts: Vec<CohortRecord>,
    /// How it ended; nothing while it goes on.
    pub ending: Option<Ending>,
}

/// What is kept of a cohort.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CohortRecord {
    /// When its first slot was allowed to change.
    pub opened: Option<Timestamp>,
    /// When all of its slots that could be reached first served the revision: its bake begins.
    pub complete: Option<Timestamp>,
    /// When it was judged good, or a person said so.
    pub passed: Option<Timestamp>,
}

/// How a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Every cohort passed.
    Complete,
    /// It was shown to be bad, or not judged in time, in this cohort.
    Rejected {
        /// The cohort.
        cohort: usize,
        /// Why.
        reason: String,
    },
    /// A person ended it.
    Aborted {
        /// Why.
        reason: String,
    },
}

impl Record {
    /// Of a rollout that begins.
    #[must_use]
    pub fn begin(revision: &str, members: BTreeMap<String, usize>, cohorts: usize) -> Self {
        Self {
            revision: revision.to_owned(),
            members,
            cohorts: vec![CohortRecord::default(); cohorts],
            ending: None,
        }
    }

    /// Whether slots are to return to the incumbent.
    #[must_use]
    pub fn rolls_back(&self) -> bool {
        matches!(
            self.ending,
            Some(Ending::Rejected { .. } | Ending::Aborted { .. })
        )
    }
}
