//! Books an answer: in the chain, in metrics, in evidence.

use super::attempt::Miss;
use super::{Answer, Done, Engine, Query, lock};
use crate::chain::{Cause, Reason};
use crate::energy::Energy;
use crate::metrics::{EnergyLabels, VariantLabels};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Engine {
    /// Books an answer: a variant that missed is to blame only now that another one answered.
    pub(super) fn conclude(&self, query: &Query, done: Done, misses: Vec<Miss>) -> Answer {
        let now = Instant::now();
        {
            let mut chain = lock(&self.chain);
            for miss in misses.iter().filter(|miss| miss.counts) {
                chain.failed(miss.index, miss.message.clone(), miss.began, now);
            }
            chain.succeeded(done.index, done.found.began, now);
        }
        // A device that became unhealthy in the middle of a call is no failure of the variant.
        let failed = misses
            .iter()
            .filter(|miss| miss.reason != Reason::DeviceUnhealthy);
        for slot in failed.filter_map(|miss| self.slots.get(miss.index)) {
            slot.tally.failed();
        }
        self.refresh();
        let missed = misses.into_iter().find(|miss| miss.index == 0);
        let missed =
            missed.map(|miss| Cause::new(miss.reason, format!("{}: {}", self.name(0), miss.message)));
        // One of the two is there: a variant that is well comes first and is tried first.
        let cause = if done.index == 0 {
            None
        } else {
            missed.or_else(|| done.first_cause.clone())
        };
        let energy = self.energy(done.index, done.found.took);
        let latency = now.saturating_duration_since(query.arrived);
        self.count(&done, latency, energy.as_ref(), cause.as_ref());
        let slot_degraded = || self.config.degraded.clone().map(|d| (d.reason, d.message));
        let Done {
            index,
            found,
            sequence_restarted,
            ..
        } = done;
        let degraded = cause
            .map(|c| (c.reason.as_str().to_owned(), c.message))
            .or(found.degraded)
            .or_else(slot_degraded);
        Answer {
            outputs: found.outputs,
            variant: Some(index),
            safe_value: false,
            degraded,
            sequence_restarted,
            latency,
            energy,
        }
    }

    fn count(&self, done: &Done, latency: Duration, energy: Option<&Energy>, cause: Option<&Cause>) {
        let Some(slot) = self.slots.get(done.index) else {
            return;
        };
        slot.tally.answered(latency, energy);
        let labels = VariantLabels {
            variant: slot.name.clone(),
        };
        self.metrics
            .request_seconds
            .get_or_create(&labels)
            .observe(latency.as_secs_f64());
        self.metrics
            .inference_seconds
            .get_or_create(&labels)
            .observe(done.found.took.as_secs_f64());
        if let Some(energy) = energy {
            let labels = EnergyLabels {
                variant: slot.name.clone(),
                source: energy.label(),
            };
            self.metrics
                .energy_joules
                .get_or_create(&labels)
                .inc_by(energy.microjoules / 1e6);
        }
        if done.index != 0 {
            self.fallbacks.fetch_add(1, Ordering::Relaxed);
            if let Some(cause) = cause {
                self.metrics.count_fallback(&slot.name, cause.reason);
            }
        }
        if done.sequence_restarted {
            self.restarts.fetch_add(1, Ordering::Relaxed);
            self.metrics.sequences_restarted.inc();
        }
    }

    fn energy(&self, index: usize, took: Duration) -> Option<Energy> {
        let on_device = self.slots.get(index)?.device().is_some();
        let device = lock(&self.device);
        on_device.then(|| Energy::of(device.as_ref()?, took)).flatten()
    }
}
