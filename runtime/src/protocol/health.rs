//! gRPC's own health service: serving while the runtime is ready.

use super::service::Service;
use futures::stream::{self, BoxStream, StreamExt};
use perwatt_oip::grpc::health::health_check_response::ServingStatus;
use perwatt_oip::grpc::health::{HealthCheckRequest, HealthCheckResponse, health_server};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service that can be asked about, beside the server as a whole.
const INFERENCE: &str = "inference.GRPCInferenceService";

/// Answers from the state of the moment.
pub struct Health(Arc<Service>);

impl Health {
    /// The health of this service.
    pub fn new(service: Arc<Service>) -> Self {
        Self(service)
    }
}

fn is_known(request: &HealthCheckRequest) -> bool {
    request.service.is_empty() || request.service == INFERENCE
}

fn status(service: &Service) -> ServingStatus {
    if service.is_ready() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if is_known(request.get_ref()) {
            return Ok(Response::new(response(status(&self.0))));
        }
        Err(Status::not_found(format!(
            "the services here are \"\" and {INFERENCE:?}"
        )))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !is_known(request.get_ref()) {
            let unknown = Ok(response(ServingStatus::ServiceUnknown));
            return Ok(Response::new(stream::iter([unknown]).boxed()));
        }
        Ok(Response::new(changes(self.0.clone()).boxed()))
    }
}

/// The state, and again whenever it changes, until the server stops.
fn changes(service: Arc<Service>) -> impl futures::Stream<Item = Result<HealthCheckResponse, Status>> {
    let active = service.engine.watch_active();
    stream::unfold(
        (service, active, None),
        |(service, mut active, last)| async move {
            loop {
                let now = status(&service);
                if last != Some(now) {
                    return Some((Ok(response(now)), (service, active, Some(now))));
                }
                let drain = service.drain.clone();
                tokio::select! {
                    changed = active.changed() => changed.ok()?,
                    () = drain.draining(), if !drain.is_draining() => {}
                    () = drain.stopping() => return None,
                }
            }
        },
    )
}
