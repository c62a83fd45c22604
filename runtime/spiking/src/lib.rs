//! Spiking networks: NIR files, and their event-driven execution on the CPU.
//!
//! [`read`] makes a [`Graph`] of a file, [`Plan::compile`] makes it ready to run, and [`Plan::run`]
//! runs it on a [`State`] that the caller keeps from one call to the next.
//! No files, threads, clocks or network: bytes and numbers come in, numbers go out.
//!
//! # What is computed
//!
//! Time goes in steps of `dt` seconds. In every step each node takes the sum of what comes in over its
//! edges and gives its output in the same step, from the inputs to the outputs of the graph. An edge that
//! closes a cycle carries what its source gave one step earlier (zero in the first step). Neurons follow
//! NIR's equations by the forward Euler method, in double precision:
//!
//! | node | step |
//! |---|---|
//! | I | `v += dt·r·x`, gives `v` |
//! | LI | `v += dt/tau·((v_leak − v) + r·x)`, gives `v` |
//! | IF | as I; where `v > v_threshold` it gives 1 and `v = v_reset` |
//! | LIF | as LI; where `v > v_threshold` it gives 1 and `v = v_reset` |
//! | CubaLI, CubaLIF | `i += dt/tau_syn·(w_in·x − i)`, then as LI or LIF with that `i` as `x` and `tau_mem` as `tau` |
//!
//! All state is zero at the start. This is what the NIR importers of Norse and snnTorch compute for these
//! nodes (snnTorch with `reset_delay=False`). An IF node that counts in steps has `dt` = 1.
//!
//! NIR has no refractory period; a neuron's `metadata/refractory`, in seconds, gives it one: for that time
//! after a spike `v` stays at `v_reset`, whatever comes in.
//!
//! # What it costs
//!
//! Spikes travel as lists of indices, and a layer adds one column of weights for each of them: its work is
//! proportional to its spikes. Numbers that are no spikes cost one column for each that is not zero. A LIF or
//! IF layer to which nothing comes is not touched at all; its decay is made up for when something comes.
//! In a run of many steps a layer that an input alone feeds with many spikes is computed for many of them at once, with
//! the same results: its weights are read once for all of them.

mod ahead;
mod columns;
mod compile;
mod conv;
mod counts;
mod flatten;
mod graph;
mod neuron;
mod order;
mod plan;
mod pool;
mod read;
mod run;
mod shapes;
mod signal;
mod state;
mod tiles;
mod write;

pub use compile::CompileError;
pub use counts::Counts;
pub use graph::{Conv, Cuba, Edge, Graph, Integrator, Node, Padding, Pool, Spiking, Tensor};
pub use plan::{Plan, Port};
pub use read::{ReadError, read};
pub use run::{Readout, RunError};
pub use state::{State, StateError};
pub use write::{WriteError, write};
