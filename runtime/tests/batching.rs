//! Requests that come at the same time are answered by one call of the model, each with its own answer.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, run_to_end, sum_folder};
use serde_json::{Value, json};

const REQUESTS: usize = 48;

/// The sum over all samples of a metric without regard to its labels.
fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

async fn ask(url: String, client: reqwest::Client, x: usize, wrong: bool) -> (u16, Value) {
    let data = if wrong { vec![x; 3] } else { vec![x; 4] };
    let shape = [1, data.len()];
    let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": data}]});
    let response = client.post(url).body(body.to_string()).send().await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        serde_json::from_str(&response.text().await.unwrap()).unwrap(),
    )
}

#[tokio::test]
async fn many_requests_are_answered_by_few_calls_and_each_gets_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let folder = sum_folder(dir.path(), -1, "{maxSize: 8, maxDelayMicroseconds: 200000}");
    let runtime = Runtime::start(command(&folder)).await;
    let url = format!("{}/v2/models/sum/infer", runtime.rest);
    let client = reqwest::Client::new();
    let tasks: Vec<_> = (0..REQUESTS)
        .map(|x| tokio::spawn(ask(url.clone(), client.clone(), x, x % 12 == 5)))
        .collect();
    for (x, task) in tasks.into_iter().enumerate() {
        let (status, reply) = task.await.unwrap();
        if x % 12 == 5 {
            assert_eq!(status, 400, "{reply}");
            continue;
        }
        assert_eq!(status, 200, "{reply}");
        let output = &reply["outputs"][0];
        assert_eq!(output["shape"], json!([1, 1]));
        assert_eq!(output["data"][0].as_f64().unwrap(), 4.0 * x as f64);
    }
    let metrics = client
        .get(format!("{}/metrics", runtime.admin))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let answered = metric(&metrics, "perwatt_runtime_batch_size_sum");
    let calls = metric(&metrics, "perwatt_runtime_batch_size_count");
    assert_eq!(answered, (REQUESTS - 4) as f64, "the wrong ones reached no model");
    assert!(calls < answered, "{calls} calls for {answered} requests");
}

#[test]
fn a_file_that_takes_one_request_at_a_time_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (status, said) = run_to_end(command(&sum_folder(dir.path(), 1, "{maxSize: 4}")));
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("batching: the file does not take 2 requests in one call"),
        "{said}"
    );
}
