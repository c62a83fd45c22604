//! The socket between the node agent and a runtime: one per device.
//!
//! What both sides share and nothing else: the protocol (`proto/device.proto`),
//! where the socket lies inside a container, and how a client connects.

#[allow(missing_docs, clippy::pedantic)]
mod generated {
    tonic::include_proto!("perwatt.device.v1alpha1");
}

pub use generated::device_client::DeviceClient;
pub use generated::device_server::{Device, DeviceServer};
pub use generated::{DeviceState, Health, PowerSource, ReportReply, ReportRequest, WatchRequest};

use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Folder inside a container where the agent mounts the folder of a device's socket.
/// The folder is mounted, not the socket: an agent that restarts makes a new socket in it.
pub const CONTAINER_DIR: &str = "/run/perwatt/device";

/// Name of the socket inside its folder.
pub const SOCKET_NAME: &str = "agent.sock";

/// Environment variable by which a container learns which device it was given: a device id.
pub const DEVICE_ID_ENV: &str = "PERWATT_DEVICE_ID";

/// Environment variable with the path of the device node that a container may open.
pub const DEVICE_NODE_ENV: &str = "PERWATT_DEVICE_NODE";

/// Connects to the socket in `dir` on first use and again after it was lost.
///
/// # Errors
/// When the endpoint cannot be built; a socket that does not answer shows at the first call.
pub fn connect(dir: &Path) -> Result<DeviceClient<Channel>, tonic::transport::Error> {
    let path: PathBuf = dir.join(SOCKET_NAME);
    let channel = Endpoint::try_from("http://device.invalid")?.connect_with_connector_lazy(
        tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }),
    );
    Ok(DeviceClient::new(channel))
}
