//! The authenticated control of a pod that carries two revisions.

use super::{Admin, loading};
use crate::rollout::control::{Command, CommandError};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Environment variable with the SHA-256 of the token, in hexadecimal: whoever reads the pod learns no token from it. No
/// command is obeyed where it is not set.
pub const TOKEN_ENV: &str = "PERWATT_CONTROL_TOKEN_SHA256";
/// Largest body of a command, in bytes.
pub const LARGEST_BODY: usize = 4096;

/// The reply to a command.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Obeyed {
    #[serde(flatten)]
    state: crate::rollout::pair::RolloutState,
    /// Whether a restart of the container goes on with it.
    kept: bool,
}

/// What is in force.
pub async fn get(State(admin): State<Admin>) -> Response {
    match admin.revisions.get() {
        Some(revisions) => Json(revisions.state()).into_response(),
        None => loading(),
    }
}

/// Obeys a command of whoever has the token.
pub async fn put(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err((status, message)) = check_token(&headers) {
        return (status, message + "\n").into_response();
    }
    let Some(revisions) = admin.revisions.get().cloned() else {
        return loading();
    };
    let command: Command = match serde_json::from_slice(&body) {
        Ok(command) => command,
        Err(error) => {
            return refuse(
                StatusCode::BAD_REQUEST,
                &format!("the body is no command: {error}"),
            );
        }
    };
    if let Err(error) = revisions.obey(command) {
        let status = match error {
            CommandError::Invalid(_) => StatusCode::BAD_REQUEST,
            CommandError::NoCandidate { .. } | CommandError::Old(..) | CommandError::Another(_) => {
                StatusCode::CONFLICT
            }
        };
        return refuse(status, &error.to_string());
    }
    // A disk may hang: requests are not made to wait for it.
    let keeping = revisions.clone();
    let kept = tokio::task::spawn_blocking(move || keeping.control().keep()).await;
    Json(Obeyed {
        state: revisions.state(),
        kept: kept.unwrap_or(false),
    })
    .into_response()
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, format!("{message}\n")).into_response()
}

fn check_token(headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
    let digest = std::env::var(TOKEN_ENV).unwrap_or_default();
    let Some(digest) = read_digest(&digest) else {
        return Err((
            StatusCode::FORBIDDEN,
            format!("no command is obeyed: {TOKEN_ENV} is not the SHA-256 of a token, 64 hexadecimal digits"),
        ));
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    let given = Sha256::digest(given.trim().as_bytes());
    if bool::from(given.as_slice().ct_eq(&digest)) {
        return Ok(());
    }
    Err((
        StatusCode::UNAUTHORIZED,
        "the bearer token is missing or another".into(),
    ))
}

fn read_digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text.trim(), &mut digest).ok()?;
    Some(digest)
}
