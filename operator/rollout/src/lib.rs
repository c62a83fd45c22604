//! Rollouts by cohorts: where one stands, and what it may do next, as a pure function of what was seen.
//!
//! [`step`] takes a [`Policy`], a [`Record`] (what is kept of the rollout between passes), the slots, the verdicts of
//! cohorts, what people decided, and the time; it returns the record to keep and what may be done now. It reads no
//! clock, and its crate has no client: a test holds that. After a crash the next step reaches the same end.
//!
//! What lives here: who is in which cohort, when a cohort opens, how many slots change at once, when it is judged,
//! rolled back or left waiting. What does not: how a slot changes its revision (the planner), how evidence becomes a
//! verdict (`perwatt-verdict`), selectors of Kubernetes.

pub mod membership;
pub mod policy;
pub mod record;

mod step;

pub use membership::{Fit, join, snapshot};
pub use policy::{Approval, Cohort, Limit, OnInconclusive, Policy, PolicyError, Span};
pub use record::{CohortRecord, Ending, Record};
pub use step::{CohortView, Decision, Phase, Seen, Slot, SlotState, Step, Word, step};
