//! Runs `model probe` as a process and reads what it reports, however it ends.

use super::Limits;
use super::report::Line;
use perwatt_runtime::inspect::{Code, Finding, printable};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longest line that is read; a report has at most 64 findings of a few KiB.
const MAX_LINE: u64 = 4 << 20;
/// How much of standard error is kept.
const MAX_STDERR: u64 = 64 << 10;

/// Why no process can be started.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The system says no.
    #[error("cannot start {program} to load the model in a process of its own: {source}")]
    Start {
        /// This very program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// What to do with a file.
#[derive(Debug)]
pub struct Job<'a> {
    /// Folder with `model.yaml`.
    pub folder: &'a Path,
    /// Path of the file in it.
    pub file: &'a str,
    /// Seconds to measure; 0: load and run once alone.
    pub seconds: u64,
    /// Threads that call the model at once.
    pub threads: u64,
    /// What the process may use.
    pub limits: &'a Limits,
}

/// Loads a file in a process of its own; the lines it reported, the last of which is a refusal where it did not
/// get to the end.
///
/// # Errors
/// When no process can be started.
pub fn probe(job: &Job<'_>) -> Result<Vec<Line>, ChildError> {
    let mut child = start(job)?;
    let (lines, errors) = (read_lines(&mut child), read_errors(&mut child));
    let deadline = Instant::now() + Duration::from_secs(job.limits.load_seconds + job.seconds * 2);
    let (mut reported, mut late) = (Vec::new(), false);
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => reported.push(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                // It has ended by itself where this fails.
                let _ = child.kill();
                break;
            }
        }
    }
    let status = child.wait().map_err(start_error)?;
    let errors = errors.recv().unwrap_or_default();
    if let Some(finding) = explain(&reported, status, late, &errors, job.limits) {
        reported.push(Line::Refused(finding));
    }
    Ok(reported)
}

fn start_error(source: io::Error) -> ChildError {
    let program = std::env::current_exe().unwrap_or_default().display().to_string();
    ChildError::Start { program, source }
}

fn start(job: &Job<'_>) -> Result<Child, ChildError> {
    let program = std::env::current_exe().map_err(start_error)?;
    let mut command = Command::new(program);
    // ONNX Runtime's library would else open a database of its own for telemetry: nothing leaves this machine.
    command.env("ORT_DISABLE_TELEMETRY", "1");
    command.args(["model", "probe", "--file", job.file]);
    for (name, value) in [
        ("--seconds", job.seconds),
        ("--threads", job.threads),
        ("--memory-mebibytes", job.limits.memory_mebibytes),
        ("--load-seconds", job.limits.load_seconds),
    ] {
        command.arg(name).arg(value.to_string());
    }
    command.arg("--").arg(job.folder);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().map_err(start_error)
}

/// Lines as they come; what is no line of a report is left out.
fn read_lines(child: &mut Child) -> Receiver<Line> {
    let (send, receive) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            loop {
                let mut text = Vec::new();
                let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut text);
                if !matches!(read, Ok(1..)) {
                    return;
                }
                if let Ok(line) = serde_json::from_slice(&text)
                    && send.send(line).is_err()
                {
                    return;
                }
            }
        });
    }
    receive
}

fn read_errors(child: &mut Child) -> Receiver<String> {
    let (send, receive) = channel();
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.by_ref().take(MAX_STDERR).read_to_end(&mut text);
            let _ = send.send(String::from_utf8_lossy(&text).into_owned());
            // The rest is thrown away, so that the process is never held up by it.
            let _ = io::copy(&mut stderr, &mut io::sink());
        });
    }
    receive
}

/// Why the process did not get to its end; nothing where it did.
fn explain(
    reported: &[Line],
    status: ExitStatus,
    late: bool,
    errors: &str,
    limits: &Limits,
) -> Option<Finding> {
    let doing = match reported.last() {
        None => "while the file was looked into",
        Some(Line::Inspected(_)) => "while the file was loaded",
        Some(Line::Loaded) => "in its first inference",
        Some(Line::Ran(_) | Line::Measured(_)) => "after its first inference",
        Some(Line::Refused(_)) => "after the file was refused",
    };
    if late || status.signal() == Some(rustix::process::Signal::XCPU.as_raw()) {
        let most = limits.load_seconds;
        let message =
            format!("it was not done within {most} s, {doing}: a larger --load-seconds gives it more");
        return Some(Finding::error(Code::Time, "", message));
    }
    if status.success() {
        return None;
    }
    if errors.contains("overflowed its stack") {
        let message = format!("the stack overflowed {doing}: is the graph nested or chained very deeply?");
        return Some(Finding::error(Code::Crash, "", message));
    }
    if errors.contains("memory allocation of") || errors.contains("capacity overflow") {
        let most = limits.memory_mebibytes;
        let message =
            format!("it needed more than {most} MiB {doing}: a larger --memory-mebibytes gives it more");
        return Some(Finding::error(Code::Memory, "", message));
    }
    let last = errors
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    let message = format!(
        "the loading process ended with {status} {doing}: {}",
        printable(last)
    );
    Some(Finding::error(Code::Crash, "", message))
}
