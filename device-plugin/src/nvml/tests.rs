use super::*;
use crate::discovery::{Field, Found};
use crate::fixtures;
use crate::health::Judge;
use crate::paths::Paths;
use crate::telemetry::{Busy, Throttle};
use perwatt_crds::inventory::{DeviceHealth, HealthDimension, Recovery};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const UUID: &str = "GPU-made-by-a-test";

/// A library of one GPU that tells what a file holds, built by the system's C compiler.
struct Fake {
    dir: TempDir,
    library: Library,
}

impl Fake {
    fn new(deadline: Duration, holds: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, built) = (dir.path().join("fake.c"), dir.path().join("libnvidia-ml.so.1"));
        std::fs::write(&source, include_str!("fake.c")).unwrap();
        let control = dir.path().join("control");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&built)
            .arg(format!("-DCONTROL=\"{}\"", control.display()))
            .arg(&source)
            .status()
            .expect("a C compiler builds the library of this test: install one (Debian: gcc)");
        assert!(status.success());
        let library = Library::start(Some(built), deadline).unwrap();
        let fake = Self { dir, library };
        fake.holds(holds);
        fake
    }

    fn holds(&self, text: &str) {
        let (new, control) = (self.dir.path().join("new"), self.dir.path().join("control"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, control).unwrap();
    }

    /// Reads, and judges what was read, as a monitor does.
    fn view(&self) -> crate::health::View {
        let reading = self.library.read(UUID).unwrap();
        Judge::default().judge(&gpu(), reading, Instant::now()).view
    }
}

fn gpu() -> Found {
    let mut found = fixtures::found(&Paths::below(Path::new("/nowhere")));
    found.emulated = false;
    found
}

const LONG: Duration = Duration::from_secs(60);

const WELL: &str = "temperature 61\nshutdown 104\npower 4500\nenergy 1234567\nutilisation 37\nclock 1410\nlimit 1980\nthrottle 1\nused 1048576\necc 0\npending 0\n";

#[test]
fn a_gpu_is_listed_and_read() {
    let fake = Fake::new(LONG, WELL);
    let gpus = fake.library.list().unwrap();
    let expected = Gpu {
        uuid: UUID.into(),
        name: "Test GPU".into(),
        address: "0000:01:00.0".into(),
        minor: 3,
    };
    assert_eq!(gpus, [expected]);
    let reading = fake.library.read(UUID).unwrap();
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
        let reading = fake.library.read(UUID).unwrap();
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
    let unknown = fake.library.read("GPU-nobody").unwrap();
    assert_eq!(
        (unknown.present, unknown.faults[0].recovery),
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
        assert_eq!(fake.library.read(UUID), Err(NvmlTrouble::Hangs(300)));
    }
    fake.holds(WELL);
    let start = Instant::now();
    while fake.library.read(UUID).is_err() {
        assert!(start.elapsed() < LONG, "it does not come back");
    }
}

#[test]
fn without_a_library_it_says_so() {
    let library = Library::start(Some("/nowhere/libnvidia-ml.so.1".into()), LONG).unwrap();
    let trouble = library.list().unwrap_err().to_string();
    assert!(trouble.contains("/nowhere/libnvidia-ml.so.1"), "{trouble}");
}
