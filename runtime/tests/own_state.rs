//! Models that keep their state inside: one run for every sequence, and a lost one is never hidden.

#![allow(clippy::unwrap_used, clippy::panic)]

use perwatt_model::Manifest;
use perwatt_runtime::backend::{BackendError, Model, SequenceRun};
use perwatt_runtime::chain::Policy;
use perwatt_runtime::config::{Config, VariantConfig};
use perwatt_runtime::engine::{Answer, Engine, InferError, Query, SequenceStep};
use perwatt_runtime::sequence::SequenceId;
use perwatt_runtime::tensor::{Data, Tensor};
use perwatt_runtime::variant::Variant;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const MANIFEST: &str = "schema: 1\nname: m\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [1]}]\n\
    outputs: [{name: y, datatype: FP32, shape: [1]}]\nsequence: {ownState: true}\n\
    files: [{path: a, backend: LiteRt, precision: int8, \
    sha256: '0000000000000000000000000000000000000000000000000000000000000000'}]\n";

/// Answers the sum of all that a sequence said so far.
#[derive(Debug, Default)]
struct Adder {
    fail: AtomicBool,
    hold: Mutex<bool>,
    release: Condvar,
}

#[derive(Debug)]
struct Sum {
    total: f32,
    adder: Arc<Adder>,
}

struct Shared(Arc<Adder>);

impl Model for Shared {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        self.begin()?.unwrap().infer(inputs)
    }

    fn begin(&self) -> Result<Option<Box<dyn SequenceRun>>, BackendError> {
        let adder = self.0.clone();
        Ok(Some(Box::new(Sum { total: 0.0, adder })))
    }
}

impl SequenceRun for Sum {
    fn infer(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        let Data::F32(values) = &inputs[0].data else {
            panic!()
        };
        self.total += values[0];
        let mut hold = self.adder.hold.lock().unwrap();
        while *hold {
            hold = self.adder.release.wait(hold).unwrap();
        }
        if self.adder.fail.load(Ordering::SeqCst) {
            return Err(BackendError("told to fail".into()));
        }
        Ok(vec![Tensor {
            shape: vec![1],
            data: Data::F32(vec![self.total]),
        }])
    }
}

struct Bench {
    engine: Arc<Engine>,
    adders: Vec<Arc<Adder>>,
}

fn bench(count: usize) -> Bench {
    let adders: Vec<_> = (0..count).map(|_| Arc::<Adder>::default()).collect();
    let spec = |i: usize| VariantConfig {
        name: format!("v{i}"),
        artifact: "a".into(),
        ..VariantConfig::default()
    };
    let manifest = || Manifest::parse(MANIFEST).unwrap();
    let config = Config {
        variants: (0..count).map(spec).collect(),
        ..Config::of_folder(&manifest())
    };
    let variants = adders
        .iter()
        .map(|adder| {
            Ok(Variant::new("v", Arc::new(Shared(adder.clone())), Some("device".into()), None).unwrap())
        })
        .collect();
    let policy = Policy::with_stable_for(Duration::ZERO);
    Bench {
        engine: Arc::new(Engine::new(config, manifest(), policy, variants).unwrap()),
        adders,
    }
}

impl Bench {
    async fn ask(&self, id: u64, x: f32, start: bool, time: Duration) -> Result<Answer, InferError> {
        let arrived = Instant::now();
        let sequence = SequenceStep {
            id: SequenceId::Number(id),
            start,
            end: false,
        };
        let inputs = vec![Tensor {
            shape: vec![1],
            data: Data::F32(vec![x]),
        }];
        let query = Query {
            inputs,
            sequence: Some(sequence),
            arrived,
            deadline: arrived + time,
        };
        self.engine.infer(query).await
    }

    /// The sum, and whether the state was lost before.
    async fn sum(&self, id: u64, x: f32, start: bool) -> (f32, bool) {
        let answer = self.ask(id, x, start, Duration::from_secs(30)).await.unwrap();
        let Data::F32(values) = &answer.outputs[0].data else {
            panic!()
        };
        (values[0], answer.sequence_restarted)
    }

    fn hold(&self, index: usize, hold: bool) {
        *self.adders[index].hold.lock().unwrap() = hold;
        self.adders[index].release.notify_all();
    }
}

#[tokio::test]
async fn sequences_do_not_see_one_another() {
    let bench = bench(1);
    for (i, x) in [1.0, 2.0, 3.0].into_iter().enumerate() {
        assert_eq!(bench.sum(1, x, i == 0).await, ([1.0, 3.0, 6.0][i], false));
        assert_eq!(
            bench.sum(2, 10.0 * x, i == 0).await,
            ([10.0, 30.0, 60.0][i], false)
        );
    }
    assert_eq!(bench.sum(1, 5.0, true).await, (5.0, false), "a start begins anew");
}

#[tokio::test]
async fn after_a_failure_the_sequence_begins_anew_and_says_so_once() {
    let bench = bench(1);
    assert_eq!(bench.sum(1, 1.0, true).await, (1.0, false));
    bench.adders[0].fail.store(true, Ordering::SeqCst);
    assert!(bench.ask(1, 2.0, false, Duration::from_secs(30)).await.is_err());
    bench.adders[0].fail.store(false, Ordering::SeqCst);
    assert_eq!(bench.sum(1, 2.0, false).await, (2.0, true));
    assert_eq!(bench.sum(1, 2.0, false).await, (4.0, false));
}

#[tokio::test]
async fn a_late_answer_does_not_come_back_as_state() {
    let bench = bench(1);
    assert_eq!(bench.sum(1, 1.0, true).await, (1.0, false));
    bench.hold(0, true);
    assert!(
        bench
            .ask(1, 100.0, false, Duration::from_millis(50))
            .await
            .is_err()
    );
    bench.hold(0, false);
    assert_eq!(
        bench.sum(1, 2.0, false).await,
        (2.0, true),
        "the 100 was never answered"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_half_way_costs_the_state_not_its_truth() {
    let bench = bench(1);
    assert_eq!(bench.sum(1, 1.0, true).await, (1.0, false));
    bench.hold(0, true);
    let ask = bench.ask(1, 100.0, false, Duration::from_secs(30));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), ask)
            .await
            .is_err()
    );
    bench.hold(0, false);
    assert_eq!(bench.sum(1, 2.0, false).await, (2.0, true));
}

#[tokio::test]
async fn another_variant_begins_anew_and_so_does_the_first_when_it_is_back() {
    let bench = bench(2);
    assert_eq!(bench.sum(1, 1.0, true).await, (1.0, false));
    bench.adders[0].fail.store(true, Ordering::SeqCst);
    assert_eq!(bench.sum(1, 2.0, false).await, (2.0, true));
    bench.adders[0].fail.store(false, Ordering::SeqCst);
    assert_eq!(
        bench.sum(1, 3.0, false).await,
        (3.0, true),
        "the first is tried again: one failure opens no breaker"
    );
    assert_eq!(bench.sum(1, 4.0, false).await, (7.0, false));
}
