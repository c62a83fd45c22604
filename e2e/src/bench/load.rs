//! The load of the figures: one client, whatever server and protocol it speaks to.
//!
//! A connection is a thread that writes bytes made beforehand and reads the answer whole: it parses no more than
//! the length, so that it is no bottleneck. It runs on one core, the server on another.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::failed;
use crate::product::{Error, Result};

/// The core of the server.
pub const SERVER_CORE: usize = 0;
/// The core of the client.
pub const CLIENT_CORE: usize = 1;
/// An answer that takes longer is an error.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that asks one question again and again.
pub trait Ask {
    /// Asks it; anything but a good answer is an error.
    fn ask(&mut self) -> Result<()>;
}

impl Ask for Box<dyn Ask> {
    fn ask(&mut self) -> Result<()> {
        (**self).ask()
    }
}

/// What a run of requests gave.
#[derive(Debug)]
pub struct Outcome {
    /// Time of each, in nanoseconds.
    pub times: Histogram<u64>,
    /// From the first to the last.
    pub took: Duration,
    /// How many requests warmed the server up before.
    pub warm_up: u64,
}

impl Outcome {
    /// Microseconds at a quantile.
    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of a request")]
    pub fn microseconds(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Requests a second.
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    pub fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }
}

/// Keeps this thread, and what it starts, on one core; without effect where there is only one.
pub fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    if sched_setaffinity(None, &cores).is_err() {
        eprintln!("core {core} cannot be had alone: figures are of a shared core");
    }
}

/// Does something on a thread of its own that stays on the server's core.
pub fn on_server_core<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        pin(SERVER_CORE);
        work()
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.map_err(|_| Error::Client("a measuring thread panicked".into()))?
}

/// Asks over `connections` connections, over each one request after the other, for a time, after a tenth of it to
/// warm up. Any answer but a good one ends it.
pub fn run<A: Ask>(
    open: impl Fn() -> Result<A> + Sync,
    connections: usize,
    time: Duration,
) -> Result<Outcome> {
    let barrier = Barrier::new(connections);
    let one = || {
        pin(CLIENT_CORE);
        let connection = open();
        barrier.wait();
        ask_for(&mut connection?, time)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut whole: Option<Outcome> = None;
    for outcome in outcomes {
        let outcome = outcome.map_err(|_| Error::Client("a client thread panicked".into()))??;
        match &mut whole {
            None => whole = Some(outcome),
            Some(whole) => {
                whole.warm_up += outcome.warm_up;
                let added = whole.times.add(&outcome.times);
                added.map_err(|error| failed("a histogram", error))?;
            }
        }
    }
    whole.ok_or_else(|| Error::Client("no connection was asked for".into()))
}

fn ask_for(connection: &mut impl Ask, time: Duration) -> Result<Outcome> {
    let times = Histogram::new_with_bounds(1, 60_000_000_000, 3);
    let mut times = times.map_err(|error| failed("a histogram", error))?;
    let (warm, mut warm_up) = (Instant::now(), 0);
    while warm.elapsed() < time / 10 {
        connection.ask()?;
        warm_up += 1;
    }
    let began = Instant::now();
    while began.elapsed() < time {
        let sent = Instant::now();
        let answer = connection.ask();
        times.saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
        answer?;
    }
    let took = began.elapsed();
    Ok(Outcome { times, took, warm_up })
}

/// A server that reads requests and answers each with the same bytes: what is left is network and client.
pub struct Stub {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Stub {
    /// Starts it on the server's core; `serve` answers on a connection until the client goes away.
    pub fn start(serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| failed("the stub", error))?;
        let address = listener.local_addr().map_err(|error| failed("the stub", error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (stop.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || {
                    pin(SERVER_CORE);
                    serve(stream)
                });
            }
        });
        Ok(Self { address, stop })
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it up, so that it sees that it is to stop.
        let _ = TcpStream::connect(self.address);
    }
}
