//! What the operator is told at start.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;

/// The Perwatt operator: places models on devices, and keeps them served.
#[derive(Debug, Parser)]
#[command(name = "perwatt-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the operator's program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(Settings),
    /// Apply the custom resource definitions that this version needs, and end. The chart does
    /// this before an upgrade, because Helm never upgrades what lies in `crds/`.
    ApplyCrds,
}

/// Settings of the running operator.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Image of the inference runtime, by digest where the site is air-gapped.
    #[arg(long, env = "PERWATT_RUNTIME_IMAGE")]
    pub runtime_image: String,
    /// Address of health and metrics.
    #[arg(long, env = "PERWATT_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Namespace of the operator: its Lease lives there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "perwatt-system")]
    pub namespace: String,
    /// Identity of this replica in the Lease and in events.
    #[arg(long, env = "POD_NAME", default_value = "perwatt-operator")]
    pub identity: String,
    /// How often runtimes are asked for latency, energy and active variant.
    #[arg(long, env = "PERWATT_EVIDENCE_INTERVAL", default_value = "10s", value_parser = humantime::parse_duration)]
    pub evidence_interval: std::time::Duration,
}
