//! The protocol over HTTP, as a client.

use super::connector::Connector;
use super::endpoint::Endpoint;
use super::error::{RemoteError, with_causes, words};
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use perwatt_oip::limits::Limits;
use perwatt_oip::message::{Outgoing, Reply};
use perwatt_oip::metadata::{ModelMetadata, ServerMetadata};
use perwatt_oip::rest;
use std::time::Duration;

/// A connection unused for this long is closed: before the server does, so that no request meets that moment.
const IDLE: Duration = Duration::from_secs(20);
/// Metadata and errors are short.
const MOST_TEXT: usize = 1 << 20;
/// The extension by which tensors travel as bytes.
const BINARY_EXTENSION: &str = "binary_tensor_data";

/// A REST server.
pub struct Rest {
    client: Client<Connector, Full<Bytes>>,
    base: String,
    model: String,
    /// Whether it takes tensors as bytes.
    binary: bool,
}

impl Rest {
    /// A client; nothing is connected yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(endpoint: &Endpoint, model: &str) -> Result<Self, RemoteError> {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(Connector::new(endpoint, b"http/1.1")?);
        Ok(Self {
            client,
            // TLS is the connector's business.
            base: format!("http://{}{}", endpoint.authority(), endpoint.prefix()),
            model: model.to_owned(),
            binary: false,
        })
    }

    /// Asks what the server can do, whether the model is ready, and what it takes and gives.
    ///
    /// # Errors
    /// When it does not answer, or is not ready.
    pub async fn look(&mut self) -> Result<ModelMetadata, RemoteError> {
        let (status, _) = self.get(&rest::ready_path(&self.model, None)).await?;
        if !status.is_success() {
            return Err(RemoteError::NotReady(self.model.clone()));
        }
        // A server that says nothing of itself gets what every one takes.
        let server = match self.get("/v2").await? {
            (status, content) if status.is_success() => {
                serde_json::from_slice::<ServerMetadata>(&content).ok()
            }
            _ => None,
        };
        let has = |server: ServerMetadata| server.extensions.iter().any(|name| name == BINARY_EXTENSION);
        self.binary = server.is_some_and(has);
        let (status, content) = self.get(&rest::model_path(&self.model, None)).await?;
        if !status.is_success() {
            return Err(refused(status, &content));
        }
        serde_json::from_slice(&content)
            .map_err(|error| RemoteError::Mismatch(format!("its metadata cannot be read: {error}")))
    }

    /// Writes a request.
    ///
    /// # Errors
    /// When a tensor cannot be written.
    pub fn encode(&self, outgoing: &Outgoing<'_>) -> Result<rest::Body, RemoteError> {
        Ok(rest::encode_request(outgoing, self.binary)?)
    }

    /// Asks for an inference. `limit` is the most bytes that the reply may have.
    ///
    /// # Errors
    /// With what happened.
    pub async fn infer(&self, body: rest::Body, limit: usize, limits: &Limits) -> Result<Reply, RemoteError> {
        let uri = format!("{}{}", self.base, rest::infer_path(&self.model, None));
        let mut request = Request::builder().method(Method::POST).uri(uri);
        request = match body.json_length {
            Some(length) => request
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .header(rest::BINARY_HEADER, length),
            None => request.header(header::CONTENT_TYPE, "application/json"),
        };
        let request = request.body(Full::from(body.content)).map_err(broken)?;
        let response = self.client.request(request).await.map_err(broken)?;
        let json_length = json_length(&response)?;
        let status = response.status();
        let content = read(response, limit).await?;
        if !status.is_success() {
            return Err(refused(status, &content));
        }
        Ok(rest::decode_reply(&content, json_length, limits)?)
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), RemoteError> {
        let request = Request::builder().uri(format!("{}{path}", self.base));
        let request = request.body(Full::default()).map_err(broken)?;
        let response = self.client.request(request).await.map_err(broken)?;
        let status = response.status();
        Ok((status, read(response, MOST_TEXT).await?))
    }
}

fn json_length(response: &Response<Incoming>) -> Result<Option<usize>, RemoteError> {
    let Some(value) = response.headers().get(rest::BINARY_HEADER) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    let wrong = || RemoteError::Wrong(format!("{} is {value:?}, no number", rest::BINARY_HEADER));
    length.map(Some).ok_or_else(wrong)
}

async fn read(response: Response<Incoming>, limit: usize) -> Result<Bytes, RemoteError> {
    let collected = Limited::new(response.into_body(), limit).collect().await;
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(RemoteError::TooLarge(limit)),
        Err(error) => Err(RemoteError::Connection(with_causes(&*error))),
    }
}

fn broken(error: impl std::error::Error) -> RemoteError {
    RemoteError::Connection(with_causes(&error))
}

fn refused(status: StatusCode, content: &[u8]) -> RemoteError {
    let message =
        rest::error_message(content).unwrap_or_else(|| String::from_utf8_lossy(content).into_owned());
    let message = words(&message);
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => RemoteError::Busy(message),
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => RemoteError::Late(message),
        _ => RemoteError::Refused {
            code: status.as_u16().to_string(),
            message,
        },
    }
}
