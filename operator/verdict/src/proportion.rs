//! A proportion of independently drawn inputs against a limit: likelihoods under all larger (or smaller) proportions,
//! averaged over a prior, beside that at the limit (Robbins' mixture).

use crate::wealth::Side;
use statrs::function::beta::{checked_beta_reg, ln_beta};

/// Logarithm of the wealth of who bet that a proportion is on one side of `limit`, after `hits` of `of`.
pub(crate) fn ln_wealth(hits: u64, of: u64, limit: f64, side: Side) -> f64 {
    let hits = hits.min(of);
    let (yes, no) = (hits as f64, (of - hits) as f64);
    // Most of the prior lies within a few times the limit.
    let (a, b) = (1.0, (0.5 / limit).max(1.0));
    let Some([before, after]) = part(a, b, limit, side)
        .zip(part(a + yes, b + no, limit, side))
        .map(|p| [p.0, p.1])
    else {
        return f64::NEG_INFINITY;
    };
    let mixture = ln_beta(a + yes, b + no) + after.ln() - ln_beta(a, b) - before.ln();
    mixture - yes * limit.ln() - no * (-limit).ln_1p()
}

/// Part of a beta distribution on one side of a limit.
fn part(a: f64, b: f64, limit: f64, side: Side) -> Option<f64> {
    let part = match side {
        Side::Pass => checked_beta_reg(a, b, limit),
        Side::Fail => checked_beta_reg(b, a, 1.0 - limit),
    };
    part.ok().filter(|part| *part > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_limit_the_bet_is_fair() {
        let limit: f64 = 0.02;
        let of = 300u64;
        for side in [Side::Fail, Side::Pass] {
            let law = statrs::distribution::Binomial::new(limit, of).unwrap();
            let mean: f64 = (0..=of)
                .map(|hits| {
                    (statrs::distribution::Discrete::ln_pmf(&law, hits) + ln_wealth(hits, of, limit, side))
                        .exp()
                })
                .sum();
            assert!((mean - 1.0).abs() < 1e-6, "{side:?}: {mean}");
        }
    }

    #[test]
    fn it_grows_on_the_side_where_the_truth_is() {
        assert!(ln_wealth(40, 2_000, 0.01, Side::Fail) > 5.0);
        assert!(ln_wealth(2, 2_000, 0.01, Side::Pass) > 5.0);
        assert!(ln_wealth(2, 2_000, 0.01, Side::Fail) < 0.0);
        assert!(ln_wealth(0, 0, 0.01, Side::Fail).abs() < 1e-9);
        assert!(!ln_wealth(u64::MAX, u64::MAX, 0.01, Side::Pass).is_nan());
    }
}
