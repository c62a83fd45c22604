//! Rules of others, as their sources describe them. They are their rules only: not their programs, and not how their
//! makers would set them up for these data.

/// What one revision showed in one minute: error rate, p95, energy per inference.
pub type Minute = [f64; 3];

/// Minutes of a rollout, canary's and incumbent's.
#[derive(Debug, Clone, Default)]
pub struct Minutes {
    /// The canary's.
    pub canary: Vec<Minute>,
    /// The incumbent's.
    pub incumbent: Vec<Minute>,
}

/// Fewest minutes that the Mann-Whitney rule is asked about.
const FEWEST: usize = 5;
/// Kayenta's `NetflixACAJudge`: confidence 98%, so that 1% is left on either side.
const KAYENTA_DEVIATIONS: f64 = 2.326;
/// The same: a metric is high where the lower limit of the shift is above this part of its estimate.
const KAYENTA_FRACTION: f64 = 0.25;
/// Argo Rollouts' documentation: `failureLimit: 3`.
const FAILURE_LIMIT: usize = 3;
/// What the counter calls a failed measurement: the limits of the shipped defaults.
const LIMITS: [(f64, f64); 3] = [(1.0, 0.005), (1.1, 0.0), (1.05, 0.0)];

impl Minutes {
    /// Whether Kayenta's rule calls any of the three metrics high after the minutes so far.
    #[must_use]
    pub fn mann_whitney(&self) -> bool {
        (0..3).any(|metric| {
            let of = |minutes: &[Minute]| -> Vec<f64> {
                minutes.iter().filter_map(|m| m.get(metric).copied()).collect()
            };
            is_high(&of(&self.canary), &of(&self.incumbent))
        })
    }

    /// Whether more minutes failed than are allowed, of any of the three metrics.
    #[must_use]
    pub fn counter(&self) -> bool {
        LIMITS.iter().enumerate().any(|(metric, (factor, more))| {
            let pairs = self.canary.iter().zip(&self.incumbent);
            let failed =
                pairs.filter(|(canary, incumbent)| canary[metric] > incumbent[metric] * factor + more);
            failed.count() > FAILURE_LIMIT
        })
    }
}

/// The lower limit of the Hodges-Lehmann shift, by the normal approximation of the rank-sum's distribution, against a
/// part of the shift.
fn is_high(canary: &[f64], incumbent: &[f64]) -> bool {
    if canary.len() < FEWEST || incumbent.len() < FEWEST {
        return false;
    }
    let mut shifts: Vec<f64> = canary
        .iter()
        .flat_map(|c| incumbent.iter().map(move |i| c - i))
        .collect();
    shifts.sort_by(f64::total_cmp);
    let (n, m) = (canary.len() as f64, incumbent.len() as f64);
    let place = n * m / 2.0 - KAYENTA_DEVIATIONS * (n * m * (n + m + 1.0) / 12.0).sqrt();
    let lower = shifts
        .get(place.max(1.0) as usize - 1)
        .copied()
        .unwrap_or(f64::NAN);
    let estimate = shifts.get(shifts.len() / 2).copied().unwrap_or(f64::NAN);
    lower > KAYENTA_FRACTION * estimate.abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(canary: Minute, incumbent: Minute) -> Minutes {
        let spread = |minute: Minute| {
            (0..10)
                .map(|n| minute.map(|v| v * (1.0 + 0.01 * f64::from(n))))
                .collect()
        };
        Minutes {
            canary: spread(canary),
            incumbent: spread(incumbent),
        }
    }

    #[test]
    fn both_rules_see_what_is_plain_and_nothing_where_all_is_equal() {
        let (good, bad) = ([0.005, 100.0, 2.0], [0.05, 200.0, 4.0]);
        assert!(minutes(bad, good).mann_whitney() && minutes(bad, good).counter());
        assert!(!minutes(good, good).mann_whitney() && !minutes(good, good).counter());
        assert!(
            !minutes(good, bad).mann_whitney(),
            "only what is higher is asked about"
        );
    }
}
