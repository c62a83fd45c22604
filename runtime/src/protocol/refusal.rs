//! A request that gets no answer, and what its client is told: one error, as REST and as gRPC say it.

use crate::engine::InferError;
use axum::http::StatusCode;
use tonic::{Code, Status};

/// Longest message in a gRPC status: it travels in a header, whose size clients limit.
const MESSAGE_BYTES: usize = 1024;

/// What kind of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request does not fit the model.
    Invalid,
    /// There is no such model or version.
    NotFound,
    /// It is larger than any right one.
    TooLarge,
    /// It is compressed in a way that is not known here.
    Encoding,
    /// It did not arrive in time.
    Slow,
    /// It contradicts an earlier one.
    Conflict,
    /// Too much is under way.
    Overloaded,
    /// No variant may serve.
    Unavailable,
    /// No variant answered in time.
    Deadline,
    /// Every variant failed.
    Failed,
}

/// A request that gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What kind of error it is.
    pub kind: Kind,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Refused {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The status of an HTTP answer.
    pub fn http_status(&self) -> StatusCode {
        match self.kind {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Kind::Slow => StatusCode::REQUEST_TIMEOUT,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Overloaded | Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<InferError> for Refused {
    fn from(problem: InferError) -> Self {
        let kind = match problem {
            InferError::Overloaded => Kind::Overloaded,
            InferError::Unavailable(_) => Kind::Unavailable,
            InferError::Deadline { .. } => Kind::Deadline,
            InferError::Failed { .. } => Kind::Failed,
            InferError::Invalid(_) => Kind::Invalid,
        };
        Self::new(kind, problem.to_string())
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let code = match refused.kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::NotFound => Code::NotFound,
            Kind::TooLarge => Code::ResourceExhausted,
            Kind::Encoding => Code::Unimplemented,
            Kind::Conflict => Code::FailedPrecondition,
            Kind::Overloaded | Kind::Unavailable => Code::Unavailable,
            Kind::Slow | Kind::Deadline => Code::DeadlineExceeded,
            Kind::Failed => Code::Internal,
        };
        let mut end = MESSAGE_BYTES.min(refused.message.len());
        while !refused.message.is_char_boundary(end) {
            end -= 1;
        }
        Self::new(code, refused.message.get(..end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_where_a_header_can_hold_it() {
        let status = Status::from(Refused::new(Kind::Invalid, "é".repeat(2000)));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message().len(), MESSAGE_BYTES);
        let refused = Refused::new(Kind::Failed, "x".to_owned() + &"é".repeat(2000));
        assert_eq!(Status::from(refused).message().len(), MESSAGE_BYTES - 1);
    }
}
