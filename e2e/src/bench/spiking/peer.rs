//! snnTorch as a process that is asked line by line: `e2e/bench/snntorch/peer.py` says what.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::Value;

use crate::bench::failed;
use crate::bench::server::on_core;
use crate::product::Result;
use crate::project;

/// The process; it ends with this value.
pub struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it on the server's core.
    pub fn start(python: &Path) -> Result<Self> {
        let mut command = on_core(python);
        command
            .arg(project().join("e2e/bench/snntorch/peer.py"))
            .envs([("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed("snnTorch", error))?;
        let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("snnTorch", "it has no pipes"));
        };
        Ok(Self {
            child,
            ask,
            answers: BufReader::new(answers),
        })
    }

    /// Has it do something, and waits for its answer.
    pub fn ask(&mut self, job: &Value) -> Result<Value> {
        let mut line = String::new();
        let mut exchange = || {
            writeln!(self.ask, "{job}")?;
            self.answers.read_line(&mut line)
        };
        match exchange() {
            Ok(0) => Err(failed("snnTorch", "it ended; see its messages above")),
            Err(error) => Err(failed("snnTorch", error)),
            Ok(_) => serde_json::from_str(&line).map_err(|error| failed("snnTorch", error)),
        }
    }

    /// Has it run the network in one of its ways; how long that took.
    pub fn seconds(&mut self, way: &str) -> Result<f64> {
        let answer = self.ask(&serde_json::json!({"do": way}))?;
        let seconds = answer["seconds"].as_f64();
        seconds.ok_or_else(|| failed("snnTorch", format!("it answered {answer}")))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
