//! The breaker of one variant: closed, open, or letting one request at a time through.

use super::Policy;
use std::time::{Duration, Instant};

/// A trial that nobody reported on (its client went away) is given to another request after this time.
pub(super) const TRIAL_LEASE: Duration = Duration::from_secs(10);

/// What a variant's failures and answers say of it.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    open: Option<Open>,
    /// When it closed last, and after which back-off: one that opens again soon goes on from there.
    closed: Option<(Instant, Duration)>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    retry_at: Instant,
    backoff: Duration,
    answers: u32,
    last_error: String,
}

impl Breaker {
    /// What a person reads while it is open.
    pub fn describe(&self) -> Option<String> {
        let open = self.open.as_ref()?;
        Some(format!(
            "failed {} times in a row: {}",
            self.failures, open.last_error
        ))
    }

    /// Whether it failed too often of late.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// A call that began at `began` failed. `jitter` makes a back-off longer, each time by another amount.
    pub fn failed(
        &mut self,
        error: String,
        began: Instant,
        now: Instant,
        policy: &Policy,
        jitter: impl FnOnce(Duration) -> Duration,
    ) {
        // Calls that were under way when it opened, or when its last trial failed, say nothing new.
        if self.open.as_ref().is_some_and(|open| began < open.since) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let backoff = match &self.open {
            Some(open) => open.backoff * 2,
            None if self.failures >= policy.failures_to_open => self.opening_backoff(now, policy),
            None => return,
        };
        let backoff = backoff.min(policy.longest_backoff);
        self.open = Some(Open {
            since: now,
            retry_at: now + jitter(backoff),
            backoff,
            answers: 0,
            last_error: error,
        });
    }

    fn opening_backoff(&self, now: Instant, policy: &Policy) -> Duration {
        match self.closed {
            Some((at, backoff)) if now < at + policy.longest_backoff => backoff * 2,
            _ => policy.first_backoff,
        }
    }

    /// A call that began at `began` gave an answer. Several in a row close it.
    pub fn succeeded(&mut self, began: Instant, now: Instant, policy: &Policy) {
        let Some(open) = &mut self.open else {
            self.failures = 0;
            return;
        };
        if began < open.since {
            return;
        }
        open.answers += 1;
        if open.answers < policy.answers_to_close {
            open.retry_at = now;
            return;
        }
        self.closed = Some((now, open.backoff));
        self.open = None;
        self.failures = 0;
    }

    /// Whether its time has come; if so, nobody else tries for a while.
    pub fn take_trial(&mut self, now: Instant) -> bool {
        match &mut self.open {
            Some(open) if now >= open.retry_at => {
                open.retry_at = now + TRIAL_LEASE;
                true
            }
            _ => false,
        }
    }
}
