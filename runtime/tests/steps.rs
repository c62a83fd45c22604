//! Steps before and after the model, through the engine: real photos, speech and motion give what the references
//! give; a sequence's memory moves on with answers alone; whose fault a refusal is.

#![allow(clippy::unwrap_used, clippy::panic)]

use perwatt_model::Manifest;
use perwatt_runtime::backend::{BackendError, Model};
use perwatt_runtime::chain::Policy;
use perwatt_runtime::config::{Config, VariantConfig};
use perwatt_runtime::engine::{Answer, Engine, InferError, Query, SequenceStep};
use perwatt_runtime::sequence::SequenceId;
use perwatt_runtime::tensor::{Data, Tensor};
use perwatt_runtime::variant::Variant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FILES: &str = "files: [{path: a, backend: Onnx, precision: float32, \
    sha256: '0000000000000000000000000000000000000000000000000000000000000000'}]\n";

/// A model that gives back what it gets, or NaN, or nothing.
#[derive(Default)]
struct Mirror {
    gives_nan: AtomicBool,
    fails: AtomicBool,
}

impl Model for Mirror {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(BackendError("told to fail".into()));
        }
        let mut outputs = inputs.to_vec();
        if self.gives_nan.load(Ordering::SeqCst)
            && let Some(Tensor {
                data: Data::F32(values),
                ..
            }) = outputs.first_mut()
        {
            values.fill(f32::NAN);
        }
        Ok(outputs)
    }
}

struct Bench {
    engine: Engine,
    mirrors: Vec<Arc<Mirror>>,
}

fn bench(manifest: &str) -> Bench {
    let manifest = Manifest::parse(&format!("schema: 1\nname: m\nversion: '1'\n{manifest}{FILES}")).unwrap();
    let mirrors: Vec<_> = (0..2).map(|_| Arc::<Mirror>::default()).collect();
    let spec = |name: &str| VariantConfig {
        name: name.into(),
        ..Config::of_folder(&manifest).variants[0].clone()
    };
    let config = Config {
        variants: vec![spec("a"), spec("b")],
        ..Config::of_folder(&manifest)
    };
    let variant = |m: &Arc<Mirror>| Ok(Variant::new("v", m.clone(), None, None).unwrap());
    let variants = mirrors.iter().map(variant).collect();
    let engine = Engine::new(
        config,
        manifest,
        Policy::with_stable_for(Duration::ZERO),
        variants,
    )
    .unwrap();
    Bench { engine, mirrors }
}

impl Bench {
    async fn ask(&self, inputs: Vec<Tensor>, sequence: Option<u64>) -> Result<Answer, InferError> {
        let arrived = Instant::now();
        let step = |id| SequenceStep {
            id: SequenceId::Number(id),
            start: false,
            end: false,
        };
        let query = Query {
            inputs,
            sequence: sequence.map(step),
            arrived,
            deadline: arrived + Duration::from_secs(60),
        };
        self.engine.infer(query).await
    }
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/signal/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn floats(name: &str) -> Vec<f32> {
    file(name)
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

fn bytes(content: Vec<u8>) -> Vec<Tensor> {
    vec![Tensor {
        shape: vec![1],
        data: Data::Bytes(vec![content.into()]),
    }]
}

fn row(values: &[f32]) -> Vec<Tensor> {
    vec![Tensor {
        shape: vec![1, values.len()],
        data: Data::F32(values.to_vec()),
    }]
}

#[track_caller]
fn near(found: &Tensor, expected: &[f32], tolerance: f32) {
    let Data::F32(found) = &found.data else {
        panic!("{:?} is not FP32", found.data.datatype())
    };
    assert_eq!(found.len(), expected.len());
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        worst <= tolerance,
        "they differ by {worst}, allowed is {tolerance}"
    );
}

const PHOTO: &str = "inputs: [{name: photo, datatype: BYTES, shape: [1]}]
outputs: [{name: x, datatype: FP32, shape: [1, 3, 56, 56]}]
preprocess:
- from: photo
  to: {name: x, datatype: FP32, shape: [1, 3, 56, 56]}
  steps:
  - {step: DecodeImage, maxPixels: 100000}
  - {step: Resize, shorterSide: 64, filter: Bilinear}
  - {step: Crop, height: 56, width: 56}
  - {step: Normalize, scale: 0.00392156862745098, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
  - {step: Layout, to: CHW}
";

#[tokio::test]
async fn a_photo_becomes_the_tensor_that_torchvision_makes_of_it() {
    let answer = bench(PHOTO).ask(bytes(file("cat.jpg")), None).await.unwrap();
    assert_eq!(answer.outputs[0].shape, [1, 3, 56, 56]);
    near(
        &answer.outputs[0],
        &floats("cat.jpg.imagenet.f32"),
        2.0 / 255.0 / 0.22,
    );
}

#[tokio::test]
async fn a_photo_that_is_none_is_its_clients_fault() {
    let bench = bench(PHOTO);
    let mut cut = file("cat.png");
    cut.truncate(200);
    for (content, says) in [
        (b"GIF89a".to_vec(), "neither PNG nor JPEG"),
        (vec![], "empty"),
        (cut, "cannot be read"),
        (vec![0; (8 << 20) + 1], "8388609 bytes"),
    ] {
        let error = bench.ask(bytes(content), None).await.unwrap_err();
        let InferError::Invalid(message) = &error else {
            panic!("{error}")
        };
        assert!(
            message.contains("photo") && message.contains("DecodeImage"),
            "{message}"
        );
        assert!(message.contains(says), "{message}");
    }
    assert!(bench.ask(bytes(file("cat.png")), None).await.is_ok());
    assert!(bench.engine.active().cause.is_none());
}

#[tokio::test]
async fn the_best_classes_come_with_their_labels() {
    let bench = bench(
        "inputs: [{name: y, datatype: FP32, shape: [1, 4]}]
outputs: [{name: label, datatype: BYTES, shape: [2]}, {name: p, datatype: FP32, shape: [2]}, {name: y, datatype: FP32, shape: [1, 4]}]
postprocess:
- {from: {name: y, datatype: FP32, shape: [1, 4]}, to: label, steps: [{step: TopK, count: 2, give: Labels}]}
- {from: {name: y, datatype: FP32, shape: [1, 4]}, to: p, steps: [{step: Softmax}, {step: TopK, count: 2, give: Values}]}
labels: [cat, dog, cow, owl]
",
    );
    let answer = bench.ask(row(&[0.0, 2.0, 1.0, 2.0]), None).await.unwrap();
    assert_eq!(
        answer.outputs[0].data,
        Data::Bytes(vec!["dog".into(), "owl".into()])
    );
    let e = std::f32::consts::E;
    let sum = 1.0 + 2.0 * e * e + e;
    near(&answer.outputs[1], &[e * e / sum, e * e / sum], 1e-6);
    near(&answer.outputs[2], &[0.0, 2.0, 1.0, 2.0], 0.0);
}

#[tokio::test]
async fn speech_becomes_the_spectrogram_that_a_published_model_makes_of_it() {
    let bench = bench(
        "inputs: [{name: pcm, datatype: INT16, shape: [1, 8000]}]
outputs: [{name: mel, datatype: FP32, shape: [1, 47, 32]}]
preprocess:
- from: pcm
  to: {name: mel, datatype: FP32, shape: [1, 47, 32]}
  steps:
  - {step: Pcm16}
  - {step: LogMel, sampleRateHertz: 16000, windowLength: 400, hop: 160, fftLength: 512, frame: Fft, bands: 32, lowHertz: 60,
     highHertz: 3800, scale: Slaney, norm: Area, compression: Decibel, range: 80}
",
    );
    let samples = file("speech.i16")
        .chunks_exact(2)
        .map(|b| i16::from_le_bytes([b[0], b[1]]))
        .collect();
    let pcm = Tensor {
        shape: vec![1, 8000],
        data: Data::I16(samples),
    };
    let answer = bench.ask(vec![pcm], None).await.unwrap();
    near(&answer.outputs[0], &floats("speech.livekit.f32"), 1e-2);
}

const MOTION: &str = "inputs: [{name: x, datatype: FP32, shape: [10, 6]}]
outputs: [{name: s, datatype: FP32, shape: [10, 12]}]
preprocess:
- {from: x, to: {name: s, datatype: FP32, shape: [10, 12]}, steps: [{step: Delta, up: 0.5, down: 0.25}]}
";

fn pieces() -> Vec<Vec<Tensor>> {
    let piece = |values: &[f32]| {
        vec![Tensor {
            shape: vec![10, 6],
            data: Data::F32(values.to_vec()),
        }]
    };
    floats("walking.f32").chunks_exact(60).map(piece).collect()
}

#[tokio::test]
async fn motion_in_pieces_gives_the_events_of_the_whole() {
    let bench = bench(MOTION);
    let expected: Vec<f32> = file("walking.value.u8").into_iter().map(f32::from).collect();
    for (i, piece) in pieces().into_iter().enumerate() {
        // The memory belongs to the sequence, not to the variant.
        bench.mirrors[0].fails.store(i % 3 == 1, Ordering::SeqCst);
        let answer = bench.ask(piece, Some(7)).await.unwrap();
        near(&answer.outputs[0], &expected[i * 120..(i + 1) * 120], 0.0);
    }
}

#[tokio::test]
async fn a_request_that_fails_may_be_sent_again() {
    let bench = bench(MOTION);
    let expected: Vec<f32> = file("walking.value.u8").into_iter().map(f32::from).collect();
    let pieces = pieces();
    bench.ask(pieces[0].clone(), Some(7)).await.unwrap();
    for mirror in &bench.mirrors {
        mirror.fails.store(true, Ordering::SeqCst);
    }
    assert!(bench.ask(pieces[1].clone(), Some(7)).await.is_err());
    for mirror in &bench.mirrors {
        mirror.fails.store(false, Ordering::SeqCst);
    }
    let answer = bench.ask(pieces[1].clone(), Some(7)).await.unwrap();
    near(&answer.outputs[0], &expected[120..240], 0.0);
    // Without a sequence every request begins anew.
    let alone = bench.ask(pieces[1].clone(), None).await.unwrap();
    assert_ne!(alone.outputs[0], answer.outputs[0]);
}

const GATE: &str = "inputs: [{name: p, datatype: FP32, shape: [1, 1]}]
outputs: [{name: speech, datatype: BOOL, shape: [1, 1]}, {name: p, datatype: FP32, shape: [1, 1]}]
postprocess:
- {from: {name: p, datatype: FP32, shape: [1, 1]}, to: speech, steps: [{step: Threshold, rise: 0.5, fall: 0.35}]}
";

#[tokio::test]
async fn a_threshold_holds_within_a_sequence() {
    let bench = bench(GATE);
    let mut found = vec![];
    for p in [0.4, 0.6, 0.4, 0.3, 0.4] {
        let answer = bench.ask(row(&[p]), Some(1)).await.unwrap();
        near(&answer.outputs[1], &[p], 0.0);
        found.push(answer.outputs[0].data.clone());
    }
    assert_eq!(
        found,
        [false, true, true, false, false].map(|b| Data::Bool(vec![b]))
    );
}

#[tokio::test]
async fn an_answer_that_no_step_takes_moves_the_request_on() {
    let bench = bench(GATE);
    bench.mirrors[0].gives_nan.store(true, Ordering::SeqCst);
    let answer = bench.ask(row(&[0.9]), None).await.unwrap();
    assert_eq!(
        (answer.variant, &answer.outputs[0].data),
        (Some(1), &Data::Bool(vec![true]))
    );
    let (reason, message) = answer.degraded.unwrap();
    assert_eq!(reason, "InferenceFailed");
    assert!(
        message.contains("Threshold") && message.contains("finite"),
        "{message}"
    );
}
