//! One figure.

/// A figure, and what it stands beside.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// In what unit.
    pub unit: &'static str,
    /// What it is compared with, and the value of that.
    pub beside: Option<(String, f64)>,
    /// Simulated rollouts that it comes from.
    pub rollouts: usize,
}

impl Row {
    /// Without anything beside it.
    pub(crate) fn new(name: String, value: f64, unit: &'static str, rollouts: usize) -> Self {
        Self {
            name,
            value,
            unit,
            beside: None,
            rollouts,
        }
    }

    /// With something beside it.
    pub(crate) fn against(mut self, what: &str, value: f64) -> Self {
        self.beside = Some((what.to_owned(), value));
        self
    }
}

/// Work for each of `count` seeds, on as many threads as there are cores; in order of the seeds.
pub(crate) fn for_seeds<T: Send>(count: usize, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = count.div_ceil(threads).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|thread| {
                let (first, last) = ((thread * share).min(count), ((thread + 1) * share).min(count));
                scope.spawn(move || (first..last).map(|seed| work(seed as u64)).collect::<Vec<T>>())
            })
            .collect();
        // A thread that panicked has said so; the figure must not come from fewer rollouts than it says.
        parts
            .into_iter()
            .flat_map(|part| {
                part.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// The value that `part` of all are at most; infinite values last.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * part).ceil() as usize;
    values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
