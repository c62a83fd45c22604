//! Evidence as the wealth of a gambler who bets against a hypothesis, from which no fair game lets him grow rich:
//! he ever reaches 1/α with a chance of at most α (Ville), however often one looks.
//!
//! He splits his money over several sizes of bet and leaves each alone (a mixture), so that the order in which blocks
//! arrive does not matter, and adding logarithms is merging.

/// Sizes of bets, each twice the one before.
pub(crate) const BETS: usize = 9;
/// Bets on a difference in numbers of requests: half the logarithm of a ratio that they are best for.
pub(crate) const ON_COUNTS: [f64; BETS] = powers(1.0 / 128.0);
/// Bets on the logarithm of a ratio.
pub(crate) const ON_RATIOS: [f64; BETS] = powers(1.0);
/// Part of what he has that he risks on one sign: one block may not ruin him.
const STAKE: f64 = 0.95;
/// Bets on a bounded difference, as parts of what could be lost.
pub(crate) const ON_BOUNDED: [f64; BETS] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95];

const fn powers(first: f64) -> [f64; BETS] {
    let mut sizes = [first; BETS];
    let mut place = 1;
    while place < BETS {
        sizes[place] = sizes[place - 1] * 2.0;
        place += 1;
    }
    sizes
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// That the canary is worse than allowed.
    Fail,
    /// That it is not.
    Pass,
}

/// Logarithms of the wealth of all sizes of bet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Wealth([f64; BETS]);

impl Wealth {
    /// What one block multiplied it by.
    pub(crate) fn of(factors: [f64; BETS]) -> Self {
        Self(factors.map(f64::ln))
    }

    /// Adds the bets on another block.
    pub(crate) fn add(&mut self, other: &Self) {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(sum, more)| *sum += more);
    }

    /// Logarithm of the whole.
    pub(crate) fn ln(&self) -> f64 {
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !most.is_finite() {
            return most;
        }
        let sum: f64 = self.0.iter().map(|ln| (ln - most).exp()).sum();
        most + (sum / BETS as f64).ln()
    }
}

/// Part of the money that is bet on all units together; the rest is split over bets on each unit alone, so that a
/// canary that is bad on one node of many is found too.
pub(crate) const ON_ALL: f64 = 0.9;

/// Logarithm of the wealth against a canary, of that on all units together and those on each alone.
pub(crate) fn ln_any(all: f64, units: impl Iterator<Item = f64>) -> f64 {
    let mut logarithms = vec![0.0];
    logarithms.extend(units.map(|ln| ln + (1.0 - ON_ALL).ln()));
    let count = (logarithms.len() - 1).max(1) as f64;
    logarithms.iter_mut().for_each(|ln| *ln -= count.ln());
    logarithms[0] = all + ON_ALL.ln();
    let most = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !most.is_finite() {
        return most;
    }
    most + logarithms.iter().map(|ln| (ln - most).exp()).sum::<f64>().ln()
}

/// Both sides of one block.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Both {
    /// For [`Side::Fail`].
    pub fail: Wealth,
    /// For [`Side::Pass`].
    pub pass: Wealth,
}

impl Both {
    /// Adds the bets on another block.
    pub(crate) fn add(&mut self, other: &Self) {
        self.fail.add(&other.fail);
        self.pass.add(&other.pass);
    }

    /// Logarithm of the wealth of a side.
    pub(crate) fn ln(&self, side: Side) -> f64 {
        match side {
            Side::Fail => self.fail.ln(),
            Side::Pass => self.pass.ln(),
        }
    }

    /// Bets on differences `d`, each with its weight (together 1), whose sign was a fair coin: a bet of size s pays
    /// `1 + STAKE tanh(s d)` on one side and `1 - STAKE tanh(s d)` on the other.
    pub(crate) fn on_signs(differences: &[(f64, f64)], sizes: &[f64; BETS]) -> Self {
        let mean = sizes.map(|size| {
            differences
                .iter()
                .map(|(weight, d)| STAKE * weight * (size * d).tanh())
                .sum::<f64>()
        });
        Self {
            fail: Wealth::of(mean.map(|mean| 1.0 + mean)),
            pass: Wealth::of(mean.map(|mean| 1.0 - mean)),
        }
    }

    /// Bets on a value between `-reach` and `reach` with a mean of at most, or at least, `limit`.
    pub(crate) fn on_bounded(value: f64, limit: f64, reach: f64) -> Self {
        let part = (value - limit) / (reach + limit.abs()).max(f64::MIN_POSITIVE);
        Self {
            fail: Wealth::of(ON_BOUNDED.map(|size| 1.0 + size * part)),
            pass: Wealth::of(ON_BOUNDED.map(|size| 1.0 - size * part)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fair_coin_leaves_every_bet_fair_and_order_does_not_matter() {
        for d in [0.1, 1.0, 40.0] {
            let [up, down] = [d, -d].map(|d| Both::on_signs(&[(1.0, d)], &ON_COUNTS));
            for (u, l) in up.fail.0.iter().zip(down.fail.0) {
                assert!((u.exp() + l.exp() - 2.0).abs() < 1e-12, "{d}");
            }
        }
        let steps: Vec<Both> = (-5..9)
            .map(|d| Both::on_signs(&[(1.0, f64::from(d))], &ON_COUNTS))
            .collect();
        let sum = |steps: &mut dyn Iterator<Item = &Both>| {
            let mut sum = Both::default();
            steps.for_each(|step| sum.add(step));
            sum.ln(Side::Fail)
        };
        assert!((sum(&mut steps.iter()) - sum(&mut steps.iter().rev())).abs() < 1e-12);
        assert!(sum(&mut steps.iter()) > 0.0);
    }

    #[test]
    fn money_is_split_and_none_is_made() {
        assert!(ln_any(0.0, [0.0; 7].into_iter()).abs() < 1e-12);
        let one = ln_any(-20.0, [-3.0, 14.0, -3.0].into_iter());
        assert!((one - (14.0 + (0.1_f64 / 3.0).ln())).abs() < 1e-6, "{one}");
        assert!(ln_any(f64::NEG_INFINITY, std::iter::empty()) < 0.0);
    }

    #[test]
    fn a_bet_never_loses_more_than_there_is() {
        for value in [-1.5, -0.2, 0.0, 1.5] {
            let both = Both::on_bounded(value, 0.2, 1.5);
            assert!(both.fail.ln().is_finite() && both.pass.ln().is_finite());
        }
        // What is far beyond all bets may not make the sum anything but a number.
        let both = Both::on_signs(&[(1.0, -1e300)], &ON_RATIOS);
        assert!(both.ln(Side::Fail) < 0.0 && both.ln(Side::Fail).is_finite() && both.ln(Side::Pass) > 0.0);
    }
}
