//! Metrics of what sensors tell and what it adds up to: filled from the shared picture at each
//! scrape, so that a device that is gone leaves no series behind.
//!
//! Labels are bounded: devices by what a node has, pods by the few that are remembered of each.

use super::FloatGauge;
use crate::state::Device;
use crate::telemetry::{FigureSource, Throttle};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use perwatt_crds::HardwareProfileSpec;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

type FloatCounter = Counter<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FigureLabels {
    device: String,
    profile: String,
    source: &'static str,
    emulated: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabels {
    device: String,
    profile: String,
    emulated: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ThrottleLabels {
    device: String,
    profile: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodLabels {
    device: String,
    profile: String,
    namespace: String,
    pod: String,
    workload: String,
    source: &'static str,
    emulated: &'static str,
}

/// Everything that changes with every sample.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    temperature: Family<FigureLabels, FloatGauge>,
    power: Family<FigureLabels, FloatGauge>,
    utilisation: Family<FigureLabels, FloatGauge>,
    clock: Family<FigureLabels, FloatGauge>,
    clock_limit: Family<FigureLabels, FloatGauge>,
    memory_used: Family<FigureLabels, FloatGauge>,
    memory: Family<FigureLabels, FloatGauge>,
    throttled: Family<ThrottleLabels, Gauge>,
    energy: Family<FigureLabels, FloatCounter>,
    above_idle: Family<DeviceLabels, FloatCounter>,
    unobserved: Family<DeviceLabels, FloatCounter>,
    asleep: Family<DeviceLabels, FloatCounter>,
    pod_energy: Family<PodLabels, FloatCounter>,
}

impl Figures {
    pub(super) fn register(&self, registry: &mut Registry) {
        let gauges = [
            (
                "device_temperature_celsius",
                "Temperature of a device",
                &self.temperature,
            ),
            ("device_power_watts", "Power of a device", &self.power),
            (
                "device_utilisation_ratio",
                "How busy a device is, from 0 to 1",
                &self.utilisation,
            ),
            ("device_clock_hertz", "Clock of a device", &self.clock),
            (
                "device_clock_limit_hertz",
                "The fastest clock of a device",
                &self.clock_limit,
            ),
            (
                "device_memory_used_bytes",
                "Memory of a device in use",
                &self.memory_used,
            ),
            ("device_memory_bytes", "Memory of a device", &self.memory),
        ];
        for (name, help, family) in gauges {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "device_throttled",
            "1 while a device is slowed down for this reason",
            self.throttled.clone(),
        );
        registry.register(
            "device_energy_joules",
            "Energy that a device drew",
            self.energy.clone(),
        );
        let counters = [
            (
                "device_energy_above_idle_joules",
                "The part of it above what the device draws without work",
                &self.above_idle,
            ),
            (
                "device_energy_unobserved_seconds",
                "Time whose energy is in no sum, for nobody saw it",
                &self.unobserved,
            ),
            (
                "device_asleep_seconds",
                "Time that a device was asleep",
                &self.asleep,
            ),
        ];
        for (name, help, family) in counters {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "device_pod_energy_joules",
            "Energy that a device drew while a pod held it",
            self.pod_energy.clone(),
        );
    }

    pub(super) fn clear(&self) {
        let gauges = [
            &self.temperature,
            &self.power,
            &self.utilisation,
            &self.clock,
            &self.clock_limit,
            &self.memory_used,
            &self.memory,
        ];
        gauges.into_iter().for_each(Family::clear);
        self.throttled.clear();
        self.energy.clear();
        self.above_idle.clear();
        self.unobserved.clear();
        self.asleep.clear();
        self.pod_energy.clear();
    }

    pub(super) fn fill(&self, device: &Device) {
        self.fill_gauges(device);
        self.fill_energy(device);
        self.fill_pods(device);
    }

    // Bytes and hertz lose nothing that anybody looks at.
    #[allow(clippy::cast_precision_loss)]
    fn fill_gauges(&self, device: &Device) {
        let (found, view, figures) = (&device.found, &device.view, &device.view.figures);
        let set = |family: &Family<FigureLabels, FloatGauge>, value: Option<f64>, source: FigureSource| {
            if let Some(value) = value {
                family.get_or_create(&labels(device, source)).set(value);
            }
        };
        let told = if found.emulated {
            FigureSource::Modelled
        } else {
            figures.source
        };
        let milli = |value: f64| value / 1000.0;
        set(
            &self.temperature,
            view.millicelsius.map(|value| milli(value.into())),
            told,
        );
        let nameplate = found
            .power
            .typical_milliwatts
            .map(|figure| (figure, FigureSource::Nameplate));
        let power = figures
            .power
            .or(view.milliwatts.map(|figure| (figure, told)))
            .or(nameplate);
        if let Some((milliwatts, source)) = power {
            set(&self.power, Some(milli(milliwatts.into())), source);
        }
        set(
            &self.utilisation,
            figures.utilisation_permille.map(|value| milli(value.into())),
            told,
        );
        set(&self.clock, figures.clock_hertz.map(|value| value as f64), told);
        set(
            &self.clock_limit,
            figures.clock_limit_hertz.map(|value| value as f64),
            told,
        );
        set(
            &self.memory_used,
            figures.memory.map(|memory| memory.used as f64),
            told,
        );
        let total = figures.memory.and_then(|memory| memory.total);
        set(&self.memory, total.map(|value| value as f64), told);
        for reason in Throttle::ALL {
            let Some(throttles) = &figures.throttles else {
                break;
            };
            let labels = ThrottleLabels {
                device: found.id.clone(),
                profile: found.profile.clone(),
                reason: reason.as_str(),
            };
            let throttled = throttles.contains(&reason);
            self.throttled.get_or_create(&labels).set(i64::from(throttled));
        }
    }

    fn fill_energy(&self, device: &Device) {
        let energy = &device.view.figures.energy;
        for source in FigureSource::ALL {
            let joules = energy.joules(source);
            if joules > 0.0 {
                self.energy.get_or_create(&labels(device, source)).inc_by(joules);
            }
        }
        let labels = DeviceLabels {
            device: device.found.id.clone(),
            profile: device.found.profile.clone(),
            emulated: truth(device.found.emulated),
        };
        if device.found.power.idle_milliwatts.is_some() && !energy.is_empty() {
            self.above_idle
                .get_or_create(&labels)
                .inc_by(energy.joules_above_idle());
        }
        self.unobserved
            .get_or_create(&labels)
            .inc_by(energy.unobserved.as_secs_f64());
        self.asleep
            .get_or_create(&labels)
            .inc_by(energy.asleep.as_secs_f64());
    }

    /// The workload is what the runtime on the device said, where it is of the pod's namespace.
    fn fill_pods(&self, device: &Device) {
        for (pod, energy) in device.holders.energy() {
            let report = device
                .report
                .as_ref()
                .filter(|report| report.namespace == pod.namespace && device.holders.first() == Some(pod));
            for source in FigureSource::ALL {
                let joules = energy.joules(source);
                if joules > 0.0 {
                    let labels = PodLabels {
                        device: device.found.id.clone(),
                        profile: device.found.profile.clone(),
                        namespace: pod.namespace.clone(),
                        pod: pod.name.clone(),
                        workload: report.map(|report| report.workload.clone()).unwrap_or_default(),
                        source: source.as_str(),
                        emulated: truth(device.found.emulated),
                    };
                    self.pod_energy.get_or_create(&labels).inc_by(joules);
                }
            }
        }
    }
}

fn labels(device: &Device, source: FigureSource) -> FigureLabels {
    FigureLabels {
        device: device.found.id.clone(),
        profile: device.found.profile.clone(),
        source: source.as_str(),
        emulated: truth(device.found.emulated),
    }
}

fn truth(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

/// The end, in seconds of Unix time, of the last day on which a profile is supported.
pub(super) fn support_ends(spec: &HardwareProfileSpec) -> Option<i64> {
    let day: Date = spec.lifecycle.as_ref()?.supported_until.as_ref()?.parse().ok()?;
    let end = day.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(end.timestamp().as_second())
}
