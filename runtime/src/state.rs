//! Evidence that outlives a process: one file, in a folder that survives restarts of the container.
//!
//! The file is replaced as a whole, so that it is either the old or the new one, and carries a hash of its
//! content, so that damage is seen and never counted. Damage costs the counts, not the service.

use crate::evidence::{Epoch, EpochReason, Record, SCHEMA, Totals};
use crate::rollout::turns::TurnRing;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Environment variable with the folder. Nothing is kept where it is not set.
pub const STATE_ENV: &str = "PERWATT_STATE_DIR";
/// The file in it.
const FILE: &str = "evidence.json";
/// The next file, while it is written, ends with this.
const NEXT: &str = "next";
/// What a damaged file becomes ends with this, for whoever looks into it.
const DAMAGED: &str = "damaged";
/// Largest file that is read, in bytes; many times what 64 records need.
const LARGEST: u64 = 8 << 20;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// Version of the format, that of the evidence.
    pub schema: u32,
    /// Whose counts these are.
    pub workload: String,
    /// When they began.
    #[serde(flatten)]
    pub epoch: Epoch,
    /// Counts that belong to no one variant.
    pub totals: Totals,
    /// Counts by revision, variant and device.
    pub records: Vec<Record>,
    /// Closed turns of a comparison of two revisions.
    #[serde(default)]
    pub turns: TurnRing,
}

/// Why what was kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or the file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is larger than any that this program writes.
    #[error("it has {0} bytes, the most is {LARGEST}")]
    TooLarge(u64),
    /// The content is not what was written.
    #[error("its content does not have the hash that its first line names")]
    Hash,
    /// Not the format.
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Another version of the format.
    #[error("its schema is {0}, this program reads {SCHEMA}")]
    Schema(u32),
}

/// A folder that keeps evidence.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

/// What a folder held.
#[derive(Debug)]
pub enum Found {
    /// Counts to go on from.
    Counts(Box<Saved>),
    /// None, and why.
    New(EpochReason),
}

impl StateDir {
    /// The folder that the environment names; nothing where it names none.
    pub fn from_env() -> Option<Self> {
        let dir = std::env::var_os(STATE_ENV).filter(|dir| !dir.is_empty())?;
        Some(Self(dir.into()))
    }

    /// The folder at this path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// What an earlier process left for this workload. A file that cannot be used is put aside, and said.
    pub fn open(&self, workload: &str) -> Found {
        let error = match self.read::<Saved>(FILE) {
            Ok(None) => return Found::New(EpochReason::FirstStart),
            Ok(Some(saved)) if saved.workload != workload => {
                tracing::warn!(
                    found = saved.workload,
                    dir = %self.0.display(),
                    "the kept evidence belongs to another workload: a new epoch begins"
                );
                return Found::New(EpochReason::OtherWorkload);
            }
            Ok(Some(saved)) => return Found::Counts(Box::new(saved)),
            Err(error) => error,
        };
        tracing::warn!(
            %error,
            file = %self.path(FILE).display(),
            "the kept evidence cannot be used: it was put aside, and a new epoch begins"
        );
        self.put_aside(FILE);
        Found::New(EpochReason::StateDamaged)
    }

    /// Puts a file aside that cannot be used. Where even this fails the next write replaces it.
    pub fn put_aside(&self, name: &str) {
        let _ = fs::rename(self.path(name), self.path(&format!("{name}.{DAMAGED}")));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads a file; nothing where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.path(name);
        let failed = |source| StateError::Io {
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut content = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > LARGEST {
            return Err(StateError::TooLarge(content.len() as u64));
        }
        decode(&content).map(Some)
    }

    /// Replaces the evidence that is kept.
    ///
    /// # Errors
    /// When the folder cannot be written; what was kept before is then still there.
    pub fn write(&self, saved: &Saved) -> Result<(), StateError> {
        self.replace(FILE, saved)
    }

    /// Replaces a file. Its content says `schema`, the version of the format.
    ///
    /// # Errors
    /// When the folder cannot be written; what was kept before is then still there.
    pub fn replace(&self, name: &str, content: &impl Serialize) -> Result<(), StateError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StateError::Io { path, source }
        };
        let (next, last) = (self.path(&format!("{name}.{NEXT}")), self.path(name));
        let content = encode(content)?;
        fs::create_dir_all(&self.0).map_err(failed(&self.0))?;
        write_synced(&next, &content).map_err(failed(&next))?;
        fs::rename(&next, &last).map_err(failed(&last))?;
        // Without it the new name may be lost with the power, and the old file be there again: no harm.
        let _ = File::open(&self.0).and_then(|dir| dir.sync_all());
        Ok(())
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// The hash of the rest in a first line, then the rest.
fn encode(saved: &impl Serialize) -> Result<Vec<u8>, StateError> {
    let json = serde_json::to_vec(saved)?;
    let mut content = hash_line(&json).into_bytes();
    content.extend_from_slice(&json);
    Ok(content)
}

fn decode<T: DeserializeOwned>(content: &[u8]) -> Result<T, StateError> {
    let end = content
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or(StateError::Hash)?;
    let (line, json) = content.split_at(end + 1);
    if line != hash_line(json).as_bytes() {
        return Err(StateError::Hash);
    }
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let Version { schema } = serde_json::from_slice(json)?;
    if schema != SCHEMA {
        return Err(StateError::Schema(schema));
    }
    Ok(serde_json::from_slice(json)?)
}

fn hash_line(json: &[u8]) -> String {
    hex::encode(Sha256::digest(json)) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        Saved {
            schema: SCHEMA,
            workload: "gate".into(),
            epoch: Epoch::begin(EpochReason::FirstStart),
            totals: Totals {
                fallbacks: 7,
                ..Totals::default()
            },
            records: Vec::new(),
            turns: TurnRing::default(),
        }
    }

    fn reason(dir: &StateDir) -> EpochReason {
        match dir.open("gate") {
            Found::New(reason) => reason,
            Found::Counts(saved) => panic!("{saved:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::at(tmp.path().join("not/yet"));
        assert_eq!(reason(&dir), EpochReason::FirstStart);
        let written = saved();
        dir.write(&written).unwrap();
        dir.write(&written).unwrap();
        let Found::Counts(read) = dir.open("gate") else {
            panic!("nothing there")
        };
        assert_eq!(*read, written);
        assert!(matches!(
            dir.open("other"),
            Found::New(EpochReason::OtherWorkload)
        ));
    }

    #[test]
    fn damage_anywhere_is_seen_put_aside_and_said() {
        let whole = encode(&saved()).unwrap();
        let flipped = |at: usize| {
            let mut content = whole.clone();
            content[at] ^= 1;
            content
        };
        let mut cases: Vec<_> = (0..whole.len()).map(flipped).collect();
        cases.extend([
            Vec::new(),
            whole[..whole.len() - 1].to_vec(),
            b"{}".to_vec(),
            vec![b'\n'; 99],
        ]);
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::at(tmp.path());
        for content in cases {
            fs::write(dir.path(FILE), &content).unwrap();
            assert_eq!(reason(&dir), EpochReason::StateDamaged);
            assert_eq!(fs::read(dir.path(&format!("{FILE}.{DAMAGED}"))).unwrap(), content);
            assert_eq!(reason(&dir), EpochReason::FirstStart, "it was put aside");
        }
    }

    #[test]
    fn another_schema_and_a_huge_file_are_no_counts() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::at(tmp.path());
        let later = Saved {
            schema: SCHEMA + 1,
            ..saved()
        };
        dir.write(&later).unwrap();
        assert_eq!(reason(&dir), EpochReason::StateDamaged);
        let huge = File::create(dir.path(FILE)).unwrap();
        huge.set_len(LARGEST + 1).unwrap();
        assert_eq!(reason(&dir), EpochReason::StateDamaged);
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_and_no_panic() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        fs::write(&file, "").unwrap();
        let error = StateDir::at(file.join("dir")).write(&saved()).unwrap_err();
        assert!(error.to_string().contains("file/dir"), "{error}");
    }
}
