//! The client of the figures, and a server that does nothing, by which the client itself is measured.
//!
//! A connection is a thread that writes bytes made beforehand and reads the answer whole: it parses no more than
//! the length, so that the same client serves every server and is no bottleneck. It runs on one core, the server
//! on another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::product::{Error, Result};

/// The core of the server.
pub const SERVER_CORE: usize = 0;
/// The core of the client.
pub const CLIENT_CORE: usize = 1;
/// An answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// A request, ready to send.
#[derive(Debug, Clone)]
pub struct Request(Vec<u8>);

impl Request {
    /// An inference request of this model; `json_length` says where binary tensor data begins.
    pub fn infer(model: &str, body: &[u8], json_length: Option<usize>) -> Self {
        let (kind, extra) = match json_length {
            Some(length) => (
                "application/octet-stream",
                format!("inference-header-content-length: {length}\r\n"),
            ),
            None => ("application/json", String::new()),
        };
        let head = format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: bench\r\ncontent-type: {kind}\r\n{extra}\
             content-length: {}\r\n\r\n",
            body.len()
        );
        Self([head.as_bytes(), body].concat())
    }

    /// A request without a body.
    pub fn get(path: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes())
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

/// A connection that sends requests one after the other.
pub struct Connection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let connect = || -> std::io::Result<Self> {
            let writer = TcpStream::connect(address)?;
            writer.set_nodelay(true)?;
            writer.set_read_timeout(Some(PATIENCE))?;
            let reader = BufReader::with_capacity(1 << 16, writer.try_clone()?);
            Ok(Self { writer, reader })
        };
        connect().map_err(|error| Error::Client(format!("cannot connect to {address}: {error}")))
    }

    /// Sends a request; the status and body of its answer.
    pub fn ask(&mut self, request: &Request) -> Result<(u16, Vec<u8>)> {
        let mut ask = || -> std::io::Result<(u16, Vec<u8>)> {
            self.writer.write_all(&request.0)?;
            let (status, length) = read_head(&mut self.reader)?;
            let mut body = vec![0; length];
            self.reader.read_exact(&mut body)?;
            Ok((status, body))
        };
        ask().map_err(|error| Error::Client(format!("a request got no answer: {error}")))
    }
}

/// Status (0 for a request) and length of the body.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<(u16, usize)> {
    let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    let mut length = None;
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    match length {
        Some(length) if length <= MAX_ANSWER => Ok((status.unwrap_or(0), length)),
        _ => Err(invalid("an answer without a length, or one that is too long")),
    }
}

/// Sends requests over `connections` connections, each one after the other, for a time, after a tenth of it
/// to warm up. Any answer but 200 ends it.
pub fn run(address: SocketAddr, request: &Request, connections: usize, time: Duration) -> Result<Outcome> {
    let barrier = Arc::new(Barrier::new(connections));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (request, barrier) = (request.clone(), barrier.clone());
            std::thread::spawn(move || {
                pin(CLIENT_CORE);
                let connection = Connection::open(address);
                barrier.wait();
                ask_for(&mut connection?, &request, time)
            })
        })
        .collect();
    let mut whole: Option<Outcome> = None;
    for thread in threads {
        let one = thread
            .join()
            .map_err(|_| Error::Client("a client thread panicked".into()))??;
        match &mut whole {
            None => whole = Some(one),
            Some(whole) => {
                whole.warm_up += one.warm_up;
                let added = whole.times.add(&one.times);
                added.map_err(|error| Error::Client(error.to_string()))?;
            }
        }
    }
    whole.ok_or_else(|| Error::Client("no connection was asked for".into()))
}

fn ask_for(connection: &mut Connection, request: &Request, time: Duration) -> Result<Outcome> {
    let times = Histogram::new_with_bounds(1, 60_000_000_000, 3);
    let mut times = times.map_err(|error| Error::Client(error.to_string()))?;
    let (warm, mut warm_up) = (Instant::now(), 0);
    while warm.elapsed() < time / 10 {
        expect_answer(connection.ask(request)?)?;
        warm_up += 1;
    }
    let began = Instant::now();
    while began.elapsed() < time {
        let sent = Instant::now();
        let answer = connection.ask(request)?;
        times.saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
        expect_answer(answer)?;
    }
    let took = began.elapsed();
    Ok(Outcome { times, took, warm_up })
}

fn expect_answer((status, body): (u16, Vec<u8>)) -> Result<()> {
    if status == 200 {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&body).chars().take(200).collect();
    Err(Error::Client(format!("a request was answered {status}: {said}")))
}

/// A server that reads requests and answers each with the same bytes: what is left is network and client.
pub struct Stub {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Stub {
    /// Starts it on the server's core.
    pub fn start(body: Vec<u8>) -> Result<Self> {
        let failed = |error: std::io::Error| Error::Client(format!("the stub cannot listen: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let answer: Arc<[u8]> = [head.as_bytes(), &body].concat().into();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let answer = answer.clone();
                std::thread::spawn(move || {
                    pin(SERVER_CORE);
                    serve(stream, &answer)
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

/// Answers until the client goes away.
fn serve(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let mut body = Vec::new();
    loop {
        let (_, length) = read_head(&mut reader)?;
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        stream.write_all(answer)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_gets_what_the_stub_answers_and_counts_every_request() {
        let stub = Stub::start(b"{}".to_vec()).expect("a stub");
        let request = Request::infer("m", b"body", None);
        let answer = Connection::open(stub.address).and_then(|mut it| it.ask(&request));
        assert_eq!(answer.expect("an answer"), (200, b"{}".to_vec()));
        let outcome = run(stub.address, &request, 2, Duration::from_millis(20)).expect("an outcome");
        assert!(!outcome.times.is_empty() && outcome.per_second() > 0.0);
    }

    #[test]
    fn a_server_that_gives_no_length_is_refused() {
        let mut answer: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
        assert!(read_head(&mut answer).is_err());
        let mut answer: &[u8] = b"HTTP/1.1 503 no\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(read_head(&mut answer).expect("a head"), (503, 3));
    }
}
