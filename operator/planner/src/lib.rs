//! The planner: what should serve where, as a pure function of what was seen.
//!
//! [`plan`] takes a [`World`] and a time and returns a [`Plan`]. It never awaits, reads no
//! clock and no environment, and its crate depends on no Kubernetes client (a test holds that).
//! The same world and time give the same plan. `README.md` states the problem and the
//! properties that the tests hold.

pub mod cost;
pub mod figure;
pub mod outcome;
pub mod revision;
pub mod unavailable;
pub mod world;

mod agent;
mod attempt;
mod board;
mod breaker;
mod bridge;
mod check;
mod choose;
mod device;
mod explain;
mod give_up;
mod index;
mod keep;
mod ledger;
mod load;
mod name;
mod pass;
mod places;
mod power;
mod replan;
mod rules;
mod serving;
mod shed;
mod site;
mod slot;
mod steps;
mod survey;
mod turns;
mod ways;
mod yields;

pub use agent::{AGENT_GRACE, silent_agents};
pub use attempt::{BACK_OFF_FIRST, BACK_OFF_LONGEST, BACK_OFF_RESET};
pub use breaker::BREAKER_FLOOR;
pub use cost::Expected;
pub use device::{SILENT_START_PATIENCE, THROTTLING_PATIENCE};
pub use load::{CPU_MILLIWATTS_PER_CORE, DRAW_FRESH};
pub use name::{pod_name, slot_hash};
pub use outcome::{Assignment, Change, Plan, Reason, SlotPlan};
pub use pass::plan;
pub use places::{SlotPlace, slot_places};
pub use replan::{Changed, replan};
pub use rules::{LATENCY_SLACK_PERMILLE, SUPPORT_NOTICE};
pub use site::DEFAULT_SITE;
pub use slot::UNSCHEDULABLE_PATIENCE;
pub use ways::stand_ins;
pub use world::World;
