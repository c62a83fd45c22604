//! Which variant serves: a state machine that reads no clock and does no I/O.
//!
//! The first variant that is well serves. One that the workload forbids never
//! does; one that failed to load does not until it is loaded after all; one
//! whose device is unhealthy does not until the device was healthy for a
//! while; one whose device works and leaves does not until it stays; one that
//! failed several times in a row waits behind a breaker, which lets one request
//! at a time through after a back-off, and closes after several answers. A
//! breaker is an advice, and so is that a device leaves: where nothing else is
//! left the variant is tried all the same. A taint is not.

mod breaker;
mod cause;
#[cfg(test)]
mod tests;

pub use cause::{Cause, Reason};

use breaker::Breaker;
use std::time::{Duration, Instant};

/// When variants leave and return.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Failures in a row that open a breaker.
    pub failures_to_open: u32,
    /// Answers in a row that close it again.
    pub answers_to_close: u32,
    /// How long an open breaker waits at first; it doubles with every failed trial.
    pub first_backoff: Duration,
    /// The longest that a breaker waits.
    pub longest_backoff: Duration,
    /// How long a device must have been healthy before its variant returns.
    pub stable_for: Duration,
    /// Waits are longer by up to this many percent, so that many runtimes do not return at one moment.
    pub jitter_percent: u32,
    /// From where the jitter's numbers start.
    pub seed: u64,
}

impl Policy {
    /// The runtime's own figures, with the workload's time of recovery, and without jitter.
    pub fn with_stable_for(stable_for: Duration) -> Self {
        Self {
            failures_to_open: 3,
            answers_to_close: 3,
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(60),
            stable_for,
            jitter_percent: 0,
            seed: 0,
        }
    }

    /// The same with jitter.
    #[must_use]
    pub fn with_jitter(self, jitter_percent: u32, seed: u64) -> Self {
        Self {
            jitter_percent,
            seed,
            ..self
        }
    }
}

/// What serves now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    /// Place in the chain; nothing when no variant may serve.
    pub index: Option<usize>,
    /// Why it is not the first; nothing when it is.
    pub cause: Option<Cause>,
}

/// The variants of a workload, in order, and how each is doing.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
    policy: Policy,
    random: fastrand::Rng,
}

#[derive(Debug, Default)]
struct Link {
    name: String,
    /// It must not serve, whatever its health.
    barred: Option<Cause>,
    hung: Option<String>,
    load_error: Option<String>,
    taint: Option<String>,
    leaving: Option<String>,
    returns_at: Option<Instant>,
    breaker: Breaker,
}

impl Chain {
    /// A chain of these variants, all well.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, policy: Policy) -> Self {
        let link = |name: &str| Link {
            name: name.to_owned(),
            ..Link::default()
        };
        Self {
            links: names.into_iter().map(link).collect(),
            policy,
            random: fastrand::Rng::with_seed(policy.seed),
        }
    }

    /// The variant must never serve: the workload forbids it.
    pub fn bar(&mut self, index: usize, cause: Cause) {
        if let Some(link) = self.links.get_mut(index) {
            link.barred = Some(cause);
        }
    }

    /// All threads of the variant hang, as the message says, or no longer do.
    pub fn hung(&mut self, index: usize, message: Option<String>) {
        if let Some(link) = self.links.get_mut(index) {
            link.hung = message;
        }
    }

    /// The variant could not be loaded, and does not serve.
    pub fn load_failed(&mut self, index: usize, message: String) {
        if let Some(link) = self.links.get_mut(index) {
            link.load_error = Some(message);
        }
    }

    /// The variant was loaded after all.
    pub fn loaded(&mut self, index: usize) {
        if let Some(link) = self.links.get_mut(index) {
            link.load_error = None;
        }
    }

    /// The variant's device must not be used.
    pub fn taint(&mut self, index: usize, message: String) {
        if let Some(link) = self.links.get_mut(index) {
            link.taint = Some(message);
            link.returns_at = None;
        }
    }

    /// The variant's device is healthy; if it was tainted, it returns after a while.
    pub fn heal(&mut self, index: usize, now: Instant) {
        let wait = self.jittered(self.policy.stable_for);
        if let Some(link) = self.links.get_mut(index)
            && link.taint.take().is_some()
        {
            link.returns_at = Some(now + wait);
            // What failed before belongs to the fault that is over.
            link.breaker = Breaker::default();
        }
    }

    /// The variant's device works and is taken out of use, as the message says, or stays after all.
    pub fn leave(&mut self, index: usize, message: Option<String>) {
        if let Some(link) = self.links.get_mut(index) {
            link.leaving = message;
        }
    }

    /// The variant answered a call that began at `began`.
    pub fn succeeded(&mut self, index: usize, began: Instant, now: Instant) {
        if let Some(link) = self.links.get_mut(index) {
            link.breaker.succeeded(began, now, &self.policy);
        }
    }

    /// The variant failed, at a call that began at `began`, where another one answered.
    pub fn failed(&mut self, index: usize, error: String, began: Instant, now: Instant) {
        let Self {
            links,
            policy,
            random,
        } = self;
        if let Some(link) = links.get_mut(index) {
            let longer = |wait| jittered(wait, policy.jitter_percent, random);
            link.breaker.failed(error, began, now, policy, longer);
        }
    }

    fn jittered(&mut self, wait: Duration) -> Duration {
        jittered(wait, self.policy.jitter_percent, &mut self.random)
    }

    /// The variants to try for one request, in order. A breaker whose time has
    /// come lets this one request through, with the others behind it.
    pub fn candidates(&mut self, now: Instant) -> Vec<usize> {
        let stable_for = self.policy.stable_for;
        let mut usable = Vec::new();
        let mut last_resort = Vec::new();
        for (index, link) in self.links.iter_mut().enumerate() {
            match link.cause(stable_for, now).map(|cause| cause.reason) {
                None => usable.push(index),
                Some(Reason::BreakerOpen) if link.breaker.take_trial(now) => usable.push(index),
                Some(reason) if may_be_last_resort(reason) => last_resort.push(link.rank(index)),
                Some(_) => {}
            }
        }
        last_resort.sort_unstable();
        usable.extend(last_resort.into_iter().map(|(_, index)| index));
        usable
    }

    /// What serves when a request comes now.
    pub fn active(&self, now: Instant) -> Active {
        let causes: Vec<_> = self
            .links
            .iter()
            .map(|l| l.cause(self.policy.stable_for, now))
            .collect();
        let well = causes.iter().position(Option::is_none);
        let spare = || {
            let spares = self.links.iter().zip(&causes).enumerate();
            let spares = spares.filter(|(_, (_, cause))| {
                let reason = cause.as_ref().map(|cause| cause.reason);
                reason.is_some_and(may_be_last_resort)
            });
            spares.map(|(index, (link, _))| link.rank(index)).min()
        };
        let index = well.or_else(|| spare().map(|(_, index)| index));
        let cause = if index == Some(0) {
            None
        } else {
            causes.into_iter().next().flatten()
        };
        Active { index, cause }
    }

    /// Why a variant does not serve by itself; nothing while it is well.
    pub fn cause(&self, index: usize, now: Instant) -> Option<Cause> {
        self.links.get(index)?.cause(self.policy.stable_for, now)
    }

    /// When the answer of [`Chain::active`] changes without anything else happening.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let returns = self.links.iter().filter_map(|link| link.returns_at);
        returns.filter(|at| *at > now).min()
    }
}

fn may_be_last_resort(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BreakerOpen | Reason::DeviceRecovering | Reason::DeviceLeaving
    )
}

/// `wait` and up to `percent` of it more.
pub fn jittered(wait: Duration, percent: u32, random: &mut fastrand::Rng) -> Duration {
    let share = random.u32(0..=percent.saturating_mul(10));
    wait.saturating_add(wait.saturating_mul(share) / 1000)
}

impl Link {
    /// Its place among the last resorts: what failed of late comes after what did not.
    fn rank(&self, index: usize) -> (bool, usize) {
        (self.breaker.is_open(), index)
    }

    fn cause(&self, stable_for: Duration, now: Instant) -> Option<Cause> {
        let name = &self.name;
        if let Some(cause) = &self.barred {
            return Some(cause.clone());
        }
        if let Some(error) = &self.load_error {
            let text = format!("{name} could not be loaded, and is tried again: {error}");
            return Some(Cause::new(Reason::LoadFailed, text));
        }
        if let Some(hung) = &self.hung {
            return Some(Cause::new(Reason::Hung, format!("{name}: {hung}")));
        }
        if let Some(taint) = &self.taint {
            return Some(Cause::new(Reason::DeviceUnhealthy, format!("{name}: {taint}")));
        }
        if let Some(leaving) = &self.leaving {
            return Some(Cause::new(Reason::DeviceLeaving, format!("{name}: {leaving}")));
        }
        if self.returns_at.is_some_and(|at| now < at) {
            let text = format!("{name}: its device is healthy again and must stay so for {stable_for:?}");
            return Some(Cause::new(Reason::DeviceRecovering, text));
        }
        let open = self.breaker.describe()?;
        Some(Cause::new(Reason::BreakerOpen, format!("{name} {open}")))
    }
}
