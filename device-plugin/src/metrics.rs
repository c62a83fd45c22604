//! The agent's Prometheus metrics. Each is listed in `docs/agent.md`; a test holds it so.

use crate::state::{Node, Shared};
use perwatt_crds::inventory::DeviceHealth;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

type FloatGauge = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    device: String,
    profile: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FigureLabels {
    device: String,
    profile: String,
    source: &'static str,
    emulated: &'static str,
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
    health: Family<HealthLabels, Gauge>,
    temperature: Family<FigureLabels, FloatGauge>,
    power: Family<FigureLabels, FloatGauge>,
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
            health: Family::default(),
            temperature: Family::default(),
            power: Family::default(),
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
        registry.register(
            "device_temperature_celsius",
            "Temperature of a device",
            self.temperature.clone(),
        );
        registry.register("device_power_watts", "Power of a device", self.power.clone());
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
        self.fill(&shared.now());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Devices that are gone must leave no series behind, so the gauges start empty each time.
    fn fill(&self, node: &Node) {
        self.health.clear();
        self.temperature.clear();
        self.power.clear();
        self.usable.clear();
        for profile in node.profiles.keys() {
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
        let labels = |source| FigureLabels {
            device: found.id.clone(),
            profile: found.profile.clone(),
            source,
            emulated: if found.emulated { "true" } else { "false" },
        };
        let told = if found.emulated { "modelled" } else { "measured" };
        if let Some(millicelsius) = view.millicelsius {
            self.temperature
                .get_or_create(&labels(told))
                .set(f64::from(millicelsius) / 1000.0);
        }
        let nameplate = found.power.typical_milliwatts.map(|figure| (figure, "nameplate"));
        if let Some((milliwatts, source)) = view.milliwatts.map(|figure| (figure, told)).or(nameplate) {
            self.power
                .get_or_create(&labels(source))
                .set(f64::from(milliwatts) / 1000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::paths::Paths;
    use std::path::Path;

    fn rendered() -> String {
        let (metrics, shared) = (Metrics::default(), Shared::default());
        shared.replace(fixtures::node(&Paths::below(Path::new("/nowhere"))));
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
            "perwatt_device_power_watts{device=\"chip-0\",profile=\"chip\",source=\"nameplate\",emulated=\"true\"} 2.5",
            "perwatt_kubelet_registrations_total{profile=\"chip\",outcome=\"Success\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_metric_is_documented() {
        let docs = include_str!("../../docs/agent.md");
        let text = rendered();
        let names = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        for (name, kind) in names {
            let name = if kind == "counter" {
                format!("{name}_total")
            } else {
                name.to_owned()
            };
            assert!(
                docs.contains(&format!("`{name}`")),
                "docs/agent.md does not list {name}"
            );
        }
    }
}
