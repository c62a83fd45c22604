//! What the engine knows of itself: which variant serves, the device, evidence.

use super::{Answer, Engine, IN_FLIGHT, InferError, Slot, lock};
use crate::chain::{Active, Cause, Reason};
use crate::evidence::{Epoch, Evidence, SCHEMA, VariantEvidence, VariantState};
use crate::metrics::{Purpose, VariantLabels};
use crate::rollout::reading::Reading;
use crate::rollout::turns::TurnRing;
use crate::sequence::SequenceId;
use crate::state::{Found, Saved};
use crate::variant::Variant;
use perwatt_device_socket::{DeviceState, Health};
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

    /// Takes in what the agent says of the device. Unknown keeps what was known before; figures
    /// alone, which come with every sample, change nothing of what serves.
    pub fn device_changed(&self, state: DeviceState) {
        // Held meanwhile, so that a variant that is adopted now is judged by this state too, or after it.
        let mut device = lock(&self.device);
        let is_news = device
            .as_ref()
            .is_none_or(|before| !says_the_same(before, &state));
        if is_news {
            self.judge_device(&state);
        }
        *device = Some(state);
        drop(device);
        if is_news {
            self.refresh();
        }
    }

    /// What the device's state means for the variants on it.
    fn judge_device(&self, state: &DeviceState) {
        let now = Instant::now();
        let mut chain = lock(&self.chain);
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.device().is_none() {
                continue;
            }
            match state.health() {
                Health::Unhealthy => chain.taint(index, describe(state)),
                Health::Healthy | Health::Degraded => chain.heal(index, now),
                Health::Unknown => {}
            }
            chain.leave(index, state.going_away.then(|| describe_leaving(state)));
        }
    }

    /// Whether the agent said the same of the device's health, and of its going away, before.
    pub fn is_told_already(&self, state: &DeviceState) -> bool {
        let device = lock(&self.device);
        device.as_ref().is_some_and(|before| says_the_same(before, state))
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

    /// Takes in a variant that was loaded after the start.
    pub fn adopt(&self, index: usize, variant: Variant) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        if slot.variant.set(variant).is_err() {
            return;
        }
        self.watch_sent(index);
        self.telemetry.claim(index, slot.device());
        lock(&self.chain).loaded(index);
        // What the agent said so far holds for this variant too.
        let device = lock(&self.device);
        device.iter().for_each(|state| self.judge_device(state));
        drop(device);
        self.refresh();
    }

    /// A variant could not be loaded, now for another reason than before.
    pub fn still_not_loaded(&self, index: usize, error: String) {
        lock(&self.chain).load_failed(index, error);
        self.refresh();
    }

    /// Places of variants that may serve and are not loaded.
    pub fn not_loaded(&self) -> Vec<usize> {
        let allowed = |index: &usize| {
            let spec = self.config.variants.get(*index);
            spec.is_some_and(|spec| self.config.check_allowed(spec, &self.manifest).is_none())
        };
        let missing = self
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.variant().is_none());
        missing.map(|(index, _)| index).filter(allowed).collect()
    }

    /// Counts what a server off the node is sent.
    pub(super) fn watch_sent(&self, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let server = slot.variant().and_then(Variant::server);
        if let Some(server) = server.filter(|server| !server.is_on_node()) {
            server.count_sent(self.metrics.egress(Purpose::Relay, &slot.name));
        }
    }

    /// Gives up threads that hang, and replaces them while few do. Gives a message when only a restart
    /// helps: every thread of a variant hangs, and no other variant can serve.
    pub fn mend(&self) -> Option<String> {
        let now = Instant::now();
        let mut stuck = None;
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(variant) = slot.variant() else {
                continue;
            };
            let hung = variant.mend(now);
            self.metrics.show_hung(&slot.name, hung.threads);
            let message = hung.all.then(|| {
                format!(
                    "{} calls hang, and no thread is left: only a restart helps",
                    hung.threads
                )
            });
            if let Some(message) = &message {
                stuck = Some(format!("{}: {message}", slot.name));
            }
            lock(&self.chain).hung(index, message);
        }
        self.refresh();
        stuck.filter(|_| self.active().index.is_none())
    }

    /// Shows how long each variant took to load.
    pub fn show_load_times(&self, times: &[std::time::Duration]) {
        for (index, time) in times.iter().enumerate() {
            self.show_load_time(index, *time);
        }
    }

    /// Shows how long a variant took to load.
    pub fn show_load_time(&self, index: usize, time: std::time::Duration) {
        let labels = VariantLabels::of(self.name(index));
        self.metrics
            .load_seconds
            .get_or_create(&labels)
            .set(time.as_secs_f64());
    }

    /// Forgets idle sequences, gives up threads that hang, and brings gauges up to date.
    pub fn sweep(&self) {
        self.mend();
        self.telemetry.refresh(&self.metrics);
        self.sequences.sweep(Instant::now());
        self.metrics.sequences.set(self.sequences.len() as i64);
        self.metrics.in_flight.set(self.in_flight() as i64);
        for slot in &self.slots {
            let labels = VariantLabels::of(&slot.name);
            let queued = slot.variant().map_or(0, Variant::queued);
            self.metrics.queued.get_or_create(&labels).set(queued as i64);
        }
    }

    pub(super) fn show_active(&self, active: &Active) {
        self.telemetry.serves(active.index);
        for (index, slot) in self.slots.iter().enumerate() {
            let labels = VariantLabels::of(&slot.name);
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
            schema: SCHEMA,
            workload: self.config.workload.clone(),
            revision: self.config.revision.clone(),
            epoch: self.telemetry.epoch().clone(),
            active_variant: active
                .index
                .and_then(|i| self.slots.get(i))
                .map(|slot| slot.name.clone()),
            degraded: reason.is_some(),
            reason,
            variants: variants.collect(),
            totals: self.telemetry.totals(),
            records: self.telemetry.records(&self.devices()),
            comparison: None,
        }
    }

    /// Goes on from what an earlier process left, or begins a new epoch.
    pub fn restore(&mut self, found: Found) {
        let devices = self.devices();
        match found {
            Found::Counts(saved) => self.telemetry.restore(*saved, &devices),
            Found::New(reason) => self.telemetry.begin(Epoch::begin(reason)),
        }
    }

    /// What a later process goes on from.
    pub fn saved(&self) -> Saved {
        Saved {
            schema: SCHEMA,
            workload: self.config.workload.clone(),
            epoch: self.telemetry.epoch().clone(),
            totals: self.telemetry.totals(),
            records: self.telemetry.records(&self.devices()),
            turns: TurnRing::default(),
        }
    }

    /// All counts of this engine's own revision, as a reading of cumulative counters.
    pub fn reading(&self) -> Reading {
        let records = self.telemetry.records(&self.devices());
        let own = records
            .iter()
            .filter(|record| record.revision == self.config.revision);
        Reading::of(own, &self.telemetry.totals())
    }

    /// Requests that are being answered.
    pub fn in_flight(&self) -> usize {
        IN_FLIGHT - self.admission.available_permits()
    }

    /// The longest that an answer was waited for of late.
    pub fn slowest(&self) -> std::time::Duration {
        let variants = self.slots.iter().filter_map(Slot::variant);
        variants.map(Variant::slowest).max().unwrap_or_default()
    }

    /// How long a call of the variant that serves now usually takes; of the slowest where none does.
    pub fn usual(&self) -> std::time::Duration {
        let active = self.active().index.and_then(|index| self.variant(index));
        let all = || {
            self.slots
                .iter()
                .filter_map(Slot::variant)
                .map(Variant::typical)
                .max()
        };
        active.map(Variant::typical).or_else(all).unwrap_or_default()
    }

    /// Whether a sequence is under way here.
    pub fn knows(&self, id: &SequenceId) -> bool {
        self.sequences.contains(id)
    }

    /// Forgets a sequence: another revision goes on with it.
    pub fn forget(&self, id: &SequenceId) {
        self.sequences.close(id);
    }

    /// Traces a request that was just answered or got an error, where traces are on.
    pub fn trace(&self, traceparent: Option<&str>, arrived: Instant, result: &Result<Answer, InferError>) {
        let device = |index: usize| self.slots.get(index).and_then(Slot::device);
        self.telemetry.trace(traceparent, arrived, result, device);
    }

    /// The device of each variant; nothing also while one is not loaded.
    fn devices(&self) -> Vec<Option<String>> {
        let device = |slot: &Slot| slot.device().map(str::to_owned);
        self.slots.iter().map(device).collect()
    }

    fn variant_evidence(&self, index: usize, active: &Active) -> Option<VariantEvidence> {
        let slot = self.slots.get(index)?;
        let cause = self.cause(index);
        let state = match cause.as_ref().map(|cause| cause.reason) {
            Some(Reason::LoadFailed | Reason::BelowMinimumAccuracy | Reason::LocalityForbids) => {
                VariantState::Failed
            }
            _ if active.index == Some(index) => VariantState::Active,
            Some(_) => VariantState::Tainted,
            None => VariantState::Standby,
        };
        Some(VariantEvidence {
            name: slot.name.clone(),
            device: slot.device().map(str::to_owned),
            engine: slot
                .variant()
                .map_or_else(String::new, |variant| variant.engine().to_owned()),
            tally: self.telemetry.read(index)?,
            state,
            message: cause.map_or_else(String::new, |cause| cause.message),
        })
    }
}

/// Whether two states differ by figures at most.
fn says_the_same(one: &DeviceState, other: &DeviceState) -> bool {
    one.health == other.health
        && one.reason == other.reason
        && one.message == other.message
        && one.going_away == other.going_away
        && one.going_away_message == other.going_away_message
}

fn describe(state: &DeviceState) -> String {
    let reason = if state.reason.is_empty() {
        "no reason given"
    } else {
        &state.reason
    };
    format!("device {} is unhealthy ({reason}): {}", state.id, state.message)
}

fn describe_leaving(state: &DeviceState) -> String {
    match state.going_away_message.as_str() {
        "" => format!("device {} is taken out of use", state.id),
        message => message.to_owned(),
    }
}
