//! Verdicts on canaries: whether a new revision does no worse than its incumbent, as a pure function of cumulative
//! evidence.
//!
//! [`judge`] takes [`Evidence`] and [`Settings`] and returns a [`Judgement`]. It reads no clock and no environment,
//! and its crate has few dependencies (a test holds both). The same evidence gives the same judgement, in whatever
//! order it came. A verdict stays valid however often one looks: `docs/verdicts.md` gives each method with its source,
//! what it assumes, and what it does not protect against.
//!
//! What lives here: the evidence and its checks, the statistics, the sentences, what a rollout can detect
//! ([`preview`]), how long blocks last ([`schedule`]). What does not: collecting evidence, cohorts, what is done about
//! a verdict.

pub mod evidence;
pub mod judgement;
pub mod preview;
pub mod schedule;
pub mod settings;

mod contrast;
mod intake;
mod judge;
mod measuring;
mod nodes;
mod past;
mod progress;
mod proportion;
mod rank;
mod sentence;
mod sketch;
mod switchback;
mod wealth;

pub use evidence::{Arm, Counts, Evidence, EvidenceError, Turn, Unit};
pub use judge::judge;
pub use judgement::{Finding, Judgement, Verdict};
pub use progress::Progress;
pub use settings::{Limit, Metric, Rule, Settings, SettingsError};
pub use sketch::Sketch;
