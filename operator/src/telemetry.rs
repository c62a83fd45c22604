//! Logs: JSON lines where nobody looks at a terminal, `RUST_LOG` chooses what.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The library's own line on a watch that fails comes with every try; ours comes once.
const LIBRARIES: &str = "kube_runtime=off,kube_client::client::builder=off";

/// Starts logging to standard error.
pub fn init() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("info,{LIBRARIES}")));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).init();
    }
}
