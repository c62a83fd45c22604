//! A bound on how often something is done that others cause.

use std::time::{Duration, Instant};

/// Lets a burst pass at once, and a steady stream at a fixed pace.
#[derive(Debug)]
pub struct Pace {
    burst: u32,
    every: Duration,
    spent: u32,
    since: Option<Instant>,
}

impl Pace {
    /// At most `burst` at once, and one more after each `every`.
    #[must_use]
    pub fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            spent: 0,
            since: None,
        }
    }

    /// Counts one at `now`; how long to wait before the next.
    pub fn spend(&mut self, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        let regained = now.saturating_duration_since(since).as_nanos() / self.every.as_nanos().max(1);
        let regained = u32::try_from(regained).unwrap_or(u32::MAX);
        if regained > 0 {
            self.spent = self.spent.saturating_sub(regained);
            self.since = Some(now);
        }
        self.spent = self.spent.saturating_add(1);
        if self.spent >= self.burst {
            self.every
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_stream_is_paced() {
        let every = Duration::from_secs(3);
        let mut pace = Pace::new(3, every);
        let mut now = Instant::now();
        assert_eq!(pace.spend(now), Duration::ZERO);
        assert_eq!(pace.spend(now), Duration::ZERO);
        for _ in 0..10 {
            assert_eq!(pace.spend(now), every);
            now += every;
        }
        now += every * 10;
        assert_eq!(pace.spend(now), Duration::ZERO);
    }
}
