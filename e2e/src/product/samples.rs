//! What the examples that hear no speech are asked, with what is right: recorded motion as events, and spoken
//! phrases as features.

#[path = "../../../examples/motion/data.rs"]
#[allow(dead_code, reason = "what makes the model uses the rest")]
mod motion_data;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::traffic::{AskOptions, Reply, Traffic, service_address};
use super::{Error, Example, Result};
use crate::cluster::Cluster;
use crate::project;

/// Requests to a model, each with what its first output must say.
pub struct Samples {
    example: Example,
    bodies: Vec<Value>,
    right: Right,
}

enum Right {
    /// The output with the highest score.
    Classes(Vec<usize>),
    /// The very elements that the reference gives.
    Values(Vec<f64>),
}

/// Requests that flow.
pub struct Streaming {
    /// The client.
    pub traffic: Traffic,
    _folder: tempfile::TempDir,
}

/// What a model made of its samples.
pub struct Heard {
    /// Every reply, in the order of the requests.
    pub replies: Vec<Reply>,
    /// Replies that say what they must.
    pub right: usize,
}

/// The 40 recordings of BasicMotions that the network was not trained on, as events.
///
/// # Errors
/// When they were not fetched.
pub fn motion() -> Result<Samples> {
    let path = Example::MOTION.fetched().join("BasicMotions_TEST.ts");
    let text = read(&path)?;
    let recordings = motion_data::parse(&String::from_utf8_lossy(&text));
    let recordings =
        recordings.ok_or_else(|| unreadable(&path, "it holds no recordings of motion".into()))?;
    let body = |recording: &motion_data::Recording| {
        let data = motion_data::events(&recording.samples);
        let shape = [1, motion_data::STEPS, 2 * motion_data::CHANNELS];
        json!({"inputs": [{"name": "input", "datatype": "FP32", "shape": shape, "data": data}]})
    };
    Ok(Samples {
        example: Example::MOTION,
        bodies: recordings.iter().map(body).collect(),
        right: Right::Classes(recordings.iter().map(|recording| recording.class).collect()),
    })
}

/// Six seconds of three spoken phrases, one of them the wake word, 30 ms a request.
///
/// # Errors
/// When the data cannot be read.
pub fn wake_word() -> Result<Samples> {
    let folder = project().join("runtime/tests/data/wake_word");
    let features = read(&folder.join("features.i8"))?;
    let path = folder.join("answers.txt");
    let answers = String::from_utf8_lossy(&read(&path)?)
        .lines()
        .map(|line| {
            line.parse::<f64>()
                .map_err(|error| unreadable(&path, error.to_string()))
        })
        .collect::<Result<Vec<_>>>()?;
    let body = |(at, features): (usize, &[u8])| {
        let data: Vec<i8> = features.iter().map(|byte| byte.cast_signed()).collect();
        json!({
            "parameters": {"sequence_id": "microphone", "sequence_start": at == 0, "sequence_end": at + 1 == answers.len()},
            "inputs": [{"name": "input_audio", "datatype": "INT8", "shape": [1, 3, 40], "data": data}]
        })
    };
    Ok(Samples {
        example: Example::WAKE_WORD,
        bodies: features.chunks_exact(3 * 40).enumerate().map(body).collect(),
        right: Right::Values(answers),
    })
}

impl Samples {
    /// Sends every request from a node to the example's Service, over REST.
    ///
    /// # Errors
    /// When there is no Service, or the client fails.
    pub async fn send(&self, cluster: &Cluster, node: &str) -> Result<Heard> {
        self.send_over("http", 8080, cluster, node).await
    }

    /// The same over gRPC.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn send_by_grpc(&self, cluster: &Cluster, node: &str) -> Result<Heard> {
        self.send_over("grpc", 8081, cluster, node).await
    }

    async fn send_over(&self, scheme: &str, port: u16, cluster: &Cluster, node: &str) -> Result<Heard> {
        let (_folder, requests) = self.write_requests()?;
        let (namespace, name) = self.example.workload();
        let options = AskOptions {
            url: format!(
                "{scheme}://{}:{port}",
                service_address(cluster, namespace, name).await?
            ),
            model: name.to_owned(),
            requests,
            repeat_per_second: None,
        };
        let replies = Traffic::ask(cluster.node(node)?, &options)?.finish().await?;
        let right = replies.iter().filter(|reply| self.right.is(reply)).count();
        Ok(Heard { replies, right })
    }

    /// Sends the requests to a workload's Service again and again from a node, so many a second, until it is stopped.
    ///
    /// # Errors
    /// When there is no Service, or the client fails.
    pub async fn stream(
        &self,
        cluster: &Cluster,
        node: &str,
        (namespace, name): (&str, &str),
        per_second: u32,
    ) -> Result<Streaming> {
        let (folder, requests) = self.write_requests()?;
        let options = AskOptions {
            url: format!("http://{}:8080", service_address(cluster, namespace, name).await?),
            model: self.example.name.to_owned(),
            requests,
            repeat_per_second: Some(per_second),
        };
        Ok(Streaming {
            traffic: Traffic::ask(cluster.node(node)?, &options)?,
            _folder: folder,
        })
    }

    /// A file with the bodies, one a line, as long as the folder lives.
    fn write_requests(&self) -> Result<(tempfile::TempDir, PathBuf)> {
        let failed = |error: std::io::Error| Error::Client(error.to_string());
        let folder = tempfile::tempdir().map_err(failed)?;
        let requests = folder.path().join("requests.jsonl");
        let lines: Vec<_> = self.bodies.iter().map(Value::to_string).collect();
        std::fs::write(&requests, lines.join("\n")).map_err(failed)?;
        Ok((folder, requests))
    }

    /// The bodies of the requests.
    #[must_use]
    pub fn bodies(&self) -> &[Value] {
        &self.bodies
    }

    /// Whose samples they are.
    #[must_use]
    pub fn example(&self) -> Example {
        self.example
    }

    /// Number of requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bodies.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }
}

impl Right {
    fn is(&self, reply: &Reply) -> bool {
        match self {
            Self::Classes(classes) => {
                let best = reply.outputs.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
                best.is_some_and(|(best, _)| classes.get(reply.window) == Some(&best))
            }
            Self::Values(values) => values.get(reply.window) == Some(&reply.first_output()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| unreadable(path, error.to_string()))
}

fn unreadable(path: &Path, why: String) -> Error {
    Error::Recording {
        path: PathBuf::from(path),
        why,
    }
}
