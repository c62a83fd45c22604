//! Says the same thing once, not once a second.

/// Remembers the last message of one subject.
#[derive(Debug, Default)]
pub struct Quiet(Option<String>);

impl Quiet {
    /// Whether `message` is news.
    pub fn is_news(&mut self, message: &str) -> bool {
        let news = self.0.as_deref() != Some(message);
        if news {
            self.0 = Some(message.to_owned());
        }
        news
    }

    /// Forgets the last message; tells whether there was one.
    pub fn clear(&mut self) -> bool {
        self.0.take().is_some()
    }
}
