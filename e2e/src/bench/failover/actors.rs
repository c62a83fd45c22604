//! The processes of a run, and what stands before a server to make it slow.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::bench::{echo, failed};
use crate::product::Result;
use crate::programs;

/// A process that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime process; it ends with this value.
pub struct Process(Child);

impl Process {
    /// Starts one, with a configuration or with the folder alone, and waits until it is ready.
    pub async fn start(folder: &Path, rest: SocketAddr, config: Option<&Value>) -> Result<Self> {
        let process = Self::spawn(folder, rest, config)?;
        let url = format!("http://{rest}/v2/models/{}/ready", echo::NAME);
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = reqwest::get(&url).await;
            if answer.is_ok_and(|response| response.status().is_success()) {
                return Ok(process);
            }
            if Instant::now() > until {
                return Err(failed(
                    format!("the runtime at {rest}"),
                    "it did not become ready",
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts one and waits for nothing.
    pub fn spawn(folder: &Path, rest: SocketAddr, config: Option<&Value>) -> Result<Self> {
        let mut command = Command::new(programs::find("perwatt-runtime")?);
        command
            .env_clear()
            .arg(folder)
            .args(["--rest", &rest.to_string()])
            .args(["--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(config) = config {
            command.env("PERWATT_CONFIG", config.to_string());
        }
        let child = command
            .spawn()
            .map_err(|error| failed("perwatt-runtime", error))?;
        Ok(Self(child))
    }

    /// Kills it, and starts another in its place.
    pub fn start_again(&mut self, folder: &Path, rest: SocketAddr, config: Option<&Value>) -> Result<()> {
        let _ = self.0.kill();
        let _ = self.0.wait();
        *self = Self::spawn(folder, rest, config)?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let id = id.ok_or_else(|| failed("a signal", "the process has no id"))?;
        kill_process(id, signal).map_err(|error| failed("a signal", error))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Stands before a server, and makes it slow; accepts no more once this value is gone.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Milliseconds.
    delay: Arc<AtomicU64>,
    accepts: JoinHandle<()>,
}

impl Proxy {
    /// Passes connections on to this address.
    pub async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.map_err(|error| failed("the proxy", error))?;
        let address = listener
            .local_addr()
            .map_err(|error| failed("the proxy", error))?;
        let delay = Arc::<AtomicU64>::default();
        let accepts = tokio::spawn(accept(listener, to, delay.clone()));
        Ok(Self {
            address,
            delay,
            accepts,
        })
    }

    /// From now on what the server says comes so much later.
    pub fn delay(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delay.store(milliseconds, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, delay: Arc<AtomicU64>) {
    while let Ok((near, _)) = listener.accept().await {
        // A server that is not there refuses: the near side is closed at once.
        let Ok(far) = TcpStream::connect(to).await else {
            continue;
        };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        tokio::spawn(pass(from_near, to_far, Arc::default()));
        tokio::spawn(pass(from_far, to_near, delay.clone()));
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
