//! Pauses between tries that grow.

use crate::constants::BACKOFF;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// Doubles from the first pause to the longest.
#[derive(Debug, Default)]
pub struct Backoff(Option<Duration>);

impl Backoff {
    /// The pause before the next try. Scattered by a quarter, so that a thousand nodes do not
    /// come back to their API server in the same moment.
    pub fn pause(&mut self) -> Duration {
        scattered(self.next())
    }

    /// After a success, the next failure starts anew.
    pub fn reset(&mut self) {
        self.0 = None;
    }

    fn next(&mut self) -> Duration {
        let (first, longest) = BACKOFF;
        let pause = self.0.map_or(first, |last| (last * 2).min(longest));
        self.0 = Some(pause);
        pause
    }
}

/// The same, longer or shorter by up to a quarter.
#[must_use]
pub fn scattered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.5 * random())
}

/// From 0 to 1. The seed of the standard library's hash maps is random enough for a pause.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let first = backoff.next();
        assert_eq!(backoff.next(), first * 2);
        for _ in 0..20 {
            backoff.next();
        }
        assert_eq!(backoff.next(), BACKOFF.1);
        backoff.reset();
        assert_eq!(backoff.next(), first);
    }

    #[test]
    fn pauses_are_scattered_by_a_quarter() {
        for _ in 0..100 {
            let pause = Backoff::default().pause();
            assert!(
                pause >= BACKOFF.0.mul_f64(0.75) && pause <= BACKOFF.0.mul_f64(1.25),
                "{pause:?}"
            );
        }
    }
}
