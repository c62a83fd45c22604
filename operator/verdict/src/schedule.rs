//! How long the blocks of a rollout last: short ones first, so that a gross fault is seen in seconds, then longer ones,
//! so that a day of bake is a few hundred turns.
//!
//! Lengths depend on the number of a turn alone. Nothing that was seen may change them: a schedule that reacts to what
//! it sees would take away the fairness of the coin.

use std::time::Duration;

/// Turns after which blocks become twice as long.
pub const TURNS_OF_A_LENGTH: u32 = 32;

/// Length of a block of turn `number`, where the first ones last `first`.
///
/// `first` comes from the workload's own rhythm: long enough for a few requests and for what is carried over from the
/// block before, 2 s where a request takes milliseconds.
#[must_use]
pub fn block(first: Duration, number: u32) -> Duration {
    let doublings = (number / TURNS_OF_A_LENGTH).min(20);
    first.saturating_mul(1 << doublings)
}

/// How many turns are over after some time.
#[must_use]
pub fn turns(first: Duration, time: Duration) -> u32 {
    let mut left = time;
    let mut number = 0;
    while let Some(after) = left.checked_sub(block(first, number).saturating_mul(2)) {
        if first.is_zero() || number == u32::MAX {
            break;
        }
        left = after;
        number += 1;
    }
    number
}

/// How long the first turns take.
#[must_use]
pub fn time(first: Duration, turns: u32) -> Duration {
    (0..turns).fold(Duration::ZERO, |time, number| {
        time.saturating_add(block(first, number).saturating_mul(2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_a_few_hundred_turns_and_the_first_minute_more_than_ten() {
        let first = Duration::from_secs(2);
        assert_eq!(turns(first, Duration::from_secs(60)), 15);
        assert!((200..400).contains(&turns(first, Duration::from_secs(86_400))));
        assert!(turns(first, Duration::from_secs(86_400 * 365 * 2)) < crate::evidence::MAX_TURNS as u32);
        assert_eq!(time(first, 15), Duration::from_secs(60));
        assert_eq!(turns(Duration::ZERO, Duration::from_secs(1)), 0);
    }
}
