//! From findings to what is shown: worse at once, better only once it has lasted.

use super::findings::Finding;
use super::{Again, rank};
use crate::constants::{FLAPPING, RECOVERY_PROBES, RECOVERY_STABLE, UNKNOWN_GRACE};
use perwatt_crds::inventory::{DeviceHealth, HealthReason};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is shown of a device.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) health: DeviceHealth,
    pub(super) reasons: Vec<HealthReason>,
    pub(super) usable: bool,
    /// Since when, and over how many probes, it is better than shown.
    better: Option<(Instant, u32)>,
    unknown_since: Option<Instant>,
    /// When it became worse than the kubelet may know, lately.
    falls: VecDeque<Instant>,
}

impl Shown {
    pub(super) fn next(
        before: Option<Self>,
        usable: bool,
        findings: Vec<Finding>,
        now: Instant,
        again: &mut Again,
    ) -> Self {
        let health = findings
            .iter()
            .map(|(health, _)| *health)
            .max_by_key(|health| rank(*health));
        let health = health.unwrap_or(DeviceHealth::Healthy);
        let reasons: Vec<_> = findings.into_iter().map(|(_, reason)| reason).collect();
        let mut shown = match before {
            None => Self {
                health,
                reasons,
                usable,
                better: None,
                unknown_since: None,
                falls: VecDeque::new(),
            },
            Some(mut shown) => {
                shown.damp(health, reasons, now, again);
                shown
            }
        };
        shown.decide_use(now, again);
        shown
    }

    fn damp(&mut self, health: DeviceHealth, reasons: Vec<HealthReason>, now: Instant, again: &mut Again) {
        if rank(health) < rank(self.health) {
            let (since, probes) = self.better.get_or_insert((now, 0));
            *probes = probes.saturating_add(1);
            let (waited, probes) = (now.saturating_duration_since(*since), *probes);
            let stable = self.cool_down(now);
            if waited < stable || probes < RECOVERY_PROBES {
                again.within(stable.saturating_sub(waited).max(Duration::from_millis(10)));
                return;
            }
        }
        if rank(health) > rank(self.health) && health == DeviceHealth::Unhealthy {
            self.falls.push_back(now);
        }
        self.better = None;
        self.health = health;
        self.reasons = reasons;
    }

    /// How long it must be better: longer where it fell often.
    fn cool_down(&mut self, now: Instant) -> Duration {
        let (falls, window, cool_down) = FLAPPING;
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > window;
        while self.falls.len() > falls + 1 || self.falls.front().is_some_and(is_old) {
            self.falls.pop_front();
        }
        if self.falls.len() > falls {
            cool_down
        } else {
            RECOVERY_STABLE
        }
    }

    fn decide_use(&mut self, now: Instant, again: &mut Again) {
        if self.health != DeviceHealth::Unknown {
            self.unknown_since = None;
            self.usable = is_usable(self.health);
            return;
        }
        let since = *self.unknown_since.get_or_insert(now);
        let waited = now.saturating_duration_since(since);
        if waited >= UNKNOWN_GRACE {
            self.usable = false;
        } else if self.usable {
            again.within(UNKNOWN_GRACE - waited);
        }
    }
}

/// Four states against the kubelet's two: what is not Unknown.
fn is_usable(health: DeviceHealth) -> bool {
    matches!(health, DeviceHealth::Healthy | DeviceHealth::Degraded)
}
