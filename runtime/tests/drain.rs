//! SIGTERM under load: readiness goes at once, requests do not.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, request, tiny_folder};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A client with kept connections, and one with a new connection for every request.
fn clients(
    url: &str,
    answered: &Arc<AtomicU64>,
    stop: &Arc<AtomicBool>,
) -> Vec<tokio::task::JoinHandle<Vec<String>>> {
    let client = |keep: usize| {
        let (url, answered, stop) = (url.to_owned(), answered.clone(), stop.clone());
        tokio::spawn(async move {
            let client = reqwest::Client::builder()
                .pool_max_idle_per_host(keep)
                .build()
                .unwrap();
            let mut lost = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let sent = client
                    .post(&url)
                    .body(request([1.; 4], json!({})).to_string())
                    .send()
                    .await;
                let status = match sent {
                    Ok(response) => {
                        let status = response.status().as_u16();
                        response
                            .text()
                            .await
                            .map(|_| status)
                            .map_err(|error| format!("{error:?}"))
                    }
                    Err(error) => Err(format!("{error:?}")),
                };
                match status {
                    Ok(200) => _ = answered.fetch_add(1, Ordering::Relaxed),
                    other => lost.push(format!("{other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            lost
        })
    };
    [1, 1, 1, 0].into_iter().map(client).collect()
}

#[tokio::test]
async fn a_drain_under_load_loses_nothing_and_ends_well() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = command(&tiny_folder(tmp.path()));
    command.args(["--drain-milliseconds", "3000"]);
    let mut runtime = Runtime::start(command).await;
    let (answered, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
    let tasks = clients(&runtime.infer_url(), &answered, &stop);
    let served = async |more: u64| {
        let goal = answered.load(Ordering::Relaxed) + more;
        runtime
            .until("requests flow", || async {
                answered.load(Ordering::Relaxed) >= goal
            })
            .await;
    };
    served(100).await;
    runtime.signal("TERM");
    runtime
        .until("readiness is gone", || async {
            runtime.status("readyz").await == 503
        })
        .await;
    assert_eq!(runtime.status("livez").await, 200);
    served(100).await;
    // The balancer has taken the endpoint away: clients go elsewhere while the drain lasts.
    let response = reqwest::Client::new()
        .post(runtime.infer_url())
        .body(request([1.; 4], json!({})).to_string());
    let response = response.send().await.unwrap();
    assert_eq!(
        response.headers()["connection"],
        "close",
        "so that kept connections move"
    );
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        assert_eq!(task.await.unwrap(), Vec::<String>::new());
    }
    assert_eq!(runtime.wait().await.code(), Some(0), "{}", runtime.log());
}

#[tokio::test]
async fn an_interrupt_on_a_laptop_ends_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = command(&tiny_folder(tmp.path()));
    // Longer than this test waits for anything.
    command.args(["--drain-milliseconds", "600000"]);
    let mut runtime = Runtime::start(command).await;
    runtime.signal("INT");
    assert_eq!(runtime.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_cuts_the_drain_short() {
    let tmp = tempfile::tempdir().unwrap();
    let mut command = command(&tiny_folder(tmp.path()));
    command.args(["--drain-milliseconds", "600000"]);
    let mut runtime = Runtime::start(command).await;
    runtime.signal("TERM");
    runtime
        .until("it drains", || async { runtime.status("readyz").await == 503 })
        .await;
    runtime.signal("TERM");
    assert_eq!(runtime.wait().await.code(), Some(0));
}
