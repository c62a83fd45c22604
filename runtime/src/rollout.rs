//! A pod that carries two revisions: which one answers, how they are compared, and how a comparison is commanded.
//!
//! Each revision has an engine of its own. Nothing here looks into a request beyond its sequence, and nothing here
//! judges: it alternates, counts, and hands closed turns to whoever pulls them.

pub mod agreement;
pub mod conduct;
pub mod control;
pub mod mirror;
pub mod pair;
pub mod reading;
pub mod schedule;
pub mod turns;
