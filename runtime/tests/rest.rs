//! What the runtime promises to clients of the protocol, over real connections to the real program.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, request, sum, tiny_folder};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

async fn start() -> (tempfile::TempDir, Runtime) {
    let tmp = tempfile::tempdir().unwrap();
    let runtime = Runtime::start(command(&tiny_folder(tmp.path()))).await;
    (tmp, runtime)
}

async fn get(url: String) -> (u16, Value) {
    let response = reqwest::get(url).await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        serde_json::from_str(&response.text().await.unwrap()).unwrap(),
    )
}

#[tokio::test]
async fn metadata_and_health_are_the_protocols() {
    let (_tmp, runtime) = start().await;
    let base = format!("{}/v2", runtime.rest);
    let (status, server) = get(base.clone()).await;
    assert_eq!((status, &server["name"]), (200, &json!("perwatt")));
    assert_eq!(
        get(format!("{base}/health/live")).await,
        (200, json!({"live": true}))
    );
    assert_eq!(
        get(format!("{base}/health/ready")).await,
        (200, json!({"ready": true}))
    );
    for path in ["models/tiny", "models/tiny/versions/3"] {
        let (status, model) = get(format!("{base}/{path}")).await;
        assert_eq!(status, 200);
        assert_eq!(model["versions"], json!(["3"]));
        assert_eq!(
            model["inputs"],
            json!([{"name": "x", "datatype": "FP32", "shape": [1, 4]}])
        );
        assert_eq!(
            model["outputs"],
            json!([{"name": "sum", "datatype": "FP32", "shape": [1, 1]}])
        );
        assert_eq!(get(format!("{base}/{path}/ready")).await.0, 200);
    }
    for path in [
        "models/other",
        "models/tiny/versions/4",
        "models/tiny/versions/4/ready",
        "nothing",
    ] {
        let (status, body) = get(format!("{base}/{path}")).await;
        assert!(
            status == 404 && body["error"].is_string(),
            "{path}: {status} {body}"
        );
    }
    let (status, body) = get(format!("{base}/models/tiny/infer")).await;
    assert!(status == 405 && body["error"].is_string(), "{body}");
}

#[tokio::test]
async fn a_reply_names_who_answered() {
    let (_tmp, runtime) = start().await;
    let mut body = request([1., 2., 3., 4.], json!({}));
    body["id"] = json!("a-1");
    let (status, reply) = runtime.infer(&body).await;
    assert_eq!(status, 200, "{reply}");
    assert!((sum(&reply) - 10.0).abs() < 1e-6);
    assert_eq!(
        (&reply["model_name"], &reply["model_version"], &reply["id"]),
        (&json!("tiny"), &json!("3"), &json!("a-1"))
    );
    assert_eq!(reply["outputs"][0]["shape"], json!([1, 1]));
    let parameters = &reply["parameters"];
    assert_eq!(parameters["variant"], "tiny.onnx");
    assert_eq!(parameters["device"], "none");
    assert_eq!(parameters["node"], "local");
    assert_eq!(parameters["degraded"], false);
    assert_eq!(parameters["sequence_restarted"], false);
    assert!(parameters["latency_microseconds"].is_u64());
    assert!(
        parameters.get("energy_microjoules").is_none(),
        "a CPU has no figure: {parameters}"
    );
}

#[tokio::test]
async fn a_sequence_keeps_state_and_context_and_says_when_they_were_lost() {
    let (_tmp, runtime) = start().await;
    let step = async |x: [f32; 4], parameters: Value| {
        let (status, reply) = runtime.infer(&request(x, parameters)).await;
        assert_eq!(status, 200, "{reply}");
        (
            sum(&reply),
            reply["parameters"]["sequence_restarted"].as_bool().unwrap(),
        )
    };
    let ones = [1., 1., 1., 5.];
    assert_eq!(
        step(ones, json!({"sequence_id": 7, "sequence_start": true})).await,
        (8., false)
    );
    // Context 1 + 5, state 1 (counted a hundredfold).
    assert_eq!(step(ones, json!({"sequence_id": 7})).await, (114., false));
    // Another sequence, as text, is another memory; unknown and not started means restarted.
    assert_eq!(step(ones, json!({"sequence_id": "7"})).await, (8., true));
    // Without a sequence there is no memory.
    assert_eq!(step(ones, json!({})).await, (8., false));
    assert_eq!(
        step(ones, json!({"sequence_id": 7, "sequence_end": true})).await,
        (214., false)
    );
    assert_eq!(step(ones, json!({"sequence_id": 7})).await, (8., true));
    assert_eq!(
        step(ones, json!({"sequence_id": 7, "sequence_start": true})).await,
        (8., false)
    );
    let evidence = runtime.evidence().await;
    assert_eq!(evidence["sequencesRestarted"], 2);
    assert_eq!(evidence["variants"][0]["requests"], 7);
    assert_eq!(evidence["variants"][0]["failures"], 0);
    assert_eq!(evidence["variants"][0]["state"], "Active");
}

#[tokio::test]
async fn requests_of_one_sequence_that_come_at_once_take_turns() {
    let (_tmp, runtime) = start().await;
    runtime
        .infer(&request(
            [0.; 4],
            json!({"sequence_id": 1, "sequence_start": true}),
        ))
        .await;
    let requests = (0..40).map(|_| {
        let body = request([0.; 4], json!({"sequence_id": 1}));
        let runtime = &runtime;
        async move { sum(&runtime.infer(&body).await.1) }
    });
    let mut sums = futures::future::join_all(requests).await;
    sums.sort_by(f64::total_cmp);
    let expected: Vec<f64> = (1..=40).map(|n| f64::from(n) * 100.0).collect();
    assert_eq!(sums, expected, "no step of the state was lost or doubled");
}

#[tokio::test]
async fn wrong_requests_get_the_protocols_error_and_a_word_of_help() {
    let (_tmp, runtime) = start().await;
    let tensor = |change: Value| {
        let mut input = json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]});
        for (key, value) in change.as_object().unwrap() {
            input[key] = value.clone();
        }
        json!({"inputs": [input]})
    };
    let with = |parameters: Value| request([0.; 4], parameters);
    let twice = json!({"inputs": [tensor(json!({}))["inputs"][0], tensor(json!({}))["inputs"][0]]});
    let output = |name: &str| {
        let mut body = with(json!({}));
        body["outputs"] = json!([{"name": name}]);
        body
    };
    for (body, says) in [
        (json!({}), "inputs"),
        (json!([]), "inference request"),
        (json!({"inputs": []}), "\"x\" is missing"),
        (twice, "twice"),
        (tensor(json!({"name": "y"})), "no input \"y\""),
        (tensor(json!({"datatype": "FP64"})), "FP32"),
        (tensor(json!({"datatype": "float"})), "FP32"),
        (tensor(json!({"shape": [4]})), "[1, 4]"),
        (tensor(json!({"shape": [1, 3]})), "[1, 4]"),
        (tensor(json!({"shape": [-1, 4]})), "inference request"),
        (tensor(json!({"shape": [1, u64::MAX]})), "[1, 4]"),
        (tensor(json!({"data": [1, 2, 3]})), "3 elements"),
        (tensor(json!({"data": [1, 2, 3, 4, 5]})), "more elements"),
        (tensor(json!({"data": ["a", 2, 3, 4]})), "FP32"),
        (tensor(json!({"data": null})), "no data"),
        (tensor(json!({"data": {"a": 1}})), "map"),
        (with(json!({"timeout": 0})), "timeout"),
        (with(json!({"timeout": "1s"})), "timeout"),
        (with(json!({"timeout": -1})), "timeout"),
        (with(json!({"sequence_id": -1})), "sequence_id"),
        (with(json!({"sequence_id": "x".repeat(300)})), "sequence_id"),
        (
            with(json!({"sequence_id": 1, "sequence_start": 1})),
            "sequence_start",
        ),
        (with(json!({"sequence_start": true})), "sequence_id"),
        (output("other"), "no output \"other\""),
    ] {
        let (status, reply) = runtime.infer(&body).await;
        let error = reply["error"].as_str().unwrap_or_default();
        assert!(
            status == 400 && error.contains(says),
            "{body}: {status} {reply} does not say {says:?}"
        );
    }
    assert!(runtime.infer(&output("sum")).await.0 == 200);
    let metrics = runtime.text("metrics").await;
    assert!(
        metrics.contains("perwatt_runtime_errors_total{reason=\"Invalid\"} 24"),
        "{metrics}"
    );
    let evidence = runtime.evidence().await;
    assert_eq!(
        evidence["variants"][0]["failures"], 0,
        "a client's mistake is no variant's failure"
    );
}

#[tokio::test]
async fn headers_and_bodies_that_cannot_be_are_refused() {
    let (_tmp, runtime) = start().await;
    let client = reqwest::Client::new();
    let post = async |name: &str, value: &str, body: Vec<u8>| {
        let response = client
            .post(runtime.infer_url())
            .header(name, value)
            .body(body)
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let reply: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        (status, reply["error"].as_str().unwrap().to_owned())
    };
    let (status, error) = post("Inference-Header-Content-Length", "10", b"{}".to_vec()).await;
    assert!(status == 400 && error.contains("the body has 2"), "{error}");
    let (status, error) = post("Inference-Header-Content-Length", "-1", b"{}".to_vec()).await;
    assert!(status == 400 && error.contains("number of bytes"), "{error}");
    let (status, error) = post("Content-Encoding", "gzip", b"{}".to_vec()).await;
    assert!(status == 400 && error.contains("not the gzip"), "{error}");
    let (status, error) = post("Content-Encoding", "br", b"{}".to_vec()).await;
    assert!(status == 415 && error.contains("as gzip"), "{error}");
    // 64 MiB of spaces, in 64 KiB.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 64 << 20]).unwrap();
    let (status, error) = post("Content-Encoding", "gzip", bomb.finish().unwrap()).await;
    assert!(status == 413 && error.contains("larger"), "{error}");
    // The client reads why, and is not cut off while it still sends.
    for _ in 0..20 {
        let (status, error) = post("Accept", "*/*", vec![b' '; 4 << 20]).await;
        assert!(status == 413 && error.contains("larger"), "{error}");
        let (status, _) = post("Content-Encoding", "br", vec![b' '; 4 << 20]).await;
        assert_eq!(status, 415);
    }
    for garbage in [&b"\xff\xfe"[..], b"{", b"nul", b"\"", &[b'['; 60_000], b""] {
        assert_eq!(post("Accept", "*/*", garbage.to_vec()).await.0, 400);
    }
}

/// Writes raw bytes and reads what comes back until the server closes or `enough` is there.
fn raw(address: &str, bytes: &[u8], enough: &str) -> String {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(enough) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
        }
    }
    text
}

#[tokio::test]
async fn a_lying_length_a_broken_off_body_and_noise_hurt_nobody() {
    let (_tmp, runtime) = start().await;
    let rest = runtime.rest.clone();
    let texts = tokio::task::spawn_blocking(move || {
        let head = "POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\n";
        let huge = raw(
            &rest,
            format!("{head}content-length: 2147483648\r\n\r\n").as_bytes(),
            "error",
        );
        let endless = raw(
            &rest,
            format!(
                "{head}transfer-encoding: chunked\r\n\r\n40000\r\n{}",
                " ".repeat(0x40000)
            )
            .as_bytes(),
            "error",
        );
        // Half a request, and gone.
        let mut half = TcpStream::connect(rest.trim_start_matches("http://")).unwrap();
        half.write_all(format!("{head}content-length: 100\r\n\r\n{{\"inputs\"").as_bytes())
            .unwrap();
        drop(half);
        let noise = raw(&rest, &[0, 159, 146, 150, b'\r', b'\n', b'\r', b'\n'], "\r\n\r\n");
        (huge, endless, noise)
    });
    let (huge, endless, noise) = texts.await.unwrap();
    assert!(huge.contains("413"), "{huge}");
    assert!(endless.contains("413"), "{endless}");
    assert!(noise.contains("400"), "{noise}");
    let (status, reply) = runtime.infer(&request([1.; 4], json!({}))).await;
    assert_eq!((status, sum(&reply)), (200, 4.));
    assert!(
        runtime.peak_memory() < 256 << 20,
        "a declared length is not allocated"
    );
}

#[tokio::test]
async fn tensors_travel_as_bytes_where_they_are_asked_to() {
    let (_tmp, runtime) = start().await;
    let post = async |json: Value, bytes: &[u8]| {
        let json = json.to_string();
        let response = reqwest::Client::new()
            .post(runtime.infer_url())
            .header("inference-header-content-length", json.len())
            .body([json.as_bytes(), bytes].concat())
            .send()
            .await
            .unwrap();
        let length = response.headers().get("inference-header-content-length");
        let length: Option<usize> = length.map(|value| value.to_str().unwrap().parse().unwrap());
        let content = response.bytes().await.unwrap();
        let (json, bytes) = content.split_at(length.unwrap_or(content.len()));
        (serde_json::from_slice::<Value>(json).unwrap(), bytes.to_vec())
    };
    let input = |size: u64| json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": size}});
    let x: Vec<u8> = [1f32, 2., 3., 4.].iter().flat_map(|v| v.to_le_bytes()).collect();
    let (reply, bytes) = post(json!({"inputs": [input(16)]}), &x).await;
    assert_eq!((sum(&reply), bytes), (10., Vec::new()), "JSON unless asked");
    let all = json!({"inputs": [input(16)], "parameters": {"binary_data_output": true}});
    let one =
        json!({"inputs": [input(16)], "outputs": [{"name": "sum", "parameters": {"binary_data": true}}]});
    for request in [all, one] {
        let (reply, bytes) = post(request, &x).await;
        assert_eq!(reply["outputs"][0]["parameters"]["binary_data_size"], 4);
        assert_eq!(reply["outputs"][0].get("data"), None);
        assert_eq!(bytes, 10f32.to_le_bytes());
    }
    let (reply, _) = post(json!({"inputs": [input(16)]}), &x[1..]).await;
    assert!(reply["error"].as_str().unwrap().contains("15 bytes"), "{reply}");
    let (reply, _) = post(json!({"inputs": [input(12)]}), &x[4..]).await;
    assert!(
        reply["error"].as_str().unwrap().contains("16 are 4 elements"),
        "{reply}"
    );
}

#[tokio::test]
async fn the_document_lists_what_is_served() {
    let (_tmp, runtime) = start().await;
    let (status, document) = get(format!("{}/openapi.json", runtime.rest)).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    for (path, item) in document["paths"].as_object().unwrap() {
        let url = path.replace("{name}", "tiny").replace("{version}", "3");
        let url = format!("{}{url}", runtime.rest);
        let client = reqwest::Client::new();
        let sent = match item.get("get") {
            Some(_) => client.get(url).send().await,
            None => {
                let body = if path.ends_with("/feedback") {
                    json!({"id": "a", "kind": "Miss"})
                } else {
                    request([1.; 4], json!({}))
                };
                client.post(url).body(body.to_string()).send().await
            }
        };
        assert_eq!(sent.unwrap().status(), 200, "{path}");
    }
}
