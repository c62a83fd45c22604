//! Jitter of a sequence's requests and replies.
//!
//! RFC 3550, section 6.4.1, estimates jitter from the difference D between how far apart two packets were sent and
//! how far apart they came, as J += (|D| - J) / 16. For replies the runtime is the network: what went in are the
//! requests, what came out the replies, and D is exact. For requests no sender's clock is known: the usual
//! distance of the sequence's requests, with the same gain of 1/16, stands for the distance at which they were sent.

use std::time::{Duration, Instant};

/// The RFC's gain.
const GAIN: f64 = 1.0 / 16.0;

/// What is known of the rhythm of one sequence.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rhythm {
    last: Option<(Instant, Instant)>,
    /// Usual seconds from one request to the next.
    spacing: Option<f64>,
    jitter: Jitter,
}

/// Jitter so far, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Jitter {
    /// Of the requests.
    pub arrival: f64,
    /// Of the replies.
    pub reply: f64,
}

impl Rhythm {
    /// Takes in a request and its reply; nothing while the sequence has no rhythm yet.
    pub fn advance(&mut self, arrived: Instant, replied: Instant) -> Option<Jitter> {
        let (last_arrived, last_replied) = self.last.replace((arrived, replied))?;
        let gap = apart(last_arrived, arrived);
        let spread = (apart(last_replied, replied) - gap).abs();
        self.jitter.reply += (spread - self.jitter.reply) * GAIN;
        let Some(spacing) = &mut self.spacing else {
            self.spacing = Some(gap);
            return None;
        };
        let spread = (gap - *spacing).abs();
        *spacing += (gap - *spacing) * GAIN;
        self.jitter.arrival += (spread - self.jitter.arrival) * GAIN;
        Some(self.jitter)
    }
}

/// Seconds from one instant to another, negative where it was before.
fn apart(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(time) => time.as_secs_f64(),
        None => -from
            .checked_duration_since(to)
            .unwrap_or(Duration::ZERO)
            .as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Jitter after requests at these milliseconds, each answered so many milliseconds later.
    fn after(requests: impl IntoIterator<Item = (u64, u64)>) -> Option<Jitter> {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rhythm = Rhythm::default();
        let mut last = None;
        for (arrived, took) in requests {
            last = rhythm.advance(at(arrived), at(arrived + took));
        }
        last
    }

    #[test]
    fn a_steady_sequence_has_none() {
        let jitter = after((0..50).map(|n| (n * 32, 5))).unwrap();
        assert!(jitter.arrival < 1e-12 && jitter.reply < 1e-12, "{jitter:?}");
    }

    #[test]
    fn two_requests_are_no_rhythm() {
        assert_eq!(after([(0, 5)]), None);
        assert_eq!(after([(0, 5), (32, 5)]), None);
    }

    #[test]
    fn slow_replies_are_no_jitter_of_the_requests() {
        // Replies take 5 and 15 ms in turn: |D| is 10 ms each time, and J comes near it.
        let jitter = after((0..200).map(|n| (n * 32, 5 + (n % 2) * 10))).unwrap();
        assert!((jitter.reply - 0.010).abs() < 1e-4, "{jitter:?}");
        assert!(jitter.arrival < 1e-12, "{jitter:?}");
    }

    #[test]
    fn uneven_requests_are_seen_although_no_senders_clock_is() {
        // 30 and 34 ms apart in turn: each 2 ms from the usual 32.
        let mut at = 0;
        let requests = (0..400).map(|n| {
            at += 30 + (n % 2) * 4;
            (at, 5)
        });
        let jitter = after(requests.collect::<Vec<_>>()).unwrap();
        assert!((jitter.arrival - 0.002).abs() < 2e-4, "{jitter:?}");
        assert!(jitter.reply < 1e-12, "{jitter:?}");
    }

    #[test]
    fn the_first_step_is_the_rfcs() {
        // Equal distances, then one that is 16 ms too long: J is a sixteenth of it.
        let jitter = after([(0, 1), (32, 1), (80, 1)]).unwrap();
        assert!((jitter.arrival - 0.001).abs() < 1e-9, "{jitter:?}");
    }
}
