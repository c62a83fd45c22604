//! `planner-scale` and `planner-quality`: the planner alone, on fleets made from a seed. No cluster is needed.

mod fleet;
pub mod quality;
pub mod scale;
