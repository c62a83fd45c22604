//! What applications say of answers: whose answer it was, and that nothing counts twice.
//!
//! Ids are kept as keyed hashes, and so many of them at most: a client cannot fill memory.

use crate::metrics::FeedbackKind;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::{Duration, SystemTime};

/// Answers with an id, and pieces of feedback, that are remembered.
const REMEMBERED: usize = 4096;
/// Changes of the variant that serves that are remembered.
const CHANGES: usize = 256;
/// How far a client's clock may be ahead.
const AHEAD: Duration = Duration::from_secs(300);

/// Which answer is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The one to the request with this id.
    Request(String),
    /// The one that was right then, or should have been: Unix time in milliseconds.
    Moment(u64),
}

/// What became of a piece of feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// Place in the chain of the variant that answered, where it is known.
    pub variant: Option<usize>,
    /// False where the same was said before.
    pub counted: bool,
}

/// Why feedback is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// Something else was said before.
    #[error("this answer was reported as {0:?} before: an id or time can be reported once")]
    Contradicts(FeedbackKind),
    /// It speaks of what is still to come.
    #[error(
        "time_milliseconds is in the future: is the client's clock right, and is it Unix time in milliseconds?"
    )]
    Future,
}

/// Remembers answers and feedback.
#[derive(Debug, Default)]
pub struct FeedbackBook {
    hasher: RandomState,
    answers: Recent<usize>,
    given: Recent<FeedbackKind>,
    /// What served from when on, the oldest first.
    served: VecDeque<(SystemTime, Option<usize>)>,
}

impl FeedbackBook {
    /// Remembers who answered a request.
    pub fn answered(&mut self, id: &str, variant: usize) {
        let key = self.hasher.hash_one(id);
        self.answers.insert(key, variant);
    }

    /// Whether it is remembered who answered a request.
    pub fn remembers(&self, id: &str) -> bool {
        self.answers.get(self.hasher.hash_one(id)).is_some()
    }

    /// Remembers what serves from now on.
    pub fn serves(&mut self, variant: Option<usize>, now: SystemTime) {
        if self.served.len() == CHANGES {
            self.served.pop_front();
        }
        self.served.push_back((now, variant));
    }

    /// Takes in a piece of feedback.
    ///
    /// # Errors
    /// When it contradicts an earlier one, or speaks of the future.
    pub fn note(
        &mut self,
        subject: &Subject,
        kind: FeedbackKind,
        now: SystemTime,
    ) -> Result<Noted, FeedbackError> {
        let variant = match subject {
            Subject::Request(id) => self.answers.get(self.hasher.hash_one(id.as_str())),
            Subject::Moment(milliseconds) => self.serving_at(*milliseconds, now)?,
        };
        let key = self.hasher.hash_one(subject);
        let before = self.given.get(key);
        match before {
            Some(before) if before != kind => return Err(FeedbackError::Contradicts(before)),
            Some(_) => {}
            None => self.given.insert(key, kind),
        }
        Ok(Noted {
            variant,
            counted: before.is_none(),
        })
    }

    fn serving_at(&self, milliseconds: u64, now: SystemTime) -> Result<Option<usize>, FeedbackError> {
        let moment = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds));
        let moment = moment.filter(|&moment| moment <= now + AHEAD);
        let moment = moment.ok_or(FeedbackError::Future)?;
        let last = self.served.iter().rev().find(|(since, _)| *since <= moment);
        Ok(last.and_then(|(_, variant)| *variant))
    }
}

/// The last values by key, a bounded number of them.
#[derive(Debug)]
struct Recent<T> {
    values: HashMap<u64, (u64, T)>,
    order: VecDeque<(u64, u64)>,
    next: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        }
    }
}

impl<T: Copy> Recent<T> {
    fn get(&self, key: u64) -> Option<T> {
        self.values.get(&key).map(|(_, value)| *value)
    }

    fn insert(&mut self, key: u64, value: T) {
        if self.order.len() == REMEMBERED
            && let Some((oldest, turn)) = self.order.pop_front()
            // A key that came again since then stays.
            && self.values.get(&oldest).is_some_and(|(latest, _)| *latest == turn)
        {
            self.values.remove(&oldest);
        }
        self.values.insert(key, (self.next, value));
        self.order.push_back((key, self.next));
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> Subject {
        Subject::Request(id.into())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_twice_counts_once_and_the_contrary_is_refused() {
        let mut book = FeedbackBook::default();
        book.answered("a", 1);
        let noted = |counted| {
            Ok(Noted {
                variant: Some(1),
                counted,
            })
        };
        let miss = FeedbackKind::Miss;
        assert_eq!(book.note(&request("a"), miss, at(9)), noted(true));
        assert_eq!(book.note(&request("a"), miss, at(9)), noted(false));
        assert_eq!(
            book.note(&request("a"), FeedbackKind::Correct, at(9)),
            Err(FeedbackError::Contradicts(miss))
        );
        let unknown = book.note(&request("b"), miss, at(9)).unwrap();
        assert_eq!(
            (unknown.variant, unknown.counted),
            (None, true),
            "counted, for nobody"
        );
    }

    #[test]
    fn a_moment_belongs_to_what_served_then() {
        let mut book = FeedbackBook::default();
        book.serves(Some(0), at(100));
        book.serves(Some(1), at(200));
        book.serves(None, at(300));
        for (seconds, variant) in [
            (99, None),
            (100, Some(0)),
            (199, Some(0)),
            (250, Some(1)),
            (301, None),
        ] {
            let noted = book.note(&Subject::Moment(seconds * 1000), FeedbackKind::Miss, at(400));
            assert_eq!(noted.unwrap().variant, variant, "{seconds}");
        }
        for future in [701_000, u64::MAX] {
            let error = book.note(&Subject::Moment(future), FeedbackKind::Miss, at(400));
            assert_eq!(error, Err(FeedbackError::Future));
        }
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let mut book = FeedbackBook::default();
        for n in 0..3 * REMEMBERED {
            book.answered(&n.to_string(), 0);
            book.answered("again", 2);
            book.serves(Some(0), at(n as u64));
            book.note(&request(&n.to_string()), FeedbackKind::Correct, at(0))
                .unwrap();
        }
        assert!(book.answers.values.len() <= REMEMBERED && book.answers.order.len() <= REMEMBERED);
        assert!(book.given.values.len() <= REMEMBERED && book.served.len() <= CHANGES);
        let again = book
            .note(&request("again"), FeedbackKind::Correct, at(0))
            .unwrap();
        assert_eq!(again.variant, Some(2));
        let forgotten = book.note(&request("0"), FeedbackKind::Correct, at(0)).unwrap();
        assert_eq!(forgotten.variant, None);
    }
}
