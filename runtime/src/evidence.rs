//! Cumulative evidence since the start of this process, as the operator pulls it.

use crate::energy::Energy;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest latency that is told apart, in microseconds.
const LONGEST: u64 = 600_000_000;

/// Counts of one variant.
#[derive(Debug)]
pub struct Tally {
    inner: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    requests: u64,
    failures: u64,
    /// Microseconds from a request's last byte to its reply.
    latency: Histogram<u32>,
    microjoules: f64,
    metered: u64,
    meter: Option<(&'static str, bool)>,
}

impl Tally {
    /// No requests yet; nothing where the latency histogram cannot be made.
    pub fn new() -> Option<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 2).ok()?;
        let counts = Counts {
            requests: 0,
            failures: 0,
            latency,
            microjoules: 0.0,
            metered: 0,
            meter: None,
        };
        Some(Self {
            inner: Mutex::new(counts),
        })
    }

    // Nothing panics under this lock, so a poisoned lock holds whole counts.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an answer.
    pub fn answered(&self, latency: Duration, energy: Option<&Energy>) {
        let mut counts = self.lock();
        counts.requests += 1;
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(LONGEST);
        counts.latency.saturating_record(microseconds.clamp(1, LONGEST));
        if let Some(energy) = energy {
            counts.microjoules += energy.microjoules;
            counts.metered += 1;
            counts.meter = Some((energy.source.as_str(), energy.emulated));
        }
    }

    /// Counts a call that gave no answer.
    pub fn failed(&self) {
        let mut counts = self.lock();
        counts.requests += 1;
        counts.failures += 1;
    }

    /// What was counted so far.
    pub fn read(&self) -> TallyReading {
        let counts = self.lock();
        let quantile = |q: f64| counts.latency.value_at_quantile(q) as f64 / 1e6;
        let seconds = |q| {
            if counts.latency.is_empty() {
                0.0
            } else {
                quantile(q)
            }
        };
        TallyReading {
            requests: counts.requests,
            failures: counts.failures,
            latency_seconds: Latency {
                p50: seconds(0.50),
                p95: seconds(0.95),
                p99: seconds(0.99),
                count: counts.latency.len(),
            },
            energy: counts.meter.map(|(source, emulated)| EnergyEvidence {
                microjoules_per_inference: (counts.microjoules / counts.metered.max(1) as f64).round() as u64,
                source,
                emulated,
            }),
        }
    }
}

/// Counts of one variant, as they are shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TallyReading {
    /// Calls, answered or not.
    pub requests: u64,
    /// Calls without an answer.
    pub failures: u64,
    /// From a request's last byte to its reply.
    pub latency_seconds: Latency,
    /// Nothing where no figure exists.
    pub energy: Option<EnergyEvidence>,
}

/// Quantiles of latency.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the names say all
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub count: u64,
}

/// Energy of an inference, on average.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnergyEvidence {
    /// Microjoules.
    pub microjoules_per_inference: u64,
    /// `measured`, `modelled` or `nameplate`.
    pub source: &'static str,
    /// Whether the device is emulated: such a figure is never measured.
    pub emulated: bool,
}

/// One variant in the evidence.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VariantEvidence {
    /// Its name.
    pub name: String,
    /// The device it runs on.
    pub device: Option<String>,
    /// What runs its model; empty where it could not be loaded.
    pub engine: String,
    /// Its counts.
    #[serde(flatten)]
    pub tally: TallyReading,
    /// How it is doing.
    pub state: VariantState,
    /// Why it is not well; empty while it is.
    pub message: String,
}

/// How a variant is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum VariantState {
    /// It serves.
    Active,
    /// It could serve.
    Standby,
    /// Its device is unhealthy or recovering, or its breaker is open.
    Tainted,
    /// It could not be loaded, or the workload forbids it.
    Failed,
}

/// What `GET /evidence` answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Version of this format.
    pub schema: u32,
    /// The workload.
    pub workload: String,
    /// The revision.
    pub revision: String,
    /// Id of this process's start: counts begin anew with another one.
    pub epoch: String,
    /// The variant that serves; nothing when none may.
    pub active_variant: Option<String>,
    /// Whether another than the planned best serves.
    pub degraded: bool,
    /// Why.
    pub reason: Option<String>,
    /// All variants, in the chain's order.
    pub variants: Vec<VariantEvidence>,
    /// Requests at which a sequence lost its state.
    pub sequences_restarted: u64,
    /// Requests that another variant than the first answered.
    pub fallbacks: u64,
    /// Requests that no variant answered, and that got the safe value.
    pub safe_values: u64,
}
