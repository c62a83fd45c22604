//! The kubelet's device plugin API: one plugin for each profile.
//!
//! A device that several containers may share is several to the kubelet: see `replicas`.
//!
//! `service` answers the kubelet, `allocate` says what a container gets, `plugin` keeps a
//! plugin registered through restarts of either side.

pub mod allocate;
pub mod plugin;
pub mod prefer;
pub mod replicas;
pub mod service;

use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

/// The API as it goes over the wire, generated from `proto/deviceplugin.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod api {
    tonic::include_proto!("v1beta1");
}

/// Version of the API.
pub const VERSION: &str = "v1beta1";

/// What the kubelet calls a device that pods may get.
pub const HEALTHY: &str = "Healthy";

/// What the kubelet calls a device that no new pod may get.
pub const UNHEALTHY: &str = "Unhealthy";

/// A connection to one of the kubelet's sockets.
///
/// # Errors
/// When nobody answers there.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let dial = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let dial = dial.clone();
        async move { UnixStream::connect(dial).await.map(TokioIo::new) }
    });
    // What stands for the host in a request over a unix socket.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
}
