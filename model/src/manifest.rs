//! The `model.yaml` format: what it may say, and what its parts must agree on.
//!
//! Reading text is all that happens here; the files it names are the business of [`crate::folder`].

use crate::batching::{self, BatchingSpec};
use crate::confidence::ConfidenceSpec;
use crate::names::{FilePath, ModelName, ModelVersion, Sha256Hex, ShortText, TensorName};
use crate::pipeline::{Postprocess, Preprocess};
use crate::safe::{self, SafeValue};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The name of the file in a model's folder.
pub const FILE_NAME: &str = "model.yaml";

/// The one version of the format so far.
pub const SCHEMA: u32 = 1;

/// Largest `model.yaml` that is read, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// Largest number of elements of one tensor.
pub(crate) const MAX_ELEMENTS: u64 = 1 << 26;
/// The format needs three levels; the YAML reader takes quadratic time in the depth.
const MAX_NESTING: usize = 32;
const MAX_TENSORS: usize = 64;
const MAX_FILES: usize = 32;
const MAX_LABELS: usize = 20_000;
/// Most steps of a request to a spiking network.
const MAX_STEPS: u32 = 65_536;

/// What a `model.yaml` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Name that requests use.
    pub name: ModelName,
    /// Version of the model, in quotes.
    pub version: ModelVersion,
    /// What it is, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<ShortText>,
    /// Under which terms it may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<Licence>,
    /// What a request carries.
    pub inputs: Vec<TensorSpec>,
    /// What a reply carries.
    pub outputs: Vec<TensorSpec>,
    /// What is done with a request's inputs before the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preprocess: Vec<Preprocess>,
    /// What is done with the model's outputs before the reply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postprocess: Vec<Postprocess>,
    /// What the runtime keeps from one request of a sequence to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<SequenceSpec>,
    /// The model's files, one or more for each way to run it, the best first.
    pub files: Vec<FileSpec>,
    /// Names of the classes that the outputs speak of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<ShortText>,
    /// What a reply carries where no variant answers: one entry for each output, or none.
    #[serde(default, rename = "safeValue", skip_serializing_if = "Vec::is_empty")]
    pub safe_value: Vec<SafeValue>,
    /// How sure a reply is, and how sure replies were where the model was well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<ConfidenceSpec>,
}

/// Terms of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// SPDX expression, such as `MIT`.
    pub spdx: ShortText,
    /// File in the folder that holds the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FilePath>,
}

/// One tensor of a request or a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name in requests and in the model file.
    pub name: TensorName,
    /// Type of the elements.
    pub datatype: Datatype,
    /// Length of every axis.
    pub shape: Vec<u32>,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().map(|&n| n as usize).product()
    }
}

/// Types of elements, named as in the Open Inference Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // the names say all
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
    Bf16,
}

impl Datatype {
    /// The protocol's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
            Self::Bf16 => "BF16",
        }
    }
}

/// What a sequence of requests shares, kept by the runtime so that clients need not send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceSpec {
    /// Tensors that go round: an output of one request is an input of the next, zeros at first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<StateSpec>,
    /// Inputs that are windows of a signal and overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<ContextSpec>,
    /// The model keeps what it remembers inside, where no tensor shows it: it then runs once for every sequence.
    #[serde(default, rename = "ownState", skip_serializing_if = "std::ops::Not::not")]
    pub own_state: bool,
}

/// A tensor of the model that goes round and that clients never see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSpec {
    /// The model's input.
    pub input: TensorName,
    /// The model's output that becomes the next request's input.
    pub output: TensorName,
    /// Type of the elements.
    pub datatype: Datatype,
    /// Length of every axis.
    pub shape: Vec<u32>,
}

/// An overlap of windows: the runtime puts the end of the previous window before the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextSpec {
    /// The input, as clients send it or as steps before the model give it; the model takes `samples` more along the last axis.
    pub input: TensorName,
    /// How many elements of the previous window come first; zeros at the start of a sequence.
    pub samples: u32,
}

/// A file of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Where it lies in the folder.
    pub path: FilePath,
    /// Hash that the file must have.
    pub sha256: Sha256Hex,
    /// What runs it.
    pub backend: Backend,
    /// Precision of the weights, such as `float32` or `int8`.
    pub precision: Precision,
    /// How good its answers are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// How it is run; for backend Spiking alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiking: Option<SpikingSpec>,
    /// How requests are put together; one at a time where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<BatchingSpec>,
}

/// How a spiking network is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SpikingSpec {
    /// Length of a step; where it is absent, the file says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_microseconds: Option<u64>,
    /// Steps of a request.
    pub steps: u32,
    /// What a reply shows of these steps.
    #[serde(default)]
    pub readout: SpikingReadout,
}

/// What a reply shows of the steps of a spiking network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SpikingReadout {
    /// All of them, one after the other.
    Steps,
    /// Their sum: of spikes, their number.
    #[default]
    Sum,
    /// Their mean: of spikes, their rate.
    Mean,
    /// The last.
    Last,
}

/// What runs a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Backend {
    /// An ONNX graph.
    Onnx,
    /// A LiteRT (TensorFlow Lite) file.
    LiteRt,
    /// A spiking network, as NIR.
    Spiking,
}

/// Precision of a file's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say all
pub enum Precision {
    Float32,
    Float16,
    Bfloat16,
    Int8,
    Int4,
}

/// How good a file's answers are, on the data that its maker names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Quality {
    /// Right answers in a thousand.
    pub accuracy_permille: u16,
}

/// Why a `model.yaml` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Larger than any that makes sense.
    #[error("it has {0} bytes, the limit is {MAX_BYTES}")]
    TooLarge(usize),
    /// Brackets within brackets, deeper than any real file.
    #[error("line {0}: brackets are nested deeper than {MAX_NESTING}")]
    Nesting(usize),
    /// Not YAML, or not of this format; names field, line and column.
    #[error("{0}")]
    Syntax(#[from] serde_yaml::Error),
    /// A field that contradicts another or a limit.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field, such as `sequence.context[0].input`.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> ManifestError {
    ManifestError::Field {
        field: field.into(),
        problem: problem.into(),
    }
}

impl Manifest {
    /// Reads and checks the text of a `model.yaml`.
    ///
    /// # Errors
    /// With the first field that is wrong.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MAX_BYTES {
            return Err(ManifestError::TooLarge(text.len()));
        }
        check_nesting(text)?;
        check_schema(text)?;
        let manifest: Self = serde_yaml::from_str(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&FileSpec> {
        self.files.iter().find(|file| file.path.as_str() == path)
    }

    /// The context of an input, 0 where windows do not overlap.
    pub fn context_samples(&self, input: &TensorName) -> u32 {
        let contexts = self.sequence.iter().flat_map(|s| &s.context);
        contexts.filter(|c| c.input == *input).map(|c| c.samples).sum()
    }

    /// What the model file takes: what the steps before it give, lengthened by its context, then the states.
    pub fn model_inputs(&self) -> Vec<TensorSpec> {
        let lengthened = self.prepared_inputs().map(|spec| {
            let mut spec = spec.clone();
            let context = self.context_samples(&spec.name);
            if let Some(last) = spec.shape.last_mut() {
                *last += context;
            }
            spec
        });
        let states = self.states().iter().map(|s| state_tensor(s, &s.input));
        lengthened.chain(states).collect()
    }

    /// What the model file gives: what the steps after it take, then the next states.
    pub fn model_outputs(&self) -> Vec<TensorSpec> {
        let states = self.states().iter().map(|s| state_tensor(s, &s.output));
        self.raw_outputs().into_iter().cloned().chain(states).collect()
    }

    /// The tensors that go round in a sequence.
    pub fn states(&self) -> &[StateSpec] {
        self.sequence.as_ref().map_or(&[], |s| &s.state)
    }

    /// Whether the model keeps its state inside.
    pub fn has_own_state(&self) -> bool {
        self.sequence.as_ref().is_some_and(|s| s.own_state)
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_count("inputs", self.inputs.len(), 1, MAX_TENSORS)?;
        check_count("outputs", self.outputs.len(), 1, MAX_TENSORS)?;
        check_count("files", self.files.len(), 1, MAX_FILES)?;
        check_count("labels", self.labels.len(), 0, MAX_LABELS)?;
        check_tensors("inputs", &self.inputs)?;
        check_tensors("outputs", &self.outputs)?;
        self.check_pipelines()?;
        if let Some(sequence) = &self.sequence {
            self.check_sequence(sequence)?;
        }
        check_unique(
            "inputs",
            "name",
            self.model_inputs().iter().map(|t| t.name.as_str()),
        )?;
        check_unique(
            "outputs",
            "name",
            self.model_outputs().iter().map(|t| t.name.as_str()),
        )?;
        check_unique("outputs", "name", self.outputs.iter().map(|t| t.name.as_str()))?;
        check_unique("files", "path", self.files.iter().map(|f| f.path.as_str()))?;
        safe::check(&self.safe_value, &self.outputs)?;
        if let Some(confidence) = &self.confidence {
            confidence.check(&self.outputs)?;
        }
        self.check_files()
    }

    fn check_sequence(&self, sequence: &SequenceSpec) -> Result<(), ManifestError> {
        check_count("sequence.state", sequence.state.len(), 0, MAX_TENSORS)?;
        check_count("sequence.context", sequence.context.len(), 0, MAX_TENSORS)?;
        if sequence.state.is_empty() && sequence.context.is_empty() && !sequence.own_state {
            return Err(field(
                "sequence",
                "it has neither state, context nor ownState: name one, or leave sequence out",
            ));
        }
        for (i, state) in sequence.state.iter().enumerate() {
            check_shape(&format!("sequence.state[{i}].shape"), &state.shape)?;
        }
        check_unique(
            "sequence.context",
            "input",
            sequence.context.iter().map(|c| c.input.as_str()),
        )?;
        for (i, context) in sequence.context.iter().enumerate() {
            self.check_context(&format!("sequence.context[{i}]"), context)?;
        }
        Ok(())
    }

    fn check_context(&self, at: &str, context: &ContextSpec) -> Result<(), ManifestError> {
        let Some(input) = self.prepared_inputs().find(|i| i.name == context.input) else {
            return Err(field(
                format!("{at}.input"),
                format!("no input is named {:?}", context.input.as_str()),
            ));
        };
        let Some((&window, outer)) = input.shape.split_last() else {
            return Err(field(
                format!("{at}.input"),
                "a scalar has no window: give the input a shape",
            ));
        };
        if outer.iter().any(|&n| n != 1) {
            return Err(field(
                format!("{at}.input"),
                "every axis of the input but the last must have length 1",
            ));
        }
        if context.samples == 0 || context.samples > window {
            let problem = format!(
                "{} is not between 1 and the window's length {window}",
                context.samples
            );
            return Err(field(format!("{at}.samples"), problem));
        }
        if input.datatype == Datatype::Bytes {
            return Err(field(format!("{at}.input"), "BYTES has no samples"));
        }
        Ok(())
    }

    fn check_files(&self) -> Result<(), ManifestError> {
        for (i, file) in self.files.iter().enumerate() {
            if file.path.as_str() == FILE_NAME {
                return Err(field(format!("files[{i}].path"), "model.yaml cannot name itself"));
            }
            if file.quality.is_some_and(|q| q.accuracy_permille > 1000) {
                return Err(field(
                    format!("files[{i}].quality.accuracyPermille"),
                    "the most is 1000",
                ));
            }
            check_spiking(&format!("files[{i}].spiking"), file)?;
            batching::check(&format!("files[{i}].batching"), file, self)?;
        }
        Ok(())
    }
}

fn check_spiking(at: &str, file: &FileSpec) -> Result<(), ManifestError> {
    match (&file.spiking, file.backend) {
        (None, Backend::Spiking) => Err(field(at, "backend Spiking needs it: say at least `steps`")),
        (None, _) => Ok(()),
        (Some(spec), Backend::Spiking) => {
            if !(1..=MAX_STEPS).contains(&spec.steps) {
                return Err(field(
                    format!("{at}.steps"),
                    format!("{} is not between 1 and {MAX_STEPS}", spec.steps),
                ));
            }
            if spec.step_microseconds == Some(0) {
                return Err(field(format!("{at}.stepMicroseconds"), "a step cannot be 0"));
            }
            Ok(())
        }
        (Some(_), _) => Err(field(at, "only backend Spiking has it")),
    }
}

fn state_tensor(state: &StateSpec, name: &TensorName) -> TensorSpec {
    TensorSpec {
        name: name.clone(),
        datatype: state.datatype,
        shape: state.shape.clone(),
    }
}

/// Looks at the format's version first: a later format would else be an unknown field.
fn check_schema(text: &str) -> Result<(), ManifestError> {
    #[derive(Deserialize)]
    struct Version {
        schema: Option<serde_yaml::Value>,
    }
    match serde_yaml::from_str::<Version>(text)?.schema {
        Some(found) if found.as_u64() == Some(u64::from(SCHEMA)) => Ok(()),
        Some(found) => {
            let found = serde_yaml::to_string(&found).unwrap_or_default();
            Err(field(
                "schema",
                format!(
                    "{} is not a format this program reads: use {SCHEMA}",
                    found.trim()
                ),
            ))
        }
        None => Err(field(
            "schema",
            format!("it is missing: write `schema: {SCHEMA}`"),
        )),
    }
}

/// Counts brackets, wherever they stand: one that is quoted or in a comment counts too.
fn check_nesting(text: &str) -> Result<(), ManifestError> {
    let mut depth = 0usize;
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > MAX_NESTING {
            return Err(ManifestError::Nesting(text[..i].lines().count()));
        }
    }
    Ok(())
}

fn check_count(at: &str, count: usize, least: usize, most: usize) -> Result<(), ManifestError> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(field(
        at,
        format!("{count} entries are not between {least} and {most}"),
    ))
}

fn check_tensors(at: &str, tensors: &[TensorSpec]) -> Result<(), ManifestError> {
    for (i, tensor) in tensors.iter().enumerate() {
        check_shape(&format!("{at}[{i}].shape"), &tensor.shape)?;
    }
    Ok(())
}

pub(crate) fn check_shape(at: &str, shape: &[u32]) -> Result<(), ManifestError> {
    if shape.len() > 8 {
        return Err(field(at, format!("{} axes are more than 8", shape.len())));
    }
    if shape.contains(&0) {
        return Err(field(at, "every axis must have length 1 or more"));
    }
    let elements = shape
        .iter()
        .try_fold(1u64, |product, &n| product.checked_mul(u64::from(n)));
    if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
        return Err(field(at, format!("more than {MAX_ELEMENTS} elements")));
    }
    Ok(())
}

pub(crate) fn check_unique<'a>(
    at: &str,
    what: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), ManifestError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(field(
                at,
                format!("{what} {name:?} is there twice (states count too)"),
            ));
        }
    }
    Ok(())
}
