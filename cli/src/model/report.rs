//! What `model check` and `model bench` report, in words that JSON shares with the process that loads the files.

use perwatt_model::{Backend, FileSpec, Precision};
use perwatt_runtime::inspect::{Finding, Inspection, Severity};
use serde::{Deserialize, Serialize};

/// The result of a check.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Whether the model can be served.
    pub ok: bool,
    /// Its name, where `model.yaml` could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What concerns the folder, and no file in particular.
    pub findings: Vec<Finding>,
    /// Every file that `model.yaml` names, in its order.
    pub files: Vec<FileReport>,
}

/// What was found in one file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileReport {
    /// Its path in the folder; the name of its variant.
    pub path: String,
    /// What runs it.
    pub backend: Backend,
    /// What `model.yaml` says of its weights.
    pub precision: Precision,
    /// Whether it can be served.
    pub ok: bool,
    /// What it holds, and what is wrong with it.
    #[serde(flatten)]
    pub inspection: Inspection,
    /// How it was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

impl FileReport {
    /// A report of a file of which nothing is known yet.
    pub fn new(file: &FileSpec) -> Self {
        Self {
            path: file.path.to_string(),
            backend: file.backend,
            precision: file.precision,
            ok: true,
            inspection: Inspection::default(),
            load: None,
        }
    }

    /// Adds a finding; an error refuses the file.
    pub fn add(&mut self, finding: Finding) {
        self.ok &= finding.severity != Severity::Error;
        self.inspection.add(finding);
    }
}

/// How a file was loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Time to load it, its hash included.
    pub load_microseconds: u64,
    /// Time of the first inference, on zeros.
    pub first_inference_microseconds: u64,
    /// Peak of resident memory of the process that did it.
    pub peak_memory_bytes: u64,
    /// Multiply-accumulates of one inference, where the backend knows.
    pub operations: Option<u64>,
}

/// Latency and throughput of a variant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Threads that called the model at once.
    pub threads: u64,
    /// Time that was measured.
    pub seconds: f64,
    /// Inferences in it.
    pub inferences: u64,
    /// Inferences that failed.
    pub failures: u64,
    /// Inferences a second, all threads together.
    pub per_second: f64,
    /// Half of the inferences took this long or less.
    pub p50_microseconds: f64,
    /// 90 of 100.
    pub p90_microseconds: f64,
    /// 99 of 100.
    pub p99_microseconds: f64,
    /// 999 of 1,000.
    pub p999_microseconds: f64,
    /// The slowest.
    pub max_microseconds: f64,
    /// Peak of resident memory of the process that did it.
    pub peak_memory_bytes: u64,
}

/// The result of a measurement.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchReport {
    /// Whether every variant was measured.
    pub ok: bool,
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One for each variant.
    pub variants: Vec<VariantReport>,
}

/// What was measured of a variant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VariantReport {
    /// The file.
    #[serde(flatten)]
    pub file: FileReport,
    /// Its figures; nothing where it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
}

/// A line that the loading process prints, in this order; the last one that came tells how far it got.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// The file was looked into.
    Inspected(Inspection),
    /// It was loaded; its first inference comes next.
    Loaded,
    /// It ran once.
    Ran(Load),
    /// It was measured.
    Measured(Measured),
    /// It cannot be used; nothing follows.
    Refused(Finding),
}
