use super::*;
use crate::discovery::{Discovered, PrepareError, Search};
use crate::fixtures;
use crate::paths::Paths;
use perwatt_crds::inventory::{DeviceHealth, HealthDimension};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A device whose probes hang until the test lets them go.
#[derive(Debug)]
struct Hanging {
    probes: AtomicUsize,
    gate: Mutex<Receiver<()>>,
}

impl Source for Hanging {
    fn find(&self, _: &Search<'_>) -> Discovered {
        Discovered::default()
    }

    fn prepare(&self, _: &Found) -> Result<(), PrepareError> {
        Ok(())
    }

    fn probe(&self, _: &Found) -> Reading {
        self.probes.fetch_add(1, Ordering::SeqCst);
        let _ = self.gate.lock().unwrap().recv();
        fixtures::well()
    }

    fn watched(&self, _: &Found) -> Vec<PathBuf> {
        Vec::new()
    }

    fn retire_all_but(&self, _: &BTreeSet<String>) {}
}

fn hanging() -> (Sender<()>, Arc<Hanging>, Monitor) {
    let (sender, gate) = channel();
    let source = Arc::new(Hanging {
        probes: AtomicUsize::new(0),
        gate: Mutex::new(gate),
    });
    let found = fixtures::found(&Paths::below(Path::new("/nowhere")));
    let monitor = Monitor::new(Arc::new(found), source.clone(), FileWatch::new(), false);
    (sender, source, monitor)
}

#[tokio::test]
async fn a_probe_that_hangs_makes_the_device_unknown_and_is_not_started_twice() {
    let (gate, source, mut monitor) = hanging();
    for _ in 0..2 {
        let view = monitor.look().await;
        assert_eq!((view.health, view.usable), (DeviceHealth::Unknown, false));
        assert_eq!(view.reasons[0].dimension, HealthDimension::Unmonitored);
        assert!(
            view.reasons[0].message.contains("chip-0 did not answer"),
            "{:?}",
            view.reasons
        );
    }
    assert_eq!(source.probes.load(Ordering::SeqCst), 1);
    gate.send(()).unwrap();
    // The answer that came late counts; better only once it has lasted.
    monitor.look().await;
    drop(gate);
    tokio::time::sleep(crate::constants::RECOVERY_STABLE).await;
    let view = monitor.look().await;
    assert_eq!((view.health, view.usable), (DeviceHealth::Healthy, true));
}
