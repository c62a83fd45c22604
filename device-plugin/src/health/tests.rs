use super::*;
use crate::constants::{FLAPPING, RECOVERY_STABLE, UNKNOWN_GRACE};
use crate::fixtures::{found, well};
use crate::paths::Paths;
use perwatt_crds::inventory::HealthDimension;
use std::path::Path;

#[path = "dimension_tests.rs"]
mod dimensions;

struct Bench {
    judge: Judge,
    found: Found,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let found = found(&Paths::below(Path::new("/nowhere")));
        Self {
            judge: Judge::default(),
            found,
            now: Instant::now(),
        }
    }

    fn after(&mut self, wait: Duration, reading: Reading) -> Judgement {
        self.now += wait;
        self.judge.judge(&self.found, reading, self.now)
    }

    fn now(&mut self, reading: Reading) -> Judgement {
        self.after(Duration::ZERO, reading)
    }
}

fn says(health: DeviceHealth) -> Reading {
    Reading {
        health: Field::Value(health),
        ..well()
    }
}

fn at(degrees: i32) -> Reading {
    Reading {
        temperature: Field::Value(degrees * 1000),
        ..well()
    }
}

fn garbled() -> Reading {
    Reading {
        health: Field::Invalid("health holds \"x\"".into()),
        ..well()
    }
}

const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn worse_counts_at_once_and_better_only_once_it_lasted() {
    let mut bench = Bench::new();
    assert_eq!(bench.now(well()).view.health, DeviceHealth::Healthy);
    let bad = bench.now(says(DeviceHealth::Unhealthy)).view;
    assert_eq!((bad.health, bad.usable), (DeviceHealth::Unhealthy, false));
    assert_eq!(bad.reasons[0].dimension, HealthDimension::Fault);
    let held = bench.now(well());
    assert_eq!(held.view.health, DeviceHealth::Unhealthy);
    assert_eq!(held.again, Some(RECOVERY_STABLE));
    let well = bench.after(RECOVERY_STABLE, well());
    assert_eq!(
        (well.view.health, well.view.usable, well.again),
        (DeviceHealth::Healthy, true, None)
    );
    assert!(well.view.reasons.is_empty());
}

#[test]
fn a_relapse_starts_the_wait_again() {
    let mut bench = Bench::new();
    bench.now(says(DeviceHealth::Unhealthy));
    bench.now(well());
    bench.after(RECOVERY_STABLE - MOMENT, says(DeviceHealth::Unhealthy));
    bench.after(MOMENT, well());
    assert_eq!(
        bench.after(RECOVERY_STABLE - MOMENT, well()).view.health,
        DeviceHealth::Unhealthy
    );
    assert_eq!(bench.after(MOMENT, well()).view.health, DeviceHealth::Healthy);
}

#[test]
fn a_half_written_file_is_not_seen_and_a_garbled_one_is() {
    let mut bench = Bench::new();
    bench.now(well());
    let first = bench.now(garbled());
    assert_eq!(first.view.health, DeviceHealth::Healthy);
    assert_eq!(first.again, Some(GARBAGE_SETTLES));
    bench.after(GARBAGE_SETTLES - MOMENT, well());
    assert_eq!(bench.now(garbled()).view.health, DeviceHealth::Healthy);
    let settled = bench.after(GARBAGE_SETTLES, garbled()).view;
    assert_eq!(settled.health, DeviceHealth::Unknown);
    assert_eq!(settled.reasons[0].dimension, HealthDimension::Unmonitored);
    assert!(settled.reasons[0].message.contains("holds"), "{settled:?}");
}

#[test]
fn an_unknown_device_stays_usable_for_a_grace() {
    let mut bench = Bench::new();
    bench.now(well());
    let stale = || Reading::stale("no answer".into());
    let first = bench.now(stale());
    assert_eq!(
        (first.view.health, first.view.usable),
        (DeviceHealth::Unknown, true)
    );
    assert_eq!(first.again, Some(UNKNOWN_GRACE));
    assert_eq!(first.view.node, Some((1, 3)));
    assert!(bench.after(UNKNOWN_GRACE - MOMENT, stale()).view.usable);
    assert!(!bench.after(MOMENT, stale()).view.usable);
    bench.now(well());
    assert!(bench.after(RECOVERY_STABLE, well()).view.usable);
}

#[test]
fn a_device_that_was_never_read_well_is_not_usable() {
    let mut bench = Bench::new();
    assert!(!bench.now(Reading::stale("no answer".into())).view.usable);
    bench.judge = Judge::resume(true);
    assert!(bench.now(Reading::stale("no answer".into())).view.usable);
}

#[test]
fn heat_degrades_then_forbids_and_does_not_flicker() {
    let mut bench = Bench::new();
    let mut band = |degrees| bench.after(RECOVERY_STABLE, at(degrees)).view;
    assert_eq!(band(20).band, Some(TemperatureBand::Cool));
    assert_eq!(band(85).band, Some(TemperatureBand::NearThrottle));
    assert_eq!(band(84).band, Some(TemperatureBand::NearThrottle));
    assert_eq!(band(81).band, Some(TemperatureBand::Warm));
    let hot = band(95);
    assert_eq!((hot.health, hot.usable), (DeviceHealth::Degraded, true));
    assert_eq!(hot.reasons[0].dimension, HealthDimension::Thermal);
    assert_eq!(band(105).health, DeviceHealth::Unhealthy);
    assert_eq!(band(103).health, DeviceHealth::Unhealthy);
    assert_eq!(band(40).health, DeviceHealth::Unhealthy);
    assert_eq!(band(40).health, DeviceHealth::Healthy);
}

#[test]
fn a_lost_device_says_nothing_else() {
    let mut bench = Bench::new();
    let gone = Reading {
        present: Field::Value(false),
        ..says(DeviceHealth::Unhealthy)
    };
    let view = bench.now(gone).view;
    assert_eq!(view.reasons.len(), 1);
    assert_eq!(view.reasons[0].dimension, HealthDimension::Lost);
    let without_node = Reading {
        node: Err("device node is gone".into()),
        ..well()
    };
    let view = bench.now(without_node).view;
    assert_eq!((view.health, view.node), (DeviceHealth::Unhealthy, None));
    assert_eq!(view.reasons[0].message, "device node is gone");
}

#[test]
fn the_worst_dimension_gives_the_health_and_each_gives_a_reason() {
    let mut bench = Bench::new();
    let reading = Reading {
        power: Field::Value(9000),
        health: Field::Value(DeviceHealth::Unhealthy),
        ..at(99)
    };
    let view = bench.now(reading).view;
    assert_eq!(view.health, DeviceHealth::Unhealthy);
    let dimensions: Vec<_> = view.reasons.iter().map(|reason| reason.dimension).collect();
    assert_eq!(
        dimensions,
        [
            HealthDimension::Fault,
            HealthDimension::Thermal,
            HealthDimension::Power
        ]
    );
}

#[test]
fn telemetry_that_cannot_be_understood_degrades_and_absent_telemetry_does_not() {
    let mut bench = Bench::new();
    let absent = Reading {
        temperature: Field::Absent,
        firmware: Field::Absent,
        ..well()
    };
    assert_eq!(bench.now(absent).view.health, DeviceHealth::Healthy);
    let odd = || Reading {
        power: Field::Invalid("power holds \"x\"".into()),
        ..well()
    };
    bench.now(odd());
    let view = bench.after(GARBAGE_SETTLES, odd()).view;
    assert_eq!((view.health, view.usable), (DeviceHealth::Degraded, true));
    let silent = || Reading {
        health: Field::Absent,
        ..well()
    };
    assert_eq!(bench.now(silent()).view.health, DeviceHealth::Degraded);
    assert_eq!(
        bench.after(GARBAGE_SETTLES, silent()).view.health,
        DeviceHealth::Unknown
    );
}

#[test]
fn a_device_that_flaps_must_be_well_for_longer() {
    let mut bench = Bench::new();
    let (falls, _, cool_down) = FLAPPING;
    bench.now(well());
    for fall in 0..=falls {
        bench.now(says(DeviceHealth::Unhealthy));
        bench.now(well());
        let view = bench.after(RECOVERY_STABLE, well()).view;
        let health = if fall < falls {
            DeviceHealth::Healthy
        } else {
            DeviceHealth::Unhealthy
        };
        assert_eq!(view.health, health, "after {fall} falls");
    }
    assert_eq!(bench.after(cool_down, well()).view.health, DeviceHealth::Healthy);
}

#[test]
fn one_good_probe_is_not_enough_however_long_it_took() {
    let mut bench = Bench::new();
    bench.now(says(DeviceHealth::Unhealthy));
    assert_eq!(
        bench.after(RECOVERY_STABLE * 60, well()).view.health,
        DeviceHealth::Unhealthy
    );
    assert_eq!(
        bench.after(RECOVERY_STABLE, well()).view.health,
        DeviceHealth::Healthy
    );
}

#[test]
fn figures_alone_are_no_news() {
    let (mut bench, mut other) = (Bench::new(), Bench::new());
    let (one, two) = (bench.now(at(96)).view, other.now(at(97)).view);
    assert_ne!(one, two);
    assert!(one.says_the_same(&two));
    assert!(!one.says_the_same(&other.now(at(106)).view));
}
