//! Traces against a receiver that decodes what is really sent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, grpc_request, request, tiny_folder};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use perwatt_oip::grpc::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    fn serve(&self, listener: TcpListener) {
        let service = TraceServiceServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let scopes = requests
            .iter()
            .flat_map(|r| &r.resource_spans)
            .flat_map(|r| &r.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn value(attributes: &[KeyValue], key: &str) -> Option<Value> {
    attributes.iter().find(|a| a.key == key)?.value.clone()?.value
}

fn is_text(attributes: &[KeyValue], key: &str, text: &str) -> bool {
    value(attributes, key) == Some(Value::StringValue(text.into()))
}

/// A receiver of traces, and the command of a runtime that sends it its own.
async fn traced(dir: &Path) -> (Receiver, Command) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = Receiver::default();
    receiver.serve(listener);
    let mut command = command(&tiny_folder(dir));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    (receiver, command)
}

async fn infer(runtime: &Runtime, traceparent: &str) -> u16 {
    let client = reqwest::Client::new();
    let body = request([193_847.25; 4], json!({"sequence_id": "a-marker"})).to_string();
    let sent = client
        .post(runtime.infer_url())
        .header("traceparent", traceparent)
        .body(body);
    sent.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_request_is_a_span_in_its_callers_trace() {
    let tmp = tempfile::tempdir().unwrap();
    let (receiver, mut command) = traced(tmp.path()).await;
    command
        .env("OTEL_SERVICE_NAME", "gate")
        .args(["--drain-milliseconds", "1"]);
    let mut runtime = Runtime::start(command).await;

    let trace = "0af7651916cd43dd8448eb211c80319c";
    assert_eq!(
        infer(&runtime, &format!("00-{trace}-b7ad6b7169203331-01")).await,
        200
    );
    // Whose caller does not record, and whose header is broken.
    assert_eq!(
        infer(&runtime, &format!("00-{trace}-b7ad6b7169203331-00")).await,
        200
    );
    assert_eq!(infer(&runtime, "00-nonsense").await, 200);
    let late = request([1.; 4], json!({"timeout": 1}));
    assert_eq!(runtime.infer(&late).await.0, 504);
    runtime.signal("TERM");
    assert!(runtime.wait().await.success());

    let spans = receiver.spans();
    assert_eq!(spans.len(), 3, "the last are sent before the end: {spans:?}");
    let span = spans
        .iter()
        .find(|span| hex::encode(&span.trace_id) == trace)
        .unwrap();
    assert_eq!(hex::encode(&span.parent_span_id), "b7ad6b7169203331");
    assert_eq!((span.span_id.len(), span.name.as_str()), (8, "infer tiny"));
    assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano > span.start_time_unix_nano);
    assert!(is_text(&span.attributes, "perwatt.variant", "tiny.onnx"));
    assert!(is_text(&span.attributes, "perwatt.device", "none"));
    let Some(Value::DoubleValue(inference)) = value(&span.attributes, "perwatt.inference_seconds") else {
        panic!("{span:?}")
    };
    let took = (span.end_time_unix_nano - span.start_time_unix_nano) as f64 / 1e9;
    assert!(inference > 0. && inference <= took, "{inference} of {took}");

    let failed = spans.iter().find(|span| span.status.is_some()).unwrap();
    assert!(is_text(&failed.attributes, "error.type", "Deadline"));
    let own = spans
        .iter()
        .find(|s| s.status.is_none() && s.parent_span_id.is_empty())
        .unwrap();
    assert_ne!(own.trace_id, failed.trace_id);
    assert!(own.trace_id.len() == 16 && own.trace_id != [0; 16]);

    let received = receiver.0.lock().unwrap();
    let resource = received[0].resource_spans[0].resource.as_ref().unwrap();
    assert!(is_text(&resource.attributes, "service.name", "gate"));
    assert!(is_text(&resource.attributes, "perwatt.workload", "tiny"));
    let all = format!("{received:?}");
    assert!(
        !all.contains("193847") && !all.contains("a-marker"),
        "nothing that a request carried: {all}"
    );
}

#[tokio::test]
async fn over_grpc_the_trace_comes_as_metadata_and_a_streams_holds_for_its_requests() {
    let tmp = tempfile::tempdir().unwrap();
    let (receiver, mut command) = traced(tmp.path()).await;
    command.args(["--drain-milliseconds", "1"]);
    let mut runtime = Runtime::start(command).await;
    let mut client = GrpcInferenceServiceClient::connect(runtime.grpc.clone())
        .await
        .unwrap();

    let traces = [
        "0af7651916cd43dd8448eb211c80319c",
        "1af7651916cd43dd8448eb211c80319c",
    ];
    let [one, many] = traces.map(|trace| format!("00-{trace}-b7ad6b7169203331-01"));
    let message = || grpc_request("", [1.; 4], &[]);
    let mut asked = Request::new(message());
    asked.metadata_mut().insert("traceparent", one.parse().unwrap());
    client.model_infer(asked).await.unwrap();
    let mut asked = Request::new(tokio_stream::iter([message(), message()]));
    asked.metadata_mut().insert("traceparent", many.parse().unwrap());
    let mut replies = client.model_stream_infer(asked).await.unwrap().into_inner();
    while let Some(reply) = replies.message().await.unwrap() {
        assert_eq!(reply.error_message, "");
    }
    runtime.signal("TERM");
    assert!(runtime.wait().await.success());

    let spans = receiver.spans();
    let count = |trace: &str| {
        let of_trace = |span: &&Span| hex::encode(&span.trace_id) == trace;
        spans.iter().filter(of_trace).count()
    };
    assert_eq!(traces.map(count), [1, 2], "{spans:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_away_is_said_once_and_costs_no_request() {
    // A port that nobody listens on: taken, and given back.
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let tmp = tempfile::tempdir().unwrap();
    let mut command = command(&tiny_folder(tmp.path()));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{free}"));
    let runtime = Runtime::start(command).await;
    let dropped = "perwatt_runtime_spans_total{outcome=\"Dropped\"}";
    let dropped = async || {
        let metrics = runtime.text("metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(dropped));
        line.map_or(0, |count| count.trim().parse::<u64>().unwrap())
    };
    for round in 1..=3 {
        assert_eq!(runtime.infer(&request([1.; 4], json!({}))).await.0, 200);
        runtime
            .until("the span was given up", || async { dropped().await >= round })
            .await;
    }
    assert_eq!(
        runtime.log().matches("traces cannot be sent").count(),
        1,
        "{}",
        runtime.log()
    );
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_sent_and_with_a_wrong_one_it_is_said() {
    let tmp = tempfile::tempdir().unwrap();
    let folder = tiny_folder(tmp.path());
    let runtime = Runtime::start(command(&folder)).await;
    runtime.infer(&request([1.; 4], json!({}))).await;
    assert!(
        !runtime
            .text("metrics")
            .await
            .contains("perwatt_runtime_spans_total")
    );
    for (endpoint, protocol, says) in [
        ("collector:4317", "grpc", "http://HOST:PORT"),
        ("http://127.0.0.1:4318", "http/protobuf", "speaks grpc"),
    ] {
        let mut command = command(&folder);
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        let runtime = Runtime::start(command).await;
        assert_eq!(runtime.infer(&request([1.; 4], json!({}))).await.0, 200);
        assert!(runtime.log().contains("there are no traces"), "{}", runtime.log());
        assert!(runtime.log().contains(says), "{}", runtime.log());
    }
}
