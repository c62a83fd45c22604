//! The protocol over gRPC.

use super::memory::Meter;
use super::refusal::{Kind, Refused};
use super::service::{Answered, Envelope, Service};
use super::{health, stream};
use crate::metrics::Protocol;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{Next, from_fn_with_state};
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use perwatt_oip::grpc::health::health_server::HealthServer;
use perwatt_oip::grpc::pb::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use perwatt_oip::grpc::pb::model_metadata_response::TensorMetadata;
use perwatt_oip::grpc::pb::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ModelStreamInferResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use perwatt_oip::grpc::{decode_request, encode_reply, parse_timeout};
use perwatt_oip::limits::Limits;
use perwatt_oip::metadata;
use prometheus_client::metrics::counter::Counter;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// The protocol's gRPC service and the health service.
pub fn router(service: Arc<Service>) -> Router {
    let limit = service.body_limit;
    let counting = service.clone();
    let health = HealthServer::new(health::Health::new(service.clone()));
    let inference = GrpcInferenceServiceServer::new(Grpc(service))
        .accept_compressed(Gzip)
        .send_compressed(Gzip)
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    Routes::new(inference)
        .add_service(health)
        .prepare()
        .into_axum_router()
        .layer(from_fn_with_state(counting, count_bytes))
}

/// Counts what the bodies of inference requests and of their replies take on the wire.
async fn count_bytes(
    State(service): State<Arc<Service>>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    if !request.uri().path().ends_with("Infer") {
        return next.run(request).await;
    }
    let metrics = &service.engine.metrics;
    let received = metrics.received(Protocol::Grpc);
    let sent = metrics.sent(Protocol::Grpc);
    let response = next.run(request.map(|body| counted(body, received))).await;
    response.map(|body| counted(body, sent))
}

fn counted(body: Body, counter: Counter) -> Body {
    Body::new(body.map_frame(move |frame| {
        counter.inc_by(frame.data_ref().map_or(0, |data| data.len() as u64));
        frame
    }))
}

struct Grpc(Arc<Service>);

#[tonic::async_trait]
impl GrpcInferenceService for Grpc {
    type ModelStreamInferStream = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.0.is_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        find_model(&self.0, &name, &version)?;
        let ready = self.0.is_ready();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        let metadata::ServerMetadata {
            name,
            version,
            extensions,
        } = Service::server_metadata();
        Ok(Response::new(ServerMetadataResponse {
            name,
            version,
            extensions,
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        find_model(&self.0, &name, &version)?;
        let metadata = self.0.model_metadata();
        let tensor = |tensor: metadata::TensorMetadata| TensorMetadata {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
        };
        Ok(Response::new(ModelMetadataResponse {
            name: metadata.name,
            versions: metadata.versions,
            platform: metadata.platform,
            inputs: metadata.inputs.into_iter().map(tensor).collect(),
            outputs: metadata.outputs.into_iter().map(tensor).collect(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let arrived = Instant::now();
        let (metadata, extensions, message) = request.into_parts();
        let _memory = extensions.get::<Meter>().and_then(Meter::take);
        let envelope = Envelope {
            arrived,
            limit: timeout(&metadata)?,
            traceparent: traceparent(&metadata),
        };
        let answered = answer(&self.0, message, envelope).await?;
        let reply = encode_reply(&self.0.build_reply(&answered));
        Ok(as_asked(&metadata, Response::new(reply)))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let opened = Instant::now();
        let (metadata, extensions, messages) = request.into_parts();
        let meter = extensions.get::<Meter>().cloned();
        let end = timeout(&metadata)?.map(|limit| opened + limit);
        let traceparent = traceparent(&metadata).map(Arc::from);
        let came = stream::Opened {
            meter,
            end,
            traceparent,
        };
        let replies = stream::answer_in_order(self.0.clone(), messages, came);
        Ok(as_asked(&metadata, Response::new(replies)))
    }
}

/// Reads, checks and answers one message.
///
/// # Errors
/// As the protocol over HTTP has them.
pub(super) async fn answer(
    service: &Service,
    mut message: ModelInferRequest,
    envelope: Envelope<'_>,
) -> Result<Answered, Refused> {
    let name = std::mem::take(&mut message.model_name);
    let version = std::mem::take(&mut message.model_version);
    find_model(service, &name, &version)?;
    let request = decode_request(message, &Limits::DEFAULT);
    let request = request.map_err(|problem| service.refuse_decoding(&problem))?;
    // A client that knows typed contents alone gets them.
    let raw = !request.inputs.iter().any(|input| input.is_typed());
    service.answer(request, envelope, raw).await
}

/// An empty version leaves the choice to the server.
fn find_model(service: &Service, name: &str, version: &str) -> Result<(), Refused> {
    service.find_model(name, Some(version).filter(|version| !version.is_empty()))
}

/// The deadline that gRPC itself carries.
fn timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Refused> {
    let Some(value) = metadata.get("grpc-timeout") else {
        return Ok(None);
    };
    let timeout = value.to_str().ok().and_then(parse_timeout);
    timeout.map(Some).ok_or_else(|| {
        Refused::new(
            Kind::Invalid,
            "grpc-timeout is not a number of at most 8 digits and a unit",
        )
    })
}

/// Where in a trace the request belongs, as its caller says.
fn traceparent(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("traceparent")?.to_str().ok()
}

/// Compresses a reply only to a compressed request: usual clients say that they can read it, not that they want it.
fn as_asked<T>(metadata: &MetadataMap, mut response: Response<T>) -> Response<T> {
    let packed = metadata
        .get("grpc-encoding")
        .is_some_and(|value| value != "identity");
    if !packed {
        response.disable_compression();
    }
    response
}
