//! Texts cut to what a field, an event or a log line holds.

/// Cuts a text to `limit` bytes, between characters; `…` stands for the rest.
#[must_use]
pub fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit.saturating_sub('…'.len_utf8()))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What a stranger wrote, on one line of at most `limit` bytes: control characters are spaces in
/// it, and none is at its ends.
#[must_use]
pub fn tidy(text: &str, limit: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    // A character has a byte at least: so many are enough to be cut.
    let few: String = text.trim().chars().map(plain).take(limit + 1).collect();
    cut(few.trim().to_owned(), limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("é".repeat(10), 9), "ééé…");
        assert_eq!(cut("short".into(), 9), "short");
        assert_eq!(cut("exactly 9".into(), 9), "exactly 9");
    }

    #[test]
    fn what_a_stranger_wrote_is_one_short_line() {
        assert_eq!(
            tidy("\u{1b}[31ma fan\r\nof \u{85}two\n", 200),
            "[31ma fan  of  two"
        );
        assert_eq!(tidy("\0\n \t", 200), "");
        for huge in ["\n".repeat(1 << 20), "é\u{7f}".repeat(1 << 20), "x".repeat(201)] {
            let line = tidy(&huge, 200);
            assert!(line.len() <= 200 && !line.contains(char::is_control), "{line:?}");
        }
        assert!(tidy(&"x".repeat(201), 200).ends_with("x…"));
    }
}
