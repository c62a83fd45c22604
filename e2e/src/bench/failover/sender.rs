//! Sends one request, and reads who answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::bench::{echo, failed};
use crate::product::Result;

/// Name of the variant behind the server.
pub const FALLBACK: &str = "fallback";
/// Where the tensors begin, in requests and answers.
const LENGTH: &str = "inference-header-content-length";
/// A request without an answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a client that retries waits.
const RETRY: Duration = Duration::from_millis(20);

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing, an error, or wrong numbers.
    None,
    /// The variant's server answered.
    Server,
    /// The fallback answered.
    Fallback {
        /// Whether the answer is flagged as degraded.
        says_so: bool,
    },
}

/// An answer, and whether it took more than one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The last one's.
    pub answer: Answer,
    /// The first one got none.
    pub again: bool,
}

impl From<Answer> for Asked {
    fn from(answer: Answer) -> Self {
        Self { answer, again: false }
    }
}

/// Sends inference requests, each over a connection that is free or new.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    url: Arc<str>,
    json_length: usize,
    body: Arc<[u8]>,
}

impl Sender {
    /// Sends to a runtime here.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let client = Client::builder().timeout(PATIENCE).build();
        let (json, tensors) = echo::binary_request();
        Ok(Self {
            client: client.map_err(|error| failed("the client", error))?,
            url: format!("http://{address}/v2/models/{}/infer", echo::NAME).into(),
            json_length: json.len(),
            body: [json.as_bytes(), &tensors].concat().into(),
        })
    }

    /// Sends a request as a client that retries does.
    pub async fn ask_until_answered(&self) -> Asked {
        let until = Instant::now() + PATIENCE;
        let mut asked = Asked::from(self.ask().await);
        while asked.answer == Answer::None && Instant::now() < until {
            sleep(RETRY).await;
            asked = Asked {
                answer: self.ask().await,
                again: true,
            };
        }
        asked
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&self) -> Answer {
        let request = self.client.post(&*self.url).header(LENGTH, self.json_length);
        match request.body(self.body.to_vec()).send().await {
            Ok(response) => read(response).await.unwrap_or(Answer::None),
            Err(_) => Answer::None,
        }
    }
}

/// Nothing where it is no answer.
async fn read(response: Response) -> Option<Answer> {
    if !response.status().is_success() {
        return None;
    }
    let length = response.headers().get(LENGTH)?.to_str().ok()?.parse().ok()?;
    let body = response.bytes().await.ok()?;
    classify(body.get(..length)?, &body)
}

fn classify(json: &[u8], body: &[u8]) -> Option<Answer> {
    let reply: Value = serde_json::from_slice(json).ok()?;
    if !echo::is_answer(&echo::binary_answer(body)) {
        return None;
    }
    let parameters = &reply["parameters"];
    Some(if parameters["variant"] == FALLBACK {
        Answer::Fallback {
            says_so: parameters["degraded"] == true,
        }
    } else {
        Answer::Server
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_is_read_and_wrong_numbers_are_no_answer() {
        let numbers = |sign: f32| -> Vec<u8> {
            let (_, request) = echo::binary_request();
            let (floats, _) = request.as_chunks::<4>();
            let floats = floats.iter().map(|&bytes| sign * f32::from_le_bytes(bytes));
            floats.flat_map(f32::to_le_bytes).collect()
        };
        let told = |json: &str, sign| classify(json.as_bytes(), &[json.as_bytes(), &numbers(sign)].concat());
        let server = r#"{"parameters": {"variant": "server", "degraded": false}}"#;
        let flagged = r#"{"parameters": {"variant": "fallback", "degraded": true}}"#;
        let silent = r#"{"parameters": {"variant": "fallback"}}"#;
        assert_eq!(told(server, -1.0), Some(Answer::Server));
        assert_eq!(told(flagged, -1.0), Some(Answer::Fallback { says_so: true }));
        assert_eq!(told(silent, -1.0), Some(Answer::Fallback { says_so: false }));
        assert_eq!(told(server, 1.0), None);
    }
}
