//! Port 9090: probes, metrics and evidence.

use crate::engine::Engine;
use crate::serve::Drain;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::{Arc, OnceLock};

/// What the handlers share. The engine comes once the model is loaded.
#[derive(Clone)]
pub struct Admin {
    /// Set once the variants are loaded and ran once.
    pub engine: Arc<OnceLock<Arc<Engine>>>,
    /// How far the end has come.
    pub drain: Drain,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/startupz", get(startup))
        .route("/readyz", get(ready))
        .route("/livez", get(live))
        .route("/metrics", get(metrics))
        .route("/evidence", get(evidence))
        .with_state(admin)
}

fn refuse(message: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, message + "\n").into_response()
}

fn loading() -> Response {
    refuse("the model is being loaded".into())
}

async fn startup(State(admin): State<Admin>) -> Response {
    match admin.engine.get() {
        Some(_) => "ok\n".into_response(),
        None => loading(),
    }
}

/// Not alive is what only a restart mends.
async fn live(State(admin): State<Admin>) -> Response {
    match admin.engine.get().and_then(|engine| engine.mend()) {
        Some(stuck) => refuse(stuck),
        None => "ok\n".into_response(),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    let Some(engine) = admin.engine.get() else {
        return loading();
    };
    if admin.drain.is_draining() {
        return refuse("stopping: requests that still come are served".into());
    }
    let active = engine.active();
    match (active.index, active.cause) {
        (Some(_), _) => "ok\n".into_response(),
        (None, cause) => refuse(cause.map_or_else(|| "no variant can serve".into(), |cause| cause.message)),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let Some(engine) = admin.engine.get() else {
        return loading();
    };
    engine.sweep();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], engine.metrics.render()).into_response()
}

async fn evidence(State(admin): State<Admin>) -> Response {
    match admin.engine.get() {
        Some(engine) => Json(engine.evidence()).into_response(),
        None => loading(),
    }
}
