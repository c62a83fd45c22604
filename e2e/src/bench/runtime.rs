//! Figures of the runtime alone, without a cluster: what it adds to a model, how much one core serves, how
//! much room it takes. Its peer runs in the same minutes on the same core, asked by the same client.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::load::{Connection, Outcome, Request, Stub, run};
use super::server::{PEER, Server};
use super::{Figure, RUNS, echo, median};
use crate::images;
use crate::product::{Error, Result};
use crate::programs;
use crate::progress::Progress;

/// How long one run lasts.
const TIME: Duration = Duration::from_secs(4);
/// Connections that keep a server busy.
const CONNECTIONS: usize = 4;

/// A way to carry the tensors.
struct Wire {
    name: &'static str,
    request: Request,
    /// Whether the peer knows it.
    peer: bool,
}

fn wires() -> Vec<Wire> {
    let (json, tensors) = echo::binary_request();
    let binary = [json.as_bytes(), &tensors].concat();
    let infer = |body: &[u8], length| Request::infer(echo::NAME, body, length);
    vec![
        Wire {
            name: "REST, JSON",
            request: infer(echo::json_request().as_bytes(), None),
            peer: true,
        },
        Wire {
            name: "REST, binary tensors",
            request: infer(&binary, Some(json.len())),
            peer: false,
        },
    ]
}

fn model_folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir().map_err(|error| Error::Client(format!("a folder: {error}")))?;
    echo::write(folder.path())?;
    Ok(folder)
}

/// What the server answers to this request; nothing where it refuses it.
fn answer(server: &Server, wire: &Wire) -> Result<Option<Vec<u8>>> {
    let (status, body) = Connection::open(server.address)?.ask(&wire.request)?;
    if status != 200 {
        let said = String::from_utf8_lossy(&body);
        println!("{}: not measured, the server says {status}: {said}", wire.name);
        return Ok(None);
    }
    Ok(Some(body))
}

/// Server-side time added to the model call: the time of a request over one connection, less that of the same
/// bytes to and from a server that does nothing, less the model alone.
pub async fn overhead() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let folder = model_folder()?;
    let model = model_microseconds(folder.path())?;
    let server = Server::runtime(folder.path())?;
    let mut figures = vec![Figure::new("model call alone, p50", model, "µs", 1)];
    for wire in wires() {
        let Some(body) = answer(&server, &wire)? else {
            continue;
        };
        let stub = Stub::start(body)?;
        let (mut added, mut added_p99, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 1..=RUNS {
            progress.say(format!("{}: run {turn} of {RUNS}", wire.name));
            // One after the other, so that what else the machine does meets both.
            let nothing = run(stub.address, &wire.request, 1, TIME / 2)?;
            let ours = run(server.address, &wire.request, 1, TIME)?;
            let difference = |quantile| ours.microseconds(quantile) - nothing.microseconds(quantile) - model;
            added.push(difference(0.5));
            added_p99.push(difference(0.99));
            bare.push(nothing.microseconds(0.5));
        }
        let name = |what: &str| format!("{}: {what}", wire.name);
        figures.push(Figure::new(
            &name("server-side time added to the model call, p50"),
            median(added),
            "µs",
            RUNS,
        ));
        figures.push(Figure::new(
            &name("server-side time added to the model call, p99 (difference of quantiles)"),
            median(added_p99),
            "µs",
            RUNS,
        ));
        figures.push(Figure::new(
            &name("client and network alone, p50"),
            median(bare),
            "µs",
            RUNS,
        ));
    }
    Ok(figures)
}

/// The model alone, as `kubectl perwatt model bench` measures it.
fn model_microseconds(folder: &Path) -> Result<f64> {
    let program = programs::find("kubectl-perwatt")?;
    let mut command = Command::new(program);
    command
        .args(["model", "bench", "--seconds", "2", "--output", "json"])
        .arg(folder);
    let output = command
        .output()
        .map_err(|error| Error::Client(format!("kubectl-perwatt: {error}")))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let measured = &report["variants"][0]["measured"];
    measured["p50Microseconds"].as_f64().ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Error::Client(format!("the model alone cannot be measured: {said}"))
    })
}

/// Requests a second that one core serves, ours and the peer's.
pub async fn throughput() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    progress.say("MLServer is installed into the cache where it is not there yet");
    let folder = model_folder()?;
    let ours = Server::runtime(folder.path())?;
    let peer = Server::peer(folder.path())?;
    let mut figures = Vec::new();
    for wire in wires() {
        let Some(body) = answer(&ours, &wire)? else {
            continue;
        };
        let stub = Stub::start(body)?;
        let (mut own, mut other, mut ceiling) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 1..=RUNS {
            progress.say(format!("{}: run {turn} of {RUNS}", wire.name));
            ceiling.push(run(stub.address, &wire.request, CONNECTIONS, TIME / 2)?.per_second());
            own.push(per_core(&ours, &wire)?);
            if wire.peer {
                other.push(per_core(&peer, &wire)?);
            }
        }
        let mut figure = Figure::new(
            &format!("{}: requests a second per core", wire.name),
            median(own),
            "requests/s",
            RUNS,
        );
        if wire.peer {
            figure = figure.against(PEER, median(other));
        }
        figures.push(figure);
        figures.push(Figure::new(
            &format!(
                "{}: what the client alone can send to a server that does nothing",
                wire.name
            ),
            median(ceiling),
            "requests/s",
            RUNS,
        ));
    }
    Ok(figures)
}

/// Requests for each second of the server's processor time: true also where something else had the core.
fn per_core(server: &Server, wire: &Wire) -> Result<f64> {
    let before = server.processor_seconds()?;
    let outcome: Outcome = run(server.address, &wire.request, CONNECTIONS, TIME)?;
    let used = server.processor_seconds()? - before;
    // The warm-up used the processor too.
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    let requests = (outcome.times.len() + outcome.warm_up) as f64;
    if used <= 0.0 {
        return Err(Error::Client("the server used no processor time".into()));
    }
    Ok(requests / used)
}

/// Memory idle and serving, start to ready, size of the image.
pub async fn footprint() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let folder = model_folder()?;
    let (ours, peer) = (Samples::take(&progress, folder.path(), Server::runtime)?, {
        progress.say("MLServer is installed into the cache where it is not there yet");
        Samples::take(&progress, folder.path(), Server::peer)?
    });
    let image = images::product(&progress)?.runtime;
    let size =
        std::fs::metadata(&image.file).map_err(|error| Error::Client(format!("the image: {error}")))?;
    #[allow(clippy::cast_precision_loss, reason = "bytes of an image")]
    let mebibytes = size.len() as f64 / f64::from(1 << 20);
    Ok(vec![
        Figure::new("memory, idle", ours.idle, "MiB", RUNS).against(PEER, peer.idle),
        Figure::new("memory, serving", ours.serving, "MiB", RUNS).against(PEER, peer.serving),
        Figure::new("start to ready", ours.start, "ms", RUNS).against(PEER, peer.start),
        Figure::new("image of the runtime, not compressed", mebibytes, "MiB", 1),
    ])
}

struct Samples {
    idle: f64,
    serving: f64,
    start: f64,
}

impl Samples {
    fn take(progress: &Progress, folder: &Path, start: impl Fn(&Path) -> Result<Server>) -> Result<Self> {
        let wire = wires()
            .into_iter()
            .next()
            .ok_or_else(|| Error::Client("no wire".into()))?;
        let (mut idle, mut serving, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 1..=RUNS {
            let server = start(folder)?;
            progress.say(format!(
                "start {turn} of {RUNS}: ready after {} ms",
                server.start.as_millis()
            ));
            starts.push(server.start.as_secs_f64() * 1e3);
            idle.push(server.resident_mebibytes()?);
            run(server.address, &wire.request, CONNECTIONS, TIME / 4)?;
            serving.push(server.resident_mebibytes()?);
        }
        Ok(Self {
            idle: median(idle),
            serving: median(serving),
            start: median(starts),
        })
    }
}
