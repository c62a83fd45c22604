//! Steps around a server elsewhere, and as clients see them: a sidecar gets the model's tensors, one of ours gets the
//! request as it came, and metadata shows the request's side.

#![allow(clippy::unwrap_used, clippy::panic)]

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use perwatt_model::Manifest;
use perwatt_runtime::backend::{BackendError, Model};
use perwatt_runtime::chain::Policy;
use perwatt_runtime::config::{Config, VariantConfig};
use perwatt_runtime::engine::{Answer, Engine, Query, SequenceStep};
use perwatt_runtime::protocol::rest;
use perwatt_runtime::protocol::service::Service;
use perwatt_runtime::rollout::pair::Revisions;
use perwatt_runtime::rollout::turns::TurnRing;
use perwatt_runtime::sequence::SequenceId;
use perwatt_runtime::serve::Drain;
use perwatt_runtime::tensor::{Data, Tensor};
use perwatt_runtime::variant::{LoadError, Variant};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

const FILES: &str = "files: [{path: a, backend: Onnx, precision: float32, \
    sha256: '0000000000000000000000000000000000000000000000000000000000000000'}]\n";

/// `(x − 1) / 2` before the model, smoothing after it. `Z` and `P` are the model's own names.
const STEPS: &str = "inputs: [{name: x, datatype: FP32, shape: [1, 2]}]
outputs: [{name: y, datatype: FP32, shape: [1, 2]}]
preprocess:
- {from: x, to: {name: Z, datatype: FP32, shape: [1, 2]}, steps: [{step: Normalize, mean: [1], std: [2]}]}
postprocess:
- {from: {name: P, datatype: FP32, shape: [1, 2]}, to: y, steps: [{step: Smooth, weight: 0.5}]}
";

fn manifest(text: &str) -> Manifest {
    Manifest::parse(&format!("schema: 1\nname: m\nversion: '1'\n{text}{FILES}")).unwrap()
}

/// A model that gives back what it gets, or fails.
#[derive(Default)]
struct Mirror {
    fails: AtomicBool,
}

impl Model for Mirror {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(BackendError("told to fail".into())),
            false => Ok(inputs.to_vec()),
        }
    }
}

fn engine(manifest: &Manifest, variants: Vec<Variant>) -> Arc<Engine> {
    let of_folder = Config::of_folder(manifest);
    let spec = |i: usize| VariantConfig {
        name: format!("v{i}"),
        ..of_folder.variants[0].clone()
    };
    let config = Config {
        variants: (0..variants.len()).map(spec).collect(),
        ..Config::of_folder(manifest)
    };
    let policy = Policy::with_stable_for(Duration::ZERO);
    let variants = variants.into_iter().map(Ok).collect();
    Arc::new(Engine::new(config, manifest.clone(), policy, variants).unwrap())
}

fn local(mirror: &Arc<Mirror>) -> Variant {
    Variant::new("v", mirror.clone(), None, None).unwrap()
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    endpoint
}

/// Serves an engine as the runtime does.
async fn hub(manifest: &Manifest, mirror: &Arc<Mirror>) -> (String, Arc<Service>) {
    let engine = engine(manifest, vec![local(mirror)]);
    let revisions = Arc::new(Revisions::new(engine, None, None, TurnRing::default()));
    let service = Arc::new(Service::new(revisions, Drain::default(), Duration::from_secs(60)));
    (serve(rest::router(service.clone())).await, service)
}

async fn connect(endpoint: &str, manifest: &Manifest) -> Result<Variant, LoadError> {
    let remote = serde_json::from_value(json!({"endpoint": endpoint})).unwrap();
    Variant::connect(&remote, manifest).await
}

async fn ask(engine: &Engine, x: [f32; 2], sequence: Option<u64>) -> Answer {
    let step = |id| SequenceStep {
        id: SequenceId::Number(id),
        start: false,
        end: false,
    };
    let arrived = Instant::now();
    let query = Query {
        inputs: vec![Tensor {
            shape: vec![1, 2],
            data: Data::F32(x.to_vec()),
        }],
        sequence: sequence.map(step),
        arrived,
        deadline: arrived + Duration::from_secs(60),
    };
    engine.infer(query).await.unwrap()
}

fn values(answer: &Answer) -> Vec<f32> {
    match &answer.outputs[..] {
        [
            Tensor {
                data: Data::F32(values),
                ..
            },
        ] => values.clone(),
        other => panic!("{other:?}"),
    }
}

/// A vendor's server that has the model's file alone: it gives ten times what it gets.
#[derive(Default)]
struct Sidecar {
    got: Mutex<Vec<Value>>,
}

impl Sidecar {
    fn routes(self: Arc<Self>) -> Router {
        let metadata = json!({"name": "m", "versions": ["1"], "platform": "vendor",
            "inputs": [{"name": "Z", "datatype": "FP32", "shape": [1, 2]}],
            "outputs": [{"name": "P", "datatype": "FP32", "shape": [1, 2]}]});
        Router::new()
            .route(
                "/v2",
                get(|| async { Json(json!({"name": "vendor", "version": "1"})) }),
            )
            .route("/v2/models/m/ready", get(|| async { "{}" }))
            .route("/v2/models/m", get(|| async { Json(metadata) }))
            .route("/v2/models/m/infer", post(Self::infer))
            .with_state(self)
    }

    async fn infer(State(own): State<Arc<Self>>, body: String) -> Json<Value> {
        let request: Value = serde_json::from_str(&body).unwrap();
        let data = request["inputs"][0]["data"].as_array().unwrap();
        let tenfold: Vec<f64> = data.iter().map(|v| v.as_f64().unwrap() * 10.0).collect();
        own.got.lock().unwrap().push(request);
        Json(json!({"model_name": "m", "outputs": [
            {"name": "P", "datatype": "FP32", "shape": [1, 2], "data": tenfold}]}))
    }
}

#[tokio::test]
async fn a_sidecar_gets_the_models_tensors() {
    let manifest = manifest(STEPS);
    let sidecar = Arc::<Sidecar>::default();
    let endpoint = serve(sidecar.clone().routes()).await;
    let engine = engine(&manifest, vec![connect(&endpoint, &manifest).await.unwrap()]);
    assert_eq!(values(&ask(&engine, [3., 5.], Some(1)).await), [10., 20.]);
    assert_eq!(
        values(&ask(&engine, [5., 7.], Some(1)).await),
        [15., 25.],
        "smoothed"
    );
    assert_eq!(values(&ask(&engine, [5., 7.], None).await), [20., 30.], "alone");
    let got = sidecar.got.lock().unwrap();
    let last = &got.last().unwrap()["inputs"][0];
    assert_eq!((&last["name"], &last["data"]), (&json!("Z"), &json!([2.0, 3.0])));
}

#[tokio::test]
async fn a_relay_to_one_of_ours_gets_the_request_as_it_came() {
    // Nothing but its platform tells this hub from a server of the file.
    let manifest = manifest(&STEPS.replace("name: Z", "name: x").replace("name: P", "name: y"));
    let (far, near) = (Arc::<Mirror>::default(), Arc::<Mirror>::default());
    let (endpoint, _) = hub(&manifest, &far).await;
    let relay = connect(&endpoint, &manifest).await.unwrap();
    let engine = engine(&manifest, vec![relay, local(&near)]);
    assert_eq!(
        values(&ask(&engine, [3., 5.], Some(1)).await),
        [1., 2.],
        "prepared once"
    );
    let second = ask(&engine, [5., 7.], Some(1)).await;
    assert_eq!(values(&second), [1.5, 2.5], "the hub smooths, once");
    assert!(!second.sequence_restarted);
    far.fails.store(true, Ordering::SeqCst);
    let third = ask(&engine, [9., 1.], Some(1)).await;
    assert_eq!((third.variant, values(&third)), (Some(1), vec![4., 0.]));
    assert!(third.sequence_restarted, "what the hub remembered is lost");
    let fourth = ask(&engine, [5., 1.], Some(1)).await;
    assert_eq!(values(&fourth), [3., 0.], "and now it is remembered here");
}

#[tokio::test]
async fn metadata_and_limits_are_of_what_clients_send() {
    let text = "inputs: [{name: photo, datatype: BYTES, shape: [1]}]
outputs: [{name: best, datatype: BYTES, shape: [1]}]
preprocess:
- from: photo
  to: {name: pixels, datatype: UINT8, shape: [1, 4]}
  steps:
  - {step: DecodeImage, channels: Gray, maxBytes: 5000000}
  - {step: Resize, height: 1, width: 4, filter: Box}
postprocess:
- {from: {name: pixels, datatype: UINT8, shape: [1, 4]}, to: best, steps: [{step: TopK, count: 1, give: Labels}]}
labels: [a, b, c, d]
";
    let manifest = manifest(text);
    let mirror = Arc::<Mirror>::default();
    let (endpoint, service) = hub(&manifest, &mirror).await;
    assert!(
        (5_000_000..6_000_000).contains(&service.body_limit),
        "{}",
        service.body_limit
    );
    // Built beside a crate that wants TLS of reqwest, every client of reqwest wants a provider; an error means that one is set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let url = format!("{endpoint}/v2/models/m");
    let metadata: Value = client.get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&metadata["inputs"], &metadata["outputs"]),
        (
            &json!([{"name": "photo", "datatype": "BYTES", "shape": [1]}]),
            &json!([{"name": "best", "datatype": "BYTES", "shape": [1]}])
        )
    );
    let header = r#"{"inputs": [{"name": "photo", "datatype": "BYTES", "shape": [1],
        "parameters": {"binary_data_size": SIZE}}]}"#;
    let post = |content: &[u8]| {
        let header = header.replace("SIZE", &(content.len() + 4).to_string());
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        let body = [header.as_bytes(), &length, content].concat();
        let request = client.post(format!("{url}/infer")).body(body);
        request
            .header("Inference-Header-Content-Length", header.len())
            .send()
    };
    let photo = format!("{}/signal/tests/data/coins.png", env!("CARGO_MANIFEST_DIR"));
    let reply = post(&std::fs::read(photo).unwrap()).await.unwrap();
    assert_eq!(reply.status(), 200);
    let reply: Value = reply.json().await.unwrap();
    let best = reply["outputs"][0]["data"][0].as_str().unwrap();
    assert!("abcd".contains(best), "{reply}");
    let reply = post(b"no photo").await.unwrap();
    assert_eq!(reply.status(), 400);
    let message = reply.text().await.unwrap();
    assert!(
        message.contains("photo") && message.contains("DecodeImage"),
        "{message}"
    );
    assert_eq!(
        service.engine.active().index,
        Some(0),
        "its client is to blame alone"
    );
    // Zeros are no photo, and so a relay to it is taken without a first inference.
    let relay = connect(&endpoint, &manifest).await.unwrap();
    assert!(relay.takes_steps());
}
