//! The protocol over HTTP.

use super::body::{self, BodyError};
use super::message::{
    ErrorBody, InferReply, InferRequest, ModelMetadata, OutputTensor, ReplyParameters, ServerMetadata,
};
use super::request::{Checked, check};
use crate::engine::{Answer, Engine, InferError};
use crate::metrics::Refusal;
use crate::serve::Drain;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of JSON that one element may take: a double with sign, exponent and separators.
const BYTES_AN_ELEMENT: usize = 32;
/// Bytes of JSON around the elements.
const BYTES_AROUND: usize = 64 << 10;
/// Memory for bodies that are being read, together.
const BODIES: usize = 64 << 20;
/// The header that announces binary tensor data.
const BINARY: &str = "inference-header-content-length";

/// What the handlers share.
pub struct Rest {
    engine: Arc<Engine>,
    drain: Drain,
    default_timeout: Duration,
    body_limit: usize,
    /// One permit a KiB.
    bodies: Semaphore,
}

type Shared = Arc<Rest>;

/// The protocol's routes.
pub fn router(engine: Arc<Engine>, drain: Drain, default_timeout: Duration) -> Router {
    let elements: usize = engine
        .manifest
        .inputs
        .iter()
        .map(perwatt_model::TensorSpec::elements)
        .sum();
    let body_limit = BYTES_AROUND + elements * BYTES_AN_ELEMENT;
    let bodies = Semaphore::new(BODIES.max(body_limit).div_ceil(1024));
    let rest = Arc::new(Rest {
        engine,
        drain,
        default_timeout,
        body_limit,
        bodies,
    });
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(model_metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/infer", post(infer))
        .route("/v2/models/{name}/versions/{version}", get(model_metadata))
        .route("/v2/models/{name}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer))
        .fallback(|| async {
            error(
                StatusCode::NOT_FOUND,
                "there is nothing at this path: see GET /v2",
            )
        })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method")
        })
        .with_state(rest)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(problem) => {
            tracing::error!(error = %problem, "a reply cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    json(status, &ErrorBody { error: message })
}

/// A request that gets no answer, and what its client is told.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        error(self.0, &self.1)
    }
}

impl From<InferError> for Refused {
    fn from(problem: InferError) -> Self {
        let status = match problem {
            InferError::Overloaded | InferError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            InferError::Deadline { .. } => StatusCode::GATEWAY_TIMEOUT,
            InferError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, problem.to_string())
    }
}

async fn server_metadata() -> Response {
    json(StatusCode::OK, &ServerMetadata::THIS)
}

/// A health answer: the protocol says false by a 4xx.
fn health(field: &str, is_true: bool) -> Response {
    let status = if is_true {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    json(
        status,
        &serde_json::Map::from_iter([(field.to_owned(), is_true.into())]),
    )
}

async fn live() -> Response {
    health("live", true)
}

async fn ready(State(rest): State<Shared>) -> Response {
    health("ready", rest.is_ready())
}

#[derive(serde::Deserialize)]
struct ModelPath {
    name: String,
    version: Option<String>,
}

async fn model_ready(State(rest): State<Shared>, path: Path<ModelPath>) -> Response {
    match rest.find_model(&path) {
        Ok(()) => health("ready", rest.is_ready()),
        Err(refused) => refused.into_response(),
    }
}

async fn model_metadata(State(rest): State<Shared>, path: Path<ModelPath>) -> Response {
    match rest.find_model(&path) {
        Ok(()) => json(StatusCode::OK, &ModelMetadata::from(&rest.engine.manifest)),
        Err(refused) => refused.into_response(),
    }
}

async fn infer(
    State(rest): State<Shared>,
    path: Path<ModelPath>,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let result = async {
        rest.find_model(&path)?;
        rest.check_headers(&headers)?;
        let (content, _memory) = rest.read_body(&headers, &mut body).await?;
        rest.answer(&content, Instant::now()).await
    };
    let result = result.await;
    result.unwrap_or_else(|refused| {
        body::discard(body, &headers);
        refused.into_response()
    })
}

impl Rest {
    fn is_ready(&self) -> bool {
        !self.drain.is_draining() && self.engine.active().index.is_some()
    }

    fn find_model(&self, path: &ModelPath) -> Result<(), Refused> {
        let manifest = &self.engine.manifest;
        let short = |text: &str| text.chars().take(64).collect::<String>();
        if path.name != manifest.name.as_str() {
            let message = format!(
                "model {:?} is not served here, {:?} is",
                short(&path.name),
                manifest.name.as_str()
            );
            return Err(Refused(StatusCode::NOT_FOUND, message));
        }
        match &path.version {
            Some(version) if version != manifest.version.as_str() => {
                let served = manifest.version.as_str();
                let message = format!("version {:?} is not served here, {served:?} is", short(version));
                Err(Refused(StatusCode::NOT_FOUND, message))
            }
            _ => Ok(()),
        }
    }

    /// A wrong request is counted and told why.
    fn refuse(&self, status: StatusCode, message: impl Into<String>) -> Refused {
        self.engine.metrics.count_error(Refusal::Invalid);
        Refused(status, message.into())
    }

    fn check_headers(&self, headers: &HeaderMap) -> Result<(), Refused> {
        if headers.contains_key(BINARY) {
            let message =
                "binary tensor data is not supported yet: send the tensors as JSON (binary_data=False)";
            return Err(self.refuse(StatusCode::BAD_REQUEST, message));
        }
        let plain = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
        if !headers.get(header::CONTENT_ENCODING).is_none_or(plain) {
            let message = "compressed bodies are not supported yet: send plain JSON";
            return Err(self.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        Ok(())
    }

    /// Reads a body within the memory that all bodies share.
    async fn read_body(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
    ) -> Result<(Vec<u8>, SemaphorePermit<'_>), Refused> {
        let declared = body::declared_length(headers);
        let size = declared.unwrap_or(self.body_limit).min(self.body_limit);
        let permits = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
        let Ok(memory) = self.bodies.try_acquire_many(permits) else {
            self.engine.metrics.count_error(Refusal::Overloaded);
            return Err(InferError::Overloaded.into());
        };
        let read = body::read(body, self.body_limit, declared).await;
        let content = read.map_err(|problem| self.refuse_body(problem))?;
        Ok((content, memory))
    }

    fn refuse_body(&self, problem: BodyError) -> Refused {
        let limit = self.body_limit;
        match problem {
            BodyError::TooLarge => self.refuse(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {limit} bytes, more than this model's inputs need"),
            ),
            BodyError::Broken => self.refuse(StatusCode::BAD_REQUEST, "the body ended before it was whole"),
            BodyError::Slow => self.refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        }
    }

    async fn answer(&self, body: &[u8], arrived: Instant) -> Result<Response, Refused> {
        let invalid = |message: String| self.refuse(StatusCode::BAD_REQUEST, message);
        let request: InferRequest<'_> = serde_json::from_slice(body)
            .map_err(|problem| invalid(format!("the body is not an inference request: {problem}")))?;
        let checked = check(&request, &self.engine.manifest, self.default_timeout, arrived);
        let Checked { query, outputs } = checked.map_err(invalid)?;
        let answer = self.engine.infer(query).await?;
        Ok(json(
            StatusCode::OK,
            &self.build_reply(request.id.as_deref(), &answer, &outputs),
        ))
    }

    fn build_reply<'a>(
        &'a self,
        id: Option<&'a str>,
        answer: &'a Answer,
        wanted: &[usize],
    ) -> InferReply<'a> {
        let manifest = &self.engine.manifest;
        let output = |&place: &usize| {
            let (spec, tensor) = (manifest.outputs.get(place)?, answer.outputs.get(place)?);
            Some(OutputTensor {
                name: spec.name.as_str(),
                datatype: tensor.data.datatype().as_str(),
                shape: &tensor.shape,
                data: &tensor.data,
            })
        };
        InferReply {
            model_name: manifest.name.as_str(),
            model_version: manifest.version.as_str(),
            id,
            parameters: self.build_parameters(answer),
            outputs: wanted.iter().filter_map(output).collect(),
        }
    }

    fn build_parameters<'a>(&'a self, answer: &'a Answer) -> ReplyParameters<'a> {
        let slot = self.engine.slots.get(answer.variant);
        let device = slot.and_then(|slot| slot.variant.as_ref()?.device.as_deref());
        ReplyParameters {
            variant: slot.map_or("", |slot| &slot.name),
            device: device.unwrap_or("none"),
            node: &self.engine.config.node,
            revision: &self.engine.config.revision,
            degraded: answer.degraded.is_some(),
            degraded_reason: answer.degraded.as_ref().map(|(reason, _)| reason.as_str()),
            degraded_message: answer.degraded.as_ref().map(|(_, message)| message.as_str()),
            sequence_restarted: answer.sequence_restarted,
            latency_microseconds: u64::try_from(answer.latency.as_micros()).unwrap_or(u64::MAX),
            energy_microjoules: answer
                .energy
                .as_ref()
                .map(|energy| (energy.microjoules * 1e3).round() / 1e3),
            energy_source: answer.energy.as_ref().map(crate::energy::Energy::label),
        }
    }
}
