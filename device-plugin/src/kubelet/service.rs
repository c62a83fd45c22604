//! Answers the kubelet for one profile.

use super::allocate::{build_list, build_response};
use super::api::device_plugin_server::DevicePlugin;
use super::api::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationResponse, DevicePluginOptions, Empty,
    ListAndWatchResponse, PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse,
};
use super::prefer::choose;
use crate::cdi;
use crate::metrics::Metrics;
use crate::paths::Paths;
use crate::state::Shared;
use futures::Stream;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// How far a plugin's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It serves.
    Serving,
    /// Its profile is gone: the kubelet is told that there are no devices any more.
    Removed,
    /// The agent, or this server, ends and says nothing: what it said last is still true.
    Stopping,
}

/// The plugin's answers.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name of the profile.
    pub profile: String,
    /// Where sockets and specs are.
    pub paths: Paths,
    /// The devices.
    pub shared: Shared,
    /// Until when streams go on.
    pub life: watch::Receiver<Life>,
    /// How many streams of the kubelet are open.
    pub watchers: Arc<watch::Sender<usize>>,
    /// Counters.
    pub metrics: Metrics,
}

/// Whether the kubelet needs to call us before each start, and whether it may ask for advice.
#[must_use]
pub fn options() -> DevicePluginOptions {
    DevicePluginOptions {
        pre_start_required: false,
        get_preferred_allocation_available: true,
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(options()))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            service.watchers.send_modify(|open| *open += 1);
            service.send_lists(sender).await;
            service.watchers.send_modify(|open| *open -= 1);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let node = self.shared.now();
        let requests = request.into_inner().container_requests;
        let container_responses = requests
            .iter()
            .map(|request| ContainerPreferredAllocationResponse {
                device_ids: choose(&node, request),
            })
            .collect();
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let node = self.shared.now();
        let requests = request.into_inner().container_requests;
        let container_responses = requests
            .iter()
            .map(|request| build_response(&self.paths, &self.profile, &node, &request.device_ids))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Status::not_found(error.to_string()))?;
        // The spec may have been removed under us; containerd looks for it a moment later.
        cdi::write_spec(&self.paths, &self.profile, &node)
            .map_err(|error| Status::internal(error.to_string()))?;
        let devices = requests.iter().map(|request| request.device_ids.len()).sum();
        self.metrics.allocated(&self.profile, devices);
        tracing::info!(profile = %self.profile, devices = ?requests.iter().flat_map(|r| &r.device_ids).collect::<Vec<_>>(), "given to a container");
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

impl Service {
    async fn send_lists(&self, sender: mpsc::Sender<Result<ListAndWatchResponse, Status>>) {
        let mut node = self.shared.subscribe();
        let mut life = self.life.clone();
        let mut last = None;
        loop {
            let now = *life.borrow_and_update();
            let devices = match now {
                Life::Stopping => return,
                Life::Removed => Vec::new(),
                Life::Serving => build_list(&self.profile, &node.borrow_and_update()),
            };
            if last.as_ref() != Some(&devices) {
                let list = ListAndWatchResponse {
                    devices: devices.clone(),
                };
                if sender.send(Ok(list)).await.is_err() {
                    return;
                }
                last = Some(devices);
            }
            if now == Life::Removed {
                return;
            }
            tokio::select! {
                changed = node.changed() => if changed.is_err() { return },
                changed = life.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    }
}
