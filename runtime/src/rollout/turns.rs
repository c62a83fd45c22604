//! Closed turns, in a ring of bounded size, until the operator has pulled them.

use crate::evidence::Epoch;
use perwatt_verdict::evidence::{Mirrored, Turn};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Turns that are kept.
const KEPT: usize = 128;
/// Turns in one answer.
const PAGE: usize = 32;

/// The last turns, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TurnRing {
    next: u32,
    /// The revisions that they compare.
    pair: Option<(String, String)>,
    turns: VecDeque<Turn>,
}

/// What comparing two revisions gave, as it is pulled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// The revision that is to be replaced.
    pub incumbent: String,
    /// The new one.
    pub candidate: String,
    /// Number of the last closed turn, 0 before the first.
    pub last: u32,
    /// Number of the oldest turn that is still kept; nothing where none is.
    pub oldest: Option<u32>,
    /// Turns after the one that was asked for, the oldest first: a full page where there are more. None where none was
    /// asked for.
    pub turns: Vec<Turn>,
    /// Ends of the bins of confidence; empty where none is declared.
    pub confidence_edges: Vec<f64>,
    /// Inputs that both revisions were given since this process began.
    pub mirrored: Mirrored,
}

impl TurnRing {
    /// The same for these revisions in this process: others are forgotten, and no number is used again.
    ///
    /// What a killed process closed after its last write is lost, but its numbers may have been pulled. A turn takes
    /// two seconds at least, so that the time since the epoch bounds them.
    pub fn resume(mut self, pair: (String, String), epoch: &Epoch) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let age = now
            .unwrap_or_default()
            .saturating_sub(Duration::from_secs(epoch.unix_seconds));
        let bound = u32::try_from(age.as_secs() / 2 + 1).unwrap_or(u32::MAX);
        self.next = self.next.max(bound);
        if self.pair.as_ref() != Some(&pair) {
            self.turns.clear();
        }
        self.pair = Some(pair);
        self
    }

    /// Adds a closed turn, and numbers it.
    pub fn push(&mut self, turn: Turn) {
        self.next = self.next.saturating_add(1);
        if self.turns.len() >= KEPT {
            self.turns.pop_front();
        }
        self.turns.push_back(Turn {
            number: self.next,
            ..turn
        });
    }

    /// Number of the last turn, and of the oldest that is kept.
    pub fn ends(&self) -> (u32, Option<u32>) {
        let number = |turn: &Turn| turn.number;
        (
            self.turns.back().map_or(0, number),
            self.turns.front().map(number),
        )
    }

    /// A page of the turns after one.
    pub fn after(&self, number: u32) -> Vec<Turn> {
        let newer = self.turns.iter().filter(|turn| turn.number > number);
        newer.take(PAGE).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::EpochReason;
    use perwatt_verdict::evidence::{Arm, Counts};

    fn turn() -> Turn {
        Turn {
            epoch: "1-1".into(),
            epoch_unix_seconds: 1,
            number: 0,
            first: Arm::Canary,
            canary: Counts::default(),
            incumbent: Counts::default(),
            mirrored: Mirrored::default(),
        }
    }

    fn pair() -> (String, String) {
        ("old".into(), "new".into())
    }

    #[test]
    fn the_oldest_go_first_and_pages_follow_one_another() {
        let mut ring = TurnRing::default();
        for _ in 0..200 {
            ring.push(turn());
        }
        assert_eq!(ring.ends(), (200, Some(73)));
        let mut seen = 0;
        let mut all = Vec::new();
        loop {
            let page = ring.after(seen);
            let Some(last) = page.last() else { break };
            assert!(page.len() <= PAGE);
            seen = last.number;
            all.extend(page.iter().map(|turn| turn.number));
        }
        assert_eq!(all, (73..=200).collect::<Vec<_>>());
    }

    #[test]
    fn no_number_is_used_twice_in_an_epoch_even_if_the_last_write_was_lost() {
        let mut epoch = Epoch::begin(EpochReason::FirstStart);
        epoch.unix_seconds -= 100;
        // A process that wrote nothing may have closed up to 50 turns.
        let mut ring = TurnRing::default().resume(pair(), &epoch);
        ring.push(turn());
        assert!(ring.ends().0 > 50);
    }

    #[test]
    fn turns_of_other_revisions_are_forgotten() {
        let epoch = Epoch::begin(EpochReason::FirstStart);
        let mut ring = TurnRing::default().resume(pair(), &epoch);
        ring.push(turn());
        let last = ring.ends().0;
        let same = ring.clone().resume(pair(), &epoch);
        assert_eq!(same.after(0).len(), 1);
        let mut other = ring.resume(("old".into(), "newer".into()), &epoch);
        assert!(other.after(0).is_empty());
        other.push(turn());
        assert!(other.ends().0 > last);
    }
}
