//! Writes evidence to its folder, at a bounded pace and at the end.

use crate::rollout::pair::Revisions;
use crate::state::{Saved, StateDir};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Keeps the evidence of all revisions.
#[derive(Clone)]
pub struct Keeper {
    revisions: Arc<Revisions>,
    dir: StateDir,
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    written: Option<Saved>,
    failed: bool,
}

impl Keeper {
    /// A keeper that has written nothing yet.
    pub fn new(revisions: Arc<Revisions>, dir: StateDir) -> Self {
        Self {
            revisions,
            dir,
            last: Arc::default(),
        }
    }

    /// Writes what changed, now and once in this time, for ever: a process that is killed soon after its start
    /// must not begin another epoch.
    pub async fn run(self, every: Duration) {
        loop {
            let keeper = self.clone();
            // A disk may hang: requests are not made to wait for it.
            if tokio::task::spawn_blocking(move || keeper.write()).await.is_err() {
                return;
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Writes the evidence now, unless it is what was written last. A failure is said once, until it is over.
    pub fn write(&self) {
        // Nothing panics under this lock, so a poisoned lock holds whole data.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = self.revisions.saved();
        if last.written.as_ref() == Some(&saved) {
            return;
        }
        match self.dir.write(&saved) {
            Ok(()) => {
                if last.failed {
                    tracing::info!("evidence is kept again");
                }
                *last = Last {
                    written: Some(saved),
                    failed: false,
                };
            }
            Err(error) if !last.failed => {
                tracing::warn!(%error, "evidence cannot be kept: a restart of this container would lose it");
                last.failed = true;
            }
            Err(_) => {}
        }
    }
}
