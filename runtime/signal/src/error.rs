//! What is wrong with a signal or with a parameter.

use crate::MAX_ELEMENTS;

/// Why a function gives nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// There is nothing to work on.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// NaN or infinity where a number must be.
    #[error("{what}: element {index} is not a finite number")]
    NotFinite {
        /// What was looked at.
        what: &'static str,
        /// Place of the first such element.
        index: usize,
    },
    /// A length that does not fit.
    #[error("{what} has {found} elements, {expected}")]
    Length {
        /// What was looked at.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What would fit.
        expected: String,
    },
    /// More than may be made.
    #[error("{what} would have {found} elements, the most is {MAX_ELEMENTS}")]
    TooLarge {
        /// What would be made.
        what: &'static str,
        /// How large it would be.
        found: u64,
    },
    /// A parameter out of its range.
    #[error("{name}: {problem}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Bytes that are not the image they should be.
    #[error("the image cannot be read: {0}")]
    Image(String),
}

pub(crate) fn parameter(name: &'static str, problem: impl Into<String>) -> SignalError {
    SignalError::Parameter {
        name,
        problem: problem.into(),
    }
}

pub(crate) fn length(what: &'static str, found: usize, expected: impl Into<String>) -> SignalError {
    SignalError::Length {
        what,
        found,
        expected: expected.into(),
    }
}

/// Refuses NaN and infinity.
pub(crate) fn check_finite(what: &'static str, values: &[f32]) -> Result<(), SignalError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(SignalError::NotFinite { what, index }),
        None => Ok(()),
    }
}

/// Refuses what is larger than [`MAX_ELEMENTS`].
pub(crate) fn check_size(what: &'static str, factors: &[usize]) -> Result<usize, SignalError> {
    let product = factors.iter().fold(1u64, |p, &n| p.saturating_mul(n as u64));
    match usize::try_from(product) {
        Ok(size) if size <= MAX_ELEMENTS => Ok(size),
        _ => Err(SignalError::TooLarge { what, found: product }),
    }
}

/// How many rows of `width` there are; refuses an empty signal and a torn last row.
pub(crate) fn rows(what: &'static str, len: usize, width: usize) -> Result<usize, SignalError> {
    if len == 0 || width == 0 {
        return Err(SignalError::Empty(what));
    }
    if !len.is_multiple_of(width) {
        return Err(length(what, len, format!("which are not whole rows of {width}")));
    }
    Ok(len / width)
}

/// Refuses a state that another signal left.
pub(crate) fn check_state(state: &[f32], expected: usize) -> Result<(), SignalError> {
    if state.is_empty() || state.len() == expected {
        return Ok(());
    }
    Err(length(
        "the state",
        state.len(),
        format!("this signal needs {expected}"),
    ))
}
