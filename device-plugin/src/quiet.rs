//! Says the same thing once, not once a second, and with its cause.

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

/// An error with what caused it, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
