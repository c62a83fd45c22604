//! The protocol over gRPC, as a client.

use super::connector::Connector;
use super::endpoint::Endpoint;
use super::error::{RemoteError, words};
use perwatt_oip::grpc::{self, pb};
use perwatt_oip::limits::Limits;
use perwatt_oip::message::{Outgoing, Reply};
use perwatt_oip::metadata::{ModelMetadata, TensorMetadata};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint as TonicEndpoint};
use tonic::{Code, Request, Status};

/// A connection that says nothing is asked whether it lives, so that a host that vanished is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

type Client = pb::grpc_inference_service_client::GrpcInferenceServiceClient<Channel>;

/// A gRPC server.
pub struct Grpc {
    client: Client,
    model: String,
}

impl Grpc {
    /// A client; nothing is connected yet. `limit` is the most bytes that a reply may have.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(endpoint: &Endpoint, model: &str, limit: usize) -> Result<Self, RemoteError> {
        // TLS is the connector's business.
        let target = TonicEndpoint::try_from(format!("http://{}", endpoint.authority()));
        let target = target.map_err(|error| RemoteError::Connection(error.to_string()))?;
        let channel = target
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .connect_with_connector_lazy(Connector::new(endpoint, b"h2")?);
        Ok(Self {
            client: Client::new(channel).max_decoding_message_size(limit),
            model: model.to_owned(),
        })
    }

    /// Asks whether the model is ready, and what it takes and gives.
    ///
    /// # Errors
    /// When it does not answer, or is not ready.
    pub async fn look(&self) -> Result<ModelMetadata, RemoteError> {
        let mut client = self.client.clone();
        let ready = client.model_ready(pb::ModelReadyRequest {
            name: self.model.clone(),
            ..pb::ModelReadyRequest::default()
        });
        if !ready.await.map_err(refused)?.into_inner().ready {
            return Err(RemoteError::NotReady(self.model.clone()));
        }
        let metadata = client.model_metadata(pb::ModelMetadataRequest {
            name: self.model.clone(),
            ..pb::ModelMetadataRequest::default()
        });
        Ok(read_metadata(metadata.await.map_err(refused)?.into_inner()))
    }

    /// Writes a request.
    pub fn encode(&self, outgoing: &Outgoing<'_>) -> pb::ModelInferRequest {
        grpc::encode_request(&self.model, "", outgoing)
    }

    /// Asks for an inference.
    ///
    /// # Errors
    /// With what happened.
    pub async fn infer(
        &self,
        message: pb::ModelInferRequest,
        timeout: Duration,
        limits: &Limits,
    ) -> Result<Reply, RemoteError> {
        let mut request = Request::new(message);
        request.set_timeout(timeout);
        let reply = self.client.clone().model_infer(request).await.map_err(refused)?;
        Ok(grpc::decode_reply(reply.into_inner(), limits)?)
    }
}

fn read_metadata(metadata: pb::ModelMetadataResponse) -> ModelMetadata {
    let tensors = |tensors: Vec<pb::model_metadata_response::TensorMetadata>| {
        let read = |tensor: pb::model_metadata_response::TensorMetadata| TensorMetadata {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
        };
        tensors.into_iter().map(read).collect()
    };
    ModelMetadata {
        name: metadata.name,
        versions: metadata.versions,
        platform: metadata.platform,
        inputs: tensors(metadata.inputs),
        outputs: tensors(metadata.outputs),
    }
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` wants it
fn refused(status: Status) -> RemoteError {
    let message = words(status.message());
    match status.code() {
        Code::ResourceExhausted => RemoteError::Busy(message),
        Code::DeadlineExceeded | Code::Cancelled => RemoteError::Late(message),
        Code::Unavailable => RemoteError::Connection(super::error::with_causes(&status)),
        Code::OutOfRange => RemoteError::Wrong(message),
        code => RemoteError::Refused {
            code: format!("{code:?}"),
            message,
        },
    }
}
