//! Whatever the files of a device hold, reading them ends, and says of garbage that it is garbage.

// A test that cannot go on ends; its helpers are not tests in the eyes of the lints.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use perwatt_device_plugin::discovery::{Field, Reading};
use perwatt_device_plugin::telemetry::drm;
use perwatt_device_plugin::{firmware, telemetry};
use proptest::prelude::*;
use std::path::Path;

/// Every file that a reader opens, below the host's root.
const FILES: [&str; 30] = [
    "sys/devices/x.npu/power/runtime_status",
    "sys/devices/x.npu/hwmon/hwmon0/temp1_input",
    "sys/devices/x.npu/hwmon/hwmon0/temp1_crit",
    "sys/devices/x.npu/hwmon/hwmon0/power1_average",
    "sys/devices/x.npu/hwmon/hwmon0/energy1_input",
    "sys/devices/x.npu/hwmon/hwmon1/in1_input",
    "sys/devices/x.npu/hwmon/hwmon1/in1_label",
    "sys/devices/x.npu/hwmon/hwmon1/curr1_input",
    "sys/devices/x.npu/npu_busy_time_us",
    "sys/devices/x.npu/npu_current_frequency_mhz",
    "sys/devices/x.npu/npu_memory_utilization",
    "sys/devices/x.npu/gpu_busy_percent",
    "sys/devices/x.npu/devfreq/x.npu/load",
    "sys/devices/x.npu/devfreq/x.npu/cur_freq",
    "sys/devices/x.npu/mem_info_vram_used",
    "sys/devices/x.npu/drm/card0/gt/gt0/throttle_reason_thermal",
    "sys/devices/x.npu/tile0/gt0/freq0/act_freq",
    "sys/devices/x.npu/apex/apex_0/temp",
    "sys/devices/x.npu/apex/apex_0/driver_version",
    "sys/devices/x.npu/aer_dev_fatal",
    "sys/devices/x.npu/aer_dev_nonfatal",
    "sys/devices/x.npu/aer_dev_correctable",
    "sys/devices/x.npu/max_link_width",
    "sys/devices/x.npu/current_link_width",
    "sys/devices/x.npu/max_link_speed",
    "sys/devices/x.npu/current_link_speed",
    "sys/devices/x.npu/fw_version",
    "sys/class/thermal/thermal_zone0/temp",
    "etc/nv_tegra_release",
    "proc/7/fdinfo/3",
];

/// Right values, values at the edge, and bytes.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        "[0-9.@Hz/s x-]{0,12}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..64),
        Just(vec![b'9'; 10_000]),
        "TOTAL_ERR_(FATAL|NONFATAL|COR) [0-9]{0,30}\n".prop_map(String::into_bytes),
        "drm-pdev:\ta\ndrm-client-id:\t[0-9]{0,30}\ndrm-engine-x:\t[0-9]{0,30} ns\n"
            .prop_map(String::into_bytes),
    ]
}

fn write(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_garbage_ends(contents in prop::collection::vec(content(), FILES.len())) {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in FILES.iter().zip(&contents) {
            write(&dir.path().join(name), content);
        }
        write(&dir.path().join("sys/class/thermal/thermal_zone0/type"), b"npu-thermal\n");
        let sysfs = dir.path().join("sys/devices/x.npu");
        let reading = Reading::of_sysfs(dir.path(), &sysfs, Ok((1, 3)));
        if let Field::Value(millicelsius) = reading.temperature {
            prop_assert!((-60_000..=250_000).contains(&millicelsius));
        }
        if let Field::Value(milliwatts) = reading.power {
            prop_assert!(milliwatts <= 2_000_000);
        }
        if let Field::Value(version) = &reading.firmware {
            prop_assert!(version.chars().count() <= 64 && !version.chars().any(char::is_control));
        }
        let complaints = reading.telemetry.complaints.iter().chain(&reading.bus.complaints);
        for complaint in complaints {
            prop_assert!(complaint.len() < 1024, "{complaint}");
        }
        let _ = (firmware::release(dir.path()), drm::clients(&dir.path().join("proc"), "a"));
        let _ = telemetry::domain(dir.path(), "uncore");
    }
}
