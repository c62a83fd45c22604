//! A pod with two revisions, over the real program: commands, turns, mirroring, restarts, candidates that fail.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, reducing_folder, sum_folder, table_folder};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TOKEN: &str = "let-me-in";

/// Two folders of models and one for state.
struct Site {
    tmp: tempfile::TempDir,
    incumbent: PathBuf,
}

impl Site {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let incumbent = sum_folder(&tmp.path().join("old"), 1, "null");
        reducing_folder(&tmp.path().join("new"), "ReduceL1", 1, "null");
        Self { tmp, incumbent }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    async fn start(&self, candidate: &Path) -> Runtime {
        self.start_with(candidate, &hex::encode(Sha256::digest(TOKEN)))
            .await
    }

    async fn start_with(&self, candidate: &Path, digest: &str) -> Runtime {
        let variants = json!([{"name": "cpu", "artifact": "sum.onnx"}]);
        let config = json!({
            "workload": "gate", "node": "edge-a", "revision": "old", "variants": variants,
            "candidate": {"revision": "new", "model": candidate, "variants": variants}
        });
        let mut command = command(&self.incumbent);
        command
            .args(["--state-milliseconds", "20", "--drain-milliseconds", "1"])
            .env("PERWATT_CONFIG", config.to_string())
            .env("PERWATT_STATE_DIR", self.path("state"))
            .env("PERWATT_CONTROL_TOKEN_SHA256", digest);
        Runtime::start(command).await
    }

    async fn start_both(&self) -> Runtime {
        self.start(&self.path("new/sum")).await
    }
}

fn wanted(mode: &str, generation: u64) -> Value {
    json!({"mode": mode, "seed": 7, "blockSeconds": 1, "mirrorPerMinute": 6000, "generation": generation})
}

async fn put(runtime: &Runtime, token: &str, body: &str) -> (StatusCode, String) {
    let sent = reqwest::Client::new()
        .put(format!("{}/rollout", runtime.admin))
        .bearer_auth(token)
        .body(body.to_owned())
        .send()
        .await
        .unwrap();
    (sent.status(), sent.text().await.unwrap())
}

async fn obey(runtime: &Runtime, mode: &str, generation: u64) {
    let (status, text) = put(runtime, TOKEN, &wanted(mode, generation).to_string()).await;
    assert_eq!(status, 200, "{text}");
}

async fn state(runtime: &Runtime) -> Value {
    serde_json::from_str(&runtime.text("rollout").await).unwrap()
}

/// Sends one request; the revision that answered and what it said.
async fn ask(url: &str, client: &reqwest::Client, x: [f32; 4]) -> Result<(String, f64), String> {
    let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": x}]});
    let sent = client.post(url).body(body.to_string()).send().await;
    let text = sent
        .map_err(|e| e.to_string())?
        .text()
        .await
        .map_err(|e| e.to_string())?;
    let reply: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let revision = reply["parameters"]["revision"].as_str().ok_or(text)?;
    Ok((revision.to_owned(), common::sum(&reply)))
}

/// Sends requests until it is stopped, one in five of which both revisions answer differently.
fn load(runtime: &Runtime, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<(u64, u64)> {
    let (url, stop) = (format!("{}/v2/models/sum/infer", runtime.rest), stop.clone());
    tokio::spawn(async move {
        let client = reqwest::Client::new();
        let (mut old, mut new) = (0, 0);
        let mut random = fastrand::Rng::with_seed(1);
        while !stop.load(Ordering::Relaxed) {
            let sign = if random.u8(..5) == 0 { -1.0 } else { 1.0 };
            let (revision, sum) = ask(&url, &client, [1.0, 1.0, 1.0, sign]).await.unwrap();
            match revision.as_str() {
                "old" => old += 1,
                "new" => new += 1,
                other => panic!("{other} answered"),
            }
            let right = if revision == "old" {
                3.0 + f64::from(sign)
            } else {
                4.0
            };
            assert_eq!(sum, right, "the reply is that of the revision it names");
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
        (old, new)
    })
}

fn answered(evidence: &Value, revision: &str) -> u64 {
    let records = evidence["records"].as_array().unwrap().iter();
    let own = records.filter(|record| record["revision"] == revision);
    own.map(|record| record["answered"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn both_answer_in_turns_under_load_and_all_is_counted() {
    let site = Site::new();
    let runtime = site.start_both().await;
    let stop = Arc::default();
    let load = load(&runtime, &stop);
    obey(&runtime, "Candidate", 1).await;
    obey(&runtime, "Compare", 2).await;
    let turns = || async {
        let text = runtime.text("evidence?after=0").await;
        serde_json::from_str::<Value>(&text).unwrap()["comparison"].clone()
    };
    runtime
        .until("three turns are closed", || async {
            turns().await["turns"].as_array().unwrap().len() >= 3
        })
        .await;
    obey(&runtime, "Incumbent", 3).await;
    stop.store(true, Ordering::Relaxed);
    let (old, new) = load.await.unwrap();
    assert!(old > 50 && new > 50, "{old} and {new}");

    let evidence = runtime.evidence().await;
    assert_eq!(
        (answered(&evidence, "old"), answered(&evidence, "new")),
        (old, new)
    );
    assert_eq!(
        evidence["comparison"]["turns"],
        json!([]),
        "nobody asked for them"
    );
    let comparison = turns().await;
    let turns = comparison["turns"].as_array().unwrap();
    for turn in turns {
        for arm in ["canary", "incumbent"] {
            assert!(turn[arm]["answered"].as_u64().unwrap() > 20, "{turn}");
            let milliseconds = turn[arm]["milliseconds"].as_u64().unwrap();
            assert!((400..1_100).contains(&milliseconds), "{turn}");
        }
    }
    let last = turns.last().unwrap()["number"].as_u64().unwrap();
    assert_eq!(comparison["last"], last);
    let newer = runtime.text(&format!("evidence?after={last}")).await;
    let newer: Value = serde_json::from_str(&newer).unwrap();
    assert_eq!(newer["comparison"]["turns"], json!([]));

    let compared = comparison["mirrored"]["compared"].as_u64().unwrap();
    let different = comparison["mirrored"]["different"].as_u64().unwrap();
    assert!(compared > 10, "{comparison}");
    let share = different as f64 / compared as f64;
    assert!(
        (0.02..0.5).contains(&share),
        "one in five differs: {different} of {compared}"
    );

    let metrics = runtime.text("metrics").await;
    assert_eq!(metrics.matches("# TYPE perwatt_runtime_attempts ").count(), 1);
    for revision in ["old", "new"] {
        assert!(metrics.contains(&format!(
            "perwatt_runtime_attempts_total{{revision=\"{revision}\""
        )));
    }
}

#[tokio::test]
async fn a_restart_goes_on_with_the_command() {
    let site = Site::new();
    let mut runtime = site.start_both().await;
    obey(&runtime, "Candidate", 8).await;
    runtime.signal("KILL");
    runtime.wait().await;
    let runtime = site.start_both().await;
    let now = state(&runtime).await;
    assert_eq!(
        (&now["mode"], &now["serving"]),
        (&json!("Candidate"), &json!("new"))
    );
    assert_eq!(now["seed"], Value::Null, "it would tell the order of blocks");
    for (mode, generation) in [("Incumbent", 7), ("Incumbent", 8)] {
        let (status, text) = put(&runtime, TOKEN, &wanted(mode, generation).to_string()).await;
        assert_eq!(status, 409, "{text}");
    }
    obey(&runtime, "Incumbent", 9).await;
    assert_eq!(state(&runtime).await["serving"], "old");
}

#[tokio::test]
async fn only_the_token_commands_and_only_what_can_be() {
    let site = Site::new();
    let runtime = site.start_both().await;
    let good = wanted("Compare", 1).to_string();
    assert_eq!(put(&runtime, "let-me-inn", &good).await.0, 401);
    for bad in [
        "",
        "{}",
        "[]",
        r#"{"mode": "Both"}"#,
        r#"{"mode": "Compare", "blockSeconds": 0}"#,
    ] {
        assert_eq!(put(&runtime, TOKEN, bad).await.0, 400, "{bad}");
    }
    let huge = format!("{{\"mode\": \"{}\"}}", "x".repeat(10_000));
    assert_eq!(put(&runtime, TOKEN, &huge).await.0, 413);
    assert_eq!(state(&runtime).await["mode"], "Incumbent");
}

#[tokio::test]
async fn without_the_digest_of_a_token_nothing_commands() {
    for digest in ["", "let-me-in", "00"] {
        let site = Site::new();
        let runtime = site.start_with(&site.path("new/sum"), digest).await;
        let (status, text) = put(&runtime, TOKEN, &wanted("Compare", 1).to_string()).await;
        assert_eq!(status, 403);
        assert!(text.contains("PERWATT_CONTROL_TOKEN_SHA256"), "{text}");
    }
}

#[tokio::test]
async fn a_candidate_that_fails_leaves_the_incumbent_serving() {
    let site = Site::new();
    std::fs::write(site.path("new/sum/sum.onnx"), "no model").unwrap();
    let runtime = site.start_both().await;
    let now = state(&runtime).await;
    assert_eq!(now["candidate"]["state"], "Failed");
    assert_ne!(now["candidate"]["reason"], "");
    for mode in ["Candidate", "Compare"] {
        let (status, text) = put(&runtime, TOKEN, &wanted(mode, 1).to_string()).await;
        assert_eq!(status, 409, "{text}");
    }
    obey(&runtime, "Incumbent", 1).await;
    let url = format!("{}/v2/models/sum/infer", runtime.rest);
    let (revision, _) = ask(&url, &reqwest::Client::new(), [1.0; 4]).await.unwrap();
    assert_eq!(revision, "old");
    let metrics = runtime.text("metrics").await;
    assert!(
        metrics.contains("perwatt_runtime_candidate_failed 1"),
        "{metrics}"
    );
    assert!(runtime.log().contains("the candidate failed"));
}

#[tokio::test]
async fn what_the_candidate_does_not_answer_the_incumbent_does() {
    let site = Site::new();
    let table = table_folder(&site.path("table"));
    let runtime = site.start(&table).await;
    obey(&runtime, "Candidate", 1).await;
    let (url, client) = (
        format!("{}/v2/models/sum/infer", runtime.rest),
        reqwest::Client::new(),
    );
    let ask = async |x: f32| {
        let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [x, 0.0, 0.0, 0.0]}]});
        let sent = client.post(&url).body(body.to_string()).send().await.unwrap();
        assert_eq!(sent.status(), 200);
        serde_json::from_str::<Value>(&sent.text().await.unwrap()).unwrap()
    };
    let well = ask(3.0).await;
    assert_eq!(well["parameters"]["revision"], "new");
    assert_eq!(well["parameters"]["degraded"], false);
    for _ in 0..3 {
        let rescued = ask(99.0).await;
        assert_eq!(common::sum(&rescued), 99.0);
        assert_eq!(rescued["parameters"]["revision"], "old");
        assert_eq!(rescued["parameters"]["degraded_reason"], "CandidateFailed");
    }
    let metrics = runtime.text("metrics").await;
    let counted = |name: &str| {
        metrics
            .lines()
            .any(|line| line.starts_with(name) && line.ends_with(" 3"))
    };
    assert!(counted("perwatt_runtime_candidate_errors_total"), "{metrics}");
    assert!(
        !metrics.contains("perwatt_runtime_errors_total"),
        "no client saw one: {metrics}"
    );
}

#[tokio::test]
async fn errors_of_the_candidate_are_in_its_turns_though_no_client_sees_one() {
    let site = Site::new();
    let table = table_folder(&site.path("table"));
    let runtime = site.start(&table).await;
    obey(&runtime, "Compare", 1).await;
    let (url, client) = (
        format!("{}/v2/models/sum/infer", runtime.rest),
        reqwest::Client::new(),
    );
    let (mut turns, began) = (Vec::new(), std::time::Instant::now());
    while turns.is_empty() {
        assert!(began.elapsed() < common::PATIENCE, "no turn was closed");
        let (_, sum) = ask(&url, &client, [99.0, 0.0, 0.0, 0.0]).await.unwrap();
        assert_eq!(sum, 99.0);
        let evidence: Value = serde_json::from_str(&runtime.text("evidence?after=0").await).unwrap();
        turns.clone_from(evidence["comparison"]["turns"].as_array().unwrap());
    }
    for turn in turns {
        let [canary, incumbent] = ["canary", "incumbent"].map(|arm| turn[arm].clone());
        assert_eq!(canary["answered"], 0, "{canary}");
        assert!(canary["failed"].as_u64() > Some(0), "{canary}");
        assert_eq!(incumbent["failed"], 0, "{incumbent}");
    }
}
