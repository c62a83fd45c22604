use super::*;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A tree with one device.
struct Tree {
    dir: TempDir,
    sysfs: PathBuf,
}

impl Tree {
    fn new(device: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = dir.path().join("sys/devices").join(device);
        fs::create_dir_all(&sysfs).unwrap();
        Self { dir, sysfs }
    }

    /// Writes a file of the device.
    fn has(&self, name: &str, content: &str) -> &Self {
        Self::write(&self.sysfs.join(name), content);
        self
    }

    /// Writes a file of the host.
    fn host(&self, name: &str, content: &str) -> &Self {
        Self::write(&self.dir.path().join(name), content);
        self
    }

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn driver(&self, name: &str) -> &Self {
        std::os::unix::fs::symlink(format!("../../bus/pci/drivers/{name}"), self.sysfs.join("driver"))
            .unwrap();
        self
    }

    fn read(&self) -> Readings {
        read(self.dir.path(), &self.sysfs)
    }
}

#[test]
fn a_device_without_sensors_tells_nothing_and_complains_of_nothing() {
    let readings = Tree::new("pci0000:00/0000:01:00.0").read();
    assert_eq!(
        (readings.temperature, readings.power),
        (Field::Absent, Field::Absent)
    );
    assert_eq!(readings.telemetry, Telemetry::default());
}

#[test]
fn the_hottest_sensor_counts_with_its_own_limit() {
    let tree = Tree::new("pci0000:00/0000:01:00.0");
    tree.has("hwmon/hwmon3/temp1_input", "45000\n")
        .has("hwmon/hwmon3/temp1_crit", "100000\n")
        .has("hwmon/hwmon3/temp2_input", "61000\n")
        .has("hwmon/hwmon3/temp2_crit", "110000\n")
        .has("hwmon/hwmon3/power1_average", "4200000\n")
        .has("hwmon/hwmon3/power1_input", "9900000\n")
        .has("hwmon/hwmon3/energy1_input", "123456789\n");
    let readings = tree.read();
    assert_eq!(readings.temperature, Field::Value(61_000));
    assert_eq!(readings.telemetry.critical_millicelsius, Some(110_000));
    assert_eq!(readings.power, Field::Value(4200));
    let counter = EnergyCounter {
        microjoules: 123_456_789,
        range: None,
    };
    assert_eq!(readings.telemetry.energy, Some(counter));
}

#[test]
fn rails_are_voltage_times_current_and_their_sum_is_not_counted_twice() {
    let tree = Tree::new("platform/17000000.ga10b");
    for (channel, label, millivolts, milliamperes) in [
        (1, "VDD_GPU", "5000", "400"),
        (2, "VDD_SOC", "5000", "100"),
        (7, "sum of shunts", "5000", "500"),
    ] {
        tree.has(&format!("hwmon/hwmon0/in{channel}_label"), label)
            .has(&format!("hwmon/hwmon0/in{channel}_input"), millivolts)
            .has(&format!("hwmon/hwmon0/curr{channel}_input"), milliamperes);
    }
    tree.has("hwmon/hwmon0/in3_input", "12000");
    assert_eq!(tree.read().power, Field::Value(2500));
    let rails = rails(&tree.sysfs.join("hwmon/hwmon0"), &mut Vec::new());
    assert_eq!(
        rails[0],
        Rail {
            label: "VDD_GPU".into(),
            milliwatts: 2000
        }
    );
    assert_eq!(rails.len(), 2);
}

#[test]
fn garbage_is_a_complaint_and_never_a_figure() {
    let tree = Tree::new("pci0000:00/0000:01:00.0");
    for name in [
        "hwmon/hwmon0/temp1_input",
        "hwmon/hwmon0/power1_input",
        "hwmon/hwmon0/energy1_input",
        "npu_busy_time_us",
        "gpu_busy_percent",
        "npu_current_frequency_mhz",
        "mem_info_vram_used",
        "drm/card0/gt/gt0/throttle_reason_pl1",
        "devfreq/x/load",
    ] {
        tree.has(name, "-18446744073709551616 and more");
    }
    let readings = tree.read();
    assert!(matches!(readings.temperature, Field::Invalid(_)));
    assert!(matches!(readings.power, Field::Invalid(_)));
    let telemetry = readings.telemetry;
    assert_eq!(
        (telemetry.energy, telemetry.busy, telemetry.clock_hertz),
        (None, None, None)
    );
    assert_eq!((telemetry.memory, telemetry.throttles), (None, Some(vec![])));
    assert_eq!(telemetry.complaints.len(), MOST_COMPLAINTS);
}

#[test]
fn a_sleeping_device_is_not_woken_by_reading_it() {
    let tree = Tree::new("pci0000:00/0000:00:0b.0");
    tree.has("power/runtime_status", "suspended\n")
        .has("hwmon/hwmon0/temp1_input", "45000")
        .has("npu_busy_time_us", "10");
    let readings = tree.read();
    assert!(readings.telemetry.asleep);
    assert_eq!(
        (readings.temperature, readings.telemetry.busy),
        (Field::Absent, None)
    );
}

#[test]
fn intel_npu_and_gpus_amd_coral_and_rockchip_tell_in_their_own_ways() {
    let npu = Tree::new("pci0000:00/0000:00:0b.0");
    npu.has("npu_busy_time_us", "2500000")
        .has("npu_current_frequency_mhz", "1400")
        .has("npu_max_frequency_mhz", "1950")
        .has("npu_memory_utilization", "1048576");
    let telemetry = npu.read().telemetry;
    assert_eq!(telemetry.busy, Some(Busy::Microseconds(2_500_000)));
    assert_eq!(
        (telemetry.clock_hertz, telemetry.clock_limit_hertz),
        (Some(1_400_000_000), Some(1_950_000_000))
    );
    assert_eq!(
        telemetry.memory,
        Some(Memory {
            used: 1 << 20,
            total: None
        })
    );

    let gpu = Tree::new("pci0000:00/0000:00:02.0");
    gpu.driver("i915")
        .has("drm/card0/gt_act_freq_mhz", "300")
        .has("drm/card0/gt/gt0/throttle_reason_status", "1")
        .has("drm/card0/gt/gt0/throttle_reason_pl1", "1")
        .has("drm/card0/gt/gt0/throttle_reason_thermal", "0")
        .host("sys/class/powercap/intel-rapl:0/name", "package-0")
        .host("sys/class/powercap/intel-rapl:0:1/name", "uncore")
        .host("sys/class/powercap/intel-rapl:0:1/energy_uj", "42")
        .host(
            "sys/class/powercap/intel-rapl:0:1/max_energy_range_uj",
            "262143328850",
        );
    let telemetry = gpu.read().telemetry;
    assert_eq!(telemetry.throttles, Some(vec![Throttle::Power]));
    assert_eq!(
        telemetry.energy,
        Some(EnergyCounter {
            microjoules: 42,
            range: Some(262_143_328_850)
        })
    );

    let xe = Tree::new("pci0000:00/0000:03:00.0");
    xe.has("tile0/gt0/freq0/act_freq", "1200")
        .has("tile0/gt0/freq0/rp0_freq", "2400")
        .has("tile0/gt0/freq0/throttle/status", "1")
        .has("tile0/gt0/freq0/throttle/reason_thermal", "1");
    let telemetry = xe.read().telemetry;
    assert_eq!(telemetry.throttles, Some(vec![Throttle::Thermal]));
    assert_eq!(telemetry.clock_hertz, Some(1_200_000_000));

    let amd = Tree::new("pci0000:00/0000:04:00.0");
    amd.has("gpu_busy_percent", "37")
        .has("mem_info_vram_used", "5")
        .has("mem_info_vram_total", "9");
    let telemetry = amd.read().telemetry;
    assert_eq!(telemetry.busy, Some(Busy::Permille(370)));
    assert_eq!(
        telemetry.memory,
        Some(Memory {
            used: 5,
            total: Some(9)
        })
    );

    let coral = Tree::new("pci0000:00/0000:05:00.0");
    coral.has("apex/apex_0/temp", "47300");
    assert_eq!(coral.read().temperature, Field::Value(47_300));

    let rockchip = Tree::new("platform/fdab0000.npu");
    rockchip
        .has("devfreq/fdab0000.npu/load", "23@1000000000Hz\n")
        .has("devfreq/fdab0000.npu/cur_freq", "1000000000\n")
        .host("sys/class/thermal/thermal_zone0/type", "soc-thermal")
        .host("sys/class/thermal/thermal_zone0/temp", "1000")
        .host("sys/class/thermal/thermal_zone5/type", "npu-thermal")
        .host("sys/class/thermal/thermal_zone5/temp", "51000");
    let readings = rockchip.read();
    assert_eq!(readings.temperature, Field::Value(51_000));
    assert_eq!(readings.telemetry.busy, Some(Busy::Permille(230)));
}
