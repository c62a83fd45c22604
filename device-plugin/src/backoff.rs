//! Pauses between tries that grow.

use crate::constants::BACKOFF;
use std::time::Duration;

/// Doubles from the first pause to the longest.
#[derive(Debug, Default)]
pub struct Backoff(Option<Duration>);

impl Backoff {
    /// The pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let (first, longest) = BACKOFF;
        let pause = self.0.map_or(first, |last| (last * 2).min(longest));
        self.0 = Some(pause);
        pause
    }

    /// After a success, the next failure starts anew.
    pub fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let first = backoff.pause();
        assert_eq!(backoff.pause(), first * 2);
        for _ in 0..20 {
            backoff.pause();
        }
        assert_eq!(backoff.pause(), BACKOFF.1);
        backoff.reset();
        assert_eq!(backoff.pause(), first);
    }
}
