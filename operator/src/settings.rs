//! What the operator is told at start.

use clap::{Args, Parser, Subcommand};
use perwatt_planner::world::Breaker;
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
    /// More moves than this within the window hold what is served where it is.
    #[arg(long, env = "PERWATT_MOVE_LIMIT", default_value_t = 100)]
    pub move_limit: u32,
    /// The same, in moves for each hundred slots; 10 moves always may be.
    #[arg(long, env = "PERWATT_MOVE_PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub move_percent: u32,
    /// How far back moves are counted.
    #[arg(long, env = "PERWATT_MOVE_WINDOW", default_value = "10m", value_parser = humantime::parse_duration)]
    pub move_window: std::time::Duration,
    /// Moves before this time are not counted: a person looked, and lets them go on (RFC 3339).
    #[arg(long, env = "PERWATT_MOVE_RESET")]
    pub move_reset: Option<jiff::Timestamp>,
    /// How long the agent of a node may be silent before nothing new is placed on its devices.
    #[arg(long, env = "PERWATT_AGENT_GRACE", default_value = "2m", value_parser = humantime::parse_duration)]
    pub agent_grace: std::time::Duration,
    /// Once moves were held they are, until a person sets the reset time; else they go on as the window passes.
    #[arg(long, env = "PERWATT_MOVE_MANUAL", default_value_t = false, action = clap::ArgAction::Set)]
    pub move_manual: bool,
}

impl Settings {
    /// When moves are held; `opened_at` is since when they have been, where they are.
    #[must_use]
    pub fn breaker(&self, opened_at: Option<jiff::Timestamp>) -> Breaker {
        Breaker {
            moves: self.move_limit,
            percent: self.move_percent,
            window: self.move_window,
            reset_at: self.move_reset,
            waits_for_person: self.move_manual,
            opened_at,
        }
    }
}
