//! The protocol over HTTP.

use super::body::{self, BodyError};
use super::compression::{self, Encoding};
use super::feedback;
use super::memory::Share;
use super::openapi::{self, Operation};
use super::refusal::{Kind, Refused};
use super::service::{Answered, Envelope, Service};
use crate::metrics::Protocol;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use perwatt_oip::limits::Limits;
use perwatt_oip::metadata::ErrorBody;
use perwatt_oip::rest::{self as wire, BINARY_HEADER};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// A body larger than this is packed and unpacked beside the thread that serves everyone.
const LARGE: usize = 64 << 10;

type Shared = Arc<Service>;

/// The protocol's routes.
pub fn router(service: Shared) -> Router {
    let mut router = Router::new();
    for route in openapi::ROUTES {
        router = router.route(route.path, handler(route.operation));
    }
    router
        .fallback(|| async {
            error(
                StatusCode::NOT_FOUND,
                "there is nothing at this path: see GET /openapi.json",
            )
        })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method")
        })
        .with_state(service)
}

fn handler(operation: Operation) -> MethodRouter<Shared> {
    match operation {
        Operation::OpenApi => get(|| async { json(StatusCode::OK, &openapi::document()) }),
        Operation::ServerMetadata => get(|| async { json(StatusCode::OK, &Service::server_metadata()) }),
        Operation::ServerLive => get(|| async { health("live", true) }),
        Operation::ServerReady => get(ready),
        Operation::ModelMetadata => get(model_metadata),
        Operation::ModelReady => get(model_ready),
        Operation::ModelInfer => post(infer),
        Operation::ModelFeedback => post(give_feedback),
    }
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
    let error = message.to_owned();
    json(status, &ErrorBody { error })
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        error(self.http_status(), &self.message)
    }
}

/// A health answer: the protocol says false by a 4xx.
fn health(field: &str, is_true: bool) -> Response {
    let status = if is_true {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    let body = serde_json::Map::from_iter([(field.to_owned(), is_true.into())]);
    json(status, &body)
}

async fn ready(State(service): State<Shared>) -> Response {
    health("ready", service.is_ready())
}

#[derive(serde::Deserialize)]
struct ModelPath {
    name: String,
    version: Option<String>,
}

impl ModelPath {
    fn find(&self, service: &Service) -> Result<(), Refused> {
        service.find_model(&self.name, self.version.as_deref())
    }
}

async fn model_ready(State(service): State<Shared>, path: Path<ModelPath>) -> Response {
    match path.find(&service) {
        Ok(()) => health("ready", service.is_ready()),
        Err(refused) => refused.into_response(),
    }
}

async fn model_metadata(State(service): State<Shared>, path: Path<ModelPath>) -> Response {
    match path.find(&service) {
        Ok(()) => json(StatusCode::OK, &service.model_metadata()),
        Err(refused) => refused.into_response(),
    }
}

async fn infer(
    State(service): State<Shared>,
    path: Path<ModelPath>,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let result = async {
        path.find(&service)?;
        let encoding = request_encoding(&service, &headers)?;
        let json_length = json_length(&service, &headers)?;
        let (content, _memory) = read_body(&service, &headers, &mut body, encoding).await?;
        let envelope = Envelope {
            arrived: Instant::now(),
            limit: None,
            traceparent: traceparent(&headers),
        };
        let answered = answer(&service, &content, json_length, envelope).await?;
        reply(&service, &headers, &answered).await
    };
    let result = result.await;
    let response = result.unwrap_or_else(|refused: Refused| {
        body::discard(body, &headers);
        refused.into_response()
    });
    let sent = response.body().size_hint().lower();
    service.engine.metrics.sent(Protocol::Rest).inc_by(sent);
    response
}

/// Where in a trace the request belongs, as its caller says.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get("traceparent")?.to_str().ok()
}

async fn give_feedback(
    State(service): State<Shared>,
    path: Path<ModelPath>,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let result = async {
        path.find(&service)?;
        let declared = body::declared_length(&headers);
        let read = body::read(&mut body, feedback::LARGEST_BODY, declared).await;
        let content = read.map_err(|problem| refuse_body(&service, problem, feedback::LARGEST_BODY))?;
        let taken = feedback::take(&service.revisions, &content);
        let reply = taken.map_err(|problem| service.refuse(problem.kind(), problem.to_string()))?;
        Ok(json(StatusCode::OK, &reply))
    };
    let result = result.await;
    result.unwrap_or_else(|refused: Refused| {
        body::discard(body, &headers);
        refused.into_response()
    })
}

fn request_encoding(service: &Service, headers: &HeaderMap) -> Result<Option<Encoding>, Refused> {
    compression::of_request(headers).map_err(|_| {
        let message = "the body's Content-Encoding is not known here: send it plain, as gzip or as deflate";
        service.refuse(Kind::Encoding, message)
    })
}

/// How much of the plain body is JSON, where binary data follows.
fn json_length(service: &Service, headers: &HeaderMap) -> Result<Option<usize>, Refused> {
    let Some(value) = headers.get(BINARY_HEADER) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        let message = format!("{BINARY_HEADER} must be the number of bytes of the body's JSON");
        service.refuse(Kind::Invalid, message)
    })
}

/// Reads a body, plain or compressed, within the memory that all requests share.
async fn read_body(
    service: &Service,
    headers: &HeaderMap,
    body: &mut Body,
    encoding: Option<Encoding>,
) -> Result<(Bytes, Share), Refused> {
    let limit = service.body_limit;
    let declared = body::declared_length(headers);
    let size = declared.unwrap_or(limit).min(limit);
    let share = service
        .memory
        .try_take(size)
        .ok_or_else(|| service.refuse_overload())?;
    let refuse = |problem| refuse_body(service, problem, limit);
    let content = body::read(body, limit, declared).await.map_err(refuse)?;
    let received = content.len() as u64;
    service.engine.metrics.received(Protocol::Rest).inc_by(received);
    let Some(encoding) = encoding else {
        return Ok((content.into(), share));
    };
    let plain_share = service
        .memory
        .try_take(limit)
        .ok_or_else(|| service.refuse_overload())?;
    let unpack = move || compression::decompress(&content, encoding, limit);
    let plain = off_thread(size > LARGE, unpack).await?.map_err(refuse)?;
    // What was expected at most is more than what came.
    drop(plain_share);
    let share = service
        .memory
        .try_take(plain.len())
        .ok_or_else(|| service.refuse_overload())?;
    Ok((plain.into(), share))
}

/// Runs what takes long on a thread of its own.
async fn off_thread<T: Send + 'static>(
    is_long: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    if !is_long {
        return Ok(work());
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|problem| Refused::new(Kind::Failed, problem.to_string()))
}

fn refuse_body(service: &Service, problem: BodyError, limit: usize) -> Refused {
    match problem {
        BodyError::TooLarge => service.refuse(
            Kind::TooLarge,
            format!("the body is larger than {limit} bytes, more than such a request to this model needs"),
        ),
        BodyError::Broken => service.refuse(Kind::Invalid, "the body ended before it was whole"),
        BodyError::Slow => service.refuse(Kind::Slow, "the body did not arrive in time"),
        BodyError::Garbled(encoding) => {
            let message = format!(
                "the body is not the {} that its Content-Encoding says",
                encoding.as_str()
            );
            service.refuse(Kind::Invalid, message)
        }
    }
}

async fn answer(
    service: &Service,
    content: &Bytes,
    json_length: Option<usize>,
    envelope: Envelope<'_>,
) -> Result<Answered, Refused> {
    let request = wire::decode_request(content, json_length, &Limits::DEFAULT);
    let request = request.map_err(|problem| service.refuse_decoding(&problem))?;
    let binary = wire::wants_binary(&request.parameters);
    service.answer(request, envelope, binary).await
}

async fn reply(service: &Service, headers: &HeaderMap, answered: &Answered) -> Result<Response, Refused> {
    let body = wire::encode_reply(&service.build_reply(answered));
    let body = body.map_err(|problem| service.refuse(Kind::Invalid, problem.to_string()))?;
    let mut reply = HeaderMap::new();
    let kind = if let Some(length) = body.json_length {
        reply.insert(HeaderName::from_static(BINARY_HEADER), HeaderValue::from(length));
        "application/octet-stream"
    } else {
        "application/json"
    };
    reply.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let mut content = body.content;
    let wanted = compression::accepted(headers).filter(|_| compression::is_worth_it(content.len()));
    if let Some(encoding) = wanted {
        let pack = move || compression::compress(&content, encoding);
        let packed = off_thread(true, pack).await?;
        content = packed.map_err(|problem| Refused::new(Kind::Failed, problem.to_string()))?;
        reply.insert(
            header::CONTENT_ENCODING,
            HeaderValue::from_static(encoding.as_str()),
        );
        reply.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    Ok((reply, content).into_response())
}
