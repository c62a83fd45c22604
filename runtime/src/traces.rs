//! Traces by OpenTelemetry (OTLP over gRPC), only where the environment names an endpoint.
//!
//! A request is one span, made after its answer from what was measured anyway. Spans wait in a bounded queue for one
//! task that sends them; an endpoint that is slow or down costs spans, never a request, and is said once.

mod context;

pub use context::Parent;

use crate::config::Config;
use crate::engine::{Answer, InferError};
use crate::metrics::{Metrics, Purpose, Spans, SpansLabels};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use prometheus_client::metrics::counter::Counter;
use prost::Message;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Environment variable with the endpoint, as OpenTelemetry names it. Without it there are no traces.
pub const ENDPOINT_ENV: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Environment variable with the protocol; only `grpc` is there.
pub const PROTOCOL_ENV: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
/// Environment variable with the name of this service in traces.
pub const SERVICE_ENV: &str = "OTEL_SERVICE_NAME";

/// Spans that wait.
const WAITING: usize = 2048;
/// Spans that are sent at once.
const BATCH: usize = 512;
/// Time in which spans gather.
const GATHER: Duration = Duration::from_millis(500);
/// How long the endpoint may take, to connect and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there are no traces although an endpoint is named.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Another protocol than ours.
    #[error(
        "{PROTOCOL_ENV} is {0:?}, this program speaks grpc: name the collector's gRPC port, most often 4317"
    )]
    Protocol(String),
    /// Not an address.
    #[error("{ENDPOINT_ENV} is {0:?}: it must be http://HOST:PORT of a collector's gRPC port")]
    Endpoint(String),
    /// Encryption, which is not there.
    #[error("{ENDPOINT_ENV} is {0:?}: https is not supported, send to a collector on the node")]
    Encrypted(String),
}

/// Takes spans, and hands them to the task that sends them.
#[derive(Debug)]
pub struct Tracer {
    sender: mpsc::Sender<Item>,
    ids: RandomIdGenerator,
    dropped: Counter,
    name: String,
}

#[derive(Debug)]
enum Item {
    Span(Box<Span>),
    Flush(oneshot::Sender<()>),
}

/// Sends spans.
struct Sender {
    client: TraceServiceClient<Channel>,
    resource: Resource,
    sent: Counter,
    dropped: Counter,
    egress: Option<Counter>,
    is_down: bool,
}

/// Who an answer names, beside what is in it.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The variant, or `none`.
    pub variant: &'a str,
    /// Its device, or `none`.
    pub device: &'a str,
    /// The revision.
    pub revision: &'a str,
}

impl Tracer {
    /// A tracer for what the environment says; nothing where it names no endpoint. Must be called where tokio runs.
    ///
    /// # Errors
    /// When what it says cannot be.
    pub fn start(
        get: impl Fn(&'static str) -> Option<String>,
        config: &Config,
        model: &str,
        metrics: &Metrics,
    ) -> Result<Option<Self>, TraceError> {
        let get = |name| get(name).filter(|value| !value.is_empty());
        let Some(address) = get(ENDPOINT_ENV) else {
            return Ok(None);
        };
        if let Some(protocol) = get(PROTOCOL_ENV).filter(|protocol| protocol != "grpc") {
            return Err(TraceError::Protocol(protocol));
        }
        let channel = channel(&address)?;
        let count = |outcome| metrics.spans.get_or_create_owned(&SpansLabels { outcome });
        let dropped = count(Spans::Dropped);
        let sender = Sender {
            client: TraceServiceClient::new(channel),
            resource: resource(get(SERVICE_ENV), config),
            sent: count(Spans::Sent),
            dropped: dropped.clone(),
            egress: (!is_loopback(&address)).then(|| metrics.egress(Purpose::Traces, "")),
            is_down: false,
        };
        let (queue, spans) = mpsc::channel(WAITING);
        tokio::spawn(sender.run(spans));
        tracing::info!(endpoint = address, "traces are sent: {ENDPOINT_ENV} is set");
        Ok(Some(Self {
            sender: queue,
            ids: RandomIdGenerator::default(),
            dropped,
            name: format!("infer {model}"),
        }))
    }

    /// Makes a span of a request that was just answered, or got an error. One whose caller does not record has none.
    pub fn trace(
        &self,
        traceparent: Option<&str>,
        arrived: Instant,
        result: Result<(&Answer, Who<'_>), &InferError>,
    ) {
        let parent = traceparent.and_then(Parent::parse);
        if parent.is_some_and(|parent| !parent.sampled) {
            return;
        }
        let end = unix_nanoseconds(SystemTime::now());
        let took = u64::try_from(arrived.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (attributes, status) = match result {
            Ok((answer, who)) => (describe(answer, who), None),
            Err(error) => (vec![text("error.type", kind(error))], Some(failure())),
        };
        let span = Span {
            trace_id: parent
                .map_or_else(|| self.ids.new_trace_id().to_bytes(), |p| p.trace_id)
                .to_vec(),
            span_id: self.ids.new_span_id().to_bytes().to_vec(),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span_id.to_vec()),
            // The flag of a trace that is recorded.
            flags: 1,
            name: self.name.clone(),
            kind: SpanKind::Server as i32,
            start_time_unix_nano: end.saturating_sub(took),
            end_time_unix_nano: end,
            attributes,
            status,
            ..Span::default()
        };
        if self.sender.try_send(Item::Span(Box::new(span))).is_err() {
            self.dropped.inc();
        }
    }

    /// Waits until what was traced so far is sent, or given up.
    pub async fn flush(&self) {
        let (done, sent) = oneshot::channel();
        if self.sender.send(Item::Flush(done)).await.is_ok() {
            // A sender that ended has nothing left to send.
            let _ = sent.await;
        }
    }
}

fn channel(address: &str) -> Result<Channel, TraceError> {
    if address.starts_with("https:") {
        return Err(TraceError::Encrypted(address.to_owned()));
    }
    let endpoint = Endpoint::from_shared(address.to_owned()).ok();
    let endpoint = endpoint.filter(|endpoint| {
        endpoint.uri().scheme_str() == Some("http")
            && endpoint.uri().host().is_some_and(|host| !host.is_empty())
    });
    let endpoint = endpoint.ok_or_else(|| TraceError::Endpoint(address.to_owned()))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(SEND_TIMEOUT)
        .connect_lazy())
}

/// Whether an address is this machine's own: what goes there does not leave the node.
fn is_loopback(address: &str) -> bool {
    let host = address.parse::<axum::http::Uri>().ok();
    let host = host.as_ref().and_then(axum::http::Uri::host).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_ours = |ip: std::net::IpAddr| ip.is_loopback();
    host == "localhost" || host.parse().is_ok_and(is_ours)
}

fn resource(service: Option<String>, config: &Config) -> Resource {
    Resource {
        attributes: vec![
            text(
                "service.name",
                &service.unwrap_or_else(|| "perwatt-runtime".into()),
            ),
            text("service.namespace", &config.namespace),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("perwatt.workload", &config.workload),
            text("perwatt.slot", &config.slot),
            text("perwatt.node", &config.node),
        ],
        ..Resource::default()
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn seconds(key: &str, time: Duration) -> KeyValue {
    attribute(key, Value::DoubleValue(time.as_secs_f64()))
}

fn describe(answer: &Answer, who: Who<'_>) -> Vec<KeyValue> {
    let stages = &answer.stages;
    let mut attributes = vec![
        text("perwatt.variant", who.variant),
        text("perwatt.device", who.device),
        text("perwatt.revision", who.revision),
        attribute("perwatt.degraded", Value::BoolValue(answer.degraded.is_some())),
        attribute(
            "perwatt.sequence_restarted",
            Value::BoolValue(answer.sequence_restarted),
        ),
        seconds("perwatt.queue_seconds", stages.queue),
        seconds("perwatt.preprocess_seconds", stages.preprocess),
        seconds("perwatt.inference_seconds", stages.inference),
        seconds("perwatt.postprocess_seconds", stages.postprocess),
    ];
    if answer.safe_value {
        attributes.push(attribute("perwatt.safe_value", Value::BoolValue(true)));
    }
    if let Some((reason, _)) = &answer.degraded {
        attributes.push(text("perwatt.degraded_reason", reason));
    }
    if let Some(energy) = &answer.energy {
        let microjoules = Value::DoubleValue(energy.microjoules);
        attributes.push(attribute("perwatt.energy_microjoules", microjoules));
        attributes.push(text("perwatt.energy_source", energy.label()));
    }
    attributes
}

fn kind(error: &InferError) -> &'static str {
    match error {
        InferError::Invalid(_) => "Invalid",
        InferError::Overloaded => "Overloaded",
        InferError::Deadline { .. } => "Deadline",
        InferError::Failed { .. } => "Failed",
        InferError::Unavailable(_) => "Unavailable",
    }
}

/// Without the error's message: it may be another server's, who may repeat what it was sent.
fn failure() -> Status {
    Status {
        message: String::new(),
        code: StatusCode::Error as i32,
    }
}

fn unix_nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Sender {
    /// Sends spans until the tracer is gone.
    async fn run(mut self, mut queue: mpsc::Receiver<Item>) {
        let mut items = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut items, BATCH).await > 0 {
            let (mut spans, mut flushes) = (Vec::new(), Vec::new());
            for item in items.drain(..) {
                match item {
                    Item::Span(span) => spans.push(*span),
                    Item::Flush(done) => flushes.push(done),
                }
            }
            let is_full = spans.len() == BATCH;
            if !spans.is_empty() {
                self.send(spans).await;
            }
            let is_flushed = !flushes.is_empty();
            for done in flushes {
                // Whoever waited has given up where this fails.
                let _ = done.send(());
            }
            if !is_full && !is_flushed {
                tokio::time::sleep(GATHER).await;
            }
        }
    }

    async fn send(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let request = self.build_request(spans);
        let bytes = request.encoded_len() as u64;
        let sent = self.client.export(request).await;
        let never_connected = sent
            .as_ref()
            .is_err_and(|status| status.code() == Code::Unavailable);
        if let (Some(egress), false) = (&self.egress, never_connected) {
            egress.inc_by(bytes);
        }
        match sent {
            Ok(_) => {
                self.sent.inc_by(count);
                if std::mem::take(&mut self.is_down) {
                    tracing::info!("the endpoint takes traces again");
                }
            }
            Err(status) => {
                self.dropped.inc_by(count);
                if !std::mem::replace(&mut self.is_down, true) {
                    tracing::warn!(
                        code = ?status.code(),
                        error = status.message(),
                        "traces cannot be sent: they are dropped until the endpoint takes them"
                    );
                }
            }
        }
    }

    fn build_request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let scope_spans = ScopeSpans {
            scope: Some(scope),
            spans,
            ..ScopeSpans::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest {
            resource_spans: vec![resource_spans],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_endpoint_is_refused_with_what_would_be_one() {
        for bad in [
            "collector:4317",
            "ftp://collector",
            "http://",
            "http:// x",
            "/var/run",
        ] {
            let error = channel(bad).unwrap_err().to_string();
            assert!(
                error.contains("http://HOST:PORT") && error.contains(bad),
                "{error}"
            );
        }
        let error = channel("https://collector:4317").unwrap_err().to_string();
        assert!(error.contains("on the node"), "{error}");
    }

    #[test]
    fn only_this_machines_own_addresses_are_on_the_node_for_sure() {
        for (address, ours) in [
            ("http://127.0.0.1:4317", true),
            ("http://localhost:4317", true),
            ("http://[::1]:4317", true),
            ("http://collector:4317", false),
            ("http://10.0.0.1:4317", false),
        ] {
            assert_eq!(is_loopback(address), ours, "{address}");
        }
    }
}
