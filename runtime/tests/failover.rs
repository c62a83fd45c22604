//! A device dies and comes back under the real program while requests flow: nobody notices but the replies.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::agent::Agent;
use common::{Runtime, command, npu_and_cpu, request, sum, tiny_folder};
use perwatt_device_socket::Health;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

async fn start(dir: &Path, config: &Value) -> Runtime {
    std::fs::write(dir.join("node"), "").unwrap();
    start_without_node(dir, config).await
}

async fn start_without_node(dir: &Path, config: &Value) -> Runtime {
    let mut command = command(&tiny_folder(dir));
    command
        .arg("--device-socket-dir")
        .arg(dir)
        .env("PERWATT_CONFIG", config.to_string())
        .env("PERWATT_DEVICE_ID", "asic-0")
        .env("PERWATT_DEVICE_NODE", dir.join("node"));
    Runtime::start(command).await
}

async fn serving(runtime: &Runtime, variant: &str) {
    let ask = || async { runtime.evidence().await["activeVariant"] == variant };
    runtime.until(&format!("{variant} serves"), ask).await;
}

#[tokio::test]
async fn replies_reports_and_energy_name_the_device() {
    let tmp = tempfile::tempdir().unwrap();
    let agent = Agent::start(tmp.path(), Health::Healthy);
    let runtime = start(tmp.path(), &npu_and_cpu(100)).await;
    runtime
        .until("the agent was told", || async { agent.last_report().is_some() })
        .await;
    let report = agent.last_report().unwrap();
    assert_eq!(
        (&report.active_variant[..], report.degraded, &report.slot[..]),
        ("npu", false, "replica-0")
    );
    assert_eq!((&report.workload[..], &report.namespace[..]), ("gate", "audio"));
    let answered = async || runtime.infer(&request([1.; 4], json!({}))).await.1["parameters"].clone();
    runtime
        .until("a figure is known", || async {
            answered().await.get("energy_source").is_some()
        })
        .await;
    let parameters = answered().await;
    assert_eq!(parameters["energy_source"], "emulated nameplate");
    assert!(parameters["energy_microjoules"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&parameters["device"], &parameters["node"]),
        (&json!("asic-0"), &json!("edge-a"))
    );
    assert_eq!(
        (&parameters["variant"], &parameters["revision"]),
        (&json!("npu"), &json!("6f1c2b"))
    );
    let evidence = runtime.evidence().await;
    assert_eq!(evidence["variants"][0]["energy"]["emulated"], true);
    assert_eq!(evidence["variants"][0]["energy"]["source"], "nameplate");
    assert_eq!(evidence["variants"][1]["energy"], Value::Null);
    assert_eq!(evidence["variants"][1]["state"], "Standby");
}

#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    restarts: AtomicU64,
    variants: Mutex<Vec<String>>,
    problems: Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, sequence: u64, status: u16, reply: &Value) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let parameters = &reply["parameters"];
        let problem = |text: &str| {
            self.problems
                .lock()
                .unwrap()
                .push(format!("{text}: {status} {reply}"))
        };
        if status != 200 {
            return problem("no answer");
        }
        if parameters["sequence_restarted"] == true {
            self.restarts.fetch_add(1, Ordering::Relaxed);
            if sum(reply) >= 100.0 {
                problem("a restarted sequence has an old state");
            }
        }
        let variant = parameters["variant"].as_str().unwrap().to_owned();
        if (variant == "cpu") != (parameters["degraded"] == true) {
            problem("silent");
        }
        if sequence == 1 {
            let mut variants = self.variants.lock().unwrap();
            if variants.last() != Some(&variant) {
                variants.push(variant);
            }
        }
    }
}

fn flow(runtime: &Runtime, seen: &Arc<Seen>, stop: &Arc<AtomicBool>) -> Vec<tokio::task::JoinHandle<()>> {
    let client = |sequence: u64| {
        let (url, seen, stop) = (runtime.infer_url(), seen.clone(), stop.clone());
        tokio::spawn(async move {
            let client = reqwest::Client::new();
            let mut first = true;
            while !stop.load(Ordering::Relaxed) {
                let body = request([1.; 4], json!({"sequence_id": sequence, "sequence_start": first}));
                first = false;
                match client.post(&url).body(body.to_string()).send().await {
                    Ok(response) => {
                        let status = response.status().as_u16();
                        let text = response.text().await.unwrap_or_default();
                        seen.note(sequence, status, &serde_json::from_str(&text).unwrap_or_default());
                    }
                    Err(error) => seen.problems.lock().unwrap().push(format!("lost: {error:?}")),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    (1..=4).map(client).collect()
}

#[tokio::test]
async fn a_device_that_dies_and_recovers_costs_no_request() {
    let tmp = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(tmp.path(), Health::Healthy);
    let runtime = start(tmp.path(), &npu_and_cpu(200)).await;
    runtime
        .until("the agent was told", || async { agent.last_report().is_some() })
        .await;
    let (seen, stop) = (Arc::<Seen>::default(), Arc::<AtomicBool>::default());
    let clients = flow(&runtime, &seen, &stop);
    // Every stage lasts until some requests saw it.
    let served = async |more: u64| {
        let goal = seen.requests.load(Ordering::Relaxed) + more;
        runtime
            .until("requests flow", || async {
                seen.requests.load(Ordering::Relaxed) >= goal
            })
            .await;
    };
    served(50).await;
    agent.set(Health::Degraded);
    served(20).await;
    agent.set(Health::Unhealthy);
    serving(&runtime, "cpu").await;
    served(50).await;
    let degraded = runtime.evidence().await;
    assert_eq!(
        (&degraded["degraded"], &degraded["reason"]),
        (&json!(true), &json!("DeviceUnhealthy"))
    );
    assert_eq!(degraded["variants"][0]["state"], "Tainted");
    let message = degraded["variants"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("asic-0") && message.contains("104 degrees"),
        "{message}"
    );
    assert_eq!(
        runtime.status("readyz").await,
        200,
        "a fallback that serves is ready"
    );

    // An agent that goes away, or knows nothing, changes nothing.
    agent.stop();
    let away = || async { runtime.log().contains("the node agent went away") };
    runtime.until("the runtime noticed", away).await;
    served(20).await;
    agent.set(Health::Unknown);
    agent.restart();
    let reports = agent.reports.lock().unwrap().len();
    runtime
        .until("the new agent was told", || async {
            agent.reports.lock().unwrap().len() > reports
        })
        .await;
    let report = agent.last_report().unwrap();
    assert_eq!(
        (&report.active_variant[..], report.degraded, &report.reason[..]),
        ("cpu", true, "DeviceUnhealthy")
    );
    served(20).await;
    assert_eq!(runtime.evidence().await["activeVariant"], "cpu");

    agent.set(Health::Healthy);
    serving(&runtime, "npu").await;
    served(50).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(*seen.problems.lock().unwrap(), Vec::<String>::new());
    assert_eq!(*seen.variants.lock().unwrap(), ["npu", "cpu", "npu"]);
    assert_eq!(
        seen.restarts.load(Ordering::Relaxed),
        8,
        "each of four sequences restarts at each change"
    );
    let evidence = runtime.evidence().await;
    assert_eq!(evidence["sequencesRestarted"], 8);
    assert_eq!(evidence["degraded"], false);
    assert!(evidence["fallbacks"].as_u64().unwrap() >= 50);
    assert_eq!(evidence["variants"][0]["failures"], 0, "a taint is no failure");
    let back = agent.last_report().unwrap();
    assert_eq!((&back.active_variant[..], back.degraded), ("npu", false));
}

#[tokio::test]
async fn a_device_that_is_unhealthy_from_the_start_is_not_used() {
    let tmp = tempfile::tempdir().unwrap();
    let _agent = Agent::start(tmp.path(), Health::Unhealthy);
    let runtime = start(tmp.path(), &npu_and_cpu(100)).await;
    serving(&runtime, "cpu").await;
    let (status, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!((status, &reply["parameters"]["device"]), (200, &json!("none")));
    assert_eq!(reply["parameters"]["degraded_reason"], "DeviceUnhealthy");
}

#[tokio::test]
async fn with_one_variant_on_a_dead_device_the_error_says_why() {
    let tmp = tempfile::tempdir().unwrap();
    let agent = Agent::start(tmp.path(), Health::Healthy);
    let runtime = start(tmp.path(), &without_stand_in()).await;
    assert_eq!(runtime.infer(&request([1.; 4], json!({}))).await.0, 200);
    agent.set(Health::Unhealthy);
    runtime
        .until("it is not ready", || async {
            runtime.status("readyz").await == 503
        })
        .await;
    let (status, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    let error = reply["error"].as_str().unwrap();
    assert!(
        status == 503 && error.contains("asic-0") && error.contains("104 degrees"),
        "{status} {error}"
    );
    assert_eq!(
        runtime.status("livez").await,
        200,
        "a restart would not mend the device"
    );
}

fn without_stand_in() -> Value {
    let mut config = npu_and_cpu(100);
    config["variants"].as_array_mut().unwrap().pop();
    config
}

#[tokio::test]
async fn with_one_variant_on_a_device_that_is_drained_it_goes_on_until_the_device_fails() {
    let tmp = tempfile::tempdir().unwrap();
    let agent = Agent::start(tmp.path(), Health::Healthy);
    let runtime = start(tmp.path(), &without_stand_in()).await;
    agent.drain(Health::Degraded);
    let heard = || async {
        let message = &runtime.evidence().await["variants"][0]["message"];
        message
            .as_str()
            .is_some_and(|message| message.contains("(a fan)"))
    };
    runtime.until("it is told", heard).await;
    let (status, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!((status, &reply["parameters"]["device"]), (200, &json!("asic-0")));
    assert_eq!(reply["parameters"]["degraded"], false, "{reply}");
    assert_eq!(runtime.status("readyz").await, 200);
    assert_eq!(runtime.evidence().await["variants"][0]["state"], "Active");

    agent.drain(Health::Unhealthy);
    runtime
        .until("it is not ready", || async {
            runtime.status("readyz").await == 503
        })
        .await;
    let (status, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    let error = reply["error"].as_str().unwrap();
    assert!(status == 503 && error.contains("104 degrees"), "{status} {error}");
}

#[tokio::test]
async fn a_device_that_is_drained_is_left_for_another_variant_and_back_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let agent = Agent::start(tmp.path(), Health::Healthy);
    // Longer than the test: a device that was well all the time need not prove itself.
    let runtime = start(tmp.path(), &npu_and_cpu(600_000)).await;
    serving(&runtime, "npu").await;
    agent.drain(Health::Healthy);
    serving(&runtime, "cpu").await;
    let (_, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    let parameters = &reply["parameters"];
    assert_eq!(
        (&parameters["variant"], &parameters["degraded_reason"]),
        (&json!("cpu"), &json!("DeviceLeaving"))
    );
    let message = parameters["degraded_message"].as_str().unwrap();
    assert!(
        message.contains("asic-0") && message.contains("(a fan)"),
        "{message}"
    );
    let report = || async { agent.last_report().is_some_and(|r| r.reason == "DeviceLeaving") };
    runtime.until("the agent was told", report).await;
    agent.set(Health::Healthy);
    serving(&runtime, "npu").await;
}

#[tokio::test]
async fn a_variant_that_is_loaded_late_obeys_what_was_said_of_its_device() {
    let tmp = tempfile::tempdir().unwrap();
    let _agent = Agent::start(tmp.path(), Health::Unhealthy);
    let runtime = start_without_node(tmp.path(), &npu_and_cpu(100)).await;
    let state = async || runtime.evidence().await["variants"][0]["state"].clone();
    let told = || async { runtime.log().contains("the device's state") };
    runtime.until("it is told", told).await;
    assert_eq!(state().await, "Failed", "it has no device node");
    std::fs::write(tmp.path().join("node"), "").unwrap();
    let loaded = || async { state().await != "Failed" };
    runtime.until("it is loaded", loaded).await;
    assert_eq!(state().await, "Tainted");
    assert_eq!(runtime.evidence().await["reason"], "DeviceUnhealthy");
}

#[tokio::test]
async fn a_slot_that_is_degraded_by_configuration_says_so_in_every_reply() {
    let tmp = tempfile::tempdir().unwrap();
    let mut config = npu_and_cpu(100);
    config["variants"].as_array_mut().unwrap().remove(0);
    config["degraded"] = json!({"reason": "DeviceUnhealthy", "message": "npu on edge-a is unhealthy"});
    let runtime = start(tmp.path(), &config).await;
    let (_, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!(reply["parameters"]["degraded"], true);
    assert_eq!(reply["parameters"]["degraded_reason"], "DeviceUnhealthy");
    assert_eq!(
        reply["parameters"]["degraded_message"],
        "npu on edge-a is unhealthy"
    );
    let evidence = runtime.evidence().await;
    assert_eq!(
        (&evidence["degraded"], &evidence["fallbacks"]),
        (&json!(true), &json!(0))
    );
}
