//! What the runtime of a slot is told.

use crate::record::{Record, State};
use jiff::Timestamp;
use perwatt_verdict::schedule;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Length of the first blocks.
pub const FIRST_BLOCK: Duration = Duration::from_secs(2);
/// Most inputs in a minute that both revisions answer.
pub const MIRROR_PER_MINUTE: u32 = 60;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The revision that is replaced.
    Incumbent,
    /// The new one.
    Candidate,
    /// Both, in turns.
    Compare,
}

/// A command to a runtime that carries both revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Who answers.
    pub mode: Mode,
    /// What the order of blocks comes from.
    pub seed: u64,
    /// Length of a block.
    pub block_seconds: u64,
    /// Most inputs in a minute that both answer.
    pub mirror_per_minute: u32,
    /// Rises with every change.
    pub generation: u64,
}

/// What the runtime of a slot is told. `secret` makes the order of blocks one that nobody can foresee.
///
/// Blocks grow with the time since the cohort was opened, and with nothing else: a schedule that reacted to what is seen
/// would not be fair.
#[must_use]
pub fn order(record: &Record, slot: &str, secret: u64, now: Timestamp) -> Order {
    let stage = record.cohorts.get(record.cohort_of(slot));
    let opened = stage.and_then(|stage| stage.opened);
    let closed = stage.is_some_and(|stage| stage.closed.is_some());
    let mode = match (record.state, opened) {
        (State::Complete, _) => Mode::Candidate,
        (State::Progressing, Some(_)) if closed => Mode::Candidate,
        (State::Progressing, Some(_)) => Mode::Compare,
        _ => Mode::Incumbent,
    };
    let age = opened.map_or(Duration::ZERO, |opened| {
        Duration::try_from(now.duration_since(opened)).unwrap_or_default()
    });
    let turns = schedule::turns(FIRST_BLOCK, age);
    let block = schedule::block(FIRST_BLOCK, turns);
    let growth = match mode {
        Mode::Compare => u64::from(turns / schedule::TURNS_OF_A_LENGTH).min(255),
        // The last word of a generation.
        Mode::Incumbent | Mode::Candidate => 255,
    };
    Order {
        mode,
        seed: secret,
        block_seconds: if mode == Mode::Compare { block.as_secs() } else { 1 },
        mirror_per_minute: if mode == Mode::Compare {
            MIRROR_PER_MINUTE
        } else {
            0
        },
        generation: record.generation * 256 + growth,
    }
}
