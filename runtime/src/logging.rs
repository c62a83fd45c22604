//! Logs on standard error: JSON for machines, text for a terminal. What a request carries is never logged.

use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// Environment variable with the log filter, such as `info` or `perwatt_runtime=debug`.
pub const LOG_ENV: &str = "PERWATT_LOG";

/// Starts logging for this process; a second call changes nothing.
pub fn start() {
    let filter = EnvFilter::try_from_env(LOG_ENV).unwrap_or_else(|_| EnvFilter::new("info,tract=error"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // An error here means that logging runs already.
    let _ = if io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    };
}
