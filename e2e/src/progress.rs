//! One line on standard error for every step, with the seconds since the start.

use std::time::Instant;

/// Says what happens now, and how long everything took until then.
#[derive(Clone, Debug)]
pub struct Progress {
    began: Instant,
    quiet: bool,
}

impl Progress {
    /// Starts counting now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            quiet: false,
        }
    }

    /// Counts, but prints nothing.
    pub fn quiet() -> Self {
        Self {
            began: Instant::now(),
            quiet: true,
        }
    }

    /// Prints one step.
    pub fn say(&self, step: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("[{:>6.1} s] {}", self.seconds(), step.as_ref());
        }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
