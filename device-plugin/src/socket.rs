//! The socket between the agent and the runtime that holds a device: one per device.
//!
//! Whoever can open it speaks of that device alone, and is not trusted further: texts are cut,
//! messages and connections are bounded.

mod connections;
mod state;

use crate::constants::{FIGURES_PACE, LAST_WORD, REPORT_GRACE, REPORT_GRACE_AT_START, SOCKET_CONNECTIONS};
use crate::files::{make_dir, remove_socket};
use crate::paths::Paths;
use crate::state::Shared;
use connections::{Connections, Incoming};
use futures::Stream;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use perwatt_crds::inventory::RuntimeReport;
use perwatt_crds::text::tidy;
use perwatt_device_socket::{
    Device, DeviceServer, DeviceState, ReportReply, ReportRequest, SOCKET_NAME, WatchRequest,
};
use state::{build_state, epoch};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Why a device has no socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot make the socket {path} for runtimes: {source}; a runtime on this device learns of faults by failing calls alone"
)]
pub struct SocketError {
    /// The socket or its folder.
    pub path: PathBuf,
    /// What the system answered.
    pub source: std::io::Error,
}

/// A device's socket; dropped, it is closed and removed.
#[derive(Debug)]
pub struct DeviceSocket {
    path: PathBuf,
    connections: Connections,
    server: JoinHandle<()>,
    janitor: JoinHandle<()>,
}

impl Drop for DeviceSocket {
    fn drop(&mut self) {
        self.connections.end_all();
        self.server.abort();
        self.janitor.abort();
        let _ = remove_socket(&self.path);
    }
}

impl DeviceSocket {
    /// Serves the device `id`. The folder outlives the socket: a pod has it mounted.
    ///
    /// # Errors
    /// When folder or socket cannot be made.
    pub fn serve(paths: &Paths, id: &str, shared: Shared) -> Result<Self, SocketError> {
        let path = paths.socket_dir(id).join(SOCKET_NAME);
        let listener = bind(paths, id).map_err(|source| SocketError {
            path: path.clone(),
            source,
        })?;
        let connections = Connections::new(SOCKET_CONNECTIONS);
        let incoming = Incoming::new(listener, connections.clone());
        let service = Service {
            id: id.to_owned(),
            shared: shared.clone(),
        };
        let server = DeviceServer::new(service).max_decoding_message_size(64 << 10);
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(16)
            .add_service(server)
            .serve_with_incoming(incoming);
        let name = id.to_owned();
        Ok(Self {
            path,
            connections: connections.clone(),
            server: tokio::spawn(async move {
                if let Err(error) = server.await {
                    tracing::error!(device = %name, %error, "the socket for runtimes ended");
                }
            }),
            janitor: tokio::spawn(forget_reports(id.to_owned(), shared, connections)),
        })
    }
}

impl DeviceSocket {
    /// Ends it because its device is served no more: nobody finds it from now on, and who watches
    /// the device hears so first.
    pub fn leave(mut self) {
        let _ = remove_socket(&std::mem::take(&mut self.path));
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORD).await;
            drop(self);
        });
    }
}

fn bind(paths: &Paths, id: &str) -> std::io::Result<UnixListener> {
    // From outside only root comes this far; inside a pod the device's folder is mounted alone.
    make_dir(&paths.sockets(), 0o700)?;
    make_dir(&paths.socket_dir(id), 0o755)?;
    let path = paths.socket_dir(id).join(SOCKET_NAME);
    remove_socket(&path)?;
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Clears the report of a runtime that has gone. After a start the agent waits longer: the
/// report then comes from the checkpoint, and its runtime must find the new socket first.
async fn forget_reports(id: String, shared: Shared, connections: Connections) {
    let mut grace = REPORT_GRACE_AT_START;
    loop {
        connections.wait_for_none().await;
        if tokio::time::timeout(grace, connections.wait_for_some())
            .await
            .is_err()
        {
            shared.set_report(&id, None);
            connections.wait_for_some().await;
        }
        grace = REPORT_GRACE;
    }
}

struct Service {
    id: String,
    shared: Shared,
}

#[tonic::async_trait]
impl Device for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<DeviceState, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(send_states(self.id.clone(), self.shared.clone(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        let now = Timestamp::now();
        self.shared.update_device(&self.id, |device| {
            device.report = Some(build_report(request.into_inner(), device.report.as_ref(), now));
        });
        Ok(Response::new(ReportReply {}))
    }
}

/// Sends each state that differs from the one before; a slow reader gets the last one.
async fn send_states(id: String, shared: Shared, sender: mpsc::Sender<Result<DeviceState, Status>>) {
    let mut node = shared.subscribe();
    let mut last: Option<DeviceState> = None;
    let epoch = epoch();
    // Figures wake nobody: they are looked at here, and the device is not.
    let mut figures = tokio::time::interval(FIGURES_PACE);
    figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let state = node
            .borrow_and_update()
            .devices
            .get(&id)
            .map(|device| build_state(device, epoch));
        let Some(state) = state else {
            if let Some(last) = last {
                let going_away = true;
                let _ = sender.send(Ok(DeviceState { going_away, ..last })).await;
            }
            let gone = Status::not_found(format!("device {id} is not served any more"));
            let _ = sender.send(Err(gone)).await;
            return;
        };
        if last.as_ref() != Some(&state) {
            if sender.send(Ok(state.clone())).await.is_err() {
                return;
            }
            last = Some(state);
        }
        tokio::select! {
            changed = node.changed() => if changed.is_err() { return },
            _ = figures.tick() => {}
            () = sender.closed() => return,
        }
    }
}

/// A report as the inventory takes it; `since` stays while nothing else changes.
fn build_report(request: ReportRequest, before: Option<&RuntimeReport>, now: Timestamp) -> RuntimeReport {
    let mut report = RuntimeReport {
        namespace: tidy(&request.namespace, 63),
        workload: tidy(&request.workload, 63),
        slot: tidy(&request.slot, 253),
        revision: tidy(&request.revision, 63),
        active_variant: tidy(&request.active_variant, 63),
        degraded: request.degraded,
        reason: tidy(&request.reason, 1024),
        since: Time(now),
    };
    if let Some(before) = before {
        let now = std::mem::replace(&mut report.since, before.since.clone());
        if report != *before {
            report.since = now;
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(variant: &str) -> ReportRequest {
        ReportRequest {
            workload: "speech".into(),
            active_variant: variant.into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_same_report_keeps_its_time() {
        let [first, second] = [Timestamp::UNIX_EPOCH, Timestamp::MAX];
        let report = build_report(request("npu"), None, first);
        assert_eq!(build_report(request("npu"), Some(&report), second), report);
        assert_eq!(
            build_report(request("cpu"), Some(&report), second).since,
            Time(second)
        );
    }

    #[test]
    fn a_hostile_report_fits_the_inventory() {
        let mut hostile = request(&"é\n".repeat(10_000));
        hostile.reason = "\u{0}".repeat(5000);
        let report = build_report(hostile, None, Timestamp::UNIX_EPOCH);
        assert!(report.active_variant.len() <= 63 && report.reason.len() <= 1024);
        assert!(!report.active_variant.contains('\n'));
    }
}
