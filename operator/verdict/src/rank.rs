//! The rank-sum test of Wilcoxon, exactly where units are few: what chance gives a group so high, or so low, a sum of
//! ranks when which units form it means nothing.

use statrs::distribution::{ContinuousCDF, Normal};

/// Most units for which all ways to choose a group are counted; beyond, the sum of ranks is nearly normal.
const EXACT: usize = 40;

/// Chances that the group's sum of ranks is at least, and at most, what it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Chances {
    /// At least.
    pub high: f64,
    /// At most.
    pub low: f64,
}

/// Of values of a group against those of all others; nothing where one is empty or a value is no number.
pub(crate) fn rank_sum(group: &[f64], others: &[f64]) -> Option<Chances> {
    let mut all: Vec<(f64, bool)> = group.iter().map(|v| (*v, true)).collect();
    all.extend(others.iter().map(|v| (*v, false)));
    if group.is_empty() || others.is_empty() || all.iter().any(|(value, _)| value.is_nan()) {
        return None;
    }
    all.sort_by(|left, right| left.0.total_cmp(&right.0));
    let ranks = doubled_ranks(&all);
    let sum = all
        .iter()
        .zip(&ranks)
        .filter(|((_, own), _)| *own)
        .map(|(_, rank)| rank)
        .sum();
    Some(if all.len() <= EXACT {
        exact(&ranks, group.len(), sum)
    } else {
        approximate(&ranks, group.len(), sum)
    })
}

/// Twice the rank of each, the mean of ranks where values are equal.
fn doubled_ranks(sorted: &[(f64, bool)]) -> Vec<usize> {
    let mut ranks = Vec::with_capacity(sorted.len());
    for equal in sorted.chunk_by(|left, right| left.0 == right.0) {
        let first = ranks.len() + 1;
        let last = ranks.len() + equal.len();
        ranks.extend(std::iter::repeat_n(first + last, equal.len()));
    }
    ranks
}

/// Adds unit by unit to the ways in which `k` of them have the sum `s`.
fn exact(ranks: &[usize], group: usize, sum: usize) -> Chances {
    let most: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0; most + 1]; group + 1];
    ways[0][0] = 1.0;
    for &rank in ranks {
        for size in (1..=group).rev() {
            let (smaller, larger) = ways.split_at_mut(size);
            let from = &smaller[size - 1];
            for s in rank..=most {
                larger[0][s] += from[s - rank];
            }
        }
    }
    let counts = &ways[group];
    let all: f64 = counts.iter().sum();
    Chances {
        high: counts[sum..].iter().sum::<f64>() / all,
        low: counts[..=sum].iter().sum::<f64>() / all,
    }
}

fn approximate(ranks: &[usize], group: usize, sum: usize) -> Chances {
    let (n, k) = (ranks.len() as f64, group as f64);
    let mean = ranks.iter().sum::<usize>() as f64 / n;
    let variance = ranks
        .iter()
        .map(|rank| (*rank as f64 - mean).powi(2))
        .sum::<f64>()
        / (n - 1.0);
    let deviation = (k * (n - k) / n * variance).sqrt();
    let Ok(law) = Normal::new(k * mean, deviation) else {
        return Chances { high: 1.0, low: 1.0 };
    };
    // Half a step towards the middle, as sums of ranks are whole numbers.
    Chances {
        high: law.sf(sum as f64 - 1.0),
        low: law.cdf(sum as f64 + 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_of_all_groups_has_the_chance_of_one_of_them() {
        let low: Vec<f64> = (0..5).map(f64::from).collect();
        let high: Vec<f64> = (5..8).map(f64::from).collect();
        let chances = rank_sum(&high, &low).unwrap();
        assert!((chances.high - 1.0 / 56.0).abs() < 1e-12 && (chances.low - 1.0).abs() < 1e-12);
        let equal = rank_sum(&[1.0; 4], &[1.0; 4]).unwrap();
        assert!((equal.high - 1.0).abs() < 1e-12 && (equal.low - 1.0).abs() < 1e-12);
    }

    #[test]
    fn exact_and_approximate_agree_where_both_may_be_used() {
        let group: Vec<f64> = (0..20).map(|n| f64::from(n) * 1.3 + 2.0).collect();
        let others: Vec<f64> = (0..20).map(f64::from).collect();
        let exact = rank_sum(&group, &others).unwrap();
        let mut all: Vec<(f64, bool)> = group.iter().map(|v| (*v, true)).collect();
        all.extend(others.iter().map(|v| (*v, false)));
        all.sort_by(|left, right| left.0.total_cmp(&right.0));
        let ranks = doubled_ranks(&all);
        let sum = all.iter().zip(&ranks).filter(|(v, _)| v.1).map(|(_, r)| r).sum();
        let near = approximate(&ranks, 20, sum);
        assert!((exact.high - near.high).abs() < 0.003, "{exact:?} {near:?}");
    }

    #[test]
    fn nothing_and_no_numbers_have_no_ranks() {
        assert_eq!(rank_sum(&[], &[1.0]), None);
        assert_eq!(rank_sum(&[f64::NAN], &[1.0]), None);
    }
}
