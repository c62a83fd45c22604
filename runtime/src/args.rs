//! The command line.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serves a model by the Open Inference Protocol, whatever silicon answers.
#[derive(Debug, Clone, Parser)]
#[command(name = "perwatt-runtime", version, about)]
pub struct Args {
    /// Folder with model.yaml; without PERWATT_CONFIG its files are served in order, without devices
    #[arg(default_value = "/model")]
    pub model: PathBuf,
    /// Address of the Open Inference Protocol (REST)
    #[arg(long, default_value = "[::]:8080")]
    pub rest: SocketAddr,
    /// Address of the Open Inference Protocol (gRPC)
    #[arg(long, default_value = "[::]:8081")]
    pub grpc: SocketAddr,
    /// Address of probes, metrics and evidence
    #[arg(long, default_value = "[::]:9090")]
    pub admin: SocketAddr,
    /// Milliseconds a request has that names no timeout
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=300_000))]
    pub timeout_milliseconds: u64,
    /// Milliseconds after SIGTERM in which everything is still served, so that clients can move
    #[arg(long, default_value_t = 8_000, value_parser = clap::value_parser!(u64).range(..=600_000))]
    pub drain_milliseconds: u64,
    /// Milliseconds between two writes of the evidence, where PERWATT_STATE_DIR names a folder for it
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub state_milliseconds: u64,
    /// Folder of the agent's socket, where it is not the usual one
    #[arg(long)]
    pub device_socket_dir: Option<PathBuf>,
}
