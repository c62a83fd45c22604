//! What the requests of a run gave, by when they came: before the fault, while it lasted, after it.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::sender::{Answer, Asked};
use crate::bench::failed;
use crate::product::Result;

/// When the fault begins and ends, from the first request on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// The server breaks.
    pub fault: Duration,
    /// It is well again.
    pub end: Duration,
}

impl Moments {
    /// At a third and at two thirds of the requests.
    pub fn of(requests: u32, interval: Duration) -> Self {
        Self {
            fault: interval * (requests / 3),
            end: interval * (requests / 3 * 2),
        }
    }

    /// A request that was still under way when the server broke met the fault.
    fn part(self, due: Duration, answered: Duration) -> Part {
        if due >= self.end {
            Part::After
        } else if answered >= self.fault {
            Part::During
        } else {
            Part::Before
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Before,
    During,
    After,
}

/// The requests of one part of a run.
#[derive(Debug)]
pub struct Requests {
    /// From the moment at which each was to be sent to its answer, in microseconds.
    times: Histogram<u64>,
    fallback: u64,
}

impl Requests {
    fn new() -> Result<Self> {
        let times = Histogram::new_with_bounds(1, 600_000_000, 3);
        Ok(Self {
            times: times.map_err(|error| failed("a histogram", error))?,
            fallback: 0,
        })
    }

    /// Milliseconds.
    pub fn p99(&self) -> f64 {
        milliseconds(self.times.value_at_quantile(0.99))
    }

    /// How many the fallback answered, of a hundred.
    pub fn fallback_percent(&self) -> f64 {
        percent(self.fallback, self.times.len())
    }
}

/// What the requests of one run gave.
#[derive(Debug)]
pub struct Tally {
    moments: Moments,
    /// How many were sent.
    pub sent: u64,
    /// Those without an answer, or with a wrong one.
    pub failed: u64,
    /// Answers of the fallback that do not say that they are degraded.
    pub silent: u64,
    /// Requests under way when the fault came, whose first try got no answer.
    pub in_flight: u64,
    /// Later ones whose first try got none.
    pub refused: u64,
    /// From the fault to the first answer that the fallback gave after it.
    pub found_milliseconds: Option<f64>,
    /// Requests that met no fault yet.
    pub before: Requests,
    /// Requests that came while the server was broken, or were under way when it broke.
    pub during: Requests,
    after: Requests,
}

impl Tally {
    /// Nothing yet.
    pub fn new(moments: Moments) -> Result<Self> {
        Ok(Self {
            moments,
            sent: 0,
            failed: 0,
            silent: 0,
            in_flight: 0,
            refused: 0,
            found_milliseconds: None,
            before: Requests::new()?,
            during: Requests::new()?,
            after: Requests::new()?,
        })
    }

    /// A request that was due and answered at these times from the first request on.
    pub fn add(&mut self, due: Duration, answered: Duration, asked: impl Into<Asked>) {
        let Asked { answer, again } = asked.into();
        match due < self.moments.fault {
            true => self.in_flight += u64::from(again),
            false => self.refused += u64::from(again),
        }
        let requests = match self.moments.part(due, answered) {
            Part::Before => &mut self.before,
            Part::During => &mut self.during,
            Part::After => &mut self.after,
        };
        self.sent += 1;
        let took = answered.saturating_sub(due).as_micros();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        requests.times.saturating_record(took);
        match answer {
            Answer::None => self.failed += 1,
            Answer::Server => {}
            Answer::Fallback { says_so } => {
                requests.fallback += 1;
                self.silent += u64::from(!says_so);
                if let Some(after) = answered.checked_sub(self.moments.fault) {
                    let after = after.as_secs_f64() * 1e3;
                    self.found_milliseconds =
                        Some(self.found_milliseconds.map_or(after, |first| first.min(after)));
                }
            }
        }
    }

    /// Milliseconds, over all parts.
    pub fn whole_p99(&self) -> f64 {
        let mut whole = self.before.times.clone();
        let added = [&self.during, &self.after].map(|part| whole.add(&part.times));
        // All have the same bounds.
        debug_assert!(added.iter().all(std::result::Result::is_ok));
        milliseconds(whole.value_at_quantile(0.99))
    }

    /// Milliseconds.
    pub fn slowest_milliseconds(&self) -> f64 {
        let parts = [&self.before, &self.during, &self.after];
        milliseconds(parts.map(|part| part.times.max()).into_iter().max().unwrap_or(0))
    }

    /// How many requests of a hundred the fallback answered although the server was well: none would be ideal.
    pub fn extra_percent(&self) -> f64 {
        let fallback = self.before.fallback + self.after.fallback;
        percent(fallback, self.before.times.len() + self.after.times.len())
    }
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a request")]
fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[allow(clippy::cast_precision_loss, reason = "counts of requests")]
fn percent(part: u64, all: u64) -> f64 {
    part as f64 / all as f64 * 100.0
}

/// The largest expected number of events that would still show so few in one case of twenty: an exact upper bound
/// for a Poisson process with 95% confidence. For no event it is 3.0, the rule of three.
#[allow(clippy::cast_precision_loss, reason = "counts of requests")]
pub fn upper_bound(events: u64) -> f64 {
    let (mut low, mut high) = (0.0, 2.0 * events as f64 + 10.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at_most(events, middle) > 0.05 {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// Probability of at most so many events where `mean` are expected; by logarithms, for a thousand have factorials
/// that no number holds.
#[allow(clippy::cast_precision_loss, reason = "counts of requests")]
fn at_most(events: u64, mean: f64) -> f64 {
    let (mut logarithm, mut sum) = (-mean, (-mean).exp());
    for event in 1..=events {
        logarithm += mean.ln() - (event as f64).ln();
        sum += logarithm.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_bound_is_the_rule_of_three_and_beyond_it_that_of_a_table() {
        for (events, bound) in [(0, 2.996), (1, 4.744), (2, 6.296), (10, 16.962), (1000, 1054.0)] {
            let found = upper_bound(events);
            assert!((found - bound).abs() < bound * 1e-3, "{events}: {found}");
        }
    }

    #[test]
    fn a_request_belongs_to_the_part_of_the_run_that_it_met() {
        let moments = Moments::of(9, 10 * MS);
        assert_eq!((moments.fault, moments.end), (30 * MS, 60 * MS));
        for (due, answered, part) in [
            (0, 29, Part::Before),
            (20, 30, Part::During),
            (30, 31, Part::During),
            (50, 400, Part::During),
            (60, 61, Part::After),
        ] {
            assert_eq!(moments.part(due * MS, answered * MS), part, "{due} {answered}");
        }
    }

    #[test]
    fn every_answer_counts_where_it_belongs() {
        let mut tally = Tally::new(Moments::of(9, 10 * MS)).expect("a tally");
        let fallback = |says_so| Answer::Fallback { says_so };
        tally.add(Duration::ZERO, MS, Answer::Server);
        tally.add(20 * MS, 45 * MS, fallback(true));
        tally.add(30 * MS, 37 * MS, fallback(false));
        tally.add(40 * MS, 140 * MS, Answer::None);
        tally.add(60 * MS, 62 * MS, fallback(true));
        tally.add(70 * MS, 71 * MS, Answer::Server);
        assert_eq!((tally.sent, tally.failed, tally.silent), (6, 1, 1));
        assert_eq!(tally.found_milliseconds, Some(7.0));
        assert!((tally.slowest_milliseconds() - 100.0).abs() < 0.1);
        assert!((tally.during.fallback_percent() - 200.0 / 3.0).abs() < 1e-9);
        assert!((tally.extra_percent() - 100.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn who_was_in_flight_is_told_from_who_came_later() {
        let mut tally = Tally::new(Moments::of(9, 10 * MS)).expect("a tally");
        let again = Asked {
            answer: Answer::Server,
            again: true,
        };
        tally.add(10 * MS, 12 * MS, Answer::Server);
        tally.add(20 * MS, 300 * MS, again);
        tally.add(30 * MS, 300 * MS, again);
        tally.add(40 * MS, 300 * MS, again);
        assert_eq!((tally.in_flight, tally.refused, tally.failed), (1, 2, 0));
    }
}
