//! Names in a `model.yaml`, parsed once into types that can hold nothing else.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a text is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {what}: {rule}")]
pub struct NameError {
    found: String,
    what: &'static str,
    rule: &'static str,
}

fn refuse(found: &str, what: &'static str, rule: &'static str) -> NameError {
    let found = found.chars().take(80).collect();
    NameError { found, what, rule }
}

/// Makes a string newtype that is parsed by `$check`.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A model's name: an RFC 1123 label, since it stands in URLs, labels and image names.
    ModelName, check_label
);
name!(
    /// A model's version, such as `6.2.3`; it stands in URLs.
    ModelVersion, check_version
);
name!(
    /// The name of a tensor, as the model file spells it.
    TensorName, check_tensor
);
name!(
    /// A path below the model's folder.
    FilePath, check_path
);
name!(
    /// A SHA-256, 64 lower-case hexadecimal digits.
    Sha256Hex, check_sha256
);
name!(
    /// A label of a class, or another short text: one line, at most 128 characters.
    ShortText, check_text
);

impl FilePath {
    /// The path below `folder`.
    pub fn below(&self, folder: &Path) -> PathBuf {
        folder.join(&self.0)
    }
}

fn check_label(text: &str) -> Result<(), NameError> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| edge(c) || c == '-';
    if text.len() <= 63 && text.starts_with(edge) && text.ends_with(edge) && text.chars().all(inner) {
        return Ok(());
    }
    Err(refuse(
        text,
        "a model name",
        "use 1 to 63 lower-case letters, digits and '-', with a letter or digit at both ends",
    ))
}

fn check_version(text: &str) -> Result<(), NameError> {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || "-_.".contains(c);
    if text.len() <= 63 && text.starts_with(edge) && text.ends_with(edge) && text.chars().all(inner) {
        return Ok(());
    }
    Err(refuse(
        text,
        "a version",
        "use 1 to 63 letters, digits, '.', '-' and '_', in quotes",
    ))
}

fn check_tensor(text: &str) -> Result<(), NameError> {
    if (1..=128).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    Err(refuse(
        text,
        "a tensor name",
        "use 1 to 128 printable ASCII characters without spaces",
    ))
}

fn check_path(text: &str) -> Result<(), NameError> {
    let part_is_fine = |part: &str| !matches!(part, "" | "." | "..");
    let fine = (1..=255).contains(&text.len())
        && text.split('/').all(part_is_fine)
        && text.chars().all(|c| c.is_ascii_graphic() && c != '\\');
    if fine {
        return Ok(());
    }
    Err(refuse(
        text,
        "a path inside the model folder",
        "use names and '/' alone, no '..', no '/' in front, at most 255 characters",
    ))
}

fn check_sha256(text: &str) -> Result<(), NameError> {
    if text.len() == 64
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
    {
        return Ok(());
    }
    Err(refuse(
        text,
        "a SHA-256",
        "use the 64 lower-case hexadecimal digits that sha256sum prints, in quotes",
    ))
}

fn check_text(text: &str) -> Result<(), NameError> {
    let length = text.chars().count();
    if (1..=128).contains(&length) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(refuse(
        text,
        "a short text",
        "use one line of 1 to 128 characters",
    ))
}
