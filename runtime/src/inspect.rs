//! What can be said of a model file before it runs: what it holds, and everything that is wrong with it.
//!
//! Here are the words; each backend looks into its own kind of file ([`crate::backend::Backend::inspect`]).
//! The runtime refuses a file with an error among its findings, so that `model check` and the runtime
//! never disagree.

use perwatt_model::Precision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Findings that are kept; a hostile file could give millions.
const MAX_FINDINGS: usize = 64;
/// Longest text of a finding, in characters.
const MAX_TEXT: usize = 1024;
/// Longest name that is quoted, in characters.
const MAX_NAME: usize = 80;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// It runs, and somebody should look at it.
    Warning,
}

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// The folder cannot be read.
    Folder,
    /// `model.yaml` is missing or wrong.
    Manifest,
    /// A file that `model.yaml` names is not there.
    Missing,
    /// A file lies outside the folder, is no file, is too large or cannot be read.
    File,
    /// A file has another SHA-256.
    Hash,
    /// A file in the folder that `model.yaml` does not name.
    Unlisted,
    /// The file is not of the format that its backend reads.
    Format,
    /// Nodes and names do not make a graph: a cycle, a name made twice or by nobody.
    Graph,
    /// An operator that the backend does not have.
    Operator,
    /// A version of the operators that the backend was not made for.
    Opset,
    /// A tensor has another shape than it says, or than `model.yaml` says.
    Shape,
    /// A tensor has a datatype that the backend does not take, or another than `model.yaml` says.
    Datatype,
    /// The weights have another precision than `model.yaml` says.
    Precision,
    /// Weights lie in another file.
    ExternalData,
    /// Larger than any that makes sense.
    Size,
    /// The backend refuses it.
    Load,
    /// It was loaded, and its first inference failed.
    Inference,
    /// The process that tried it ended at once.
    Crash,
    /// It needs more memory than it was given.
    Memory,
    /// It needs more time than it was given.
    Time,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing it is.
    pub code: Code,
    /// The node, tensor or field; empty where it is the whole.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// What is wrong and what to do, for a person; control characters are escaped.
    pub message: String,
}

impl Finding {
    /// Something for which the file is refused.
    pub fn error(code: Code, place: impl AsRef<str>, message: impl AsRef<str>) -> Self {
        Self::new(Severity::Error, code, place.as_ref(), message.as_ref())
    }

    /// Something to look at.
    pub fn warning(code: Code, place: impl AsRef<str>, message: impl AsRef<str>) -> Self {
        Self::new(Severity::Warning, code, place.as_ref(), message.as_ref())
    }

    fn new(severity: Severity, code: Code, place: &str, message: &str) -> Self {
        Self {
            severity,
            code,
            place: printable(place),
            message: printable(message),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.message)
    }
}

/// What a backend found in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Format and version, such as `ONNX opset 16`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// How often each operator occurs.
    #[serde(default)]
    pub operators: BTreeMap<String, u64>,
    /// Weights by type, in elements.
    #[serde(default)]
    pub weights: BTreeMap<String, u64>,
    /// What is wrong, at most 64 of them.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// How many more there were.
    #[serde(default)]
    pub more: u64,
}

impl Inspection {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// The first error, and how many follow; nothing where the file may be loaded.
    pub fn refusal(&self) -> Option<String> {
        let mut errors = self.findings.iter().filter(|f| f.severity == Severity::Error);
        let first = errors.next()?;
        let more = errors.count() as u64 + self.more;
        Some(match more {
            0 => first.to_string(),
            more => format!("{first} (and {more} more: `kubectl perwatt model check` names them)"),
        })
    }

    /// Compares the weights, counted by `type name → precision`, with what `model.yaml` declares: most of
    /// them must be of that precision. Types that are no precision (indices, shapes) do not count.
    pub fn check_precision(&mut self, declared: Precision, precision_of: impl Fn(&str) -> Option<Precision>) {
        let mut sums: Vec<(Precision, u64)> = Vec::new();
        for (name, count) in &self.weights {
            let Some(precision) = precision_of(name) else {
                continue;
            };
            match sums.iter_mut().find(|(known, _)| *known == precision) {
                Some((_, sum)) => *sum += count,
                None => sums.push((precision, *count)),
            }
        }
        let all: u64 = sums.iter().map(|(_, sum)| sum).sum();
        // Where two are equal the declared one counts.
        let most = sums.iter().max_by_key(|(p, sum)| (*sum, *p == declared));
        if let Some((found, count)) = most
            && *found != declared
        {
            let (declared, found) = (precision_name(declared), precision_name(*found));
            self.add(Finding::error(
                Code::Precision,
                "weights",
                format!(
                    "model.yaml declares {declared}, but {count} of {all} weights are {found}: \
                     correct files[].precision, or put the {declared} file there"
                ),
            ));
        }
    }
}

/// The spelling of `model.yaml`.
pub fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Float32 => "float32",
        Precision::Float16 => "float16",
        Precision::Bfloat16 => "bfloat16",
        Precision::Int8 => "int8",
        Precision::Int4 => "int4",
    }
}

/// A name from a file, cut and in quotes.
pub fn quoted(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME) {
        Some((end, _)) => format!("{:?}…", name.get(..end).unwrap_or_default()),
        None => format!("{name:?}"),
    }
}

/// A text from a file as one line that cannot drive a terminal, nor turn its direction.
pub fn printable(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars().take(MAX_TEXT) {
        let turns = matches!(c, '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        match c {
            '\n' | '\r' | '\t' => safe.push(' '),
            c if c.is_control() || turns => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn precision(name: &str) -> Option<Precision> {
        match name {
            "FLOAT" => Some(Precision::Float32),
            "INT8" | "UINT8" => Some(Precision::Int8),
            _ => None,
        }
    }

    #[test]
    fn most_of_the_weights_must_have_the_declared_precision() {
        for (weights, declared, is_fine) in [
            (&[("FLOAT", 10), ("INT64", 900)][..], Precision::Float32, true),
            (&[("FLOAT", 10), ("INT8", 6), ("UINT8", 5)], Precision::Int8, true),
            (&[("FLOAT", 10), ("INT8", 10)], Precision::Int8, true),
            (&[("FLOAT", 10), ("INT8", 9)], Precision::Int8, false),
            (&[("INT64", 9)], Precision::Int4, true),
            (&[], Precision::Float16, true),
        ] {
            let mut inspection = Inspection {
                weights: weights.iter().map(|(n, c)| ((*n).to_owned(), *c)).collect(),
                ..Inspection::default()
            };
            inspection.check_precision(declared, precision);
            assert_eq!(
                inspection.findings.is_empty(),
                is_fine,
                "{weights:?} {declared:?}"
            );
        }
    }

    #[test]
    fn findings_are_bounded_and_cannot_drive_a_terminal() {
        let mut inspection = Inspection::default();
        for _ in 0..1000 {
            inspection.add(Finding::error(
                Code::Graph,
                "a\u{1b}[2J\u{202E}b",
                "x".repeat(5000),
            ));
        }
        assert_eq!((inspection.findings.len(), inspection.more), (64, 936));
        assert_eq!(inspection.findings[0].place, "a\\u{1b}[2J\\u{202e}b");
        assert_eq!(inspection.findings[0].message.len(), MAX_TEXT);
        assert!(inspection.refusal().unwrap().contains("and 999 more"));
        assert_eq!(quoted("ß\u{202E}"), "\"ß\\u{202e}\"");
    }

    #[test]
    fn a_warning_refuses_nothing() {
        let mut inspection = Inspection::default();
        inspection.add(Finding::warning(Code::Opset, "", "old"));
        assert_eq!(inspection.refusal(), None);
    }
}
