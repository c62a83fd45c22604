//! A LiteRT streaming model through the real program. Needs `PERWATT_WAKE_WORD_DIR`: the folder that
//! `examples/wake-word/fetch` filled (`make unit` sets it); without it nothing is proved here, and it says so.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, run_to_end};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const FEATURES: &[u8] = include_bytes!("data/wake_word/features.i8");
const ANSWERS: &str = include_str!("data/wake_word/answers.txt");

fn fetched() -> Option<PathBuf> {
    let dir = std::env::var_os("PERWATT_WAKE_WORD_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: PERWATT_WAKE_WORD_DIR is not set; run examples/wake-word/fetch and set it");
    }
    dir
}

fn with_library(dir: &Path) -> Command {
    let mut command = command(&dir.join("model"));
    command.env("PERWATT_LITERT_LIBRARY", dir.join("lib/libtensorflowlite_c.so"));
    command
}

struct Stream<'a> {
    runtime: &'a Runtime,
    client: reqwest::Client,
    id: &'static str,
}

impl<'a> Stream<'a> {
    fn new(runtime: &'a Runtime, id: &'static str) -> Self {
        Self {
            runtime,
            client: reqwest::Client::new(),
            id,
        }
    }

    /// The reply to the request at `at` of the recording.
    async fn ask(&self, at: usize, start: bool) -> Value {
        let features: Vec<i8> = FEATURES[at * 120..][..120]
            .iter()
            .map(|&b| b.cast_signed())
            .collect();
        let body = json!({
            "parameters": {"sequence_id": self.id, "sequence_start": start},
            "inputs": [{"name": "input_audio", "datatype": "INT8", "shape": [1, 3, 40], "data": features}]
        });
        let url = format!("{}/v2/models/wake-word/infer", self.runtime.rest);
        let response = self.client.post(url).body(body.to_string()).send().await.unwrap();
        let reply = serde_json::from_str::<Value>(&response.text().await.unwrap()).unwrap();
        assert!(reply["error"].is_null(), "{reply}");
        reply
    }

    async fn answer(&self, at: usize, start: bool) -> u64 {
        let reply = self.ask(at, start).await;
        assert_eq!(reply["outputs"][0]["datatype"], "UINT8");
        assert_eq!(reply["parameters"]["sequence_restarted"], false);
        reply["outputs"][0]["data"][0].as_u64().unwrap()
    }
}

fn expected() -> Vec<u64> {
    let answers: Vec<u64> = ANSWERS.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(answers.len() * 120, FEATURES.len());
    answers
}

#[tokio::test]
async fn the_phrase_is_heard_and_every_answer_equals_the_references() {
    let Some(dir) = fetched() else { return };
    let runtime = Runtime::start(with_library(&dir)).await;
    let (first, second) = (Stream::new(&runtime, "kitchen"), Stream::new(&runtime, "hall"));
    let expected = expected();
    let mut heard = 0;
    for at in 0..expected.len() {
        // Two microphones at once, the second 20 requests behind: neither may change what the other hears.
        assert_eq!(first.answer(at, at == 0).await, expected[at], "request {at}");
        if let Some(behind) = at.checked_sub(20) {
            assert_eq!(
                second.answer(behind, behind == 0).await,
                expected[behind],
                "request {behind} of the second"
            );
        }
        heard += usize::from(expected[at] > 217);
    }
    assert!(heard >= 5, "the phrase is in the recording");
    let evidence = runtime.evidence().await;
    let engine = evidence["variants"][0]["engine"].as_str().unwrap();
    assert!(engine.starts_with("LiteRT 2."), "{engine}");
}

#[tokio::test]
async fn a_sequence_that_starts_again_begins_with_fresh_state() {
    let Some(dir) = fetched() else { return };
    let runtime = Runtime::start(with_library(&dir)).await;
    let stream = Stream::new(&runtime, "kitchen");
    let expected = expected();
    for round in 0..2 {
        for (at, answer) in expected.iter().enumerate().take(40) {
            assert_eq!(
                stream.answer(at, at == 0).await,
                *answer,
                "request {at} of round {round}"
            );
        }
    }
    // Without its start, a sequence that nobody knows says so.
    let reply = Stream::new(&runtime, "unknown").ask(0, false).await;
    assert_eq!(reply["parameters"]["sequence_restarted"], true);
    assert_eq!(reply["outputs"][0]["data"][0], expected[0]);
}

#[test]
fn without_the_library_the_message_says_what_to_install() {
    let Some(dir) = fetched() else { return };
    let mut command = command(&dir.join("model"));
    command.env("PERWATT_LITERT_LIBRARY", "/nowhere/libtensorflowlite_c.so");
    let (status, said) = run_to_end(command);
    assert_eq!(status.code(), Some(1));
    for part in [
        "/nowhere/libtensorflowlite_c.so",
        "PERWATT_LITERT_LIBRARY",
        "pymicro-wakeword",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
