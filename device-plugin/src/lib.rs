//! The node agent: devices found, probed, registered with the kubelet, reported.
//!
//! Data flows one way. `cluster` (or `checkpoint`) says what is *known*: profiles and the
//! node's labels. `supervisor` turns it into devices, each with a `monitor` that probes it
//! through its `discovery` source and judges it (`health`, pure), and writes into one shared
//! picture (`state`). Everything that speaks to others reads that picture and says what
//! differs from what it said last: `kubelet` (device plugin API), `cdi` (specs for containerd),
//! `socket` (runtimes), `publish` (DeviceInventory), `metrics`, `checkpoint`.
//!
//! What a probe reads: `telemetry` (sensors), `bus` (driver, errors, link), `firmware`, `nvml`
//! (NVIDIA's library), `vendor` (a command of the vendor). What its figures add up to is
//! `energy`; who holds the device, and so its energy, the kubelet tells (`podresources`).
//!
//! The kubelet side needs no API server: an agent that starts without one serves what its
//! checkpoint says.

pub mod agent;
pub mod backoff;
pub mod bus;
pub mod cdi;
pub mod checkpoint;
pub mod cli;
pub mod cluster;
pub mod constants;
pub mod discovery;
pub mod emulate;
pub mod emulated;
pub mod energy;
pub mod files;
pub mod filewatch;
pub mod firmware;
pub mod health;
pub mod http;
pub mod inventory;
pub mod known;
pub mod kubelet;
pub mod lock;
pub mod metrics;
pub mod monitor;
pub mod nvml;
pub mod pace;
pub mod paths;
pub mod podresources;
pub mod publish;
pub mod quiet;
pub mod readiness;
pub mod scan;
pub mod services;
pub mod socket;
pub mod state;
pub mod supervisor;
pub mod telemetry;
pub mod vendor;

#[cfg(test)]
mod fixtures;
