//! What is kept of a rollout, on the ControllerRevision of the new revision.

use jiff::Timestamp;
use perwatt_verdict::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Version of the record. Within one version fields are only added.
pub const SCHEMA: u32 = 1;

/// A rollout, as far as it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Version of the record.
    pub schema: u32,
    /// The revision that is replaced.
    pub incumbent: String,
    /// When it began.
    pub began: Timestamp,
    /// How it is.
    pub state: State,
    /// Since when it is so.
    pub since: Timestamp,
    /// Rises with every change of what runtimes are told.
    pub generation: u64,
    /// The cohorts, in their order.
    pub cohorts: Vec<Stage>,
    /// Why it was rejected, for a person; empty where it was not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// How a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// On its way.
    Progressing,
    /// Every cohort passed: the revision is good.
    Complete,
    /// It failed: it is not tried again until a person says so.
    Rejected,
    /// The spec changed before it ended.
    Superseded,
}

/// A cohort of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Its slots, as they were when the rollout began. The last cohort has all others.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub members: BTreeSet<String>,
    /// When its slots were opened to the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Timestamp>,
    /// When all its slots that could be reached carried the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baking: Option<Timestamp>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Timestamp>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The same for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sentence: String,
}

impl Record {
    /// A rollout that begins: no cohort is open yet. `members` has the slots of all cohorts but the last.
    #[must_use]
    pub fn begin(incumbent: &str, names: &[&str], members: Vec<BTreeSet<String>>, now: Timestamp) -> Self {
        let members = members.into_iter().chain(std::iter::repeat_with(BTreeSet::new));
        let stage = |(name, members): (&&str, _)| Stage {
            name: (*name).to_owned(),
            members,
            ..Stage::default()
        };
        Self {
            schema: SCHEMA,
            incumbent: incumbent.to_owned(),
            began: now,
            state: State::Progressing,
            since: now,
            generation: 1,
            cohorts: names.iter().zip(members).map(stage).collect(),
            why: String::new(),
        }
    }

    /// The same from the start, after a rejection.
    #[must_use]
    pub fn again(&self, now: Timestamp) -> Self {
        let names: Vec<_> = self.cohorts.iter().map(|stage| stage.name.as_str()).collect();
        let members = self.cohorts.iter().map(|stage| stage.members.clone()).collect();
        Self {
            generation: self.generation + 1,
            ..Self::begin(&self.incumbent, &names, members, now)
        }
    }

    /// Place of the cohort that a slot is in.
    #[must_use]
    pub fn cohort_of(&self, slot: &str) -> usize {
        let named = self.cohorts.iter().position(|stage| stage.members.contains(slot));
        named.unwrap_or(self.cohorts.len().saturating_sub(1))
    }

    /// Whether a slot may run the new revision.
    #[must_use]
    pub fn is_open(&self, slot: &str) -> bool {
        let stage = self.cohorts.get(self.cohort_of(slot));
        match self.state {
            State::Progressing => stage.is_some_and(|stage| stage.opened.is_some()),
            State::Complete => true,
            State::Rejected | State::Superseded => false,
        }
    }

    /// Place of the cohort that is open and not over.
    #[must_use]
    pub fn current(&self) -> Option<usize> {
        let open = |stage: &Stage| stage.opened.is_some() && stage.closed.is_none();
        let found = self.cohorts.iter().position(open);
        found.filter(|_| self.state == State::Progressing)
    }

    /// The same with another state.
    #[must_use]
    pub fn to(&self, state: State, now: Timestamp, why: &str) -> Self {
        Self {
            state,
            since: now,
            generation: self.generation + 1,
            why: why.to_owned(),
            ..self.clone()
        }
    }
}
