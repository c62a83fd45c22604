//! `batching` of a file: requests that wait at the same time are answered by one call of the model.

use crate::manifest::{FileSpec, MAX_ELEMENTS, Manifest, ManifestError, field};
use serde::{Deserialize, Serialize};

/// Most requests of one call.
pub const MAX_BATCH: u16 = 64;
/// Longest wait for more requests, in microseconds.
pub const MAX_DELAY_MICROSECONDS: u32 = 1_000_000;

/// How requests are put together, along the first axis of every input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BatchingSpec {
    /// Most requests of one call. The file is loaded once for every power of two up to it.
    pub max_size: u16,
    /// How long the first request waits for others, in microseconds. With 0 only those that wait anyhow,
    /// for the device or a core, are put together.
    #[serde(default)]
    pub max_delay_microseconds: u32,
}

impl BatchingSpec {
    /// The sizes that the file is loaded for besides 1, the smallest first.
    pub fn sizes(&self) -> impl Iterator<Item = u16> {
        let most = self.max_size;
        (1..u16::BITS)
            .map(|power| 1u16 << power)
            .take_while(move |size| *size <= most)
    }
}

pub(crate) fn check(at: &str, file: &FileSpec, manifest: &Manifest) -> Result<(), ManifestError> {
    let Some(spec) = &file.batching else {
        return Ok(());
    };
    if !(2..=MAX_BATCH).contains(&spec.max_size) {
        let problem = format!("{} is not between 2 and {MAX_BATCH}", spec.max_size);
        return Err(field(format!("{at}.maxSize"), problem));
    }
    if spec.max_delay_microseconds > MAX_DELAY_MICROSECONDS {
        let problem = format!("the most is {MAX_DELAY_MICROSECONDS}");
        return Err(field(format!("{at}.maxDelayMicroseconds"), problem));
    }
    if manifest.sequence.is_some() {
        return Err(field(
            at,
            "requests of a model with `sequence` follow one another: leave batching out",
        ));
    }
    for tensor in manifest.model_inputs().iter().chain(&manifest.model_outputs()) {
        let name = tensor.name.as_str();
        if tensor.shape.first() != Some(&1) {
            return Err(field(
                at,
                format!("the first axis of {name:?} must be 1: requests are put together along it"),
            ));
        }
        let elements: u64 = tensor.shape.iter().map(|&n| u64::from(n)).product();
        if elements.saturating_mul(spec.max_size.into()) > MAX_ELEMENTS {
            return Err(field(
                format!("{at}.maxSize"),
                format!(
                    "{} requests have more than {MAX_ELEMENTS} elements in {name:?}",
                    spec.max_size
                ),
            ));
        }
    }
    Ok(())
}
