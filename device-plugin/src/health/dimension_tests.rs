//! Each dimension of health, and how the four states and the kubelet's two hold together.

use super::*;
use crate::bus::{Bus, Errors, Link};
use crate::constants::{BUS_ERRORS_COUNT_FOR, CORRECTABLE_BURST, LINK_SETTLES, SENSOR_EXPIRES, VENDOR_PROBE};
use crate::discovery::Fault;
use crate::telemetry::{Telemetry, Throttle};
use crate::vendor::VendorReport;
use perwatt_crds::inventory::Recovery;
use perwatt_crds::profile::DeviceClass;

/// A device that no person emulates.
fn real() -> Bench {
    let mut bench = Bench::new();
    bench.found.emulated = false;
    bench
}

fn on_bus(bus: Bus) -> Reading {
    Reading { bus, ..well() }
}

fn errors(fatal: u64, nonfatal: u64, correctable: u64) -> Reading {
    on_bus(Bus {
        errors: Some(Errors {
            fatal,
            nonfatal,
            correctable,
        }),
        ..Bus::default()
    })
}

/// Health, and its one reason.
fn verdict(view: &View) -> (DeviceHealth, HealthDimension, Recovery) {
    assert_eq!(view.reasons.len(), 1, "{view:?}");
    (view.health, view.reasons[0].dimension, view.reasons[0].recovery)
}

#[test]
fn four_states_are_two_to_the_kubelet() {
    for health in [
        DeviceHealth::Healthy,
        DeviceHealth::Degraded,
        DeviceHealth::Unhealthy,
    ] {
        let view = Bench::new().now(says(health)).view;
        assert_eq!(view.health, health);
        assert_eq!(view.usable, health != DeviceHealth::Unhealthy, "{health:?}");
    }
    // Unknown is what it was before, for a grace; whatever it was.
    for before in [
        DeviceHealth::Healthy,
        DeviceHealth::Degraded,
        DeviceHealth::Unhealthy,
    ] {
        let mut bench = Bench::new();
        let usable = bench.now(says(before)).view.usable;
        let stale = || Reading::stale("no answer".into());
        let first = bench.now(stale()).view;
        let later = bench.after(UNKNOWN_GRACE, stale()).view;
        if before == DeviceHealth::Unhealthy {
            // Unknown is better than Unhealthy, and better must last; never is it usable on the way.
            assert!(!first.usable && !later.usable, "{first:?} {later:?}");
        } else {
            assert_eq!((first.health, first.usable), (DeviceHealth::Unknown, usable));
            assert_eq!((later.health, later.usable), (DeviceHealth::Unknown, false));
        }
    }
}

#[test]
fn firmware_against_its_policy() {
    let mut bench = real();
    let policy = "{minimum: '9.0', blocked: ['10.1'], driver: MustMatch}";
    bench.found.rules.firmware = Some(serde_yaml::from_str(policy).unwrap());
    let with = |firmware: &str, driver: &str| Reading {
        firmware: Field::Value(firmware.into()),
        ..on_bus(Bus {
            driver: Some(Some("chip".into())),
            driver_version: Some(driver.into()),
            ..Bus::default()
        })
    };
    let good = bench.now(with("10.0", "10.0")).view;
    assert_eq!(
        (good.health, good.driver.as_deref()),
        (DeviceHealth::Healthy, Some("chip 10.0"))
    );
    let old = bench.now(with("8.9", "8.9")).view;
    assert_eq!(
        verdict(&old),
        (
            DeviceHealth::Degraded,
            HealthDimension::Firmware,
            Recovery::Person
        )
    );
    assert!(
        old.usable && old.reasons[0].message.contains("8.9 is older than 9.0"),
        "{old:?}"
    );
    let blocked = bench.now(with("10.1", "10.1")).view;
    assert_eq!(
        verdict(&blocked),
        (
            DeviceHealth::Unhealthy,
            HealthDimension::Firmware,
            Recovery::Person
        )
    );
    let odd = real_with_policy(policy).now(with("soon", "10.0")).view;
    assert_eq!(odd.health, DeviceHealth::Degraded);
    assert!(odd.reasons[0].message.contains("cannot be compared"), "{odd:?}");
}

fn real_with_policy(policy: &str) -> Bench {
    let mut bench = real();
    bench.found.rules.firmware = Some(serde_yaml::from_str(policy).unwrap());
    bench
}

#[test]
fn a_vendors_probe_tells_firmware_and_faults_and_grows_stale() {
    let mut bench = real_with_policy("{minimum: '9.0'}");
    let (_, _, expires) = VENDOR_PROBE;
    let report = |health, age| VendorReport {
        health,
        message: "core 3 hangs".into(),
        firmware: Some("9.1".into()),
        age,
    };
    let with = |report| Reading {
        firmware: Field::Absent,
        vendor: Some(report),
        ..well()
    };
    let good = bench
        .now(with(report(DeviceHealth::Healthy, Duration::ZERO)))
        .view;
    assert_eq!(
        (good.health, good.firmware.as_deref()),
        (DeviceHealth::Healthy, Some("9.1"))
    );
    let bad = bench
        .now(with(report(DeviceHealth::Unhealthy, Duration::ZERO)))
        .view;
    assert_eq!(
        verdict(&bad),
        (DeviceHealth::Unhealthy, HealthDimension::Fault, Recovery::Itself)
    );
    assert!(bad.reasons[0].message.contains("core 3 hangs"), "{bad:?}");
    let stale = real()
        .now(with(report(DeviceHealth::Healthy, expires + MOMENT)))
        .view;
    assert_eq!(
        verdict(&stale),
        (
            DeviceHealth::Unknown,
            HealthDimension::Unmonitored,
            Recovery::Itself
        )
    );
}

#[test]
fn fatal_errors_stay_and_lesser_ones_pass() {
    let mut bench = real();
    assert_eq!(
        bench.now(errors(0, 7, 9)).view.health,
        DeviceHealth::Healthy,
        "what was before is past"
    );
    let lost = bench.now(errors(0, 8, 9));
    assert_eq!(
        verdict(&lost.view),
        (DeviceHealth::Degraded, HealthDimension::Link, Recovery::Itself)
    );
    assert_eq!(lost.again, Some(BUS_ERRORS_COUNT_FOR));
    bench.after(BUS_ERRORS_COUNT_FOR, errors(0, 8, 9));
    assert_eq!(
        bench.after(RECOVERY_STABLE, errors(0, 8, 9)).view.health,
        DeviceHealth::Healthy
    );
    let (many, time) = CORRECTABLE_BURST;
    assert_eq!(
        bench.after(MOMENT, errors(0, 8, 8 + many)).view.health,
        DeviceHealth::Healthy
    );
    assert_eq!(
        bench.after(MOMENT, errors(0, 8, 9 + many)).view.health,
        DeviceHealth::Degraded
    );
    // The same number over a longer time is no burst.
    let mut slow = real();
    for minute in 0..200 {
        let view = slow.after(time, errors(0, 0, minute * (many - 1))).view;
        assert_eq!(view.health, DeviceHealth::Healthy, "{minute}");
    }
    let fatal = bench.now(errors(1, 8, 9)).view;
    assert_eq!(
        verdict(&fatal),
        (DeviceHealth::Unhealthy, HealthDimension::Link, Recovery::Replug)
    );
    assert_eq!(
        bench
            .after(BUS_ERRORS_COUNT_FOR * 10, errors(1, 8, 9))
            .view
            .health,
        DeviceHealth::Unhealthy
    );
}

#[test]
fn a_link_that_stays_narrow_or_slow_counts_and_an_idle_gpu_does_not() {
    let link = |width, speed| {
        on_bus(Bus {
            link: Some(Link {
                width,
                width_limit: 4,
                speed,
                speed_limit: 8000,
            }),
            ..Bus::default()
        })
    };
    let (narrow, slow) = LINK_SETTLES;
    let mut bench = real();
    let first = bench.now(link(1, 8000));
    assert_eq!(
        (first.view.health, first.again),
        (DeviceHealth::Healthy, Some(narrow))
    );
    let view = bench.after(narrow, link(1, 8000)).view;
    assert_eq!(
        verdict(&view),
        (DeviceHealth::Degraded, HealthDimension::Link, Recovery::Replug)
    );
    assert!(view.reasons[0].message.contains("1 of 4 lanes"), "{view:?}");
    for (class, health) in [
        (DeviceClass::Asic, DeviceHealth::Degraded),
        (DeviceClass::Gpu, DeviceHealth::Healthy),
    ] {
        let mut bench = real();
        bench.found.class = class;
        bench.now(link(4, 2500));
        assert_eq!(bench.after(slow, link(4, 2500)).view.health, health);
    }
}

#[test]
fn a_device_without_driver_waits_for_a_person() {
    let view = real()
        .now(on_bus(Bus {
            driver: Some(None),
            ..Bus::default()
        }))
        .view;
    assert_eq!(
        verdict(&view),
        (DeviceHealth::Unhealthy, HealthDimension::Driver, Recovery::Person)
    );
}

#[test]
fn throttling_by_heat_or_supply_counts_and_a_power_limit_does_not() {
    let throttled = |throttle| Reading {
        telemetry: Telemetry {
            throttles: Some(vec![throttle]),
            ..Telemetry::default()
        },
        ..well()
    };
    assert_eq!(
        real().now(throttled(Throttle::Power)).view.health,
        DeviceHealth::Healthy
    );
    let hot = real().now(throttled(Throttle::Thermal)).view;
    assert_eq!(
        verdict(&hot),
        (DeviceHealth::Degraded, HealthDimension::Thermal, Recovery::Itself)
    );
    let weak = real().now(throttled(Throttle::Current)).view;
    assert_eq!(verdict(&weak).1, HealthDimension::Power);
    // Two findings of one dimension are one reason, the worse.
    let both = Reading {
        temperature: Field::Value(106_000),
        ..throttled(Throttle::Thermal)
    };
    assert_eq!(verdict(&real().now(both).view).0, DeviceHealth::Unhealthy);
}

#[test]
fn a_profile_says_when_its_device_throttles() {
    let mut bench = real();
    bench.found.rules.thermal =
        Some(serde_yaml::from_str("{throttleCelsius: 70, criticalCelsius: 75}").unwrap());
    let hot = bench.now(at(70)).view;
    assert_eq!(
        (hot.health, hot.band),
        (DeviceHealth::Degraded, Some(TemperatureBand::Throttling))
    );
    assert!(hot.reasons[0].message.contains("from 70 °C"), "{hot:?}");
    assert_eq!(bench.now(at(75)).view.health, DeviceHealth::Unhealthy);
}

#[test]
fn a_permanent_fault_says_what_ends_it() {
    let fault = Fault {
        health: DeviceHealth::Unhealthy,
        recovery: Recovery::Reboot,
        text: "has 3 memory errors that cannot be mended".into(),
    };
    let view = real()
        .now(Reading {
            faults: vec![fault],
            ..well()
        })
        .view;
    assert_eq!(
        verdict(&view),
        (DeviceHealth::Unhealthy, HealthDimension::Fault, Recovery::Reboot)
    );
    let gone = real()
        .now(Reading {
            present: Field::Value(false),
            ..well()
        })
        .view;
    assert_eq!(verdict(&gone).2, Recovery::Replug);
}

#[test]
fn a_sensor_that_falls_silent_counts_and_one_that_sleeps_does_not() {
    let silent = || Reading {
        temperature: Field::Absent,
        ..well()
    };
    let mut bench = real();
    assert_eq!(
        bench.now(silent()).view.health,
        DeviceHealth::Healthy,
        "it never told"
    );
    bench.now(well());
    bench.after(GARBAGE_SETTLES, silent());
    assert_eq!(
        bench
            .after(SENSOR_EXPIRES - GARBAGE_SETTLES - MOMENT, silent())
            .view
            .health,
        DeviceHealth::Healthy
    );
    assert_eq!(bench.after(MOMENT, silent()).view.health, DeviceHealth::Degraded);
    let asleep = || Reading {
        telemetry: Telemetry {
            asleep: true,
            ..Telemetry::default()
        },
        ..silent()
    };
    bench.now(asleep());
    assert_eq!(
        bench.after(RECOVERY_STABLE, asleep()).view.health,
        DeviceHealth::Healthy
    );
}
