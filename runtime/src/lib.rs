//! The inference runtime: one protocol over every kind of silicon.
//!
//! It serves one model by the Open Inference Protocol from a chain of variants,
//! keeps answering when one fails, and says in every reply who answered.
//! It knows nothing of Kubernetes: a folder, an environment variable and the
//! agent's socket are all it is told by.

pub mod admin;
pub mod args;
pub mod backend;
mod batch;
pub mod chain;
pub mod config;
pub mod device;
pub mod energy;
pub mod engine;
pub mod evidence;
pub mod inspect;
pub mod keeper;
pub mod load;
pub mod loader;
pub mod logging;
pub mod metrics;
pub mod pipeline;
pub mod pool;
pub mod protocol;
pub mod record;
pub mod remote;
pub mod rollout;
pub mod run;
pub mod sequence;
pub mod serve;
pub mod stages;
pub mod state;
pub mod telemetry;
pub mod tensor;
pub mod traces;
pub mod variant;

pub use args::Args;
pub use run::run;
