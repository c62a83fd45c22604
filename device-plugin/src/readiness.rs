//! What the agent still waits for; what `/readyz` answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The subjects that are not ready, each with what it waits for.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, String>>>);

impl Readiness {
    /// `subject` waits for something; the text says for what and what to do.
    pub fn waits(&self, subject: &str, text: impl Into<String>) {
        self.lock().insert(subject.to_owned(), text.into());
    }

    /// A better text for a subject that waits; one that is ready stays so.
    pub fn amend(&self, subject: &str, text: impl Into<String>) {
        if let Some(waiting) = self.lock().get_mut(subject) {
            *waiting = text.into();
        }
    }

    /// `subject` is ready, or gone.
    pub fn ready(&self, subject: &str) {
        self.lock().remove(subject);
    }

    /// One line for each subject that waits; nothing when all are ready.
    #[must_use]
    pub fn blockers(&self) -> Vec<String> {
        self.lock()
            .iter()
            .map(|(subject, text)| format!("{subject}: {text}"))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
