//! The agent's Prometheus metrics. Each is listed in `docs/metrics.md`; a test holds it so.

mod figures;

use crate::state::{Node, Shared};
use figures::Figures;
use perwatt_crds::inventory::DeviceHealth;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use std::sync::{Mutex, PoisonError};

type FloatGauge = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    device: String,
    profile: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProfileLabels {
    profile: String,
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// It worked.
    Success,
    /// It did not.
    Failure,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RegistrationLabels {
    profile: String,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: Outcome,
}

/// Counters that parts of the agent raise, and gauges filled from the shared picture.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Held while gauges are filled and read: of two scrapes at once one waits.
    scrape: Arc<Mutex<()>>,
    health: Family<HealthLabels, Gauge>,
    figures: Figures,
    support: Family<ProfileLabels, Gauge>,
    usable: Family<ProfileLabels, Gauge>,
    registrations: Family<RegistrationLabels, Counter>,
    allocations: Family<ProfileLabels, Counter>,
    inventory_writes: Family<OutcomeLabels, Counter>,
    api_watch: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("perwatt");
        let mut metrics = Self {
            registry: Arc::default(),
            scrape: Arc::default(),
            health: Family::default(),
            figures: Figures::default(),
            support: Family::default(),
            usable: Family::default(),
            registrations: Family::default(),
            allocations: Family::default(),
            inventory_writes: Family::default(),
            api_watch: Gauge::default(),
        };
        metrics.register(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "device_health",
            "1 for the state that a device is in, 0 for the others",
            self.health.clone(),
        );
        self.figures.register(registry);
        registry.register(
            "profile_supported_until_timestamp_seconds",
            "End of the last day on which the maker supports devices of a profile",
            self.support.clone(),
        );
        registry.register(
            "device_usable",
            "Devices that the kubelet may give to pods",
            self.usable.clone(),
        );
        registry.register(
            "kubelet_registrations",
            "Registrations with the kubelet",
            self.registrations.clone(),
        );
        registry.register(
            "device_allocations",
            "Devices given to containers",
            self.allocations.clone(),
        );
        registry.register(
            "inventory_writes",
            "Writes of the DeviceInventory",
            self.inventory_writes.clone(),
        );
        registry.register(
            "api_watch_up",
            "1 while the API server answers the agent's watches",
            self.api_watch.clone(),
        );
    }

    /// A try to register with the kubelet.
    pub fn registered(&self, profile: &str, outcome: Outcome) {
        self.registrations
            .get_or_create(&RegistrationLabels {
                profile: profile.to_owned(),
                outcome,
            })
            .inc();
    }

    /// Devices of a profile were given to containers.
    pub fn allocated(&self, profile: &str, devices: usize) {
        self.allocations
            .get_or_create(&ProfileLabels {
                profile: profile.to_owned(),
            })
            .inc_by(devices as u64);
    }

    /// A try to write the inventory.
    pub fn wrote_inventory(&self, outcome: Outcome) {
        self.inventory_writes
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// Whether the API server answers.
    pub fn api_watch(&self, up: bool) {
        self.api_watch.set(i64::from(up));
    }

    /// Everything in the text format of Prometheus.
    ///
    /// # Errors
    /// Never in practice: the text is written to memory.
    pub fn render(&self, shared: &Shared) -> Result<String, std::fmt::Error> {
        let _scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(&shared.now());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Devices that are gone must leave no series behind, so the gauges start empty each time.
    fn fill(&self, node: &Node) {
        self.health.clear();
        self.figures.clear();
        self.support.clear();
        self.usable.clear();
        for (profile, spec) in &node.profiles {
            let usable = node
                .devices_of(profile)
                .filter(|device| device.view.usable)
                .count();
            let labels = ProfileLabels {
                profile: profile.clone(),
            };
            self.usable
                .get_or_create(&labels)
                .set(i64::try_from(usable).unwrap_or(i64::MAX));
            if let Some(end) = figures::support_ends(spec) {
                self.support.get_or_create(&labels).set(end);
            }
        }
        for device in node.devices.values() {
            self.fill_device(device);
        }
    }

    fn fill_device(&self, device: &crate::state::Device) {
        use DeviceHealth::{Degraded, Healthy, Unhealthy, Unknown};
        let (found, view) = (&device.found, &device.view);
        for health in [Healthy, Degraded, Unhealthy, Unknown] {
            let labels = HealthLabels {
                device: found.id.clone(),
                profile: found.profile.clone(),
                state: health.as_str(),
            };
            self.health
                .get_or_create(&labels)
                .set(i64::from(health == view.health));
        }
        self.figures.fill(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::energy::meter::Meter;
    use crate::fixtures;
    use crate::paths::Paths;
    use crate::telemetry::{Busy, Memory, Throttle};
    use perwatt_crds::inventory::PodRef;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::Duration;

    /// A device that tells all there is, held by a pod, and looked at twice.
    fn node() -> Node {
        let mut node = fixtures::node(&Paths::below(Path::new("/nowhere")));
        let spec = serde_json::json!({
            "class": "ASIC", "discovery": {"emulated": {"count": 1}},
            "lifecycle": {"supportedUntil": "2031-12-31"}
        });
        node.profiles
            .insert("chip".into(), Arc::new(serde_json::from_value(spec).unwrap()));
        let device = node.devices.get_mut("chip-0").unwrap();
        Arc::make_mut(&mut device.found).power.idle_milliwatts = Some(500);
        let mut reading = fixtures::well();
        reading.power = crate::discovery::Field::Value(2000);
        reading.telemetry.busy = Some(Busy::Permille(250));
        reading.telemetry.clock_hertz = Some(1_000_000_000);
        reading.telemetry.clock_limit_hertz = Some(2_000_000_000);
        reading.telemetry.memory = Some(Memory {
            used: 1,
            total: Some(2),
        });
        reading.telemetry.throttles = Some(vec![Throttle::Power]);
        let mut meter = Meter::default();
        meter.take(&device.found, &reading, Duration::ZERO);
        device.view.figures = meter.take(&device.found, &reading, Duration::from_secs(10));
        device.holders.set(vec![PodRef {
            namespace: "audio".into(),
            name: "gate-1".into(),
        }]);
        device.holders.attribute(&device.view.figures.energy);
        node
    }

    fn rendered() -> String {
        let (metrics, shared) = (Metrics::default(), Shared::default());
        shared.replace(node());
        metrics.render(&shared).unwrap();
        metrics.registered("chip", Outcome::Success);
        metrics.allocated("chip", 1);
        metrics.wrote_inventory(Outcome::Failure);
        metrics.render(&shared).unwrap()
    }

    #[test]
    fn figures_name_their_source() {
        let text = rendered();
        for line in [
            "perwatt_device_health{device=\"chip-0\",profile=\"chip\",state=\"Healthy\"} 1",
            "perwatt_device_health{device=\"chip-0\",profile=\"chip\",state=\"Unhealthy\"} 0",
            "perwatt_device_temperature_celsius{device=\"chip-0\",profile=\"chip\",source=\"modelled\",emulated=\"true\"} 40.0",
            "perwatt_device_power_watts{device=\"chip-0\",profile=\"chip\",source=\"modelled\",emulated=\"true\"} 2.0",
            // Two scrapes count nothing twice.
            "perwatt_device_energy_joules_total{device=\"chip-0\",profile=\"chip\",source=\"modelled\",emulated=\"true\"} 20.0",
            "perwatt_device_energy_above_idle_joules_total{device=\"chip-0\",profile=\"chip\",emulated=\"true\"} 15.0",
            "perwatt_device_pod_energy_joules_total{device=\"chip-0\",profile=\"chip\",namespace=\"audio\",pod=\"gate-1\",workload=\"\",source=\"modelled\",emulated=\"true\"} 20.0",
            "perwatt_device_utilisation_ratio{device=\"chip-0\",profile=\"chip\",source=\"modelled\",emulated=\"true\"} 0.25",
            "perwatt_device_throttled{device=\"chip-0\",profile=\"chip\",reason=\"power\"} 1",
            "perwatt_device_throttled{device=\"chip-0\",profile=\"chip\",reason=\"thermal\"} 0",
            "perwatt_profile_supported_until_timestamp_seconds{profile=\"chip\"} 1956528000",
            "perwatt_kubelet_registrations_total{profile=\"chip\",outcome=\"Success\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_metric_is_documented() {
        let docs = include_str!("../../docs/metrics.md");
        let (_, docs) = docs.split_once("## Node agent").unwrap();
        let listed: BTreeSet<_> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let text = rendered();
        let names: BTreeSet<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        assert_eq!(names, listed, "docs/metrics.md and the program differ");
    }
}
