//! Another server as a variant: one of ours that is killed, hung and comes back, and one that lies.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use common::{Runtime, command, request, sum, tiny_folder};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

/// `relay` at this endpoint, `cpu` behind it.
fn config(remote: Value) -> Value {
    json!({
        "workload": "gate", "namespace": "audio", "slot": "replica-0", "node": "edge-a", "revision": "6f1c2b",
        "variants": [{"name": "relay", "remote": remote}, {"name": "cpu", "artifact": "tiny.onnx"}],
    })
}

async fn start(dir: &Path, config: &Value) -> Runtime {
    let mut command = command(&tiny_folder(dir));
    command.env("PERWATT_CONFIG", config.to_string());
    Runtime::start(command).await
}

/// A runtime that serves the tiny model for another one.
async fn hub(dir: &Path) -> Runtime {
    let dir = dir.join("hub");
    std::fs::create_dir_all(&dir).unwrap();
    Runtime::start(command(&tiny_folder(&dir))).await
}

async fn serving(runtime: &Runtime, variant: &str) {
    let ask = || async { runtime.evidence().await["activeVariant"] == variant };
    runtime.until(&format!("{variant} serves"), ask).await;
}

#[derive(Default)]
struct Flow {
    answered: AtomicU64,
    stop: AtomicBool,
}

impl Flow {
    /// Requests one after the other, each of which must be answered, and say so when it was a fallback.
    fn start(self: &Arc<Self>, runtime: &Runtime) -> tokio::task::JoinHandle<Vec<String>> {
        let (own, url) = (self.clone(), runtime.infer_url());
        tokio::spawn(async move {
            let (client, mut variants) = (reqwest::Client::new(), Vec::<String>::new());
            while !own.stop.load(Ordering::Relaxed) {
                let body = request([1.; 4], json!({})).to_string();
                let response = client.post(&url).body(body).send().await.unwrap();
                let status = response.status();
                let reply: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
                assert_eq!(status.as_u16(), 200, "{reply}");
                assert_eq!(sum(&reply), 4.0, "{reply}");
                let parameters = &reply["parameters"];
                assert_eq!(parameters["degraded"], parameters["variant"] == "cpu", "{reply}");
                let variant = parameters["variant"].as_str().unwrap().to_owned();
                if variants.last() != Some(&variant) {
                    variants.push(variant);
                }
                own.answered.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            variants
        })
    }

    async fn served(&self, runtime: &Runtime, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        let reached = || async { self.answered.load(Ordering::Relaxed) >= goal };
        runtime.until("requests are answered", reached).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_and_goes_on_or_is_killed_costs_no_request() {
    let tmp = tempfile::tempdir().unwrap();
    let hub = hub(tmp.path()).await;
    let endpoint = hub.rest.clone();
    hang_and_kill(tmp.path(), hub, &endpoint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_that_is_spoken_to_over_grpc() {
    let tmp = tempfile::tempdir().unwrap();
    let hub = hub(tmp.path()).await;
    let endpoint = hub.grpc.replace("http://", "grpc://");
    hang_and_kill(tmp.path(), hub, &endpoint).await;
}

async fn hang_and_kill(dir: &Path, hub: Runtime, endpoint: &str) {
    let runtime = start(dir, &config(json!({"endpoint": endpoint, "model": "tiny"}))).await;
    let flow = Arc::<Flow>::default();
    let client = flow.start(&runtime);
    flow.served(&runtime, 20).await;
    assert_eq!(runtime.evidence().await["activeVariant"], "relay");
    hub.signal("STOP");
    serving(&runtime, "cpu").await;
    flow.served(&runtime, 20).await;
    hub.signal("CONT");
    serving(&runtime, "relay").await;
    flow.served(&runtime, 20).await;
    hub.signal("KILL");
    serving(&runtime, "cpu").await;
    flow.served(&runtime, 20).await;
    flow.stop.store(true, Ordering::Relaxed);
    let variants = client.await.unwrap();
    assert_eq!(variants.first().map(String::as_str), Some("relay"));
    assert_eq!(variants.last().map(String::as_str), Some("cpu"));
    let evidence = runtime.evidence().await;
    assert_eq!(evidence["reason"], "BreakerOpen");
}

#[tokio::test]
async fn a_sequence_lives_at_the_server_and_restarts_where_it_does() {
    let tmp = tempfile::tempdir().unwrap();
    let hub = hub(tmp.path()).await;
    let remote = json!({"endpoint": hub.grpc, "protocol": "gRPC"});
    let runtime = start(tmp.path(), &config(remote)).await;
    let ask = async |start: bool| {
        let parameters = json!({"sequence_id": 7, "sequence_start": start});
        let (status, reply) = runtime.infer(&request([1.; 4], parameters)).await;
        assert_eq!(status, 200, "{reply}");
        let parameters = &reply["parameters"];
        let variant = parameters["variant"].as_str().unwrap().to_owned();
        (sum(&reply), variant, parameters["sequence_restarted"] == true)
    };
    // Two of context and 100 of state come on top from the second request on.
    assert_eq!(ask(true).await, (4.0, "relay".into(), false));
    assert_eq!(ask(false).await, (106.0, "relay".into(), false));
    assert_eq!(ask(false).await, (206.0, "relay".into(), false));
    hub.signal("KILL");
    assert_eq!(ask(false).await, (4.0, "cpu".into(), true));
    assert_eq!(ask(false).await, (106.0, "cpu".into(), false));
}

#[tokio::test]
async fn a_server_that_is_not_there_at_the_start_is_taken_when_it_comes() {
    let tmp = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let address = endpoint.trim_start_matches("http://").to_owned();
    let runtime = start(
        tmp.path(),
        &config(json!({"endpoint": endpoint, "model": "tiny"})),
    )
    .await;
    let (_, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!(reply["parameters"]["degraded_reason"], "LoadFailed");
    let message = reply["parameters"]["degraded_message"].as_str().unwrap();
    assert!(message.contains(&address), "{message}");
    let server = Arc::<Liar>::default();
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move { axum::serve(listener, server.routes()).await });
    serving(&runtime, "relay").await;
}

/// A server whose metadata is right and whose answers are what `mode` says.
#[derive(Default)]
struct Liar {
    mode: AtomicU64,
}

type Mode = (u64, &'static str);
const HONEST: u64 = 0;
const LIES: [Mode; 12] = [
    (1, "500"),
    (2, "overloaded"),
    (3, "cannot be read"),
    (4, "no output"),
    (5, "[1, 2]"),
    (6, "INT32"),
    (7, "larger than"),
    (8, "safe value"),
    (9, "cannot be read"),
    (10, ""),
    (11, "400"),
    (12, "no number"),
];

impl Liar {
    fn routes(self: Arc<Self>) -> Router {
        let metadata = json!({"name": "tiny", "versions": ["3"], "platform": "x",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "sum", "datatype": "FP32", "shape": [-1, 1]}]});
        Router::new()
            .route(
                "/v2",
                get(|| async { Json(json!({"name": "liar", "version": "1"})) }),
            )
            .route("/v2/models/tiny/ready", get(|| async { "{}" }))
            .route("/v2/models/tiny", get(|| async { Json(metadata) }))
            .route("/v2/models/tiny/infer", post(Self::infer))
            .with_state(self)
    }

    async fn infer(State(own): State<Arc<Self>>, body: String) -> Response {
        let reply = |output: Value| Json(json!({"model_name": "tiny", "outputs": [output]})).into_response();
        let output = |shape: Value, data: Value| json!({"name": "sum", "datatype": "FP32", "shape": shape, "data": data});
        let request: Value = serde_json::from_str(&body).unwrap();
        let values = request["inputs"][0]["data"].as_array().unwrap();
        let sum: f64 = values.iter().filter_map(Value::as_f64).sum();
        match own.mode.load(Ordering::SeqCst) {
            1 => (StatusCode::INTERNAL_SERVER_ERROR, "it burns").into_response(),
            2 => (StatusCode::SERVICE_UNAVAILABLE, "{\"error\": \"later\"}").into_response(),
            3 => "\u{1}\u{2}not JSON".into_response(),
            4 => reply(json!({"name": "p", "datatype": "FP32", "shape": [1, 1], "data": [1.0]})),
            5 => reply(output(json!([1, 2]), json!([1.0, 2.0]))),
            6 => reply(json!({"name": "sum", "datatype": "INT32", "shape": [1, 1], "data": [1]})),
            7 => " ".repeat(8 << 20).into_response(),
            8 => Json(
                json!({"parameters": {"safe_value": true}, "outputs": [output(json!([1, 1]), json!([0.0]))]}),
            )
            .into_response(),
            9 => reply(output(json!([1, 1]), json!(["NaN", {}]))),
            10 => Response::new(Body::from_stream(futures::stream::iter([
                Ok("{\"outputs\""),
                Err(std::io::Error::other("broken off")),
            ]))),
            11 => (StatusCode::BAD_REQUEST, "{\"error\": \"no\"}").into_response(),
            12 => ([("inference-header-content-length", "many")], "{}").into_response(),
            _ => reply(output(json!([1, 1]), json!([sum]))),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_server_answers_the_request_is_answered_and_the_reason_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let liar = Arc::<Liar>::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, liar.clone().routes()).into_future());
    let runtime = start(tmp.path(), &config(json!({"endpoint": endpoint}))).await;
    for (mode, says) in LIES {
        liar.mode.store(mode, Ordering::SeqCst);
        let (status, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
        let parameters = &reply["parameters"];
        assert_eq!(
            (status, &parameters["variant"]),
            (200, &json!("cpu")),
            "{mode}: {reply}"
        );
        assert_eq!(sum(&reply), 4.0);
        let message = parameters["degraded_message"].as_str().unwrap();
        assert!(message.contains(says), "{mode} should say {says:?}: {message}");
        // Two misses in a row open no breaker.
        liar.mode.store(HONEST, Ordering::SeqCst);
        let (_, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
        assert_eq!(reply["parameters"]["variant"], "relay", "{mode}: {reply}");
        assert_eq!(reply["parameters"]["device"], "none");
        assert_eq!(sum(&reply), 4.0);
    }
    assert!(runtime.peak_memory() < 400 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_is_spoken_to_and_another_model_is_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let socket = tmp.path().join("npu.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(axum::serve(listener, Arc::<Liar>::default().routes()).into_future());
    let endpoint = format!("unix://{}", socket.display());
    let mut allowed = config(json!({"endpoint": endpoint}));
    allowed["locality"] = json!("Node");
    let runtime = start(tmp.path(), &allowed).await;
    let (_, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!(reply["parameters"]["variant"], "relay", "{reply}");
    assert!(
        !runtime.text("metrics").await.contains("egress_bytes_total{"),
        "nothing left the node"
    );
}

#[tokio::test]
async fn a_server_off_the_node_is_never_asked_where_the_workload_forbids_it() {
    let tmp = tempfile::tempdir().unwrap();
    let mut forbidden = config(json!({"endpoint": "http://192.0.2.1:8080"}));
    forbidden["locality"] = json!("Node");
    let runtime = start(tmp.path(), &forbidden).await;
    let (_, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!(
        reply["parameters"]["degraded_reason"], "LocalityForbids",
        "{reply}"
    );
    let evidence = runtime.evidence().await;
    assert_eq!(evidence["variants"][0]["state"], "Failed");
    assert!(!runtime.log().contains("still not loaded"), "{}", runtime.log());
}

/// Accepts TLS connections.
struct Tls(TcpListener, TlsAcceptor);

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            // A client that does not trust us breaks off.
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_and_only_to_a_server_that_an_authority_vouches_for() {
    let tmp = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let trusted = tmp.path().join("authorities.pem");
    std::fs::write(&trusted, made.cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = Tls(listener, TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(axum::serve(tls, Arc::<Liar>::default().routes()).into_future());
    let remote = config_of_tls(port);
    for (authorities, variant) in [(Some(&trusted), "relay"), (None, "cpu")] {
        let mut command = command(&tiny_folder(tmp.path()));
        command.env("PERWATT_CONFIG", remote.to_string());
        if let Some(file) = authorities {
            command.env("SSL_CERT_FILE", file);
        }
        let runtime = Runtime::start(command).await;
        let (_, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
        assert_eq!(reply["parameters"]["variant"], variant, "{reply}");
    }
}

fn config_of_tls(port: u16) -> Value {
    config(json!({"endpoint": format!("https://localhost:{port}")}))
}
