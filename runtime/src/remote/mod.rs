//! Another server of the Open Inference Protocol as a variant: a vendor's sidecar beside us, or a relay elsewhere.
//!
//! Calls are tasks, not threads: a server that hangs costs memory for what is under way, which is bounded, and
//! a caller that goes away takes its call along. Whatever the server answers is checked like any input.
//! What does not live here: when a server is given up, which is the chain's business.

mod connector;
mod endpoint;
mod error;
mod fit;
mod grpc;
mod rest;

pub use endpoint::{At, Endpoint, EndpointError};
pub use error::RemoteError;

use crate::backend::{BackendError, Signature};
use crate::config::{RemoteConfig, RemoteProtocol};
use crate::tensor::Tensor;
use crate::variant::{Ask, Call};
use fit::Fit;
use grpc::Grpc;
use perwatt_model::{Datatype, Manifest, TensorSpec};
use perwatt_oip::limits::Limits;
use perwatt_oip::message::{Outgoing, Parameters, Reply, Value};
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use rest::Rest;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// Calls that one server is given at once.
const AT_ONCE: usize = 64;
/// Calls that may wait for that.
const WAITING: usize = 256;
/// Bytes of a reply around its elements, and for one element as JSON.
const BYTES_AROUND: usize = 64 << 10;
const BYTES_AN_ELEMENT: usize = 32;
/// Bytes that texts of outputs may have, together.
const BYTES_OF_TEXTS: usize = 16 << 20;

/// A server that was found ready, and to serve our model.
pub struct Remote {
    link: Link,
    fit: Fit,
    limits: Limits,
    reply_limit: usize,
    is_on_node: bool,
    running: Semaphore,
    admission: Arc<Semaphore>,
    sent: OnceLock<Counter>,
}

enum Link {
    Rest(Rest),
    Grpc(Grpc),
}

/// An answer, and what the server says of it.
struct Answered {
    outputs: Vec<Tensor>,
    sequence_restarted: bool,
    degraded: Option<(String, String)>,
}

impl Remote {
    /// Finds the server, and compares its model with ours.
    ///
    /// # Errors
    /// When it does not answer, its model is not ready, or is another one.
    pub async fn connect(config: &RemoteConfig, manifest: &Manifest) -> Result<Self, RemoteError> {
        // What the server serves is not known yet: the file, or the whole model.
        let mut outputs = manifest.model_outputs();
        outputs.extend(manifest.outputs.iter().cloned());
        let reply_limit = reply_limit(&outputs);
        let is_grpc = config.protocol == Some(RemoteProtocol::Grpc) || config.endpoint.is_grpc();
        let model = config.model.as_deref().unwrap_or(manifest.name.as_str());
        let (link, metadata) = if is_grpc {
            let grpc = Grpc::new(&config.endpoint, model, reply_limit)?;
            let metadata = grpc.look().await?;
            (Link::Grpc(grpc), metadata)
        } else {
            let mut rest = Rest::new(&config.endpoint, model)?;
            let metadata = rest.look().await?;
            (Link::Rest(rest), metadata)
        };
        Ok(Self {
            link,
            fit: fit::determine_fit(&metadata, manifest)?,
            limits: Limits {
                elements: outputs.iter().map(TensorSpec::elements).max().unwrap_or(1),
                ..Limits::DEFAULT
            },
            reply_limit,
            is_on_node: config.endpoint.is_on_node(),
            running: Semaphore::new(AT_ONCE),
            admission: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
            sent: OnceLock::new(),
        })
    }

    /// Whether the server remembers sequences itself.
    pub fn keeps_sequences(&self) -> bool {
        self.fit.keeps_sequences
    }

    /// Whether the server takes the steps before and after the model itself.
    pub fn takes_steps(&self) -> bool {
        self.fit.takes_steps
    }

    /// What goes over the wire.
    pub fn signature(&self) -> &Signature {
        &self.fit.signature
    }

    /// Whether what is sent stays on this node.
    pub fn is_on_node(&self) -> bool {
        self.is_on_node
    }

    /// Counts what is sent from now on.
    pub fn count_sent(&self, counter: Counter) {
        // A counter that is there already stays.
        let _ = self.sent.set(counter);
    }

    /// Calls that wait for their turn.
    pub fn queued(&self) -> usize {
        let under_way = AT_ONCE + WAITING - self.admission.available_permits();
        under_way.saturating_sub(AT_ONCE - self.running.available_permits())
    }

    /// Begins a call; nothing when too many wait. A caller that goes away takes its call along.
    pub fn call(self: &Arc<Self>, ask: Ask) -> Option<oneshot::Receiver<Call>> {
        let admitted = self.admission.clone().try_acquire_owned().ok()?;
        let (mut reply, receiver) = oneshot::channel();
        let own = self.clone();
        tokio::spawn(async move {
            let _admitted = admitted;
            tokio::select! {
                () = reply.closed() => {}
                call = own.run(&ask) => {
                    // It was late where this fails.
                    let _ = reply.send(call);
                }
            }
        });
        Some(receiver)
    }

    /// Makes one call, here and now.
    pub async fn run(&self, ask: &Ask) -> Call {
        let came = Instant::now();
        // Nobody closes the semaphore.
        let _turn = self.running.acquire().await;
        let start = Instant::now();
        let answered = self.infer(ask).await;
        let (took, waited) = (start.elapsed(), start.saturating_duration_since(came));
        match answered {
            Ok(answered) => Call {
                sequence_restarted: answered.sequence_restarted,
                degraded: answered.degraded,
                ..Call::new(Ok(answered.outputs), took, waited)
            },
            Err(error) => Call {
                reason: Some(error.reason()),
                ..Call::new(Err(BackendError(error.to_string())), took, waited)
            },
        }
    }

    async fn infer(&self, ask: &Ask) -> Result<Answered, RemoteError> {
        let names = self.fit.signature.inputs.iter().map(|spec| spec.name.as_str());
        let inputs: Vec<_> = names.zip(&ask.inputs).collect();
        let outputs = &self.fit.signature.outputs;
        let wanted: Vec<_> = outputs.iter().map(|spec| spec.name.as_str()).collect();
        let outgoing = Outgoing {
            id: None,
            parameters: &parameters(ask, self.fit.keeps_sequences),
            inputs: &inputs,
            outputs: &wanted,
        };
        let reply = match &self.link {
            Link::Rest(rest) => {
                let body = rest.encode(&outgoing)?;
                self.count(body.content.len());
                rest.infer(body, self.reply_limit, &self.limits).await?
            }
            Link::Grpc(grpc) => {
                let message = grpc.encode(&outgoing);
                self.count(message.encoded_len());
                grpc.infer(message, ask.timeout, &self.limits).await?
            }
        };
        self.read(reply, ask)
    }

    /// Counted before they go: a call that is given up may have sent them.
    fn count(&self, bytes: usize) {
        if let Some(counter) = self.sent.get() {
            counter.inc_by(bytes as u64);
        }
    }

    fn read(&self, reply: Reply, ask: &Ask) -> Result<Answered, RemoteError> {
        let says = |name: &str| reply.parameters.get(name).and_then(Value::as_bool) == Some(true);
        if says("safe_value") {
            return Err(RemoteError::Wrong(
                "it is the safe value, given when nothing answers".into(),
            ));
        }
        let text = |name: &str| {
            error::words(
                reply
                    .parameters
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default(),
            )
        };
        let degraded = says("degraded").then(|| {
            let reason = text("degraded_reason").chars().take(64).collect();
            (
                reason,
                format!(
                    "the server that answered is degraded: {}",
                    text("degraded_message")
                ),
            )
        });
        let continued = ask.sequence.as_ref().is_some_and(|sequence| !sequence.start);
        let sequence_restarted = continued && says("sequence_restarted");
        Ok(Answered {
            sequence_restarted,
            degraded,
            outputs: fit::pick_outputs(reply.outputs, &self.fit.signature.outputs)?,
        })
    }
}

/// The least that a server is asked to hurry, in microseconds.
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);

fn parameters(ask: &Ask, keeps_sequences: bool) -> Parameters {
    let timeout = u64::try_from(ask.timeout.max(LEAST_TIMEOUT).as_micros()).unwrap_or(u64::MAX);
    let mut parameters = Parameters::from([("timeout".to_owned(), Value::Uint(timeout))]);
    if let Some(sequence) = ask.sequence.as_ref().filter(|_| keeps_sequences) {
        parameters.insert("sequence_id".to_owned(), Value::Uint(sequence.id));
        parameters.insert("sequence_start".to_owned(), Value::Bool(sequence.start));
        parameters.insert("sequence_end".to_owned(), Value::Bool(sequence.end));
    }
    parameters
}

fn reply_limit(outputs: &[TensorSpec]) -> usize {
    let elements: usize = outputs.iter().map(TensorSpec::elements).sum();
    let has_texts = outputs.iter().any(|spec| spec.datatype == Datatype::Bytes);
    BYTES_AROUND + elements * BYTES_AN_ELEMENT + if has_texts { BYTES_OF_TEXTS } else { 0 }
}
