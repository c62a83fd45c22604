//! Probes one device for as long as it exists.

use crate::backoff::scattered;
use crate::constants::{POLL, PROBE_DEADLINE};
use crate::discovery::{Found, Reading, Source};
use crate::filewatch::FileWatch;
use crate::health::{Judge, View};
use crate::state::Shared;
use jiff::Timestamp;
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
    late: Option<JoinHandle<Reading>>,
    again: Option<Duration>,
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
            late: None,
            again: None,
        }
    }

    /// Probes once.
    pub async fn look(&mut self) -> View {
        let reading = self.read().await;
        let judgement = self.judge.judge(&self.found, reading, Instant::now());
        self.again = judgement.again;
        judgement.view
    }

    /// Probes on every change, on a timer, and when a wait of the judge ends. `updates` tells what
    /// was found of the device since: it is judged on, not anew.
    pub async fn run(mut self, shared: Shared, mut updates: watch::Receiver<Arc<Found>>) {
        loop {
            // Scattered, or a hundred devices would be probed in one moment by a hundred threads.
            let poll = scattered(POLL);
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

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
