//! Joules from irregular samples. Pure: the time is an argument, and runs from any start.
//!
//! Rules, each a property in the tests:
//! - A counter that grew counts by its growth. One that shrank has wrapped, where its range is
//!   known and the growth through the wrap is possible at the most that the device draws; else
//!   it was reset, and what it shows now counts, where that is possible.
//! - A counter bridges a gap as long as it cannot have gone round meanwhile. Samples of power
//!   bridge [`LONGEST_GAP`]. What is longer is unobserved, and counts nothing.
//! - Between two samples of power lies a trapezoid; a value that holds until it is changed is a
//!   step; a mean counts for the time before it.
//! - A sleeping device counts what its profile says of sleep, as `nameplate`; without that it is
//!   time asleep and no energy. A counter tells of the sleep itself, once the device is awake.
//! - A clock that stands or goes back counts nothing.

use crate::telemetry::FigureSource;
use std::time::Duration;

/// The longest time between two samples of power that counts.
pub const LONGEST_GAP: Duration = Duration::from_secs(15);

/// The most milliwatts that any device draws, where its profile does not say.
const ANY_MILLIWATTS: u32 = 2_000_000;

/// How much more than its nameplate a device may draw for a moment before its counter is not
/// believed, in per cent.
const TOLERANCE_PERCENT: u128 = 200;

/// What a device tells of its energy at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// A counter of microjoules, and the most it shows before it starts again at 0.
    Counter {
        /// What it shows.
        microjoules: u64,
        /// Where it wraps, where it does.
        range: Option<u64>,
    },
    /// Power.
    Power {
        /// Milliwatts.
        milliwatts: u32,
        /// What it says of the time around it.
        shape: Shape,
    },
    /// The device sleeps; milliwatts that its profile states for that.
    Asleep {
        /// Milliwatts.
        milliwatts: Option<u32>,
    },
    /// Nothing is known of this moment.
    Nothing,
}

/// What a sample of power says of the time around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It is the power at that moment.
    Point,
    /// It holds until the next.
    Hold,
    /// It is the mean since the one before.
    Mean,
}

/// What is known of a device's power beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The most that it draws, in milliwatts.
    pub max_milliwatts: Option<u32>,
    /// What it draws without work, in milliwatts; where it is set, energy above it is summed too.
    pub idle_milliwatts: Option<u32>,
}

/// What was summed so far. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    nanojoules: [u128; 3],
    above_idle: u128,
    /// Time whose energy is in the sums.
    pub observed: Duration,
    /// Time of which nothing is known.
    pub unobserved: Duration,
    /// Time asleep.
    pub asleep: Duration,
    /// Times that a counter started again without having wrapped.
    pub resets: u64,
}

impl Totals {
    /// Joules of one source.
    #[must_use]
    pub fn joules(&self, source: FigureSource) -> f64 {
        as_joules(self.nanojoules[source as usize])
    }

    /// Microjoules of one source.
    #[must_use]
    pub fn microjoules(&self, source: FigureSource) -> u64 {
        u64::try_from(self.nanojoules[source as usize] / 1000).unwrap_or(u64::MAX)
    }

    /// Joules above what the device draws without work, of all sources.
    #[must_use]
    pub fn joules_above_idle(&self) -> f64 {
        as_joules(self.above_idle)
    }

    /// What was added since `before`; all of it, where the sums have begun anew meanwhile.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.less(before).unwrap_or(*self)
    }

    fn less(&self, before: &Self) -> Option<Self> {
        let mut nanojoules = self.nanojoules;
        for (now, before) in nanojoules.iter_mut().zip(before.nanojoules) {
            *now = now.checked_sub(before)?;
        }
        Some(Self {
            nanojoules,
            above_idle: self.above_idle.checked_sub(before.above_idle)?,
            observed: self.observed.checked_sub(before.observed)?,
            unobserved: self.unobserved.checked_sub(before.unobserved)?,
            asleep: self.asleep.checked_sub(before.asleep)?,
            resets: self.resets.checked_sub(before.resets)?,
        })
    }

    /// Adds one part of `parts` of `other`: the share of one of several holders.
    pub fn add_share(&mut self, other: &Self, parts: u32) {
        let parts = parts.max(1);
        for (sum, more) in self.nanojoules.iter_mut().zip(other.nanojoules) {
            *sum += more / u128::from(parts);
        }
        self.above_idle += other.above_idle / u128::from(parts);
        self.observed += other.observed;
        self.unobserved += other.unobserved;
        self.asleep += other.asleep;
        self.resets += other.resets;
    }

    /// Nothing was ever counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nanojoules == [0; 3]
    }
}

#[allow(clippy::cast_precision_loss)]
fn as_joules(nanojoules: u128) -> f64 {
    nanojoules as f64 / 1e9
}

/// Sums the energy of one device.
#[derive(Clone, Debug, Default)]
pub struct Integrator {
    bounds: Bounds,
    totals: Totals,
    last: Option<(Duration, Sample, FigureSource)>,
    /// The last reading of the counter, for it bridges moments of which nothing is known.
    counter: Option<(Duration, u64)>,
}

impl Integrator {
    /// Nothing yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// The sums so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Another profile; sums stay.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Takes a sample of the moment `at`, whose figure comes from `source`.
    pub fn add(&mut self, at: Duration, sample: Sample, source: FigureSource) {
        let last = self.last.replace((at, sample, source));
        let Some((before, old, old_source)) = last else {
            self.counter = counter_of(at, sample);
            return;
        };
        let Some(time) = at.checked_sub(before) else {
            // The clock went back: begin anew from here.
            self.counter = counter_of(at, sample);
            return;
        };
        match sample {
            Sample::Counter { microjoules, range } => self.add_counter(at, microjoules, range, source, time),
            _ if self.counter.is_some() && !matches!(sample, Sample::Power { .. }) => {
                // The counter will tell of this time, once it is read again.
                if matches!(sample, Sample::Asleep { .. }) {
                    self.totals.asleep += time;
                }
            }
            _ => {
                self.counter = None;
                self.add_power(time, (old, old_source), (sample, source));
            }
        }
    }

    fn add_counter(
        &mut self,
        at: Duration,
        now: u64,
        range: Option<u64>,
        source: FigureSource,
        step: Duration,
    ) {
        let Some((since, before)) = self.counter.replace((at, now)) else {
            self.totals.unobserved += step;
            return;
        };
        let time = at.saturating_sub(since);
        let most = self.most(time);
        let turn = range.map(|range| u128::from(range) + 1);
        let growth = match now.checked_sub(before) {
            Some(growth) => Some(u128::from(growth) * 1000),
            None => {
                let through =
                    turn.map(|turn| (turn + u128::from(now)).saturating_sub(u128::from(before)) * 1000);
                let wrapped = through.filter(|nanojoules| *nanojoules <= most);
                if wrapped.is_none() {
                    self.totals.resets += 1;
                }
                wrapped.or(Some(u128::from(now) * 1000))
            }
        };
        // It may have gone round once more than it shows.
        let ambiguous = turn.is_some_and(|turn| most >= turn * 1000);
        match growth.filter(|nanojoules| *nanojoules <= most && !ambiguous) {
            Some(nanojoules) => self.count(time, &[(nanojoules, source)]),
            None => self.totals.unobserved += time,
        }
    }

    /// The most nanojoules that the device can draw in `time`, with a tolerance, and one second
    /// more: counters are brought up to date in steps.
    fn most(&self, time: Duration) -> u128 {
        let milliwatts = u128::from(self.bounds.max_milliwatts.unwrap_or(ANY_MILLIWATTS));
        milliwatts * (time + Duration::from_secs(1)).as_micros() * TOLERANCE_PERCENT / 100
    }

    fn add_power(
        &mut self,
        time: Duration,
        (old, old_source): (Sample, FigureSource),
        (new, source): (Sample, FigureSource),
    ) {
        if time > LONGEST_GAP {
            self.totals.unobserved += time;
            return;
        }
        let micros = time.as_micros();
        // Milliwatts times microseconds are nanojoules. Each end counts for half of a trapezoid.
        let half = |milliwatts: u32| u128::from(milliwatts) * micros / 2;
        let ends = match (old, new) {
            (
                Sample::Power {
                    milliwatts,
                    shape: Shape::Hold,
                },
                _,
            ) => [(half(milliwatts), old_source); 2],
            (
                _,
                Sample::Power {
                    milliwatts,
                    shape: Shape::Mean,
                },
            ) => [(half(milliwatts), source); 2],
            (old, new) => match (end(old, old_source), end(new, source)) {
                (Some((one, first)), Some((two, second))) => [(half(one), first), (half(two), second)],
                _ => {
                    self.count_unknown(time, old, new);
                    return;
                }
            },
        };
        if is_asleep(old) && is_asleep(new) {
            self.totals.asleep += time;
        }
        self.count(time, &ends);
    }

    /// Without a figure at one end: asleep where it says so, else unobserved.
    fn count_unknown(&mut self, time: Duration, old: Sample, new: Sample) {
        if is_asleep(old) && is_asleep(new) {
            self.totals.asleep += time;
        } else {
            self.totals.unobserved += time;
        }
    }

    fn count(&mut self, time: Duration, parts: &[(u128, FigureSource)]) {
        self.totals.observed += time;
        for (nanojoules, source) in parts {
            self.totals.nanojoules[*source as usize] += nanojoules;
        }
        if let Some(idle) = self.bounds.idle_milliwatts {
            let all: u128 = parts.iter().map(|(nanojoules, _)| nanojoules).sum();
            self.totals.above_idle += all.saturating_sub(u128::from(idle) * time.as_micros());
        }
    }
}

fn is_asleep(sample: Sample) -> bool {
    matches!(sample, Sample::Asleep { .. })
}

fn counter_of(at: Duration, sample: Sample) -> Option<(Duration, u64)> {
    match sample {
        Sample::Counter { microjoules, .. } => Some((at, microjoules)),
        _ => None,
    }
}

/// Milliwatts at one end of a trapezoid, and where they come from.
fn end(sample: Sample, source: FigureSource) -> Option<(u32, FigureSource)> {
    match sample {
        Sample::Power { milliwatts, .. } => Some((milliwatts, source)),
        Sample::Asleep { milliwatts } => milliwatts.map(|milliwatts| (milliwatts, FigureSource::Nameplate)),
        Sample::Counter { .. } | Sample::Nothing => None,
    }
}

#[cfg(test)]
#[path = "integrator_tests.rs"]
mod tests;
