//! Mutated inputs against everything that reads what strangers wrote, on the stable toolchain.
//!
//! Each target ([`targets`]) has a corpus of inputs that are right; an input under test is one of them, cut,
//! flipped and spliced ([`mutate`]). The numbers come from a seed, so a run can be repeated. An input that makes a
//! target panic, or take too long, is kept; one that ends the whole process lies in `current-TARGET`.

pub mod mutate;
pub mod targets;

use clap::Parser;
use mutate::Mutator;
use rustix::process::{Resource, Rlimit, setrlimit};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// An input that takes longer has found something.
const PATIENCE: Duration = Duration::from_secs(20);
/// Memory that a process may take.
const MEMORY_BYTES: u64 = 8 << 30;

/// Feeds mutated inputs to everything that reads what strangers wrote
#[derive(Debug, Parser)]
#[command(name = "perwatt-fuzz", version)]
pub struct Args {
    /// Targets; all where none is named
    pub targets: Vec<String>,
    /// Mutated inputs for each target
    #[arg(long, default_value_t = 20_000)]
    pub count: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder with a folder of right inputs for each target
    #[arg(long, default_value = "fuzz/corpus")]
    pub corpus: PathBuf,
    /// Folder for inputs that found something
    #[arg(long, default_value = "target/fuzz")]
    pub keep: PathBuf,
}

/// What ended a run.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// There is no such target.
    #[error("there is no target {0:?}; there are: {1}")]
    NoTarget(String, String),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A target without inputs tests nothing.
    #[error("{0} holds no inputs: a target needs one that is right")]
    EmptyCorpus(PathBuf),
    /// A right input was refused: the corpus no longer fits the target.
    #[error("{target} refuses {path}, which should be right")]
    Refused {
        /// The target.
        target: &'static str,
        /// The input.
        path: PathBuf,
    },
    /// An input found something.
    #[error("{target} {what}: the input is kept in {kept}")]
    Found {
        /// The target.
        target: &'static str,
        /// What it did.
        what: &'static str,
        /// The input.
        kept: PathBuf,
    },
    /// Inputs cannot be mutated.
    #[error("an input cannot be mutated: {0}")]
    Mutate(#[from] mutatis::Error),
}

/// Runs the targets one after the other.
///
/// # Errors
/// With the first input that found something.
pub fn run(args: &Args) -> Result<(), FuzzError> {
    confine();
    std::fs::create_dir_all(&args.keep).map_err(file_error(&args.keep))?;
    for target in chosen(&args.targets)? {
        let began = Instant::now();
        let counts = fuzz(target, args)?;
        println!(
            "{:12} {} inputs: {} accepted, {} refused, in {:.1} s",
            target.name,
            counts.accepted + counts.refused,
            counts.accepted,
            counts.refused,
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// An input that asks for all memory must end this process, not its neighbours.
fn confine() {
    let limit = Rlimit {
        current: Some(MEMORY_BYTES),
        maximum: Some(MEMORY_BYTES),
    };
    if let Err(error) = setrlimit(Resource::As, limit) {
        eprintln!("memory is not limited: {error}");
    }
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>, FuzzError> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let find = |name: &String| {
        let known = || {
            TARGETS
                .iter()
                .map(|target| target.name)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let found = TARGETS.iter().find(|target| target.name == name);
        found.ok_or_else(|| FuzzError::NoTarget(name.clone(), known()))
    };
    names.iter().map(find).collect()
}

/// How many inputs a target took, and how many it refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// It took them for right.
    pub accepted: u64,
    /// It refused them, without a panic.
    pub refused: u64,
}

/// Feeds the corpus, and then `count` mutations of it, to a target.
///
/// # Errors
/// With the first input that found something, or when the corpus cannot be read.
pub fn fuzz(target: &Target, args: &Args) -> Result<Counts, FuzzError> {
    let corpus = read_corpus(&args.corpus.join(target.name))?;
    let mut current = Current::open(&args.keep, target.name)?;
    let mut counts = Counts::default();
    for (path, input) in &corpus {
        if !attempt(target, input, &mut current, &args.keep)? {
            let (target, path) = (target.name, path.clone());
            return Err(FuzzError::Refused { target, path });
        }
    }
    let seeds: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let mut mutator = Mutator::new(seeds, args.seed);
    for _ in 0..args.count {
        let input = mutator.make()?;
        match attempt(target, &input, &mut current, &args.keep)? {
            true => counts.accepted += 1,
            false => counts.refused += 1,
        }
    }
    Ok(counts)
}

/// The input that runs, in a file: one that ends the process can be kept by nobody afterwards.
struct Current {
    path: PathBuf,
    file: File,
}

impl Current {
    fn open(keep: &Path, target: &str) -> Result<Self, FuzzError> {
        let path = keep.join(format!("current-{target}"));
        let file = File::create(&path).map_err(file_error(&path))?;
        Ok(Self { path, file })
    }

    /// Written over, not anew: a file that is emptied and closed has to reach the disk on many systems.
    fn write(&mut self, input: &[u8]) -> Result<(), FuzzError> {
        let mut write = || {
            self.file.rewind()?;
            self.file.write_all(input)?;
            self.file.set_len(input.len() as u64)
        };
        write().map_err(file_error(&self.path))
    }
}

/// Whether the target takes the input; an error where it panics or takes too long.
fn attempt(target: &Target, input: &[u8], current: &mut Current, keep: &Path) -> Result<bool, FuzzError> {
    current.write(input)?;
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let what = match result {
        Err(_) => "panicked",
        Ok(_) if began.elapsed() > PATIENCE => "took too long",
        Ok(accepted) => return Ok(accepted),
    };
    let hash = hex::encode(Sha256::digest(input));
    let kept = keep.join(format!("{}-{}", target.name, hash.get(..16).unwrap_or_default()));
    std::fs::write(&kept, input).map_err(file_error(&kept))?;
    let target = target.name;
    Err(FuzzError::Found { target, what, kept })
}

/// Every input of a folder, in the order of their names.
fn read_corpus(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, FuzzError> {
    let entries = std::fs::read_dir(folder).map_err(file_error(folder))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let input = std::fs::read(&path).map_err(file_error(&path))?;
        Ok((path, input))
    };
    let corpus: Vec<_> = paths.into_iter().map(read).collect::<Result<_, FuzzError>>()?;
    if corpus.is_empty() {
        return Err(FuzzError::EmptyCorpus(folder.to_path_buf()));
    }
    Ok(corpus)
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> FuzzError {
    let path = path.to_path_buf();
    move |source| FuzzError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics_at_z(input: &[u8]) -> bool {
        assert!(!input.contains(&b'z'), "a z");
        true
    }

    #[test]
    fn an_input_that_makes_a_target_panic_is_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let corpus = tmp.path().join("corpus/toy");
        std::fs::create_dir_all(&corpus).unwrap();
        std::fs::write(corpus.join("one"), b"yyyyyyyy").unwrap();
        let target = Target {
            name: "toy",
            run: panics_at_z,
        };
        let args = Args {
            targets: vec![],
            count: 1_000_000,
            seed: 1,
            corpus: tmp.path().join("corpus"),
            keep: tmp.path().to_path_buf(),
        };
        let Err(FuzzError::Found { kept, .. }) = fuzz(&target, &args) else {
            panic!("a million mutations hold a z");
        };
        assert!(std::fs::read(kept).unwrap().contains(&b'z'));
    }
}
