//! Gives a bounded sample of inputs to the other revision too, when nothing else is to be done.

use super::agreement::agree;
use crate::engine::{Answer, Engine, Query};
use crate::metrics::Mirroring;
use crate::tensor::Tensor;
use perwatt_verdict::evidence::Mirrored;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// How long a mirrored input waits for a moment without requests, and how often it looks.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);
/// How long its answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// One input at a time.
#[derive(Debug)]
pub struct Mirror {
    place: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: Option<Instant>,
    mirrored: Mirrored,
}

/// An input that was drawn, with the one place for it.
#[derive(Debug)]
pub struct Drawn {
    query: Query,
    _place: OwnedSemaphorePermit,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            place: Arc::new(Semaphore::new(1)),
            state: Mutex::default(),
        }
    }
}

impl Mirror {
    // Nothing panics under this lock, so a poisoned lock holds whole data.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was compared so far.
    pub fn mirrored(&self) -> Mirrored {
        self.lock().mirrored
    }

    /// Draws a request before it is answered: after a while that the rate asks for, and by a coin, so that no rhythm of
    /// a client decides which. Never one of a sequence.
    pub fn draw(&self, query: &Query, per_minute: u32) -> Option<Drawn> {
        let between = Duration::from_secs(60).checked_div(per_minute)?;
        if query.sequence.is_some() {
            return None;
        }
        let now = Instant::now();
        let mut state = self.lock();
        if state.next.is_some_and(|next| now < next) || fastrand::bool() {
            return None;
        }
        let place = self.place.clone().try_acquire_owned().ok()?;
        state.next = Some(now + between);
        Some(Drawn {
            query: query.clone(),
            _place: place,
        })
    }

    /// Has the other revision answer what was drawn, and notes whether it says the same. A call that has begun is not
    /// broken off: a request that comes in the meantime waits for one inference at most.
    pub async fn run(&self, drawn: Drawn, answer: Vec<Tensor>, by: &Engine, other: &Engine) {
        let outcome = match self.ask(drawn, by, other).await {
            None => Mirroring::Skipped,
            Some(said) => {
                let same = agree(&by.manifest, &answer, &said);
                let mut state = self.lock();
                state.mirrored.compared += 1;
                state.mirrored.different += u64::from(!same);
                if same {
                    Mirroring::Same
                } else {
                    Mirroring::Different
                }
            }
        };
        by.metrics.count_mirrored(outcome);
    }

    async fn ask(&self, drawn: Drawn, by: &Engine, other: &Engine) -> Option<Vec<Tensor>> {
        let until = Instant::now() + PATIENCE;
        while by.in_flight() + other.in_flight() > 0 {
            if Instant::now() >= until {
                return None;
            }
            sleep(PAUSE).await;
        }
        let arrived = Instant::now();
        let query = Query {
            arrived,
            deadline: arrived + ANSWER,
            ..drawn.query.clone()
        };
        other.shadow(&query).await
    }
}

/// The outputs of an answer that may be compared: one that a variant of this runtime gave.
pub fn comparable(answer: &Answer, engine: &Engine) -> Option<Vec<Tensor>> {
    let variant = answer.variant?;
    engine.answers_itself(variant).then(|| answer.outputs.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Query {
        let arrived = Instant::now();
        Query {
            inputs: Vec::new(),
            sequence: None,
            arrived,
            deadline: arrived,
        }
    }

    #[test]
    fn one_at_a_time_and_no_more_than_the_rate() {
        let mirror = Mirror::default();
        let draw = |per_minute| (0..1_000).find_map(|_| mirror.draw(&query(), per_minute));
        assert!(draw(0).is_none(), "it is off");
        let first = draw(1).unwrap();
        assert!(draw(1).is_none(), "the minute is not over");
        mirror.lock().next = None;
        assert!(draw(1).is_none(), "the place is taken");
        drop(first);
        assert!(draw(1).is_some());
    }
}
