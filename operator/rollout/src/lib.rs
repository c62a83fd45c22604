//! The course of a rollout: which slots a new revision may reach, what their runtimes are told, and when it goes on, back
//! or waits.
//!
//! [`advance`] takes a [`Record`] (kept in the API server), a [`Policy`] and a [`Sight`], and returns the next record and
//! why it waits. It reads no clock and no environment (a test holds that): all times are in the record or in the sight,
//! so that a crash at any point leads to the same end.

mod advance;
mod cohort;
mod order;
mod record;

pub use advance::{Carry, Decided, Decision, Sight, SlotSeen, Step, Waits, advance};
pub use cohort::{Cohort, OnInconclusive, Policy, Selector, SlotFacts, members};
pub use order::{FIRST_BLOCK, MIRROR_PER_MINUTE, Mode, Order, order};
pub use record::{Record, SCHEMA, Stage, State};
