//! Servers under measurement: the runtime, and its peer MLServer, each alone on one core.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::echo::NAME;
use super::http1::{Connection, Request};
use super::load::SERVER_CORE;
use super::onnx::SILENCE;
use super::{failed, install, processes};
use crate::product::{Error, Result};
use crate::{programs, project};

/// A server that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);
/// The peer's version, as its requirements pin it.
pub const PEER: &str = "MLServer 1.7.1 with ONNX Runtime 1.32.0";

/// A server process; it ends with this value.
pub struct Server {
    child: Child,
    /// Where it answers over HTTP.
    pub rest: SocketAddr,
    /// Where it answers over gRPC.
    pub grpc: SocketAddr,
    /// From its start to its first "ready".
    pub start: Duration,
    log: PathBuf,
}

impl Server {
    /// Our runtime, with this model folder.
    pub fn runtime(folder: &Path) -> Result<Self> {
        let program = programs::find("perwatt-runtime")?;
        let [rest, grpc, admin] = [free_port()?, free_port()?, free_port()?];
        let mut command = on_core(&program);
        command.env_clear().arg(folder);
        for (port, address) in [("--rest", rest), ("--grpc", grpc), ("--admin", admin)] {
            command.arg(port).arg(address.to_string());
        }
        Self::start(command, rest, grpc, &folder.join("runtime.log"))
    }

    /// The peer, with the same file; it has no folder format of its own for a bare ONNX file.
    pub fn peer(folder: &Path) -> Result<Self> {
        let program = install::peer("mlserver")?.join("bin/mlserver");
        let [rest, grpc, metrics] = [free_port()?, free_port()?, free_port()?];
        let write = |name: &str, value: serde_json::Value| {
            std::fs::write(folder.join(name), value.to_string()).map_err(|error| failed(name, error))
        };
        write(
            "settings.json",
            json!({"host": "127.0.0.1", "http_port": rest.port(), "grpc_port": grpc.port(),
                "metrics_port": metrics.port(), "metrics_endpoint": null, "debug": false,
                // Its workers are processes behind a queue: for one core they only cost.
                "parallel_workers": 0, "gzip_enabled": false}),
        )?;
        write(
            "model-settings.json",
            json!({"name": NAME, "implementation": "model.OnnxModel",
                "parameters": {"uri": folder.join("echo.onnx"), "version": "1"}}),
        )?;
        let code = project().join("e2e/bench/mlserver/model.py");
        std::fs::copy(&code, folder.join("model.py")).map_err(|error| failed(code.display(), error))?;
        let mut command = on_core(&program);
        command.args(["start", "."]).current_dir(folder);
        // A thread that tells its maker what it does would be counted as the peer's own work.
        command.env(SILENCE.0, SILENCE.1);
        Self::start(command, rest, grpc, &folder.join("mlserver.log"))
    }

    fn start(mut command: Command, rest: SocketAddr, grpc: SocketAddr, log: &Path) -> Result<Self> {
        let file = File::create(log).map_err(|error| failed(log.display(), error))?;
        let both = file.try_clone().map_err(|error| failed(log.display(), error))?;
        command.stdin(Stdio::null()).stdout(both).stderr(file);
        let began = Instant::now();
        let child = command.spawn().map_err(|error| failed("the server", error))?;
        let mut server = Self {
            child,
            rest,
            grpc,
            start: Duration::ZERO,
            log: log.to_path_buf(),
        };
        server.wait_until_ready(began)?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, began: Instant) -> Result<()> {
        let ready = Request::get(&format!("/v2/models/{NAME}/ready"));
        loop {
            let connection = Connection::open(self.rest, ready.clone());
            if connection.is_ok_and(|mut one| matches!(one.exchange(), Ok((200, _)))) {
                self.start = began.elapsed();
                return Ok(());
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(Error::Client(format!("a server did not become ready: {tail:?}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Seconds of processor time that it has used.
    pub fn processor_seconds(&self) -> Result<f64> {
        processes::processor_seconds(self.pid())
    }

    /// MiB of memory that is resident now.
    pub fn resident_mebibytes(&self) -> Result<f64> {
        processes::resident_mebibytes(self.pid())
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that runs on the server's core, from its first instruction on.
pub fn on_core(program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/taskset");
    command
        .args(["--cpu-list", &SERVER_CORE.to_string()])
        .arg(program);
    command
}

/// A port that is free now; the server takes it a moment later.
pub fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| failed("a free port", error))?;
    listener
        .local_addr()
        .map_err(|error| failed("a free port", error))
}
