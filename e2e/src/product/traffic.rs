//! Traffic: a client on a node streams the recording to a Service, or asks what a file holds, and tells
//! each reply in a line of JSON. It never tries a request twice: a lost one is seen.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{Error, Result, grpc, speech};
use crate::cluster::{Cluster, Node};
use crate::programs;
use crate::wait::{DEADLINE, until};

/// How long one request may take before it counts as failed.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// One request and what came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    /// When the answer came, in milliseconds since 1970.
    pub at: u64,
    /// Which sequence.
    pub sequence: usize,
    /// Which window of the recording.
    pub window: usize,
    /// From sending to the whole answer, in microseconds.
    pub microseconds: u64,
    /// Why the request failed; none where it was answered.
    pub error: Option<String>,
    /// Elements of the reply's first output, such as the one probability of speech.
    pub outputs: Vec<f64>,
    /// The parameters of the reply.
    pub parameters: Value,
}

impl Reply {
    /// A text among the parameters; empty where it is missing.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.parameters[name].as_str().unwrap_or_default()
    }

    /// The first element of the first output; NaN where there is none.
    #[must_use]
    pub fn first_output(&self) -> f64 {
        self.outputs.first().copied().unwrap_or(f64::NAN)
    }

    /// A flag among the parameters.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.parameters[name].as_bool().unwrap_or_default()
    }
}

/// What the client asks of a model that hears no speech.
#[derive(Clone, Debug, clap::Args)]
pub struct AskOptions {
    /// Address of the Open Inference Protocol, such as http://10.96.0.7:8080 or grpc://10.96.0.7:8081.
    #[arg(long)]
    pub url: String,
    /// Name of the model.
    #[arg(long)]
    pub model: String,
    /// File with the bodies of the requests, one a line.
    #[arg(long)]
    pub requests: std::path::PathBuf,
    /// Begin anew at the file's end, until the client is told to end, with so many requests a second, each over a
    /// connection of its own; else once, as quick as they are answered, over one connection.
    #[arg(long)]
    pub repeat_per_second: Option<u32>,
}

/// Waits until something listens there: kube-proxy of this node hears of a pod that is ready a moment later than a status.
async fn listens(url: &str) -> Result<()> {
    let address = url.split_once("://").map_or(url, |(_, address)| address);
    let connected = until("a connection", DEADLINE, || async move {
        let stream = tokio::net::TcpStream::connect(address).await;
        stream.map(drop).map_err(|error| format!("{address}: {error}"))
    });
    connected.await.map_err(|error| Error::Client(error.to_string()))
}

/// Sends every request of the file, one after the other, as soon as somebody listens, and prints every reply.
///
/// # Errors
/// When the file cannot be read or is not as it should be.
pub async fn ask(options: AskOptions) -> Result<()> {
    let wrong = |why: String| Error::Client(format!("{}: {why}", options.requests.display()));
    let text = std::fs::read_to_string(&options.requests).map_err(|error| wrong(error.to_string()))?;
    // A connection that is kept stays with the pod that it met first, on whichever node that was: one that asks for long
    // would say nothing of the pod beside it.
    let kept = usize::from(options.repeat_per_second.is_none());
    let client = client(kept)?;
    listens(&options.url).await?;
    let bodies: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| wrong(error.to_string())))
        .collect::<Result<_>>()?;
    let mut pace = options
        .repeat_per_second
        .map(|rate| tokio::time::interval(Duration::from_secs(1) / rate.max(1)));
    loop {
        for (window, body) in bodies.iter().enumerate() {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            let reply = request(&client, &options.url, &options.model, body).await;
            println!("{}", json!(Reply { window, ..reply }));
        }
        if pace.is_none() {
            return Ok(());
        }
    }
}

fn client(kept_connections: usize) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .timeout(REQUEST_DEADLINE)
        .pool_max_idle_per_host(kept_connections);
    builder.build().map_err(|error| Error::Client(error.to_string()))
}

/// What the client streams.
#[derive(Clone, Debug, clap::Args)]
pub struct StreamOptions {
    /// Address of the Open Inference Protocol, such as http://10.96.0.7:8080.
    #[arg(long)]
    pub url: String,
    /// Name of the model.
    #[arg(long)]
    pub model: String,
    /// The recording.
    #[arg(long)]
    pub recording: std::path::PathBuf,
    /// Sequences at once.
    #[arg(long, default_value_t = 2)]
    pub sequences: usize,
    /// Times faster than real time.
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// Begin anew at the recording's end, until the client is told to end.
    #[arg(long)]
    pub repeat: bool,
}

/// Streams the recording as soon as somebody listens, and prints every reply; ends with the recording, or when told to.
///
/// # Errors
/// When the recording cannot be read.
pub async fn stream(options: StreamOptions) -> Result<()> {
    let windows = Arc::new(speech::windows(&options.recording)?);
    let client = client(options.sequences)?;
    listens(&options.url).await?;
    let options = Arc::new(options);
    let sequences = (0..options.sequences).map(|sequence| {
        tokio::spawn(run_sequence(
            client.clone(),
            Arc::clone(&options),
            Arc::clone(&windows),
            sequence,
        ))
    });
    for sequence in sequences.collect::<Vec<_>>() {
        sequence.await.map_err(|error| Error::Client(error.to_string()))?;
    }
    Ok(())
}

async fn run_sequence(
    client: reqwest::Client,
    options: Arc<StreamOptions>,
    windows: Arc<Vec<Vec<f32>>>,
    sequence: usize,
) {
    let pace = Duration::from_secs_f64(speech::WINDOW as f64 / speech::RATE as f64 / options.speed);
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = 0_u64;
    loop {
        for (window, samples) in windows.iter().enumerate() {
            ticks.tick().await;
            let id = format!("{}-{sequence}-{round}", std::process::id());
            let last = window + 1 == windows.len();
            let body = json!({
                "parameters": {"sequence_id": id, "sequence_start": window == 0, "sequence_end": last},
                "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, samples.len()], "data": samples}],
            });
            let reply = request(&client, &options.url, &options.model, &body).await;
            println!(
                "{}",
                json!(Reply {
                    sequence,
                    window,
                    ..reply
                })
            );
        }
        round += 1;
        if !options.repeat {
            return;
        }
    }
}

async fn request(client: &reqwest::Client, url: &str, model: &str, body: &Value) -> Reply {
    let began = std::time::Instant::now();
    let answer = match url.strip_prefix("grpc://") {
        Some(authority) => grpc::infer(authority, model, body, REQUEST_DEADLINE).await,
        None => infer(client, url, model, body).await,
    };
    let microseconds = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let reply = Reply {
        at: now(),
        microseconds,
        ..Reply::default()
    };
    match answer {
        Ok(mut body) => Reply {
            outputs: serde_json::from_value(body["outputs"][0]["data"].take()).unwrap_or_default(),
            parameters: body["parameters"].take(),
            ..reply
        },
        Err(error) => Reply {
            error: Some(error),
            ..reply
        },
    }
}

async fn infer(
    client: &reqwest::Client,
    url: &str,
    model: &str,
    body: &Value,
) -> std::result::Result<Value, String> {
    let request = client.post(format!("{url}/v2/models/{model}/infer")).json(body);
    let response = request.send().await.map_err(|error| chain(&error))?;
    let status = response.status();
    let text = response.text().await.map_err(|error| chain(&error))?;
    if !status.is_success() {
        return Err(format!("{status}: {text}"));
    }
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// An error with its causes: "error sending request" alone tells nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}

/// Milliseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn client_command(node: &Node) -> Result<Command> {
    Ok(node.command(&programs::find("perwatt-e2e")?))
}

/// A client that runs on a node, and what it has told.
pub struct Traffic {
    child: Child,
    replies: Arc<Mutex<Vec<Reply>>>,
    reader: JoinHandle<()>,
}

impl Traffic {
    /// Starts the client in the network of `node`.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn start(node: &Node, options: &StreamOptions) -> Result<Self> {
        let mut command = client_command(node)?;
        command.args(["stream", "--url", &options.url, "--model", &options.model]);
        command.arg("--recording").arg(&options.recording);
        command.args([
            "--sequences",
            &options.sequences.to_string(),
            "--speed",
            &options.speed.to_string(),
        ]);
        if options.repeat {
            command.arg("--repeat");
        }
        Self::run(command)
    }

    /// Starts the client that asks, in the network of `node`.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn ask(node: &Node, options: &AskOptions) -> Result<Self> {
        let mut command = client_command(node)?;
        command.args(["ask", "--url", &options.url, "--model", &options.model]);
        command.arg("--requests").arg(&options.requests);
        if let Some(rate) = options.repeat_per_second {
            command.arg("--repeat-per-second").arg(rate.to_string());
        }
        Self::run(command)
    }

    fn run(mut command: Command) -> Result<Self> {
        command
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| Error::Client(error.to_string()))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Error::Client("it has no output".into()))?;
        let replies = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&replies);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(reply) = serde_json::from_str(&line) {
                    told.lock().unwrap_or_else(PoisonError::into_inner).push(reply);
                }
            }
        });
        Ok(Self {
            child,
            replies,
            reader,
        })
    }

    /// All replies so far.
    #[must_use]
    pub fn replies(&self) -> Vec<Reply> {
        self.replies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a reply after `since` (milliseconds since 1970) of which `wanted` holds.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn wait_for(&self, what: &str, since: u64, wanted: impl Fn(&Reply) -> bool) -> Result<Reply> {
        let wanted = &wanted;
        let found = until(what, crate::wait::DEADLINE, || async move {
            let replies = self.replies();
            let found = replies
                .iter()
                .find(|reply| reply.at >= since && reply.error.is_none() && wanted(reply));
            found.cloned().ok_or_else(|| format!("{:?}", replies.last()))
        });
        Ok(found.await?)
    }

    /// Waits until the client ends by itself, and gives all replies.
    ///
    /// # Errors
    /// When it fails.
    pub async fn finish(mut self) -> Result<Vec<Reply>> {
        let status = self
            .child
            .wait()
            .await
            .map_err(|error| Error::Client(error.to_string()))?;
        let _ = (&mut self.reader).await;
        if status.success() {
            Ok(self.replies())
        } else {
            Err(Error::Client(format!("it ended with {status}")))
        }
    }

    /// Ends the client, and gives all replies.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn stop(mut self) -> Result<Vec<Reply>> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.child
            .wait()
            .await
            .map_err(|error| Error::Client(error.to_string()))?;
        let _ = (&mut self.reader).await;
        Ok(self.replies())
    }
}

/// Address of a workload's Service inside the cluster.
///
/// # Errors
/// When there is no such Service.
pub async fn service_url(cluster: &Cluster, namespace: &str, name: &str) -> Result<String> {
    let address = service_address(cluster, namespace, name).await?;
    Ok(format!("http://{address}:8080"))
}

/// Cluster address of a Service.
///
/// # Errors
/// When there is none.
pub async fn service_address(cluster: &Cluster, namespace: &str, name: &str) -> Result<String> {
    let path = "jsonpath={.spec.clusterIP}";
    let address = cluster
        .kubectl(&["-n", namespace, "get", "service", name, "-o", path])
        .await?;
    Ok(address.trim().to_owned())
}

/// What happened to the requests.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Requests sent.
    pub requests: usize,
    /// Requests without an answer.
    pub failures: usize,
    /// Sequences whose state was lost.
    pub sequences_restarted: usize,
    /// Answers from a fallback.
    pub degraded: usize,
    /// Latency seen by the client, in milliseconds.
    pub p50_milliseconds: f64,
    /// The same, 95th percentile.
    pub p95_milliseconds: f64,
    /// The same, 99th percentile.
    pub p99_milliseconds: f64,
    /// Requests a second, from the first to the last answer.
    pub rate: f64,
    /// Microjoules per inference, where the replies tell.
    pub microjoules: Option<f64>,
    /// Where that figure comes from.
    pub energy_source: String,
    /// The first error.
    pub first_error: Option<String>,
}

/// Counts replies.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub fn tally<'a>(replies: impl IntoIterator<Item = &'a Reply>) -> Tally {
    let replies: Vec<_> = replies.into_iter().collect();
    let mut latency: Vec<_> = replies.iter().map(|reply| reply.microseconds).collect();
    latency.sort_unstable();
    let quantile = |share: f64| {
        let at = ((latency.len() as f64 * share).ceil() as usize).clamp(1, latency.len().max(1)) - 1;
        latency
            .get(at)
            .map_or(0.0, |microseconds| *microseconds as f64 / 1000.0)
    };
    let energy: Vec<_> = replies
        .iter()
        .filter_map(|reply| reply.parameters["energy_microjoules"].as_f64())
        .collect();
    let first = replies.iter().map(|reply| reply.at).min().unwrap_or(0);
    let last = replies.iter().map(|reply| reply.at).max().unwrap_or(0);
    let source = replies
        .iter()
        .map(|reply| reply.text("energy_source"))
        .find(|source| !source.is_empty());
    Tally {
        requests: replies.len(),
        failures: replies.iter().filter(|reply| reply.error.is_some()).count(),
        sequences_restarted: replies
            .iter()
            .filter(|reply| reply.flag("sequence_restarted"))
            .count(),
        degraded: replies.iter().filter(|reply| reply.flag("degraded")).count(),
        p50_milliseconds: quantile(0.50),
        p95_milliseconds: quantile(0.95),
        p99_milliseconds: quantile(0.99),
        rate: replies.len() as f64 / ((last - first).max(1) as f64 / 1000.0),
        microjoules: (!energy.is_empty()).then(|| energy.iter().sum::<f64>() / energy.len() as f64),
        energy_source: source.unwrap_or_default().to_owned(),
        first_error: replies.iter().find_map(|reply| reply.error.clone()),
    }
}
