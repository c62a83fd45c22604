//! Small files of the kernel, read with a bound on what they may hold and without ever waiting.

use crate::discovery::Field;
use crate::files::read_bounded;
use perwatt_crds::text::cut;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The most that is read of a file: no attribute of sysfs is longer.
const MOST_BYTES: u64 = 4096;

/// The most entries of a folder that are looked at.
const MOST_ENTRIES: usize = 128;

/// The whole text of a small file.
#[must_use]
pub fn text(path: &Path) -> Field<String> {
    match read_bounded(path, MOST_BYTES) {
        Ok(bytes) if bytes.len() as u64 > MOST_BYTES => {
            Field::Invalid(format!("{} holds more than {MOST_BYTES} bytes", path.display()))
        }
        Ok(bytes) => String::from_utf8(bytes).map_or_else(
            |_| Field::Invalid(format!("{} holds no text", path.display())),
            Field::Value,
        ),
        Err(error) if tells_nothing(&error) => Field::Absent,
        Err(error) => Field::Invalid(format!("{} cannot be read ({error})", path.display())),
    }
}

/// A file that is not there, or a sensor that has nothing to say at the moment.
fn tells_nothing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let quiet = [
        Errno::AGAIN,
        Errno::NODATA,
        Errno::OPNOTSUPP,
        Errno::NODEV,
        Errno::NXIO,
        Errno::NOTDIR,
    ];
    error.kind() == io::ErrorKind::NotFound
        || error
            .raw_os_error()
            .is_some_and(|code| quiet.iter().any(|errno| errno.raw_os_error() == code))
}

/// The first line, at most 64 bytes without control characters.
#[must_use]
pub fn line(path: &Path) -> Field<String> {
    match text(path) {
        Field::Value(text) => {
            let line = text.lines().next().unwrap_or_default().trim();
            if line.is_empty() {
                Field::Absent
            } else if line.contains(char::is_control) {
                Field::Invalid(format!("{} holds control characters", path.display()))
            } else {
                Field::Value(cut(line.to_owned(), 64))
            }
        }
        other => other,
    }
}

/// A number within bounds, both included; `what` says which, for a person.
#[must_use]
pub fn number<T>(path: &Path, least: T, most: T, what: &str) -> Field<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    match text(path) {
        Field::Value(text) => match text.trim().parse::<T>() {
            Ok(value) if value >= least && value <= most => Field::Value(value),
            _ => {
                let shown: String = text
                    .trim()
                    .chars()
                    .take(40)
                    .flat_map(char::escape_debug)
                    .collect();
                Field::Invalid(format!(
                    "{} holds \"{shown}\", and not {what} from {least} to {most}",
                    path.display()
                ))
            }
        },
        Field::Absent => Field::Absent,
        Field::Invalid(text) => Field::Invalid(text),
    }
}

/// Entries of a folder whose names begin with `prefix`, in order; none where there is no folder.
#[must_use]
pub fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .take(MOST_ENTRIES)
        .collect();
    found.sort();
    found
}

/// What a field holds, and its complaint where it cannot be understood.
pub fn keep<T>(field: Field<T>, complaints: &mut Vec<String>) -> Option<T> {
    match field {
        Field::Value(value) => Some(value),
        Field::Absent => None,
        Field::Invalid(text) => {
            complaints.push(text);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn garbage_is_told_and_what_is_missing_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("temp1_input");
        assert_eq!(number(&path, -100, 100, "degrees"), Field::Absent);
        for garbage in [&b""[..], b"warm", b"\xff\xff", b"101", &[b'1'; 5000], b"NaN"] {
            fs::write(&path, garbage).unwrap();
            let Field::Invalid(text) = number(&path, -100i64, 100, "degrees") else {
                panic!("{garbage:?} was understood")
            };
            assert!(text.contains("temp1_input") && text.len() < 500, "{text}");
        }
        fs::write(&path, " 42\n").unwrap();
        assert_eq!(number(&path, -100, 100, "degrees"), Field::Value(42));
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from(0o600)).unwrap();
        assert!(matches!(text(&path), Field::Invalid(_)));
        assert!(matches!(text(dir.path()), Field::Invalid(_)));
    }
}
