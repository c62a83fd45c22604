//! Health and metrics of the operator: `/healthz`, `/readyz`, `/metrics`.

use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// A pass that takes longer than this means that the loop hangs.
const PASS_DEADLINE: Duration = Duration::from_secs(180);

/// What health answers are made of.
#[derive(Clone, Default)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    waiting_for: Option<String>,
    pass_began: Option<Instant>,
}

impl Health {
    /// Not ready: says what for.
    pub fn wait_for(&self, what: &str) {
        self.lock().waiting_for = Some(what.to_owned());
    }

    /// Ready.
    pub fn ready(&self) {
        self.lock().waiting_for = None;
    }

    /// A pass begins.
    pub fn pass_began(&self) {
        self.lock().pass_began = Some(Instant::now());
    }

    /// The pass ended.
    pub fn pass_ended(&self) {
        self.lock().pass_began = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; give another address with --listen")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds the port and serves until the process ends.
///
/// # Errors
/// When the port cannot be used.
pub async fn serve(address: SocketAddr, health: Health, metrics: Metrics) -> Result<(), ListenError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ListenError { address, source })?;
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(health)
        .merge(Router::new().route("/metrics", get(text)).with_state(metrics));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "health and metrics end");
        }
    });
    Ok(())
}

async fn healthz(State(health): State<Health>) -> impl IntoResponse {
    let began = health.lock().pass_began;
    match began {
        Some(began) if began.elapsed() > PASS_DEADLINE => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("a pass hangs since {} s\n", began.elapsed().as_secs()),
        ),
        _ => (StatusCode::OK, "ok\n".to_owned()),
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    match health.lock().waiting_for.clone() {
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
        None => (StatusCode::OK, "ok\n".to_owned()),
    }
}

async fn text(State(metrics): State<Metrics>) -> impl IntoResponse {
    let content_type = [(
        header::CONTENT_TYPE,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
    )];
    match metrics.text() {
        Ok(text) => (StatusCode::OK, content_type, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, content_type, error.to_string()),
    }
}
