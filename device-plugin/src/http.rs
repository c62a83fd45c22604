//! Metrics and health over HTTP.

use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::state::Shared;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpListener;

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for metrics and health: {source}; is another agent running on this node, or the port taken? --listen changes it"
)]
pub struct HttpError {
    /// Where.
    pub address: SocketAddr,
    /// What the system answered.
    pub source: std::io::Error,
}

/// What the endpoint shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Counters and gauges.
    pub metrics: Metrics,
    /// What is waited for.
    pub readiness: Readiness,
    /// The devices.
    pub shared: Shared,
}

/// Opens the port, so that a failure is seen before anything else starts.
///
/// # Errors
/// When the port is taken.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let bound = match TcpListener::bind(address).await {
        // A node whose kernel has no IPv6 still has IPv4.
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|source| HttpError { address, source })
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, shown: Shown) {
    let routes = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shown);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the endpoint for metrics and health ended");
    }
}

async fn readyz(State(shown): State<Shown>) -> (StatusCode, String) {
    let blockers = shown.readiness.blockers();
    if blockers.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not ready\n{}\n", blockers.join("\n")),
    )
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    match shown.metrics.render(&shown.shared) {
        Ok(text) => (kind, text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
