//! Which variant serves: a state machine that reads no clock and does no I/O.
//!
//! The first variant that is well serves. One that failed to load never does;
//! one whose device is unhealthy does not until the device was healthy for a
//! while; one that failed several times in a row waits behind a breaker, which
//! lets one request through after a back-off. A breaker is an advice: where
//! nothing else is left its variant is tried all the same. A taint is not.

use std::fmt;
use std::time::{Duration, Instant};

/// Why another variant than the first serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The agent says that the device must not be used.
    DeviceUnhealthy,
    /// The device is healthy again, but not yet for long enough.
    DeviceRecovering,
    /// It failed several times in a row.
    BreakerOpen,
    /// Its file or its device could not be opened at start.
    LoadFailed,
    /// It failed at this request.
    InferenceFailed,
    /// It did not answer this request in its share of the time.
    Late,
    /// Its queue was full.
    Busy,
}

impl Reason {
    /// The spelling in replies, metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceUnhealthy => "DeviceUnhealthy",
            Self::DeviceRecovering => "DeviceRecovering",
            Self::BreakerOpen => "BreakerOpen",
            Self::LoadFailed => "LoadFailed",
            Self::InferenceFailed => "InferenceFailed",
            Self::Late => "Late",
            Self::Busy => "Busy",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason and what it means here, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Why.
    pub reason: Reason,
    /// What happened, to what.
    pub message: String,
}

impl Cause {
    /// A reason with its message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// When variants leave and return.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Failures in a row that open a breaker.
    pub failures_to_open: u32,
    /// How long an open breaker waits at first; it doubles with every failed trial.
    pub first_backoff: Duration,
    /// The longest that a breaker waits.
    pub longest_backoff: Duration,
    /// How long a device must have been healthy before its variant returns.
    pub stable_for: Duration,
}

impl Policy {
    /// The runtime's own figures, with the workload's time of recovery.
    pub fn with_stable_for(stable_for: Duration) -> Self {
        Self {
            failures_to_open: 3,
            first_backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(60),
            stable_for,
        }
    }
}

/// A trial that nobody reported on (its client went away) is given to another request after this time.
const TRIAL_LEASE: Duration = Duration::from_secs(10);

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
}

#[derive(Debug, Default)]
struct Link {
    name: String,
    load_error: Option<String>,
    taint: Option<String>,
    healthy_since: Option<Instant>,
    failures: u32,
    breaker: Option<Breaker>,
}

#[derive(Debug)]
struct Breaker {
    retry_at: Instant,
    backoff: Duration,
    last_error: String,
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
        }
    }

    /// The variant could not be loaded and never serves.
    pub fn load_failed(&mut self, index: usize, message: String) {
        if let Some(link) = self.links.get_mut(index) {
            link.load_error = Some(message);
        }
    }

    /// The variant's device must not be used.
    pub fn taint(&mut self, index: usize, message: String) {
        if let Some(link) = self.links.get_mut(index) {
            link.taint = Some(message);
            link.healthy_since = None;
        }
    }

    /// The variant's device is healthy; if it was tainted, it returns after a while.
    pub fn heal(&mut self, index: usize, now: Instant) {
        if let Some(link) = self.links.get_mut(index)
            && link.taint.take().is_some()
        {
            link.healthy_since = Some(now);
            // What failed before belongs to the fault that is over.
            link.failures = 0;
            link.breaker = None;
        }
    }

    /// The variant answered.
    pub fn succeeded(&mut self, index: usize) {
        if let Some(link) = self.links.get_mut(index) {
            link.failures = 0;
            link.breaker = None;
        }
    }

    /// The variant failed where another one answered.
    pub fn failed(&mut self, index: usize, error: String, now: Instant) {
        let policy = self.policy;
        let Some(link) = self.links.get_mut(index) else {
            return;
        };
        link.failures = link.failures.saturating_add(1);
        let backoff = match &link.breaker {
            Some(breaker) => (breaker.backoff * 2).min(policy.longest_backoff),
            None if link.failures >= policy.failures_to_open => policy.first_backoff,
            None => return,
        };
        link.breaker = Some(Breaker {
            retry_at: now + backoff,
            backoff,
            last_error: error,
        });
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
                Some(Reason::BreakerOpen) if link.take_trial(now) => usable.push(index),
                Some(Reason::BreakerOpen | Reason::DeviceRecovering) => last_resort.push(index),
                Some(_) => {}
            }
        }
        usable.append(&mut last_resort);
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
            causes
                .iter()
                .position(|c| c.as_ref().is_some_and(|c| may_be_last_resort(c.reason)))
        };
        let index = well.or_else(spare);
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
        let returns = self
            .links
            .iter()
            .filter_map(|link| Some(link.healthy_since? + self.policy.stable_for));
        returns.filter(|at| *at > now).min()
    }
}

fn may_be_last_resort(reason: Reason) -> bool {
    matches!(reason, Reason::BreakerOpen | Reason::DeviceRecovering)
}

impl Link {
    fn cause(&self, stable_for: Duration, now: Instant) -> Option<Cause> {
        let name = &self.name;
        if let Some(error) = &self.load_error {
            return Some(Cause::new(
                Reason::LoadFailed,
                format!("{name} could not be loaded: {error}"),
            ));
        }
        if let Some(taint) = &self.taint {
            return Some(Cause::new(Reason::DeviceUnhealthy, format!("{name}: {taint}")));
        }
        if let Some(since) = self.healthy_since
            && now < since + stable_for
        {
            let text = format!("{name}: its device is healthy again and must stay so for {stable_for:?}");
            return Some(Cause::new(Reason::DeviceRecovering, text));
        }
        let breaker = self.breaker.as_ref()?;
        let text = format!(
            "{name} failed {} times in a row: {}",
            self.failures, breaker.last_error
        );
        Some(Cause::new(Reason::BreakerOpen, text))
    }

    /// Whether the breaker's time has come; if so, nobody else tries for a while.
    fn take_trial(&mut self, now: Instant) -> bool {
        match &mut self.breaker {
            Some(breaker) if now >= breaker.retry_at => {
                breaker.retry_at = now + TRIAL_LEASE;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: Duration = Duration::from_secs(5);

    fn chain() -> (Chain, Instant) {
        (
            Chain::new(["npu", "cpu"], Policy::with_stable_for(STABLE)),
            Instant::now(),
        )
    }

    fn reason(chain: &Chain, now: Instant) -> Option<Reason> {
        chain.active(now).cause.map(|cause| cause.reason)
    }

    #[test]
    fn the_first_serves_while_all_are_well() {
        let (mut chain, now) = chain();
        assert_eq!(
            chain.active(now),
            Active {
                index: Some(0),
                cause: None
            }
        );
        assert_eq!(chain.candidates(now), [0, 1]);
    }

    #[test]
    fn a_taint_takes_the_variant_out_at_once_and_it_returns_after_a_stable_time() {
        let (mut chain, now) = chain();
        chain.taint(0, "too hot".into());
        assert_eq!(chain.candidates(now), [1], "an unhealthy device must not be used");
        assert_eq!(reason(&chain, now), Some(Reason::DeviceUnhealthy));
        chain.heal(0, now);
        assert_eq!(reason(&chain, now), Some(Reason::DeviceRecovering));
        assert_eq!(
            chain.candidates(now),
            [1, 0],
            "a recovering one is the last resort"
        );
        assert_eq!(chain.next_change(now), Some(now + STABLE));
        assert_eq!(
            chain.active(now + STABLE),
            Active {
                index: Some(0),
                cause: None
            }
        );
        assert_eq!(chain.next_change(now + STABLE), None);
    }

    #[test]
    fn a_second_taint_starts_the_time_again_and_health_repeated_does_not() {
        let (mut chain, now) = chain();
        chain.taint(0, "hot".into());
        chain.heal(0, now);
        chain.taint(0, "hot".into());
        chain.heal(0, now + Duration::from_secs(4));
        chain.heal(0, now + Duration::from_secs(8));
        assert_eq!(reason(&chain, now + STABLE), Some(Reason::DeviceRecovering));
        assert_eq!(reason(&chain, now + Duration::from_secs(9)), None);
    }

    #[test]
    fn three_failures_in_a_row_open_the_breaker_and_one_trial_goes_through() {
        let (mut chain, now) = chain();
        for _ in 0..2 {
            chain.failed(0, "broken".into(), now);
        }
        chain.succeeded(0);
        for _ in 0..2 {
            chain.failed(0, "broken".into(), now);
        }
        assert_eq!(
            chain.active(now).index,
            Some(0),
            "a success starts the count again"
        );
        chain.failed(0, "broken".into(), now);
        assert_eq!(reason(&chain, now), Some(Reason::BreakerOpen));
        assert_eq!(chain.candidates(now), [1, 0]);
        let later = now + Duration::from_secs(1);
        assert_eq!(chain.candidates(later), [0, 1], "the trial");
        assert_eq!(chain.candidates(later), [1, 0], "only one");
        chain.failed(0, "broken".into(), later);
        assert_eq!(
            chain.candidates(later + Duration::from_secs(1)),
            [1, 0],
            "the back-off doubled"
        );
        assert_eq!(chain.candidates(later + Duration::from_secs(2)), [0, 1]);
        chain.succeeded(0);
        assert_eq!(
            chain.active(later),
            Active {
                index: Some(0),
                cause: None
            }
        );
    }

    #[test]
    fn a_trial_that_nobody_reports_on_is_given_away_again() {
        let (mut chain, now) = chain();
        for _ in 0..3 {
            chain.failed(0, "broken".into(), now);
        }
        let trial = now + Duration::from_secs(1);
        assert_eq!(chain.candidates(trial), [0, 1]);
        assert_eq!(chain.candidates(trial + TRIAL_LEASE), [0, 1]);
    }

    #[test]
    fn the_back_off_has_a_longest() {
        let (mut chain, mut now) = chain();
        for _ in 0..40 {
            chain.failed(0, "broken".into(), now);
            now += Duration::from_secs(60);
        }
        assert_eq!(chain.candidates(now), [0, 1]);
    }

    #[test]
    fn open_breakers_are_tried_where_nothing_else_is_left_and_taints_are_not() {
        let (mut chain, now) = chain();
        chain.taint(0, "dead".into());
        for _ in 0..3 {
            chain.failed(1, "broken".into(), now);
        }
        assert_eq!(chain.candidates(now), [1]);
        assert_eq!(chain.active(now).index, Some(1));
        chain.load_failed(1, "hash".into());
        assert_eq!(chain.candidates(now), Vec::<usize>::new());
        let active = chain.active(now);
        assert_eq!(active.index, None);
        assert!(active.cause.is_some_and(|cause| cause.message.contains("dead")));
    }
}
