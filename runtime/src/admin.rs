//! Port 9090: probes, metrics, evidence, and the control of a rollout.

pub mod rollout;

use crate::rollout::pair::Revisions;
use crate::serve::Drain;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::{Arc, OnceLock};

/// What the handlers share. The revisions come once their models are loaded.
#[derive(Clone)]
pub struct Admin {
    /// Set once the variants are loaded and ran once.
    pub revisions: Arc<OnceLock<Arc<Revisions>>>,
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
        .route("/rollout", get(rollout::get).put(rollout::put))
        .layer(DefaultBodyLimit::max(rollout::LARGEST_BODY))
        .with_state(admin)
}

fn refuse(message: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, message + "\n").into_response()
}

fn loading() -> Response {
    refuse("the model is being loaded".into())
}

async fn startup(State(admin): State<Admin>) -> Response {
    match admin.revisions.get() {
        Some(_) => "ok\n".into_response(),
        None => loading(),
    }
}

/// Not alive is what only a restart mends.
async fn live(State(admin): State<Admin>) -> Response {
    let stuck = admin
        .revisions
        .get()
        .and_then(|revisions| revisions.engines().find_map(|engine| engine.mend()));
    match stuck {
        Some(stuck) => refuse(stuck),
        None => "ok\n".into_response(),
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    let Some(revisions) = admin.revisions.get() else {
        return loading();
    };
    if admin.drain.is_draining() {
        return refuse("stopping: requests that still come are served".into());
    }
    let active = revisions.serving().active();
    match (active.index, active.cause) {
        (Some(_), _) => "ok\n".into_response(),
        (None, cause) => refuse(cause.map_or_else(|| "no variant can serve".into(), |cause| cause.message)),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let Some(revisions) = admin.revisions.get() else {
        return loading();
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], revisions.render_metrics()).into_response()
}

/// What of the evidence is asked for.
#[derive(Debug, Deserialize)]
struct Wanted {
    /// Closed turns after this one; none where it is left out.
    after: Option<u32>,
}

async fn evidence(State(admin): State<Admin>, Query(wanted): Query<Wanted>) -> Response {
    match admin.revisions.get() {
        Some(revisions) => Json(revisions.evidence(wanted.after)).into_response(),
        None => loading(),
    }
}
