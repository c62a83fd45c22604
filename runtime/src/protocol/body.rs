//! Bodies of requests: read within bounds, or thrown away within bounds.

use super::compression::Encoding;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::timeout;

/// A client that does not send its body in this time is given up.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a refused body is read, so that its client gets to the answer.
const DISCARD_BYTES: usize = 16 << 20;
/// And for how long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It is larger than the limit.
    TooLarge,
    /// It ended before it was whole.
    Broken,
    /// It did not arrive in time.
    Slow,
    /// It is not what its encoding says.
    Garbled(Encoding),
}

/// The length that a request declares, where it does.
pub fn declared_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// When it is larger, breaks off, or takes too long.
pub async fn read(body: &mut Body, limit: usize, declared: Option<usize>) -> Result<Vec<u8>, BodyError> {
    if declared.is_some_and(|length| length > limit) {
        return Err(BodyError::TooLarge);
    }
    let collect = async {
        let mut content = Vec::with_capacity(declared.unwrap_or(0));
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
                continue;
            };
            if content.len() + data.len() > limit {
                return Err(BodyError::TooLarge);
            }
            content.extend_from_slice(&data);
        }
        Ok(content)
    };
    timeout(READ_TIMEOUT, collect)
        .await
        .unwrap_or(Err(BodyError::Slow))
}

/// Throws away what is left of a refused body, beside the answer: a connection that is closed
/// while its client still sends is reset, and the client never reads why.
pub fn discard(mut body: Body, headers: &HeaderMap) {
    // Such a client sends nothing before it is told to, and reading would tell it.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let read = async move {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
            if left == 0 {
                break;
            }
        }
    };
    tokio::spawn(timeout(DISCARD_TIMEOUT, read));
}
