//! A vendor's own probe: an executable that the site's administrator puts on the node, run now
//! and then, bounded in time and output.
//!
//! It is a file named after the profile in the folder of probes, and no field of a profile: who
//! may write profiles must not run programs on every node. It follows the convention of Nagios
//! plugins, which many vendors' checks keep to already: exit 0 is well, 1 Degraded, 2 Unhealthy,
//! anything else Unknown, and the first line that it prints says why. A further line
//! `firmware=VERSION` tells what the kernel does not.

use crate::backoff::scattered;
use crate::constants::{VENDOR_OUTPUT_BYTES, VENDOR_PROBE};
use crate::discovery::Found;
use perwatt_crds::inventory::DeviceHealth;
use perwatt_crds::text::tidy;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a vendor's probe said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorReport {
    /// What it makes of the device.
    pub health: DeviceHealth,
    /// Its first line, or why there is none.
    pub message: String,
    /// The firmware that it tells.
    pub firmware: Option<String>,
    /// How long ago that was.
    pub age: Duration,
}

type Latest = Arc<Mutex<Option<(Instant, VendorReport)>>>;

/// The probe of one device, run until it is dropped.
#[derive(Debug)]
pub struct VendorProbe {
    begun: Instant,
    latest: Latest,
    task: JoinHandle<()>,
}

impl Drop for VendorProbe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl VendorProbe {
    /// Runs the probe of the device's profile in `folder`, where there is one; `changed` is woken
    /// when it has answered.
    #[must_use]
    pub fn start(folder: &Path, found: Arc<Found>, changed: Arc<Notify>) -> Option<Self> {
        let program = folder.join(&found.profile);
        let file = std::fs::metadata(&program)
            .ok()
            .filter(std::fs::Metadata::is_file)?;
        if file.permissions().mode() & 0o111 == 0 {
            tracing::warn!("{} is no executable: the probe is not run", program.display());
            return None;
        }
        let latest = Latest::default();
        let task = tokio::spawn(repeat(program, found, latest.clone(), changed));
        let begun = Instant::now();
        Some(Self { begun, latest, task })
    }

    /// The last answer and its age; before the first one it is well for as long as one may take.
    #[must_use]
    pub fn report(&self, now: Instant) -> Option<VendorReport> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some((at, report)) => Some(VendorReport {
                age: now.saturating_duration_since(*at),
                ..report.clone()
            }),
            None => Some(VendorReport {
                health: DeviceHealth::Healthy,
                message: String::new(),
                firmware: None,
                age: now.saturating_duration_since(self.begun),
            }),
        }
    }
}

async fn repeat(program: PathBuf, found: Arc<Found>, latest: Latest, changed: Arc<Notify>) {
    let (every, deadline, _) = VENDOR_PROBE;
    loop {
        let report = run(&program, &found, deadline).await;
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), report));
        changed.notify_one();
        tokio::time::sleep(scattered(every)).await;
    }
}

/// Runs the probe once.
pub async fn run(program: &Path, found: &Found, deadline: Duration) -> VendorReport {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("PERWATT_DEVICE_ID", &found.id)
        .env("PERWATT_DEVICE_NODE", &found.node)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .kill_on_drop(true);
    let unknown = |message: String| VendorReport {
        health: DeviceHealth::Unknown,
        message,
        firmware: None,
        age: Duration::ZERO,
    };
    let finished = async {
        let mut child = Group(spawn(&mut command).await?);
        child.finish().await
    };
    match tokio::time::timeout(deadline, finished).await {
        Ok(Ok((status, output))) => build_report(program, status, &output),
        Ok(Err(error)) => unknown(format!("probe {} cannot be run: {error}", program.display())),
        Err(_) => unknown(format!(
            "probe {} did not end within {} s and was stopped",
            program.display(),
            deadline.as_secs()
        )),
    }
}

/// Starts it; while somebody still writes the file, a moment later.
async fn spawn(command: &mut Command) -> std::io::Result<Child> {
    loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            spawned => return spawned,
        }
    }
}

/// A child and everything that it has started, ended together.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Group {
    async fn finish(&mut self) -> std::io::Result<(ExitStatus, Vec<u8>)> {
        let mut output = Vec::new();
        if let Some(pipe) = self.0.stdout.take() {
            // Closed after that: who prints on gets a broken pipe.
            pipe.take(VENDOR_OUTPUT_BYTES).read_to_end(&mut output).await?;
        }
        Ok((self.0.wait().await?, output))
    }
}

fn build_report(program: &Path, status: ExitStatus, output: &[u8]) -> VendorReport {
    let text = String::from_utf8_lossy(output);
    let first = text
        .lines()
        .next()
        .map(|line| tidy(line, 200))
        .unwrap_or_default();
    let firmware = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("firmware="));
    let (health, message) = match status.code() {
        Some(0) => (DeviceHealth::Healthy, first),
        Some(1) => (DeviceHealth::Degraded, first),
        Some(2) => (DeviceHealth::Unhealthy, first),
        _ => (
            DeviceHealth::Unknown,
            format!("probe {} ended with {status}: {first}", program.display()),
        ),
    };
    VendorReport {
        health,
        message,
        firmware: firmware
            .map(|version| tidy(version, 64))
            .filter(|version| !version.is_empty()),
        age: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::paths::Paths;

    const LONG: Duration = Duration::from_secs(60);

    fn probe(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("chip");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn found() -> Found {
        fixtures::found(&Paths::below(Path::new("/nowhere")))
    }

    async fn report(script: &str, deadline: Duration) -> VendorReport {
        let dir = tempfile::tempdir().unwrap();
        run(&probe(dir.path(), script), &found(), deadline).await
    }

    #[tokio::test]
    async fn exit_codes_are_health_and_the_first_line_says_why() {
        for (code, health) in [
            (0, DeviceHealth::Healthy),
            (1, DeviceHealth::Degraded),
            (2, DeviceHealth::Unhealthy),
            (3, DeviceHealth::Unknown),
        ] {
            let report = report(
                &format!("echo $PERWATT_DEVICE_ID; echo firmware=4.17.0; exit {code}"),
                LONG,
            )
            .await;
            assert_eq!(report.health, health);
            assert!(report.message.contains("chip-0"), "{report:?}");
            assert_eq!(report.firmware.as_deref(), Some("4.17.0"));
        }
    }

    #[tokio::test]
    async fn one_that_never_ends_or_prints_without_end_is_stopped() {
        let late = report("sleep 1000 & wait", Duration::from_millis(300)).await;
        assert!(late.message.contains("did not end"), "{late:?}");
        let loud = report("yes", LONG).await;
        assert_eq!(loud.health, DeviceHealth::Unknown, "{loud:?}");
        assert!(loud.message.len() < 400);
        let missing = run(Path::new("/nowhere/probe"), &found(), LONG).await;
        assert!(missing.message.contains("cannot be run"), "{missing:?}");
    }

    #[tokio::test]
    async fn a_device_without_a_probe_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let start = || VendorProbe::start(dir.path(), Arc::new(found()), Arc::default());
        assert!(start().is_none());
        let path = probe(dir.path(), "exit 0");
        let changed = Arc::new(Notify::new());
        let running = VendorProbe::start(dir.path(), Arc::new(found()), changed.clone()).unwrap();
        changed.notified().await;
        assert_eq!(
            running.report(Instant::now()).unwrap().health,
            DeviceHealth::Healthy
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(start().is_none());
    }
}
