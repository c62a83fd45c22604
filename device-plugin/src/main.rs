//! `perwatt-device-plugin`: the node agent.

use std::process::ExitCode;
use std::time::Duration;

/// Few threads whatever the node's size: the agent waits most of the time.
fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(perwatt_device_plugin::cli::run()),
        Err(error) => {
            eprintln!("perwatt-device-plugin: cannot start threads: {error}");
            ExitCode::FAILURE
        }
    }
}
