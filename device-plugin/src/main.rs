//! `perwatt-device-plugin`: the node agent.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    perwatt_device_plugin::cli::run().await
}
