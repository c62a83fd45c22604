//! Simulated rollouts, on which verdicts are tried: how often a canary that is no worse is rejected, and how soon one
//! that is worse.
//!
//! What lives here: traffic that is made up ([`world`]), rules of others as they are described ([`peers`]), and the
//! figures `canary-validity` and `canary-power`. Nothing of it is shipped. Everything follows from a seed.

pub mod peers;
pub mod power;
pub mod row;
pub mod validity;
pub mod world;

pub use row::Row;
