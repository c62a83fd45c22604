//! Which revision answers when: blocks of equal length, cut at multiples of that length of Unix time, in pairs that
//! hold one of each. A coin decides the order within a pair.

use perwatt_verdict::evidence::Arm;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// The order of blocks on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Whoever does not know it cannot foretell the coin.
    pub seed: u64,
    /// Nodes alternate each in their own order.
    pub node: String,
    /// Length of a block, not 0.
    pub block: Duration,
}

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number since 1970.
    pub number: u64,
    /// Who answers in it.
    pub arm: Arm,
    /// When it begins, in Unix time.
    pub start: Duration,
    /// When the next one begins.
    pub end: Duration,
}

impl Block {
    /// Whether it is the first of its pair.
    pub fn is_first(&self) -> bool {
        self.number.is_multiple_of(2)
    }
}

impl Schedule {
    /// The block that a moment of Unix time lies in.
    pub fn at(&self, now: Duration) -> Block {
        let length = self.block.as_millis().max(1);
        let number = u64::try_from(now.as_millis() / length).unwrap_or(u64::MAX / 2);
        let at = |number: u64| Duration::from_millis(number.saturating_mul(length as u64));
        Block {
            number,
            arm: self.arm(number),
            start: at(number),
            end: at(number + 1),
        }
    }

    fn arm(&self, number: u64) -> Arm {
        let coin = Sha256::new()
            .chain_update(self.seed.to_le_bytes())
            .chain_update((number / 2).to_le_bytes())
            .chain_update(self.node.as_bytes())
            .finalize();
        let heads = coin.first().is_some_and(|byte| byte & 1 == 1);
        if heads == number.is_multiple_of(2) {
            Arm::Canary
        } else {
            Arm::Incumbent
        }
    }
}

/// The part of a block that is not counted: a tenth of it, as long as the longest request of late, never over half.
pub fn carry_over(block: Duration, slowest: Duration) -> Duration {
    (block / 10).max(slowest).min(block / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seed: u64, node: &str) -> Schedule {
        Schedule {
            seed,
            node: node.into(),
            block: Duration::from_secs(2),
        }
    }

    fn arms(schedule: &Schedule, count: u64) -> Vec<Arm> {
        (0..count).map(|number| schedule.arm(number)).collect()
    }

    #[test]
    fn every_pair_holds_one_of_each_and_the_coin_is_fair() {
        let arms = arms(&schedule(7, "edge-a"), 20_000);
        assert!(arms.chunks(2).all(|pair| pair[0] != pair[1]));
        let first = arms.iter().step_by(2).filter(|arm| **arm == Arm::Canary).count();
        assert!((4_800..5_200).contains(&first), "{first} of 10,000");
        let same = |pair: &&[Arm]| pair[0] == pair[2];
        let runs = arms.windows(3).step_by(2).filter(same).count();
        assert!(
            (4_800..5_200).contains(&runs),
            "a pair tells nothing of the next: {runs}"
        );
    }

    #[test]
    fn the_order_is_that_of_seed_and_node_alone() {
        let order = arms(&schedule(7, "edge-a"), 64);
        assert_eq!(order, arms(&schedule(7, "edge-a"), 64));
        assert_ne!(order, arms(&schedule(8, "edge-a"), 64));
        assert_ne!(order, arms(&schedule(7, "edge-b"), 64));
    }

    #[test]
    fn blocks_are_cut_at_multiples_of_their_length() {
        let schedule = schedule(1, "n");
        let block = schedule.at(Duration::from_millis(7_999));
        assert_eq!((block.number, block.is_first()), (3, false));
        assert_eq!(
            (block.start, block.end),
            (Duration::from_secs(6), Duration::from_secs(8))
        );
        assert_eq!(schedule.at(Duration::from_secs(8)).number, 4);
    }

    #[test]
    fn the_longest_request_is_carried_over_and_half_a_block_is_left() {
        let seconds = Duration::from_secs;
        assert_eq!(carry_over(seconds(20), Duration::ZERO), seconds(2));
        assert_eq!(carry_over(seconds(20), seconds(5)), seconds(5));
        assert_eq!(carry_over(seconds(20), seconds(60)), seconds(10));
    }
}
