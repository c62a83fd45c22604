use super::*;
use crate::discovery::{Field, Found};
use crate::fixtures;
use crate::health::Judge;
use crate::paths::Paths;
use crate::telemetry::{Busy, Throttle};
use fake::WELL;
use perwatt_crds::inventory::{DeviceHealth, HealthDimension, Recovery};
use std::path::Path;
use tempfile::TempDir;

#[path = "../../tests/support/nvml.rs"]
mod fake;

const ADDRESS: &str = "0000:01:00.0";

/// The library behind its thread, and what the first GPU tells.
struct Fake {
    _dir: TempDir,
    fake: fake::Fake,
    library: Library,
}

impl Fake {
    fn new(deadline: Duration, holds: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let built = dir.path().join("libnvidia-ml.so.1");
        Self {
            fake: fake::Fake::build(&built, holds),
            library: Library::start(Some(built), deadline).unwrap(),
            _dir: dir,
        }
    }

    fn holds(&self, text: &str) {
        self.fake.holds(text);
    }

    fn read(&self) -> Reading {
        self.library.read(ADDRESS).unwrap().unwrap()
    }

    /// Reads, and judges what was read, as a monitor does.
    fn view(&self) -> crate::health::View {
        let reading = self.read();
        Judge::default().judge(&gpu(), reading, Instant::now()).view
    }
}

fn gpu() -> Found {
    let mut found = fixtures::found(&Paths::below(Path::new("/nowhere")));
    found.emulated = false;
    found
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_gpu_is_read() {
    let fake = Fake::new(LONG, WELL);
    let reading = fake.read();
    assert_eq!(
        (reading.temperature, reading.power),
        (Field::Value(61_000), Field::Value(4500))
    );
    assert_eq!(reading.firmware, Field::Value("96.00.61.00.01".into()));
    assert_eq!(reading.bus.driver_version.as_deref(), Some("535.104.05"));
    let telemetry = reading.telemetry;
    assert_eq!(telemetry.energy.unwrap().microjoules, 1_234_567_000);
    assert_eq!(telemetry.busy, Some(Busy::Permille(370)));
    assert_eq!(
        (telemetry.clock_hertz, telemetry.clock_limit_hertz),
        (Some(1_410_000_000), Some(1_980_000_000))
    );
    assert_eq!(telemetry.memory.unwrap().used, 1 << 20);
    assert_eq!(telemetry.critical_millicelsius, Some(104_000));
    assert_eq!(telemetry.throttles, Some(vec![]), "idling is no throttling");
    assert_eq!(telemetry.complaints, Vec::<String>::new());
}

#[test]
fn throttle_reasons_are_told_apart() {
    let fake = Fake::new(LONG, WELL);
    // Bits of nvml.h: power cap 4, hardware 8, software heat 0x20, hardware heat 0x40, brake 0x80.
    for (bits, throttles, health) in [
        (0x4, vec![Throttle::Power], DeviceHealth::Healthy),
        (0x8, vec![Throttle::Other], DeviceHealth::Healthy),
        (0x48, vec![Throttle::Thermal], DeviceHealth::Degraded),
        (0x88, vec![Throttle::Current], DeviceHealth::Degraded),
    ] {
        fake.holds(&WELL.replace("throttle 1", &format!("throttle {bits}")));
        let reading = fake.read();
        assert_eq!(reading.telemetry.throttles, Some(throttles));
        assert_eq!(fake.view().health, health, "{bits:#x}");
    }
}

#[test]
fn a_lost_gpu_needs_a_reboot_and_one_that_tells_little_is_well() {
    let fake = Fake::new(LONG, "temperature 40\n");
    let plain = fake.view();
    assert_eq!((plain.health, plain.milliwatts), (DeviceHealth::Healthy, None));
    fake.holds("lost 1\n");
    let lost = fake.view();
    assert_eq!((lost.health, lost.usable), (DeviceHealth::Unhealthy, false));
    assert_eq!(
        (lost.reasons[0].dimension, lost.reasons[0].recovery),
        (HealthDimension::Lost, Recovery::Reboot)
    );
    assert!(lost.reasons[0].message.contains("GPU_IS_LOST"), "{lost:?}");
}

#[test]
fn a_gpu_that_was_listed_and_is_no_more_is_gone_and_one_that_never_was_is_unknown() {
    let fake = Fake::new(LONG, WELL);
    assert_eq!(fake.library.read("0000:09:00.0"), Ok(None));
    fake.holds(&format!("{WELL}gone 1\n"));
    assert_eq!(fake.library.read(ADDRESS), Ok(None));
    fake.holds(WELL);
    fake.read();
    fake.holds(&format!("{WELL}gone 1\n"));
    let gone = fake.read();
    assert_eq!(
        (gone.present, gone.faults[0].recovery),
        (Field::Value(false), Recovery::Replug)
    );
}

#[test]
fn memory_errors_and_grave_events_are_faults_that_stay() {
    let fake = Fake::new(LONG, &WELL.replace("ecc 0", "ecc 2"));
    let view = fake.view();
    assert_eq!(
        (view.health, view.reasons[0].recovery),
        (DeviceHealth::Degraded, Recovery::Reboot)
    );
    // 13 is an application's own fault, 79 the GPU's.
    fake.holds(&format!("{WELL}xid 13\n"));
    assert_eq!(fake.view().health, DeviceHealth::Healthy);
    fake.holds(&format!("{WELL}xid 79\n"));
    fake.view();
    let view = fake.view();
    assert_eq!(
        (view.health, view.reasons[0].dimension),
        (DeviceHealth::Unhealthy, HealthDimension::Fault)
    );
    assert!(view.reasons[0].message.contains("XID 79"), "{view:?}");
}

#[test]
fn a_library_that_hangs_costs_its_thread_and_answers_when_it_is_back() {
    let fake = Fake::new(Duration::from_millis(300), &format!("{WELL}hang 1\n"));
    for _ in 0..3 {
        assert_eq!(fake.library.read(ADDRESS), Err(NvmlTrouble::Hangs(300)));
    }
    fake.holds(WELL);
    let start = Instant::now();
    while fake.library.read(ADDRESS).is_err() {
        assert!(start.elapsed() < LONG, "it does not come back");
    }
}

#[test]
fn without_a_library_it_says_so() {
    let library = Library::start(Some("/nowhere/libnvidia-ml.so.1".into()), LONG).unwrap();
    let trouble = library.read(ADDRESS).unwrap_err().to_string();
    assert!(trouble.contains("/nowhere/libnvidia-ml.so.1"), "{trouble}");
}
