//! What applications say of answers: `POST /v2/models/NAME/feedback`.
//!
//! The Open Inference Protocol has no such call; this one follows its habits. What was said is counted, and
//! nothing else of it is kept.

use super::refusal::Kind;
use crate::metrics::FeedbackKind;
use crate::rollout::pair::Revisions;
use crate::telemetry::feedback::{FeedbackError, Subject};
use serde::{Deserialize, Serialize};

/// Largest body, in bytes.
pub const LARGEST_BODY: usize = 4096;
/// Longest id of a request that can be spoken of, in bytes.
const LONGEST_ID: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedbackRequest {
    id: Option<String>,
    time_milliseconds: Option<u64>,
    kind: FeedbackKind,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct FeedbackReply<'a> {
    /// What was said.
    pub kind: FeedbackKind,
    /// The variant that gave the answer; nothing where nobody remembers.
    pub variant: Option<&'a str>,
    /// False where the same was said before: it counts once.
    pub counted: bool,
}

/// Why feedback is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not as it should be.
    #[error("{0}")]
    Invalid(String),
    /// It contradicts what was said before.
    #[error("{0}")]
    Conflict(FeedbackError),
}

impl Refused {
    /// What kind of error it is, as the protocol has it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid(_) => Kind::Invalid,
            Self::Conflict(_) => Kind::Conflict,
        }
    }
}

/// Reads feedback and counts it.
///
/// # Errors
/// With what a client must change.
pub fn take<'a>(revisions: &'a Revisions, body: &[u8]) -> Result<FeedbackReply<'a>, Refused> {
    let request: FeedbackRequest = serde_json::from_slice(body)
        .map_err(|error| Refused::Invalid(format!("the body is no feedback: {error}")))?;
    let subject = subject(request.id, request.time_milliseconds).map_err(Refused::Invalid)?;
    let engine = match &subject {
        Subject::Request(id) => {
            let mut engines = revisions.engines();
            engines.find(|engine| engine.telemetry.remembers(id))
        }
        Subject::Moment(_) => None,
    };
    let engine = engine.unwrap_or(revisions.incumbent());
    let noted = engine.telemetry.feedback(&engine.metrics, &subject, request.kind);
    let (noted, variant) = noted.map_err(|error| match error {
        FeedbackError::Contradicts(_) => Refused::Conflict(error),
        FeedbackError::Future => Refused::Invalid(error.to_string()),
    })?;
    Ok(FeedbackReply {
        kind: request.kind,
        variant,
        counted: noted.counted,
    })
}

fn subject(id: Option<String>, moment: Option<u64>) -> Result<Subject, String> {
    match (id, moment) {
        (Some(id), None) if (1..=LONGEST_ID).contains(&id.len()) => Ok(Subject::Request(id)),
        (Some(id), None) => Err(format!(
            "id has {} bytes, from 1 to {LONGEST_ID} are possible",
            id.len()
        )),
        (None, Some(moment)) => Ok(Subject::Moment(moment)),
        (None, None) => {
            Err("say which answer is meant: id (of its request) or time_milliseconds (Unix time)".into())
        }
        (Some(_), Some(_)) => Err("id and time_milliseconds are both there: name one".into()),
    }
}
