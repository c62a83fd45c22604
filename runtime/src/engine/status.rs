//! What the engine knows of itself: which variant serves, the device, evidence.

use super::{Engine, IN_FLIGHT, lock};
use crate::chain::{Active, Cause, Reason};
use crate::evidence::{Evidence, VariantEvidence, VariantState};
use crate::metrics::VariantLabels;
use crate::variant::Variant;
use perwatt_device_socket::{DeviceState, Health};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::sync::watch;

impl Engine {
    /// What serves, and every change of it.
    pub fn watch_active(&self) -> watch::Receiver<Active> {
        self.active.subscribe()
    }

    /// What serves now.
    pub fn active(&self) -> Active {
        self.active.borrow().clone()
    }

    /// Why a variant does not serve by itself; nothing while it is well.
    pub fn cause(&self, index: usize) -> Option<Cause> {
        lock(&self.chain).cause(index, Instant::now())
    }

    /// Requests that another variant than the first answered.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Ordering::Relaxed)
    }

    /// Requests at which a sequence lost its state.
    pub fn sequences_restarted(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Takes in what the agent says of the device. Unknown keeps what was known before.
    pub fn device_changed(&self, state: DeviceState) {
        let now = Instant::now();
        let mut chain = lock(&self.chain);
        for (index, slot) in self.slots.iter().enumerate() {
            if slot
                .variant
                .as_ref()
                .is_none_or(|variant| variant.device.is_none())
            {
                continue;
            }
            match state.health() {
                Health::Unhealthy => chain.taint(index, describe(&state)),
                Health::Healthy | Health::Degraded => chain.heal(index, now),
                Health::Unknown => {}
            }
        }
        drop(chain);
        *lock(&self.device) = Some(state);
        self.refresh();
    }

    /// Tells everybody when another variant serves than before; returns when that may change by itself.
    pub fn refresh(&self) -> Option<Instant> {
        let now = Instant::now();
        let (active, next) = {
            let chain = lock(&self.chain);
            (chain.active(now), chain.next_change(now))
        };
        let changed = self.active.send_if_modified(|current| {
            let changed = *current != active;
            if changed {
                current.clone_from(&active);
            }
            changed
        });
        if changed {
            self.show_active(&active);
        }
        next
    }

    /// Shows how long each variant took to load.
    pub fn show_load_times(&self, times: &[std::time::Duration]) {
        for (slot, time) in self.slots.iter().zip(times) {
            let labels = VariantLabels {
                variant: slot.name.clone(),
            };
            self.metrics
                .load_seconds
                .get_or_create(&labels)
                .set(time.as_secs_f64());
        }
    }

    /// Forgets idle sequences and brings gauges up to date.
    pub fn sweep(&self) {
        self.sequences.sweep(Instant::now());
        self.metrics.sequences.set(self.sequences.len() as i64);
        self.metrics
            .in_flight
            .set((IN_FLIGHT - self.admission.available_permits()) as i64);
        for slot in &self.slots {
            let labels = VariantLabels {
                variant: slot.name.clone(),
            };
            let queued = slot.variant.as_ref().map_or(0, Variant::queued);
            self.metrics.queued.get_or_create(&labels).set(queued as i64);
        }
    }

    pub(super) fn show_active(&self, active: &Active) {
        for (index, slot) in self.slots.iter().enumerate() {
            let labels = VariantLabels {
                variant: slot.name.clone(),
            };
            self.metrics
                .active
                .get_or_create(&labels)
                .set(i64::from(active.index == Some(index)));
        }
        let degraded = active.cause.is_some() || self.config.degraded.is_some();
        self.metrics.degraded.set(i64::from(degraded));
        let variant = active
            .index
            .and_then(|i| self.slots.get(i))
            .map(|slot| slot.name.as_str());
        match &active.cause {
            Some(cause) => {
                tracing::warn!(variant, reason = cause.reason.as_str(), message = %cause.message, "degraded");
            }
            None => tracing::info!(variant, "serving from the first variant"),
        }
    }

    /// What the operator pulls.
    pub fn evidence(&self) -> Evidence {
        let active = self.active();
        let slot_reason = || self.config.degraded.as_ref().map(|d| d.reason.clone());
        let reason = active
            .cause
            .as_ref()
            .map(|cause| cause.reason.as_str().to_owned())
            .or_else(slot_reason);
        let variants = (0..self.slots.len()).filter_map(|index| self.variant_evidence(index, &active));
        Evidence {
            schema: 1,
            workload: self.config.workload.clone(),
            revision: self.config.revision.clone(),
            epoch: self.epoch.clone(),
            active_variant: active
                .index
                .and_then(|i| self.slots.get(i))
                .map(|slot| slot.name.clone()),
            degraded: reason.is_some(),
            reason,
            variants: variants.collect(),
            sequences_restarted: self.sequences_restarted(),
            fallbacks: self.fallbacks(),
        }
    }

    fn variant_evidence(&self, index: usize, active: &Active) -> Option<VariantEvidence> {
        let slot = self.slots.get(index)?;
        let cause = self.cause(index);
        let state = match cause.as_ref().map(|cause| cause.reason) {
            Some(Reason::LoadFailed) => VariantState::Failed,
            _ if active.index == Some(index) => VariantState::Active,
            Some(_) => VariantState::Tainted,
            None => VariantState::Standby,
        };
        Some(VariantEvidence {
            name: slot.name.clone(),
            device: slot.variant.as_ref().and_then(|variant| variant.device.clone()),
            engine: slot
                .variant
                .as_ref()
                .map_or_else(String::new, |variant| variant.engine().to_owned()),
            tally: slot.tally.read(),
            state,
            message: cause.map_or_else(String::new, |cause| cause.message),
        })
    }
}

fn describe(state: &DeviceState) -> String {
    let reason = if state.reason.is_empty() {
        "no reason given"
    } else {
        &state.reason
    };
    format!("device {} is unhealthy ({reason}): {}", state.id, state.message)
}
