//! Probes one device for as long as it exists.

use crate::backoff::scattered;
use crate::constants::{POLL, PROBE_DEADLINE, SAMPLE};
use crate::discovery::{Field, Found, Reading, Source};
use crate::energy::meter::Meter;
use crate::filewatch::FileWatch;
use crate::health::{Judge, View};
use crate::state::Shared;
use crate::vendor::VendorProbe;
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// One device's probe and judge.
#[derive(Debug)]
pub struct Monitor {
    found: Arc<Found>,
    source: Arc<dyn Source>,
    files: FileWatch,
    changed: Arc<Notify>,
    judge: Judge,
    meter: Meter,
    vendor: Option<VendorProbe>,
    late: Option<JoinHandle<Reading>>,
    again: Option<Duration>,
    poll: Duration,
}

impl Monitor {
    /// Makes the device ready and watches its files; `usable` is what the kubelet was told last.
    #[must_use]
    pub fn new(found: Arc<Found>, source: Arc<dyn Source>, files: FileWatch, usable: bool) -> Self {
        let judge = Judge::resume(usable);
        Self {
            found,
            source,
            files,
            changed: Arc::default(),
            judge,
            meter: Meter::default(),
            vendor: None,
            late: None,
            again: None,
            poll: POLL,
        }
    }

    /// Runs the vendor's own probe of the device beside ours, where `folder` has one.
    #[must_use]
    pub fn with_vendor_probe(mut self, folder: &Path) -> Self {
        self.vendor = VendorProbe::start(folder, self.found.clone(), self.changed.clone());
        self
    }

    /// Probes once.
    pub async fn look(&mut self) -> View {
        let mut reading = self.read().await;
        let now = Instant::now();
        reading.vendor = self.vendor.as_ref().and_then(|probe| probe.report(now));
        let figures = self.meter.take(&self.found, &reading, since_boot());
        self.poll = poll(&self.found, &reading);
        let source_again = reading.again;
        let judgement = self.judge.judge(&self.found, reading, now);
        self.again = judgement.again.into_iter().chain(source_again).min();
        View {
            figures,
            ..judgement.view
        }
    }

    /// Probes on every change, on a timer, and when a wait of the judge ends. `updates` tells what
    /// was found of the device since: it is judged on, not anew.
    pub async fn run(mut self, shared: Shared, mut updates: watch::Receiver<Arc<Found>>) {
        loop {
            // Scattered, or a hundred devices would be probed in one moment by a hundred threads.
            let poll = scattered(self.poll);
            let wait = self.again.map_or(poll, |again| again.min(poll));
            tokio::select! {
                () = self.changed.notified() => {}
                Ok(()) = updates.changed() => self.found = updates.borrow_and_update().clone(),
                () = tokio::time::sleep(wait) => {}
            }
            let view = self.look().await;
            shared.set_view(&self.found.id, view, Timestamp::now());
        }
    }

    /// A probe that hangs keeps its thread; no second one is started beside it.
    async fn read(&mut self) -> Reading {
        let mut probe = self.late.take().unwrap_or_else(|| self.start_probe());
        match tokio::time::timeout(PROBE_DEADLINE, &mut probe).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(error)) => Reading::stale(format!("the probe of device {} broke: {error}", self.found.id)),
            Err(_) => {
                self.late = Some(probe);
                Reading::stale(format!(
                    "device {} did not answer its probe within {} s: see whether the node can read {}",
                    self.found.id,
                    PROBE_DEADLINE.as_secs(),
                    self.found.node.display()
                ))
            }
        }
    }

    fn start_probe(&self) -> JoinHandle<Reading> {
        let (source, found) = (self.source.clone(), self.found.clone());
        let (files, changed) = (self.files.clone(), self.changed.clone());
        tokio::task::spawn_blocking(move || {
            // Watched before it is read: a change in between is then a wake-up too many, not lost.
            source
                .watched(&found)
                .into_iter()
                .for_each(|folder| files.arm(folder, &changed));
            source.probe(&found)
        })
    }
}

/// A device that tells its power is read often enough to sum it. What an emulated one tells
/// holds until somebody changes it, and a sleeping one is not to be looked at.
fn poll(found: &Found, reading: &Reading) -> Duration {
    let telemetry = &reading.telemetry;
    let tells =
        telemetry.energy.is_some() || telemetry.busy.is_some() || matches!(reading.power, Field::Value(_));
    if tells && !found.emulated && !telemetry.asleep {
        SAMPLE
    } else {
        POLL
    }
}

/// Time since the node's boot. It cannot be set, and goes on while the node is suspended: such a
/// time is then seen as a gap, and not passed over.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
