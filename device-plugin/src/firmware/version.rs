//! Versions as vendors write them, compared by number and never as text.
//!
//! Vendors agree on no form: `4.17.0 (release,app)`, `r35.4.1`, `535.104.05`, `2023-11-07`,
//! `v1.2.0-rc3`. What all have in common is a row of numbers in one of their words, and that is
//! what counts. A text without such a row, or with two that could be meant, is no version: to
//! guess would let a forbidden firmware pass.

use std::cmp::Ordering;

/// The longest text that is looked at, in characters.
const MOST_CHARACTERS: usize = 64;

/// The most numbers that a version has.
const MOST_NUMBERS: usize = 12;

/// A version that can be compared.
#[derive(Clone, Debug)]
pub struct Version {
    numbers: Vec<u64>,
    stage: Stage,
}

/// What follows the numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Before the release of these numbers: alpha, beta, release candidate; with its number.
    Before(u8, u64),
    /// The release.
    Release,
    /// A patch of it, such as `p2` or `b`.
    After(String, u64),
}

impl Version {
    /// Reads a version; nothing where the text holds none, or more than one that could be meant.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.chars().nth(MOST_CHARACTERS).is_some() {
            return None;
        }
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || ".-_+~:".contains(c)));
        let mut best: Option<Self> = None;
        let mut rivals = 0;
        for version in words.filter_map(Self::parse_word) {
            match best
                .as_ref()
                .map(|best| version.numbers.len().cmp(&best.numbers.len()))
            {
                None | Some(Ordering::Greater) => (best, rivals) = (Some(version), 1),
                Some(Ordering::Equal) => rivals += 1,
                Some(Ordering::Less) => {}
            }
        }
        best.filter(|_| rivals == 1)
    }

    /// One word: what stands before its first digit is a name, what follows `+` is a note.
    fn parse_word(word: &str) -> Option<Self> {
        let start = word.find(|c: char| c.is_ascii_digit())?;
        let word = word[start..].split('+').next()?;
        let mut parts = pieces(word);
        let mut numbers = Vec::new();
        let mut after = None;
        for part in parts.by_ref() {
            match part.parse::<u64>() {
                Ok(number) => numbers.push(number),
                Err(_) if part.starts_with(|c: char| c.is_ascii_digit()) => return None,
                Err(_) => {
                    after = Some(part);
                    break;
                }
            }
        }
        if numbers.len() > MOST_NUMBERS {
            return None;
        }
        let number = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        let stage = after.map_or(Stage::Release, |word| Stage::of(word, number));
        Some(Self { numbers, stage })
    }

    /// Whether it is the same as `other` as far as both are written out.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.numbers
            .iter()
            .zip(&other.numbers)
            .all(|(one, two)| one == two)
    }

    /// The numbers up to the first that differs from `other`, which decides; and its place, from 1.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<(usize, u64, u64)> {
        let length = self.numbers.len().max(other.numbers.len());
        (0..length)
            .map(|place| (place + 1, self.number(place), other.number(place)))
            .find(|(_, one, two)| one != two)
    }

    fn number(&self, place: usize) -> u64 {
        self.numbers.get(place).copied().unwrap_or(0)
    }
}

impl Stage {
    fn of(word: &str, number: u64) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "dev" | "pre" | "preview" | "snapshot" => Self::Before(0, number),
            "alpha" => Self::Before(1, number),
            "beta" => Self::Before(2, number),
            "rc" => Self::Before(3, number),
            "release" | "final" | "ga" | "stable" | "prod" => Self::Release,
            other => Self::After(other.to_owned(), number),
        }
    }
}

/// Runs of digits and runs of letters, without what stands between them.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = rest.starts_with(|c: char| c.is_ascii_digit());
        let other = |c: char| !c.is_ascii_alphanumeric() || c.is_ascii_digit() != digits;
        let (piece, left) = rest.split_at(rest.find(other).unwrap_or(rest.len()));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.difference(other) {
            Some((_, one, two)) => one.cmp(&two),
            None => self.stage.cmp(&other.stage),
        }
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|| panic!("{text:?} is no version"))
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (older, newer) in [
            ("9.0", "10.0"),
            ("4.17.0 (release,app)", "4.18.0 (release,app)"),
            ("r35.4.1", "r36.2"),
            ("R35.4.1", "r35.10.0"),
            ("535.54.03", "535.104.05"),
            ("2023-09-30", "2023-11-07"),
            ("20230930", "20231107"),
            ("v1.2.0-rc3", "1.2.0"),
            ("1.2.0-alpha", "1.2.0-rc1"),
            ("1.2.0-rc9", "1.2.0-rc10"),
            ("1.2.0", "1.2.0p1"),
            ("1.1.1a", "1.1.1b"),
            ("Hailo-8 4.9.0", "Hailo-8 4.17.0"),
        ] {
            assert!(version(older) < version(newer), "{older} < {newer}");
        }
    }

    #[test]
    fn zeros_names_and_notes_make_no_difference() {
        for (one, other) in [
            ("1", "1.0.0"),
            ("535.104.05", "535.104.5"),
            ("4.17.0 (release,app)", "v4.17.0"),
            ("1.2.3+build.9", "1.2.3"),
            ("1.2.3-release", "1.2.3"),
        ] {
            assert_eq!(version(one), version(other), "{one} = {other}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_no_version() {
        for text in [
            "",
            "unknown",
            "(release)",
            "Jan 23 2025",
            "99999999999999999999999.1",
            &"1".repeat(65),
            "1.2 3.4",
        ] {
            assert!(Version::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn the_first_number_that_differs_decides() {
        assert_eq!(version("4.16.2").difference(&version("4.17")), Some((2, 16, 17)));
        assert!(version("4.17.9").matches(&version("4.17")));
        assert!(!version("4.17").matches(&version("4.18.0")));
    }

    proptest! {
        #[test]
        fn any_text_is_a_version_or_none(text in ".{0,80}") {
            let _ = Version::parse(&text);
        }

        #[test]
        fn numbers_order_as_rows_of_numbers(one in prop::collection::vec(0u64..2000, 1..6), two in prop::collection::vec(0u64..2000, 1..6)) {
            let text = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".");
            let mut padded = [one.clone(), two.clone()];
            padded.iter_mut().for_each(|numbers| numbers.resize(6, 0));
            prop_assert_eq!(version(&text(&one)).cmp(&version(&text(&two))), padded[0].cmp(&padded[1]));
        }

        #[test]
        fn the_order_is_an_order(texts in prop::array::uniform3("v?[0-9]{1,3}(\\.[0-9]{1,3}){0,3}(-?(rc|p|beta|b)[0-9]{0,2})?")) {
            let [a, b, c] = texts.each_ref().map(|text| version(text));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
            if a <= b && b <= c {
                prop_assert!(a <= c);
            }
        }
    }
}
