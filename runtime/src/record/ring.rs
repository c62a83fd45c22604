//! A folder of files of which the oldest go when there are too many bytes, or when they are too old.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most files, however small they are.
const MOST_FILES: usize = 100_000;
const PREFIX: &str = "sample-";
const SUFFIX: &str = ".json";
/// A file that is being written. One that an earlier process left behind is removed.
const PART: &str = "sample.part";

/// Bounds of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of all files together.
    pub bytes: u64,
    /// A file that is older goes.
    pub age: Duration,
}

/// The files, the oldest first. Other files in the folder are left alone.
#[derive(Debug)]
pub struct Ring {
    dir: PathBuf,
    limits: Limits,
    files: VecDeque<Entry>,
    bytes: u64,
    next: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Time and number, as the name has them.
    key: (u64, u64),
    bytes: u64,
}

impl Ring {
    /// The ring in a folder, which is made where it is missing, readable for its owner alone.
    ///
    /// # Errors
    /// When the folder cannot be made, read, or written.
    pub fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let key = entry.file_name().to_str().and_then(parse_name);
            if let Some(key) = key {
                let bytes = entry.metadata()?.len();
                files.push(Entry { key, bytes });
            }
        }
        files.sort();
        let mut ring = Self {
            dir: dir.to_owned(),
            limits,
            bytes: files.iter().map(|file| file.bytes).sum(),
            next: files
                .iter()
                .map(|file| file.key.1)
                .max()
                .map_or(0, |last| last.wrapping_add(1)),
            files: files.into(),
        };
        // Shows now, not at the first sample, that the folder can be written.
        ring.write_part(b"")?;
        fs::remove_file(ring.dir.join(PART))?;
        ring.make_room(0);
        Ok(ring)
    }

    /// The bounds.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a file, and removes what must go for it. Returns how many were removed.
    ///
    /// # Errors
    /// When it is larger than the ring, or cannot be written; no part of it is left then.
    pub fn add(&mut self, content: &[u8], milliseconds: u64) -> io::Result<u64> {
        let bytes = content.len() as u64;
        if bytes > self.limits.bytes {
            let message = format!(
                "it has {bytes} bytes, all samples together may have {}",
                self.limits.bytes
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let removed = self.expire(milliseconds) + self.make_room(bytes);
        let key = (milliseconds, self.next);
        let part = self.dir.join(PART);
        let written = self
            .write_part(content)
            .and_then(|()| fs::rename(&part, self.dir.join(name(key))));
        if let Err(error) = written {
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        self.next = self.next.wrapping_add(1);
        self.bytes += bytes;
        self.files.push_back(Entry { key, bytes });
        Ok(removed)
    }

    /// Removes what is too old, or from a future that a clock once had. Returns how many.
    pub fn expire(&mut self, now_milliseconds: u64) -> u64 {
        let age = u64::try_from(self.limits.age.as_millis()).unwrap_or(u64::MAX);
        let mut removed = 0;
        while let Some(oldest) = self.files.front()
            && oldest.key.0.abs_diff(now_milliseconds) > age
        {
            self.remove_oldest();
            removed += 1;
        }
        removed
    }

    fn make_room(&mut self, bytes: u64) -> u64 {
        let mut removed = 0;
        while !self.files.is_empty()
            && (self.bytes + bytes > self.limits.bytes || self.files.len() >= MOST_FILES)
        {
            self.remove_oldest();
            removed += 1;
        }
        removed
    }

    /// A file that cannot be removed is no longer ours: somebody else took it away, or the folder.
    fn remove_oldest(&mut self) {
        if let Some(file) = self.files.pop_front() {
            self.bytes = self.bytes.saturating_sub(file.bytes);
            let _ = fs::remove_file(self.dir.join(name(file.key)));
        }
    }

    fn write_part(&self, content: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(self.dir.join(PART))?;
        file.write_all(content)?;
        file.sync_data()
    }
}

fn name((milliseconds, number): (u64, u64)) -> String {
    // Wide enough for every time and number: names sort as they were written.
    format!("{PREFIX}{milliseconds:020}-{number:020}{SUFFIX}")
}

fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (milliseconds, number) = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
    let key = (milliseconds.parse().ok()?, number.parse().ok()?);
    // Only what we would name so: it is found again by its key.
    (self::name(key) == name).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const LIMITS: Limits = Limits {
        bytes: 100,
        age: Duration::from_secs(60),
    };

    fn on_disk(dir: &Path) -> (usize, u64) {
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
        let bytes = files.iter().map(|file| file.metadata().unwrap().len()).sum();
        (files.len(), bytes)
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_bytes() {
        let tmp = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(tmp.path(), LIMITS).unwrap();
        for n in 0..10u8 {
            ring.add(&[n; 30], 1_000 + u64::from(n)).unwrap();
            assert_eq!(on_disk(tmp.path()), (ring.len(), ring.bytes()));
            assert!(ring.bytes() <= 100, "{ring:?}");
        }
        let mut left: Vec<_> = fs::read_dir(tmp.path())
            .unwrap()
            .map(|file| fs::read(file.unwrap().path()).unwrap()[0])
            .collect();
        left.sort_unstable();
        assert_eq!(left, [7, 8, 9]);
        ring.add(&[0; 101], 2_000).unwrap_err();
        assert_eq!(ring.len(), 3, "one that can never fit costs no other");
    }

    #[test]
    fn the_old_go_and_so_do_those_from_the_future() {
        let tmp = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(tmp.path(), LIMITS).unwrap();
        for at in [1_000, 2_000, 61_500] {
            ring.add(b"x", at).unwrap();
        }
        assert_eq!(on_disk(tmp.path()), (2, 2), "the first is over a minute old");
        assert_eq!(ring.expire(62_000), 0);
        assert_eq!(ring.expire(62_001), 1);
        assert_eq!(
            ring.expire(1_000),
            1,
            "the clock was set back by more than the age"
        );
        assert!(ring.is_empty() && on_disk(tmp.path()) == (0, 0));
    }

    #[test]
    fn a_ring_is_found_again_within_its_bounds_and_nothing_else_is_touched() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("samples");
        let mut ring = Ring::open(&dir, LIMITS).unwrap();
        for n in 0..3 {
            ring.add(&[1; 30], 1_000 + n).unwrap();
        }
        fs::write(dir.join(PART), "half").unwrap();
        fs::write(dir.join("sample-of-somebody.json"), "else").unwrap();
        let small = Limits { bytes: 70, ..LIMITS };
        let mut ring = Ring::open(&dir, small).unwrap();
        assert_eq!((ring.len(), ring.bytes()), (2, 60));
        ring.add(&[2; 10], 1_003).unwrap();
        assert_eq!(ring.len(), 3);
        assert_eq!(
            on_disk(&dir),
            (4, 74),
            "the other file is still there, the half one is not"
        );
    }

    #[test]
    fn samples_are_for_their_owner_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("a/b");
        let mut ring = Ring::open(&dir, LIMITS).unwrap();
        ring.add(b"x", 1).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        let file = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn a_folder_that_cannot_be_is_refused_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        fs::write(&file, "").unwrap();
        Ring::open(&file, LIMITS).unwrap_err();
    }
}
