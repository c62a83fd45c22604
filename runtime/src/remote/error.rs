//! What can go wrong with a server elsewhere, and what that means for the chain.

use crate::chain::Reason;
use perwatt_oip::error::{DecodeError, EncodeError};

/// Why a server gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(String),
    /// No connection, or one that broke.
    #[error("{0}")]
    Connection(String),
    /// The server says that it has too much to do.
    #[error("the server is overloaded or not ready: {0}")]
    Busy(String),
    /// The server gave up in time.
    #[error("the server gave up: {0}")]
    Late(String),
    /// The server refuses, or failed.
    #[error("the server says {code}: {message}")]
    Refused {
        /// Status or code.
        code: String,
        /// Its own words, cut short.
        message: String,
    },
    /// The reply is larger than this model's outputs can be.
    #[error("the reply is larger than {0} bytes, more than this model's outputs need")]
    TooLarge(usize),
    /// The request cannot be written.
    #[error("the request {0}")]
    Encode(#[from] EncodeError),
    /// The reply cannot be read.
    #[error("the reply cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The reply can be read, and is not the model's.
    #[error("the reply is wrong: {0}")]
    Wrong(String),
    /// What the server serves is not what `model.yaml` says.
    #[error("the server's model is another one: {0}")]
    Mismatch(String),
    /// The model is not ready there.
    #[error("the server has no model {0:?} that is ready")]
    NotReady(String),
}

impl RemoteError {
    /// What the chain makes of it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Busy(_) => Reason::Busy,
            Self::Late(_) => Reason::Late,
            _ => Reason::InferenceFailed,
        }
    }
}

/// A peer's words, cut short and on one line.
pub fn words(text: &str) -> String {
    let text: String = text.chars().take(256).collect();
    text.replace(|c: char| c.is_control(), " ")
}

/// An error with its causes, on one line: hyper names the kind in one and the cause in another.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    words(&text)
}
