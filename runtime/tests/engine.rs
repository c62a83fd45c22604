//! The chain within a request: models that fail, hang, panic or are overrun, and nobody waits in vain.

#![allow(clippy::unwrap_used, clippy::panic)]

use perwatt_model::Manifest;
use perwatt_runtime::backend::{BackendError, Model};
use perwatt_runtime::chain::Policy;
use perwatt_runtime::config::{Config, VariantConfig};
use perwatt_runtime::engine::{Answer, Engine, InferError, Query};
use perwatt_runtime::evidence::EpochReason;
use perwatt_runtime::state::Found;
use perwatt_runtime::tensor::{Data, Tensor};
use perwatt_runtime::variant::Variant;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const MANIFEST: &str = "schema: 1\nname: m\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [1]}]\n\
    outputs: [{name: y, datatype: FP32, shape: [1]}]\nfiles: [{path: a, backend: Onnx, precision: float32, \
    sha256: '0000000000000000000000000000000000000000000000000000000000000000'}]\n";

const ANSWER: u8 = 0;
const FAIL: u8 = 1;
const PANIC: u8 = 2;
const HANG: u8 = 3;

/// A model that does as it is told.
#[derive(Default)]
struct Puppet {
    mode: AtomicU8,
    calls: AtomicU64,
    released: Mutex<bool>,
    release: Condvar,
}

impl Puppet {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn let_go(&self) {
        *self.released.lock().unwrap() = true;
        self.release.notify_all();
    }
}

impl Model for Puppet {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match self.mode.load(Ordering::SeqCst) {
            FAIL => return Err(BackendError("told to fail".into())),
            // Without the hook, which would print for longer than the chain waits.
            PANIC => std::panic::resume_unwind(Box::new("told to panic")),
            HANG => {
                let mut released = self.released.lock().unwrap();
                while !*released {
                    released = self.release.wait(released).unwrap();
                }
            }
            _ => {}
        }
        Ok(inputs.to_vec())
    }
}

struct Bench {
    engine: Arc<Engine>,
    puppets: Vec<Arc<Puppet>>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for puppet in &self.puppets {
            puppet.let_go();
        }
    }
}

fn bench(count: usize) -> Bench {
    bench_of(count, MANIFEST)
}

fn bench_of(count: usize, manifest: &str) -> Bench {
    let puppets: Vec<_> = (0..count).map(|_| Arc::<Puppet>::default()).collect();
    let spec = |i: usize| VariantConfig {
        name: format!("v{i}"),
        artifact: "a".into(),
        ..VariantConfig::default()
    };
    let config = Config {
        variants: (0..count).map(spec).collect(),
        ..Config::of_folder(&Manifest::parse(manifest).unwrap())
    };
    let variant = |p: &Arc<Puppet>| Ok(Variant::new("v", p.clone(), Some("device".into()), None).unwrap());
    let variants = puppets.iter().map(variant).collect();
    let policy = Policy {
        first_backoff: Duration::from_millis(300),
        ..Policy::with_stable_for(Duration::ZERO)
    };
    let engine = Engine::new(config, Manifest::parse(manifest).unwrap(), policy, variants).unwrap();
    Bench {
        engine: Arc::new(engine),
        puppets,
    }
}

impl Bench {
    async fn ask(&self, time: Duration) -> Result<Answer, InferError> {
        let arrived = Instant::now();
        let inputs = vec![Tensor {
            shape: vec![1],
            data: Data::F32(vec![7.0]),
        }];
        self.engine
            .infer(Query {
                inputs,
                sequence: None,
                arrived,
                deadline: arrived + time,
            })
            .await
    }

    async fn who(&self) -> (usize, Option<String>) {
        let answer = self.ask(Duration::from_secs(30)).await.unwrap();
        (answer.variant.unwrap(), answer.degraded.map(|(reason, _)| reason))
    }

    fn calls(&self, index: usize) -> u64 {
        self.puppets[index].calls.load(Ordering::SeqCst)
    }
}

fn because(reason: &str) -> Option<String> {
    Some(reason.to_owned())
}

#[tokio::test]
async fn a_failure_or_panic_moves_the_request_on_and_three_open_the_breaker() {
    for mode in [FAIL, PANIC] {
        let bench = bench(2);
        assert_eq!(bench.who().await, (0, None));
        bench.puppets[0].set(mode);
        for _ in 0..3 {
            assert_eq!(bench.who().await, (1, because("InferenceFailed")));
        }
        let before = bench.calls(0);
        assert_eq!(bench.who().await, (1, because("BreakerOpen")));
        assert_eq!(bench.calls(0), before, "an open breaker spares the variant");
        // A trial that fails costs no request either, and one that succeeds brings the variant back.
        bench.puppets[0].set(ANSWER);
        let deadline = Instant::now() + Duration::from_secs(60);
        while bench.who().await != (0, None) {
            assert!(Instant::now() < deadline, "it never came back");
        }
        assert_eq!(bench.engine.evidence().variants[0].tally.failures, 3);
    }
}

#[tokio::test]
async fn a_hung_device_leaves_time_for_the_fallback() {
    let bench = bench(3);
    bench.puppets[0].set(HANG);
    bench.puppets[1].set(HANG);
    let answer = bench.ask(Duration::from_millis(2000)).await.unwrap();
    assert_eq!(answer.variant, Some(2));
    assert_eq!(answer.degraded.unwrap().0, "Late");
    assert!(bench.engine.metrics.render().contains("outcome=\"Late\"} 1"));
}

#[tokio::test]
async fn where_all_hang_the_deadline_is_kept_and_named() {
    let bench = bench(2);
    bench.puppets[0].set(HANG);
    bench.puppets[1].set(HANG);
    let error = bench.ask(Duration::from_millis(100)).await.unwrap_err();
    let InferError::Deadline {
        milliseconds: 100,
        tried,
    } = &error
    else {
        panic!("{error}")
    };
    assert!(tried.contains("v0") && tried.contains("v1"), "{tried}");
    let metrics = bench.engine.metrics.render();
    assert!(metrics.contains("deadlines_missed_total 1"), "{metrics}");
    assert_eq!(bench.engine.evidence().totals.deadlines_missed, 1);
}

#[tokio::test]
async fn a_request_that_no_variant_can_take_opens_no_breaker() {
    let bench = bench(2);
    bench.puppets[0].set(FAIL);
    bench.puppets[1].set(FAIL);
    for _ in 0..10 {
        let error = bench.ask(Duration::from_secs(30)).await.unwrap_err();
        assert!(
            matches!(&error, InferError::Failed { tried } if tried.contains("told to fail")),
            "{error}"
        );
    }
    bench.puppets[0].set(ANSWER);
    assert_eq!(bench.who().await, (0, None));
}

#[tokio::test]
async fn an_impossible_deadline_opens_no_breaker() {
    let bench = bench(2);
    for _ in 0..20 {
        let _ = bench.ask(Duration::from_nanos(1)).await;
    }
    assert_eq!(bench.who().await, (0, None));
}

#[tokio::test]
async fn too_much_at_once_is_shed_and_afterwards_all_is_well() {
    let bench = bench(1);
    bench.puppets[0].set(HANG);
    let ask = |_| {
        let engine = bench.engine.clone();
        let arrived = Instant::now();
        let inputs = vec![Tensor {
            shape: vec![1],
            data: Data::F32(vec![7.0]),
        }];
        let query = Query {
            inputs,
            sequence: None,
            arrived,
            deadline: arrived + Duration::from_secs(60),
        };
        tokio::spawn(async move { engine.infer(query).await })
    };
    let asked: Vec<_> = (0..1000).map(ask).collect();
    let shed = || bench.engine.metrics.render().contains("reason=\"Overloaded\"}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !shed() {
        assert!(Instant::now() < deadline, "nothing was shed");
        tokio::task::yield_now().await;
    }
    bench.puppets[0].set(ANSWER);
    bench.puppets[0].let_go();
    let mut answered = 0;
    for ask in asked {
        match ask.await.unwrap() {
            Ok(_) => answered += 1,
            Err(error) => assert_eq!(error, InferError::Overloaded),
        }
    }
    assert!(
        (200..1000).contains(&answered),
        "{answered} of 1000 were answered"
    );
    assert_eq!(bench.who().await, (0, None));
}

#[tokio::test]
async fn clients_that_go_away_leave_no_work_behind() {
    let bench = bench(1);
    bench.puppets[0].set(HANG);
    for _ in 0..50 {
        let ask = bench.ask(Duration::from_secs(60));
        assert!(tokio::time::timeout(Duration::from_millis(1), ask).await.is_err());
    }
    bench.puppets[0].set(ANSWER);
    bench.puppets[0].let_go();
    assert_eq!(bench.who().await, (0, None));
    assert!(
        bench.calls(0) <= 2,
        "calls that nobody waited for were made: {}",
        bench.calls(0)
    );
}

#[tokio::test]
async fn where_the_whole_chain_fails_a_declared_safe_value_is_answered_and_flagged() {
    let bench = bench_of(2, &format!("{MANIFEST}safeValue: [{{output: y, value: -1.5}}]\n"));
    let answer = bench.ask(Duration::from_secs(30)).await.unwrap();
    assert!(!answer.safe_value && answer.variant == Some(0));
    bench.puppets[0].set(FAIL);
    bench.puppets[1].set(FAIL);
    let answer = bench.ask(Duration::from_secs(30)).await.unwrap();
    assert_eq!((answer.safe_value, answer.variant), (true, None));
    assert_eq!(answer.outputs[0].data, Data::F32(vec![-1.5]));
    let (reason, message) = answer.degraded.unwrap();
    assert!(
        reason == "AllFailed" && message.contains("v1: told to fail"),
        "{reason}: {message}"
    );
    bench.puppets[0].set(HANG);
    bench.puppets[1].set(HANG);
    let late = bench.ask(Duration::from_millis(50)).await.unwrap();
    assert_eq!(late.degraded.unwrap().0, "Deadline");
    assert_eq!(bench.engine.safe_values(), 2);
    let totals = bench.engine.evidence().totals;
    assert_eq!((totals.safe_values, totals.deadlines_missed), (2, 1));
    assert!(
        bench
            .engine
            .metrics
            .render()
            .contains("safe_values_total{reason=\"AllFailed\"} 1")
    );
}

#[tokio::test]
async fn many_failures_at_once_are_one_fault() {
    let bench = bench(2);
    bench.puppets[0].set(FAIL);
    let asks = (0..200).map(|_| bench.ask(Duration::from_secs(30)));
    for answer in futures::future::join_all(asks).await {
        assert_eq!(answer.unwrap().variant, Some(1));
    }
    // The first back-off is 300 ms: had each failure doubled it, the variant would be away for a minute.
    bench.puppets[0].set(ANSWER);
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.who().await != (0, None) {
        assert!(Instant::now() < deadline, "it is still away");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_variant_that_loads_late_goes_on_counting_where_an_earlier_process_stopped() {
    let before = bench(2);
    before.puppets[0].set(FAIL);
    assert_eq!(before.who().await.0, 1);
    let saved = before.engine.saved();

    let variant = || Variant::new("v", Arc::<Puppet>::default(), Some("device".into()), None).unwrap();
    let (config, manifest) = (before.engine.config.clone(), before.engine.manifest.clone());
    let policy = Policy::with_stable_for(Duration::ZERO);
    let variants = vec![Ok(variant()), Err("its device is not there yet".into())];
    let mut engine = Engine::new(config, manifest, policy, variants).unwrap();
    assert_eq!(engine.evidence().epoch.reason, EpochReason::NotKept);
    engine.restore(Found::Counts(Box::new(saved.clone())));
    assert_eq!(engine.saved().records, saved.records, "nothing is lost meanwhile");
    let requests = |engine: &Engine| {
        engine
            .evidence()
            .variants
            .iter()
            .map(|v| v.tally.requests)
            .collect::<Vec<_>>()
    };
    assert_eq!(requests(&engine), [1, 0]);

    engine.adopt(1, variant());
    assert_eq!(requests(&engine), [1, 1]);
    assert_eq!(engine.saved(), saved, "and nothing is there twice");
}
