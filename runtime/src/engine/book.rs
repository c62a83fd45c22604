//! Books an answer: in the chain, in metrics, in evidence.

use super::attempt::Miss;
use super::{Answer, Done, Engine, Query, lock};
use crate::chain::{Cause, Reason};
use crate::energy::Energy;
use crate::telemetry::Served;
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
        let failed = |miss: &&Miss| miss.reason != Reason::DeviceUnhealthy;
        for miss in misses.iter().filter(failed) {
            self.telemetry.failed(miss.index);
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
        // Requests that one call answered share its energy.
        let share = u32::try_from(done.found.together).unwrap_or(u32::MAX).max(1);
        let energy = self.energy(done.index, done.found.stages.inference / share);
        let latency = now.saturating_duration_since(query.arrived);
        let served = Served {
            variant: done.index,
            outputs: &done.found.outputs,
            latency,
            stages: done.found.stages,
            energy: energy.as_ref(),
            fallback: cause.as_ref().map(|cause| cause.reason),
            late: now > query.deadline,
            sequence_restarted: done.sequence_restarted,
        };
        self.telemetry.answered(&self.metrics, &served);
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
            stages: found.stages,
            energy,
        }
    }

    fn energy(&self, index: usize, took: Duration) -> Option<Energy> {
        let on_device = self.slots.get(index)?.device().is_some();
        let device = lock(&self.device);
        on_device.then(|| Energy::of(device.as_ref()?, took)).flatten()
    }
}
