//! What REST and gRPC share: the model that is served, the bounds, and the way from a request to a reply.

use super::PLATFORM;
use super::memory::Memory;
use super::refusal::{Kind, Refused};
use super::request::{Checked, Timing, Wanted, check};
use crate::energy::Energy;
use crate::engine::{Answer, Engine, Slot};
use crate::metrics::Refusal;
use crate::rollout::pair::{Revisions, Served};
use crate::serve::Drain;
use perwatt_model::{Datatype, Manifest, TensorSpec};
use perwatt_oip::error::{DecodeError, short};
use perwatt_oip::message::{self, InferRequest, Output, Value};
use perwatt_oip::metadata::{ModelMetadata, ServerMetadata, TensorMetadata};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of JSON that one element may take: a double with sign, exponent and separators.
const BYTES_AN_ELEMENT: usize = 32;
/// Bytes of a request around the elements.
const BYTES_AROUND: usize = 64 << 10;
/// No request is larger.
const LARGEST_BODY: usize = 2 << 30;
/// Memory for requests that arrive or are being answered, together.
const MEMORY: usize = 64 << 20;

/// The protocol's extensions that are served.
pub const EXTENSIONS: [&str; 2] = ["sequence", "binary_tensor_data"];

/// Serves one model.
pub struct Service {
    /// What answers.
    pub revisions: Arc<Revisions>,
    /// The incumbent, whose interface is that of both.
    pub engine: Arc<Engine>,
    /// How far the end has come.
    pub drain: Drain,
    /// Most bytes of a request.
    pub body_limit: usize,
    /// Memory for requests.
    pub memory: Memory,
    default_timeout: Duration,
}

/// What a transport says of a request, beside its message.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// When it was whole.
    pub arrived: Instant,
    /// The time that the transport gives it, where it does.
    pub limit: Option<Duration>,
    /// Where in a trace it belongs, as its caller says: the W3C's `traceparent`.
    pub traceparent: Option<&'a str>,
}

/// An answer and what of it is wanted.
pub struct Answered {
    engine: Arc<Engine>,
    answer: Answer,
    outputs: Vec<Wanted>,
    id: Option<String>,
}

impl Service {
    /// Serves the model that these are revisions of.
    pub fn new(revisions: Arc<Revisions>, drain: Drain, default_timeout: Duration) -> Self {
        let engine = revisions.incumbent().clone();
        let manifest = &engine.manifest;
        let inputs = manifest.inputs.iter().map(|spec| input_bytes(manifest, spec));
        let needed = inputs.fold(0, usize::saturating_add);
        let body_limit = needed.saturating_add(BYTES_AROUND).min(LARGEST_BODY);
        Self {
            revisions,
            engine,
            drain,
            body_limit,
            memory: Memory::new(MEMORY.max(body_limit)),
            default_timeout,
        }
    }

    /// Whether requests should come here.
    pub fn is_ready(&self) -> bool {
        !self.drain.is_draining() && self.revisions.serving().active().index.is_some()
    }

    /// Refuses a model or version that is not this one; without a version it is.
    ///
    /// # Errors
    /// With what is served.
    pub fn find_model(&self, name: &str, version: Option<&str>) -> Result<(), Refused> {
        let manifest = &self.engine.manifest;
        let served = manifest.name.as_str();
        if name != served {
            let message = format!("model {:?} is not served here, {served:?} is", short(name));
            return Err(Refused::new(Kind::NotFound, message));
        }
        match version {
            Some(version) if !self.has_version(version) => {
                let served = manifest.version.as_str();
                let message = format!("version {:?} is not served here, {served:?} is", short(version));
                Err(Refused::new(Kind::NotFound, message))
            }
            _ => Ok(()),
        }
    }

    fn has_version(&self, version: &str) -> bool {
        let mut engines = self.revisions.engines();
        engines.any(|engine| engine.manifest.version.as_str() == version)
    }

    /// A wrong request is counted and told why.
    pub fn refuse(&self, kind: Kind, message: impl Into<String>) -> Refused {
        self.engine.metrics.count_error(Refusal::Invalid);
        Refused::new(kind, message)
    }

    /// A request that cannot be read.
    pub fn refuse_decoding(&self, problem: &DecodeError) -> Refused {
        self.refuse(Kind::Invalid, problem.to_string())
    }

    /// A request that there is no memory for.
    pub fn refuse_overload(&self) -> Refused {
        self.engine.metrics.count_error(Refusal::Overloaded);
        crate::engine::InferError::Overloaded.into()
    }

    /// Checks a request and has it answered, traced, and remembered for feedback.
    ///
    /// # Errors
    /// When it does not fit the model, is shed, late, or no variant answers.
    pub async fn answer(
        &self,
        request: InferRequest<'_>,
        envelope: Envelope<'_>,
        binary: bool,
    ) -> Result<Answered, Refused> {
        let Envelope { arrived, limit, .. } = envelope;
        let timing = Timing {
            arrived,
            limit,
            default: self.default_timeout,
        };
        let checked = check(request, &self.engine.manifest, timing, binary);
        let Checked { query, outputs, id } =
            checked.map_err(|problem| self.refuse(Kind::Invalid, problem))?;
        let Served { engine, result } = self.revisions.infer(query).await;
        engine.trace(envelope.traceparent, arrived, &result);
        let answer = result?;
        if let (Some(id), Some(variant)) = (&id, answer.variant) {
            engine.telemetry.remember(id, variant);
        }
        Ok(Answered {
            engine,
            answer,
            outputs,
            id,
        })
    }

    /// The reply to an answered request.
    pub fn build_reply<'a>(&self, answered: &'a Answered) -> message::Answer<'a> {
        let manifest = &answered.engine.manifest;
        let output = |wanted: &Wanted| {
            Some(Output {
                name: manifest.outputs.get(wanted.place)?.name.as_str(),
                tensor: answered.answer.outputs.get(wanted.place)?,
                binary: wanted.binary,
            })
        };
        message::Answer {
            model_name: manifest.name.as_str(),
            model_version: manifest.version.as_str(),
            id: answered.id.as_deref(),
            parameters: build_parameters(&answered.engine, &answered.answer),
            outputs: answered.outputs.iter().filter_map(output).collect(),
        }
    }

    /// What the server is.
    pub fn server_metadata() -> ServerMetadata {
        ServerMetadata {
            name: "perwatt".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(str::to_owned).into(),
        }
    }

    /// What the model takes and gives.
    pub fn model_metadata(&self) -> ModelMetadata {
        let manifest = &self.engine.manifest;
        let tensor = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.to_string(),
            datatype: spec.datatype.as_str().into(),
            shape: spec.shape.iter().map(|&n| n.into()).collect(),
        };
        ModelMetadata {
            name: manifest.name.to_string(),
            versions: vec![manifest.version.as_str().into()],
            platform: PLATFORM.into(),
            inputs: manifest.inputs.iter().map(tensor).collect(),
            outputs: manifest.outputs.iter().map(tensor).collect(),
        }
    }
}

/// Who answered, and how.
fn build_parameters(engine: &Engine, answer: &Answer) -> Vec<(&'static str, Value)> {
    let slot = answer.variant.and_then(|index| engine.slots.get(index));
    let device = slot.and_then(Slot::device);
    let config = &engine.config;
    let mut parameters = Vec::with_capacity(12);
    parameters.extend([
        ("variant", slot.map_or("none", |slot| &slot.name).into()),
        ("device", device.unwrap_or("none").into()),
        ("node", config.node.as_str().into()),
        ("revision", config.revision.as_str().into()),
        ("degraded", answer.degraded.is_some().into()),
    ]);
    if let Some((reason, message)) = &answer.degraded {
        parameters.push(("degraded_reason", reason.as_str().into()));
        parameters.push(("degraded_message", message.as_str().into()));
    }
    let latency = u64::try_from(answer.latency.as_micros()).unwrap_or(u64::MAX);
    if answer.safe_value {
        parameters.push(("safe_value", true.into()));
    }
    parameters.push(("sequence_restarted", answer.sequence_restarted.into()));
    parameters.push(("latency_microseconds", latency.into()));
    if let Some(energy) = &answer.energy {
        let microjoules = (energy.microjoules * 1e3).round() / 1e3;
        parameters.push(("energy_microjoules", microjoules.into()));
        parameters.push(("energy_source", Energy::label(energy).into()));
    }
    parameters
}

/// Most bytes that an input may take in a request.
fn input_bytes(manifest: &Manifest, spec: &TensorSpec) -> usize {
    let each = match spec.datatype {
        Datatype::Bytes => manifest.most_bytes(&spec.name),
        _ => BYTES_AN_ELEMENT,
    };
    spec.elements().saturating_mul(each)
}
