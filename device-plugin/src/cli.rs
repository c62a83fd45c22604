//! The command line.

use crate::constants::PORT;
use crate::paths::Paths;
use crate::{agent, emulate, scan};
use clap::{Parser, Subcommand};
use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;

/// Perwatt's node agent: finds devices, registers them with the kubelet, watches their health,
/// and reports them.
#[derive(Debug, Parser)]
#[command(name = "perwatt-device-plugin", version)]
pub struct Cli {
    #[command(flatten)]
    paths: Paths,
    /// Name of the Node object of this node.
    #[arg(long, env = "NODE_NAME")]
    node_name: Option<String>,
    /// Where metrics and health are served.
    #[arg(long, env = "PERWATT_LISTEN", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))]
    listen: SocketAddr,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves this node; the same as no command.
    Run,
    /// Shows or sets what an emulated device tells of itself.
    Emulate {
        /// Id of the device, such as asic-emulated-0; without it, the devices are listed.
        device: Option<String>,
        /// What to set: health, temperature, power, firmware, present, utilisation, delay, flap; such as health=Unhealthy.
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Shows which devices this machine has, how they are, and what looks like a device and has no
    /// profile. Needs no Kubernetes; `--root` names another machine's tree.
    Scan {
        /// Manifest of a HardwareProfile to try beside the others.
        #[arg(long = "profile", value_name = "FILE")]
        profiles: Vec<std::path::PathBuf>,
    },
}

/// Parses the command line and does what it says.
pub async fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None | Some(Command::Run) => {
            start_log();
            agent::run(cli.paths, cli.node_name, cli.listen)
                .await
                .map_err(|error| error.to_string())
        }
        Some(Command::Emulate { device, settings }) => emulate::run(&cli.paths, device.as_deref(), &settings)
            .map_err(|error| error.to_string())
            .map(print),
        Some(Command::Scan { profiles }) => scan::run(&cli.paths, &profiles)
            .map_err(|error| error.to_string())
            .map(print),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("perwatt-device-plugin: {text}");
            ExitCode::FAILURE
        }
    }
}

/// A reader that went away, such as `head`, is no fault.
fn print(text: String) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// The libraries' own lines on a watch that fails come once a second; ours come once.
const LIBRARIES: &str = "kube_runtime=off,kube_client::client::builder=off";

fn start_log() {
    let wanted = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::new(format!("{LIBRARIES},{wanted}"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}
