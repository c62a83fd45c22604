//! Heavy steps run apart from the thread that serves the network, a few at a time.

use super::{Past, Side};
use crate::tensor::Tensor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::time::{Instant as TokioInstant, timeout_at};

/// Why no result came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unprepared {
    /// Time is up.
    Late,
    /// A step refused what it got.
    Refused(String),
    /// A step panicked: a fault of ours.
    Panicked,
}

type Ran = Result<(Vec<Tensor>, Vec<Past>), Unprepared>;

/// As many as there are cores may work at once; the others wait, and take no memory but what they brought.
#[derive(Debug, Clone)]
pub struct Workers {
    places: Arc<Semaphore>,
}

impl Default for Workers {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            places: Arc::new(Semaphore::new(cores)),
        }
    }
}

impl Workers {
    /// Runs one side of a model's pipelines, here where it is light, else apart.
    ///
    /// # Errors
    /// When a step refuses what it gets, or the deadline passes.
    pub async fn run(&self, side: &Arc<Side>, tensors: &[Tensor], past: &[Past], deadline: Instant) -> Ran {
        if !side.is_heavy() {
            return run(side, tensors, past);
        }
        let deadline = TokioInstant::from_std(deadline);
        let place = timeout_at(deadline, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Unprepared::Late);
        };
        let (side, tensors, past) = (side.clone(), tensors.to_vec(), past.to_vec());
        let work = tokio::task::spawn_blocking(move || {
            // Held until the work is done, also when nobody waits for it any more.
            let _place = place;
            run(&side, &tensors, &past)
        });
        match timeout_at(deadline, work).await {
            Err(_) => Err(Unprepared::Late),
            Ok(ran) => ran.unwrap_or(Err(Unprepared::Panicked)),
        }
    }
}

fn run(side: &Side, tensors: &[Tensor], past: &[Past]) -> Ran {
    // Nothing is shared with what panics: tensors and past come and go by value.
    let ran = catch_unwind(AssertUnwindSafe(|| side.run(tensors, past)));
    match ran {
        Ok(ran) => ran.map_err(|error| Unprepared::Refused(error.to_string())),
        Err(_) => Err(Unprepared::Panicked),
    }
}
