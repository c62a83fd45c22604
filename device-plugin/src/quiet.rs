//! Says the same thing once, not once a second, and says the cause of it.

use perwatt_crds::text::tidy;
use std::collections::BTreeSet;

/// Different messages that one trouble may have before they are taken for news again.
const MOST: usize = 16;

/// Remembers what was said of one subject since it was well.
#[derive(Debug, Default)]
pub struct Quiet(BTreeSet<String>);

impl Quiet {
    /// Whether `message` is news.
    pub fn is_news(&mut self, message: &str) -> bool {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(message.to_owned())
    }

    /// The subject is well; tells whether it was not.
    pub fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

/// What an error comes from in the end: the libraries wrap it in layers that say little and
/// repeat it.
#[must_use]
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    tidy(&text, 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_that_take_turns_are_each_said_once() {
        let mut quiet = Quiet::default();
        assert!(quiet.is_news("a") && quiet.is_news("b"));
        assert!(!quiet.is_news("a") && !quiet.is_news("b"));
        assert!(quiet.clear() && !quiet.clear());
        assert!(quiet.is_news("a"));
    }

    #[test]
    fn the_cause_is_what_is_said() {
        #[derive(Debug, thiserror::Error)]
        #[error("it failed")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(
            root_cause(&Outer(std::io::Error::other("the disk is full"))),
            "the disk is full"
        );
        assert!(root_cause(&std::io::Error::other("x".repeat(1000))).len() <= 300);
    }
}
