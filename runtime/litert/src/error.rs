//! Why a library, delegate, model or call failed.

use crate::graph::GraphError;
use std::path::PathBuf;

/// Why a library, delegate, model or call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No library.
    #[error(
        "no LiteRT library can be loaded: {tried}; install libtensorflowlite_c.so (the Python package \
         pymicro-wakeword brings one for x86-64 and arm64) and set {variable} to its path",
        variable = crate::LIBRARY_ENV
    )]
    NoLibrary {
        /// Each name that was tried, and what the loader said.
        tried: String,
    },
    /// A library that is no LiteRT library.
    #[error("{path} is no LiteRT C library that can be used: {problem}")]
    Library {
        /// The library.
        path: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// The file is refused before the library sees it.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The library refuses the file.
    #[error("LiteRT {version} refuses the model: {said}")]
    Model {
        /// The library's version.
        version: String,
        /// What it said.
        said: String,
    },
    /// A delegate that cannot be used.
    #[error("delegate {path}: {problem}")]
    Delegate {
        /// Its library.
        path: PathBuf,
        /// What is missing, or what it said.
        problem: String,
    },
    /// No interpreter could be made, or its tensors not be allocated.
    #[error("LiteRT cannot prepare the model: {0}")]
    Prepare(String),
    /// A tensor of another size than the model takes.
    #[error("input {index} takes {needed} bytes, {given} were given")]
    Input {
        /// Its place.
        index: usize,
        /// What it takes.
        needed: usize,
        /// What was given.
        given: usize,
    },
    /// There is no such tensor.
    #[error("there is no tensor {0}")]
    NoTensor(usize),
    /// An output has another size than the file says.
    #[error("output {index} has {found} bytes, {expected} were expected")]
    Output {
        /// Its place.
        index: usize,
        /// What it has.
        found: usize,
        /// What was expected.
        expected: usize,
    },
    /// The call failed.
    #[error("LiteRT failed (status {status}): {said}")]
    Invoke {
        /// The library's status.
        status: i32,
        /// What it said.
        said: String,
    },
    /// An interpreter that failed is not used again.
    #[error("this interpreter failed before: make another")]
    Spent,
}

/// What the loader said: its errors keep the reason behind the sentence.
pub(crate) fn words(error: &libloading::Error) -> String {
    let mut said = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        said = format!("{said}: {cause}");
        source = cause.source();
    }
    said
}
