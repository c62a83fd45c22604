//! What a fault of a variant's server costs: requests, time, and calls of the fallback.
//!
//! A runtime has two variants: a server beside it, and its own file. Requests come at fixed moments, whether
//! or not those before were answered, and each is timed from the moment at which it was to be sent. At a third
//! of them the server is killed, stopped or made slow, at two thirds it is well again.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Figure, echo, failed};
use crate::product::{Error, Result};
use crate::programs;
use crate::progress::Progress;

/// Requests for each fault in `make bench`, and in `make soak`.
pub const BENCH: u64 = 20_000;
pub const SOAK: u64 = 1_000_000;
/// Time from one request to the next.
const INTERVAL: Duration = Duration::from_millis(5);
/// How much later a slow server's bytes come.
const SLOWNESS: Duration = Duration::from_millis(500);
/// A process that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Killed,
    Hung,
    Slow,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::None => "no fault",
            Self::Killed => "server killed",
            Self::Hung => "server hung",
            Self::Slow => "server made slow",
        }
    }
}

/// What the requests of one run gave.
struct Tally {
    times: Histogram<u64>,
    failed: u64,
    fallback: u64,
    silent: u64,
}

/// Failed requests with the bound that this proves, added latency, and calls of the fallback, for each fault.
pub async fn measure(requests: u64) -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let folder = echo::folder()?;
    let mut calm = None;
    let mut figures = Vec::new();
    for fault in [Fault::None, Fault::Killed, Fault::Hung, Fault::Slow] {
        progress.say(format!("{requests} requests, {}", fault.name()));
        let tally = run(folder.path(), fault, requests).await?;
        let p99 = milliseconds(&tally, 0.99);
        let calm = *calm.get_or_insert(p99);
        figures.extend(describe(fault, &tally, calm, requests));
    }
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "counts of requests")]
fn describe(fault: Fault, tally: &Tally, calm_p99: f64, requests: u64) -> Vec<Figure> {
    let figure =
        |what: &str, value: f64, unit| Figure::new(&format!("{}: {what}", fault.name()), value, unit, 1);
    let (failures, sent) = (tally.failed as f64, requests as f64);
    // The rule of three where none failed; else three standard deviations of a rare event.
    let bound = if tally.failed == 0 {
        3.0
    } else {
        failures + 3.0 * failures.sqrt()
    };
    vec![
        figure("failed requests", failures, "requests"),
        figure("failure rate, upper bound with 95%", bound / sent * 1e6, "ppm"),
        figure(
            "replies of a fallback that do not say so",
            tally.silent as f64,
            "requests",
        ),
        figure("p99", milliseconds(tally, 0.99), "ms"),
        figure("added p99", milliseconds(tally, 0.99) - calm_p99, "ms"),
        figure("p99.9", milliseconds(tally, 0.999), "ms"),
        figure(
            "requests that the fallback answered",
            tally.fallback as f64 / sent * 100.0,
            "%",
        ),
    ]
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a request")]
fn milliseconds(tally: &Tally, quantile: f64) -> f64 {
    tally.times.value_at_quantile(quantile) as f64 / 1e3
}

async fn run(folder: &std::path::Path, fault: Fault, requests: u64) -> Result<Tally> {
    let hub_address = free_port().await?;
    let mut hub = start(folder, hub_address, None).await?;
    let proxy = Proxy::start(hub_address).await?;
    let address = free_port().await?;
    let config = json!({
        "workload": "bench", "node": "bench", "revision": "bench",
        "variants": [
            {"name": "server", "remote": {"endpoint": format!("http://{}", proxy.address)}},
            {"name": "fallback", "artifact": "echo.onnx"},
        ],
    });
    let _runtime = start(folder, address, Some(&config)).await?;
    let sender = Sender::new(address)?;
    let mut asked = JoinSet::new();
    let mut tally = Tally::new()?;
    let began = Instant::now() + Duration::from_millis(100);
    for number in 0..requests {
        if number == requests / 3 {
            inject(fault, &mut hub, &proxy)?;
        }
        if number == requests * 2 / 3 {
            match fault {
                Fault::None => {}
                // It takes a while to start, and requests go on meanwhile: the new one is looked at by nobody here.
                Fault::Killed => hub = spawn(folder, hub_address, None)?,
                Fault::Hung => hub.signal(Signal::CONT)?,
                Fault::Slow => proxy.delay(Duration::ZERO),
            }
        }
        let due = began + INTERVAL * u32::try_from(number).unwrap_or(u32::MAX);
        sleep_until(due).await;
        let sender = sender.clone();
        asked.spawn(async move { (sender.ask().await, due.elapsed()) });
        while let Some(joined) = asked.try_join_next() {
            tally.take(joined)?;
        }
    }
    while let Some(joined) = asked.join_next().await {
        tally.take(joined)?;
    }
    Ok(tally)
}

fn inject(fault: Fault, hub: &mut Process, proxy: &Proxy) -> Result<()> {
    match fault {
        Fault::None => Ok(()),
        Fault::Killed => hub.signal(Signal::KILL),
        Fault::Hung => hub.signal(Signal::STOP),
        Fault::Slow => {
            proxy.delay(SLOWNESS);
            Ok(())
        }
    }
}

impl Tally {
    fn new() -> Result<Self> {
        let times = Histogram::new_with_bounds(1, 600_000_000, 3);
        Ok(Self {
            times: times.map_err(|error| failed("a histogram", error))?,
            failed: 0,
            fallback: 0,
            silent: 0,
        })
    }

    fn take(&mut self, joined: Result<(Option<Value>, Duration), JoinError>) -> Result<()> {
        let (parameters, took) = joined.map_err(|error| failed("a request", error))?;
        self.times
            .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let Some(parameters) = parameters else {
            self.failed += 1;
            return Ok(());
        };
        if parameters["variant"] == "fallback" {
            self.fallback += 1;
            self.silent += u64::from(parameters["degraded"] != true);
        }
        Ok(())
    }
}

/// Sends one request, and reads who answered.
#[derive(Clone)]
struct Sender {
    client: Client,
    url: Arc<str>,
    body: Arc<str>,
}

impl Sender {
    fn new(address: SocketAddr) -> Result<Self> {
        let client = Client::builder().timeout(PATIENCE).build();
        Ok(Self {
            client: client.map_err(|error| failed("the client", error))?,
            url: format!("http://{address}/v2/models/{}/infer", echo::NAME).into(),
            body: echo::json_request().into(),
        })
    }

    /// The reply's parameters; nothing where there is no answer.
    async fn ask(&self) -> Option<Value> {
        let request = self.client.post(&*self.url).body(self.body.to_string());
        let response = request.send().await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let mut reply: Value = response.json().await.ok()?;
        let outputs = reply["outputs"].as_array()?;
        (!outputs.is_empty()).then(|| reply["parameters"].take())
    }
}

/// A runtime process; it ends with this value.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| Error::Client("a process has no id".into()))?;
        kill_process(id, signal).map_err(|error| failed("a signal", error))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(folder: &std::path::Path, rest: SocketAddr, config: Option<&Value>) -> Result<Process> {
    let mut command = Command::new(programs::find("perwatt-runtime")?);
    command
        .env_clear()
        .arg(folder)
        .args([
            "--rest",
            &rest.to_string(),
            "--grpc",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(config) = config {
        command.env("PERWATT_CONFIG", config.to_string());
    }
    let child = command
        .spawn()
        .map_err(|error| failed("perwatt-runtime", error))?;
    Ok(Process(child))
}

async fn start(folder: &std::path::Path, rest: SocketAddr, config: Option<&Value>) -> Result<Process> {
    let process = spawn(folder, rest, config)?;
    let url = format!("http://{rest}/v2/models/{}/ready", echo::NAME);
    let until = Instant::now() + PATIENCE;
    loop {
        if reqwest::get(&url)
            .await
            .is_ok_and(|response| response.status().is_success())
        {
            return Ok(process);
        }
        if Instant::now() > until {
            return Err(Error::Client(format!(
                "the runtime at {rest} did not become ready"
            )));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A port that is free now; the runtime takes it a moment later.
async fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let address = listener.and_then(|listener| listener.local_addr());
    address.map_err(|error| failed("a free port", error))
}

/// Stands before the server, and makes it slow.
struct Proxy {
    address: SocketAddr,
    delay: Arc<AtomicU64>,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.map_err(|error| failed("the proxy", error))?;
        let address = listener
            .local_addr()
            .map_err(|error| failed("the proxy", error))?;
        let delay = Arc::<AtomicU64>::default();
        let own = delay.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // A server that is not there refuses: the near side is closed at once.
                let Ok(far) = TcpStream::connect(to).await else {
                    continue;
                };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(from_near, to_far, Arc::default()));
                tokio::spawn(pass(from_far, to_near, own.clone()));
            }
        });
        Ok(Self { address, delay })
    }

    fn delay(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delay.store(milliseconds, Ordering::Relaxed);
    }
}

/// Passes bytes on, each piece later by what `delay` says then.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let late = delay.load(Ordering::Relaxed);
        if late > 0 {
            sleep(Duration::from_millis(late)).await;
        }
        let Some(piece) = buffer.get(..count) else {
            return;
        };
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
