//! Recorded samples of requests: off unless a folder is named, and bounded in size and age.
//!
//! A sample is the request's inputs and the answer's outputs, as JSON that can be sent again. Requests never wait
//! for the disk: what the writer cannot take is skipped and counted.

mod ring;

pub use ring::{Limits, Ring};

use crate::engine::{Answer, Query};
use crate::metrics::{Metrics, Recording, RecordingLabels};
use crate::tensor::{Data, Tensor};
use perwatt_model::{Manifest, TensorSpec};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Environment variable with the folder. Nothing is recorded where it is not set.
pub const DIR_ENV: &str = "PERWATT_RECORD_DIR";
/// Environment variable with the most bytes that samples may take.
pub const BYTES_ENV: &str = "PERWATT_RECORD_MAX_BYTES";
/// Environment variable with the age in seconds at which a sample is removed.
pub const AGE_ENV: &str = "PERWATT_RECORD_MAX_AGE_SECONDS";

/// Samples that wait for the writer, and the bytes of their tensors.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 16 << 20;
/// How often the age of samples is looked at while none comes.
const LOOK: Duration = Duration::from_secs(10);

/// Why samples cannot be recorded as the environment says.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A number cannot be read.
    #[error("{variable} is {value:?}: it must be an integer from {least} to {most}")]
    Number {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: OsString,
        /// The least that is possible.
        least: u64,
        /// The most that is possible.
        most: u64,
    },
    /// The folder cannot be used.
    #[error("{DIR_ENV}: {path}: {source}; is it a folder that this user may write?")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Where samples go, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordConfig {
    /// The folder.
    pub dir: PathBuf,
    /// The bounds.
    pub limits: Limits,
}

impl RecordConfig {
    /// What an environment says; nothing where it names no folder.
    ///
    /// # Errors
    /// When a bound cannot be read.
    pub fn read(get: impl Fn(&'static str) -> Option<OsString>) -> Result<Option<Self>, RecordError> {
        let Some(dir) = get(DIR_ENV).filter(|dir| !dir.is_empty()) else {
            return Ok(None);
        };
        let bytes = number(&get, BYTES_ENV, 64 << 20, 1..=1 << 40)?;
        let seconds = number(&get, AGE_ENV, 24 * 3600, 1..=366 * 24 * 3600)?;
        let limits = Limits {
            bytes,
            age: Duration::from_secs(seconds),
        };
        Ok(Some(Self {
            dir: dir.into(),
            limits,
        }))
    }
}

fn number(
    get: &impl Fn(&'static str) -> Option<OsString>,
    variable: &'static str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, RecordError> {
    let Some(value) = get(variable).filter(|value| !value.is_empty()) else {
        return Ok(default);
    };
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed
        .filter(|number| range.contains(number))
        .ok_or_else(|| RecordError::Number {
            variable,
            value,
            least: *range.start(),
            most: *range.end(),
        })
}

/// Takes samples, and hands them to the thread that writes them.
#[derive(Debug)]
pub struct Recorder {
    sender: SyncSender<Sample>,
    waiting: Arc<AtomicUsize>,
    skipped: Counter,
}

/// What a sample is made of.
#[derive(Debug)]
struct Sample {
    milliseconds: u64,
    variant: String,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    bytes: usize,
}

/// What every sample of a model has in common.
struct Writer {
    ring: Ring,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    revision: String,
    waiting: Arc<AtomicUsize>,
    written: Counter,
    failed: Counter,
    expired: Counter,
    bytes: Gauge,
    samples: Gauge,
    has_failed: bool,
}

impl Recorder {
    /// Opens the folder, removes what is too old or too much, and starts the writer.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn start(
        config: RecordConfig,
        manifest: &Manifest,
        revision: &str,
        metrics: &Metrics,
    ) -> Result<Self, RecordError> {
        let ring = Ring::open(&config.dir, config.limits).map_err(|source| RecordError::Folder {
            path: config.dir.clone(),
            source,
        })?;
        let count = |outcome| {
            metrics
                .recordings
                .get_or_create_owned(&RecordingLabels { outcome })
        };
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            ring,
            inputs: manifest.inputs.clone(),
            outputs: manifest.outputs.clone(),
            revision: revision.to_owned(),
            waiting: waiting.clone(),
            written: count(Recording::Written),
            failed: count(Recording::Failed),
            expired: count(Recording::Removed),
            bytes: metrics.recorded_bytes.clone(),
            samples: metrics.recorded_samples.clone(),
            has_failed: false,
        };
        let (sender, receiver) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("record".into());
        thread
            .spawn(move || writer.run(&receiver))
            .map_err(RecordError::Thread)?;
        tracing::warn!(
            dir = %config.dir.display(),
            max_bytes = config.limits.bytes,
            max_age_seconds = config.limits.age.as_secs(),
            "inputs and outputs of requests are recorded: {DIR_ENV} is set"
        );
        Ok(Self {
            sender,
            waiting,
            skipped: count(Recording::Skipped),
        })
    }

    /// Takes an answered request, unless too much waits already.
    pub fn offer(&self, query: &Query, answer: &Answer, variant: &str) {
        let tensors = query.inputs.iter().chain(&answer.outputs);
        let bytes = tensors.map(|tensor| size(&tensor.data)).sum::<usize>();
        // Only a hint that bounds memory: two that come at once may both be taken.
        if self.waiting.load(Ordering::Relaxed).saturating_add(bytes) > WAITING_BYTES {
            self.skipped.inc();
            return;
        }
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let sample = Sample {
            milliseconds: unix_milliseconds(SystemTime::now()),
            variant: variant.to_owned(),
            inputs: query.inputs.clone(),
            outputs: answer.outputs.clone(),
            bytes,
        };
        if self.sender.try_send(sample).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.skipped.inc();
        }
    }
}

/// Bytes that elements take, at most.
fn size(data: &Data) -> usize {
    match data {
        Data::Bytes(texts) => texts.iter().map(|text| text.len() + size_of_val(text)).sum(),
        numbers => numbers.len() * 8,
    }
}

fn unix_milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
struct SampleJson<'a> {
    time_milliseconds: u64,
    revision: &'a str,
    variant: &'a str,
    inputs: Vec<TensorJson<'a>>,
    answer: Vec<TensorJson<'a>>,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [usize],
    data: &'a Data,
}

fn named<'a>(specs: &'a [TensorSpec], tensors: &'a [Tensor]) -> Vec<TensorJson<'a>> {
    let pairs = specs.iter().zip(tensors);
    pairs
        .map(|(spec, tensor)| TensorJson {
            name: spec.name.as_str(),
            datatype: tensor.data.datatype().as_str(),
            shape: &tensor.shape,
            data: &tensor.data,
        })
        .collect()
}

impl Writer {
    /// Writes samples until the recorder is gone.
    fn run(mut self, samples: &Receiver<Sample>) {
        loop {
            self.show();
            match samples.recv_timeout(LOOK.min(self.ring.limits().age)) {
                Ok(sample) => {
                    self.write(&sample);
                    self.waiting.fetch_sub(sample.bytes, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let removed = self.ring.expire(unix_milliseconds(SystemTime::now()));
                    self.expired.inc_by(removed);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, sample: &Sample) {
        let json = SampleJson {
            time_milliseconds: sample.milliseconds,
            revision: &self.revision,
            variant: &sample.variant,
            inputs: named(&self.inputs, &sample.inputs),
            answer: named(&self.outputs, &sample.outputs),
        };
        let content = serde_json::to_vec(&json).map_err(std::io::Error::from);
        match content.and_then(|content| self.ring.add(&content, sample.milliseconds)) {
            Ok(removed) => {
                self.written.inc();
                self.expired.inc_by(removed);
                self.has_failed = false;
            }
            Err(error) => {
                self.failed.inc();
                if !self.has_failed {
                    tracing::warn!(%error, "a sample cannot be recorded: requests go on");
                }
                self.has_failed = true;
            }
        }
    }

    fn show(&self) {
        self.bytes
            .set(i64::try_from(self.ring.bytes()).unwrap_or(i64::MAX));
        self.samples.set(self.ring.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Result<Option<RecordConfig>, RecordError> {
        RecordConfig::read(|name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn nothing_is_recorded_unless_a_folder_is_named() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[(DIR_ENV, ""), (BYTES_ENV, "7")]).unwrap(), None);
        let config = read(&[(DIR_ENV, "/samples")]).unwrap().unwrap();
        assert_eq!(
            (config.limits.bytes, config.limits.age.as_secs()),
            (64 << 20, 86_400)
        );
        let config = read(&[(DIR_ENV, "/samples"), (BYTES_ENV, "5000"), (AGE_ENV, "60")]);
        let limits = config.unwrap().unwrap().limits;
        assert_eq!((limits.bytes, limits.age.as_secs()), (5000, 60));
    }

    #[test]
    fn a_bound_that_is_none_is_refused() {
        for (variable, value) in [
            (BYTES_ENV, "0"),
            (BYTES_ENV, "64Mi"),
            (BYTES_ENV, "-1"),
            (AGE_ENV, "1h"),
            (AGE_ENV, "99999999999"),
        ] {
            let error = read(&[(DIR_ENV, "/samples"), (variable, value)])
                .unwrap_err()
                .to_string();
            assert!(error.contains(variable) && error.contains(value), "{error}");
        }
    }
}
