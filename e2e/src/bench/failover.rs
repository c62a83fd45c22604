//! `runtime-failover`: what a fault of a variant's server costs in requests, time, and calls of the fallback.
//!
//! A runtime has two variants: a server beside it, and its own file. Requests come at fixed moments, whether or not
//! those before were answered (open loop), and each is timed from the moment at which it was to be sent. At a third
//! of a run the server is killed, stopped or made slow, at two thirds it is well again. Every run begins with new
//! processes: a breaker that has learnt would hide what the first fault costs.

mod actors;
mod sender;
mod tally;

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::figure::{Figure, RUNS, median};
use super::server::free_port;
use super::{echo, failed};
use crate::product::Result;
use crate::progress::Progress;
use actors::{Process, Proxy};
use sender::Sender;
use tally::{Moments, Tally, upper_bound};

/// How much later a slow server's bytes come.
const SLOWNESS: Duration = Duration::from_millis(500);

/// How much is asked for each fault.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Runs, each with new processes.
    runs: usize,
    /// Requests of a run.
    requests: u32,
    /// Time from one request to the next.
    interval: Duration,
    /// What is done to the server.
    faults: &'static [Fault],
}

/// 20,000 requests for each fault: minutes.
pub const BENCH: Extent = Extent {
    runs: RUNS,
    requests: 4_000,
    interval: Duration::from_millis(2),
    faults: &Fault::ALL,
};
/// 1,000,000 requests for each fault of the server, twice as many a second: an hour.
pub const SOAK: Extent = Extent {
    runs: 50,
    requests: 20_000,
    interval: Duration::from_millis(1),
    faults: &[Fault::Killed, Fault::Hung, Fault::Slow],
};

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing: what the machine and the client do by themselves.
    None,
    /// SIGKILL; a new one is started at the end.
    Killed,
    /// SIGSTOP; SIGCONT at the end.
    Hung,
    /// Its bytes come late.
    Slow,
    /// The runtime itself gets SIGKILL, and is started again at once, as a kubelet does.
    RuntimeKilled,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Killed,
        Self::Hung,
        Self::Slow,
        Self::RuntimeKilled,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::None => "no fault",
            Self::Killed => "server killed",
            Self::Hung => "server hung",
            Self::Slow => "server made slow",
            Self::RuntimeKilled => "runtime killed",
        }
    }
}

/// Failed requests with the bound that this proves, added latency, and calls of the fallback, for each fault.
pub async fn measure(extent: Extent) -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let folder = echo::folder()?;
    let mut figures = Vec::new();
    for &fault in extent.faults {
        let mut tallies = Vec::new();
        for turn in 1..=extent.runs {
            let tally = run(folder.path(), fault, extent).await?;
            let (failed, slowest) = (tally.failed, tally.slowest_milliseconds());
            progress.say(format!(
                "{}: run {turn} of {}: {failed} of {} requests failed, the slowest took {slowest:.1} ms",
                fault.name(),
                extent.runs,
                extent.requests
            ));
            tallies.push(tally);
        }
        figures.extend(describe(fault, &tallies));
    }
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "counts of requests")]
fn describe(fault: Fault, tallies: &[Tally]) -> Vec<Figure> {
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let middle = |of: fn(&Tally) -> f64| median(tallies.iter().map(of).collect());
    let (sent, failures) = (sum(|tally| tally.sent), sum(|tally| tally.failed));
    let slowest = tallies.iter().map(Tally::slowest_milliseconds);
    let figure = |what: &str, value: f64, unit| {
        Figure::new(&format!("{}: {what}", fault.name()), value, unit, tallies.len())
    };
    let mut figures = vec![
        figure("requests sent", sent as f64, "requests"),
        figure("failed requests", failures as f64, "requests"),
        figure(
            "failed requests in a million, upper bound with 95% confidence",
            upper_bound(failures) / sent as f64 * 1e6,
            "ppm",
        ),
        figure(
            "answers of the fallback that do not say so",
            sum(|tally| tally.silent) as f64,
            "requests",
        ),
        figure("p99 before the fault", middle(|tally| tally.before.p99()), "ms"),
        figure(
            "added p99, from the fault to its end",
            middle(|tally| tally.during.p99() - tally.before.p99()),
            "ms",
        ),
        figure(
            "added p99, of all requests of a run",
            middle(|tally| tally.whole_p99() - tally.before.p99()),
            "ms",
        ),
        figure("slowest request", slowest.fold(f64::NAN, f64::max), "ms"),
    ];
    // Where nothing is wrong nobody waits for the fallback.
    let found: Vec<f64> = tallies
        .iter()
        .filter_map(|tally| tally.found_milliseconds)
        .collect();
    if !found.is_empty() {
        let what = "fault to the first answer of the fallback";
        figures.push(figure(what, median(found), "ms"));
    }
    if fault == Fault::RuntimeKilled {
        figures.push(figure(
            "requests in flight in the killed process (counted apart)",
            sum(|tally| tally.in_flight) as f64,
            "requests",
        ));
        figures.push(figure(
            "requests that found no process (counted apart)",
            sum(|tally| tally.refused) as f64,
            "requests",
        ));
    }
    figures.push(figure(
        "answered by the fallback, from the fault to its end",
        middle(|tally| tally.during.fallback_percent()),
        "%",
    ));
    figures.push(figure(
        "answered by the fallback while the server was well (extra load)",
        middle(Tally::extra_percent),
        "%",
    ));
    figures
}

/// One run with new processes.
async fn run(folder: &Path, fault: Fault, extent: Extent) -> Result<Tally> {
    let hub_address = free_port()?;
    let mut hub = Process::start(folder, hub_address, None).await?;
    let proxy = Proxy::start(hub_address).await?;
    // Only what makes the server slow stands between it and the runtime.
    let asked = match fault {
        Fault::Slow => proxy.address,
        Fault::None | Fault::Killed | Fault::Hung | Fault::RuntimeKilled => hub_address,
    };
    let config = json!({
        "workload": "bench", "node": "bench", "revision": "bench",
        "variants": [
            {"name": "server", "remote": {"endpoint": format!("http://{asked}")}},
            {"name": sender::FALLBACK, "artifact": "echo.onnx"},
        ],
    });
    let address = free_port()?;
    let mut runtime = Process::start(folder, address, Some(&config)).await?;
    let sender = Sender::new(address)?;

    let moments = Moments::of(extent.requests, extent.interval);
    let mut answers = JoinSet::new();
    let began = Instant::now() + Duration::from_millis(100);
    for number in 0..extent.requests {
        let due = extent.interval * number;
        sleep_until(began + due).await;
        if due == moments.fault {
            begin(fault, &hub, &proxy)?;
            if fault == Fault::RuntimeKilled {
                runtime.start_again(folder, address, Some(&config))?;
            }
        }
        if due == moments.end {
            end(fault, &mut hub, &proxy, (folder, hub_address))?;
        }
        let sender = sender.clone();
        answers.spawn(async move {
            let asked = match fault {
                Fault::RuntimeKilled => sender.ask_until_answered().await,
                _ => sender.ask().await.into(),
            };
            (due, began.elapsed(), asked)
        });
    }
    let mut tally = Tally::new(moments)?;
    while let Some(answer) = answers.join_next().await {
        let (due, answered, answer) = answer.map_err(|error| failed("a request", error))?;
        tally.add(due, answered, answer);
    }
    Ok(tally)
}

fn begin(fault: Fault, hub: &Process, proxy: &Proxy) -> Result<()> {
    match fault {
        Fault::None | Fault::RuntimeKilled => Ok(()),
        Fault::Killed => hub.signal(Signal::KILL),
        Fault::Hung => hub.signal(Signal::STOP),
        Fault::Slow => {
            proxy.delay(SLOWNESS);
            Ok(())
        }
    }
}

fn end(
    fault: Fault,
    hub: &mut Process,
    proxy: &Proxy,
    (folder, address): (&Path, std::net::SocketAddr),
) -> Result<()> {
    match fault {
        Fault::None | Fault::RuntimeKilled => Ok(()),
        // It takes a while to start, and requests go on meanwhile: nobody here waits for it.
        Fault::Killed => {
            *hub = Process::spawn(folder, address, None)?;
            Ok(())
        }
        Fault::Hung => hub.signal(Signal::CONT),
        Fault::Slow => {
            proxy.delay(Duration::ZERO);
            Ok(())
        }
    }
}
