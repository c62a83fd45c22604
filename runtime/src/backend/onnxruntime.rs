//! ONNX graphs, run by ONNX Runtime, whose library is found at run time.
//!
//! Precision is never left to an execution provider: what computes less precisely than the file says is
//! switched off ([`providers`]), and an option that would switch it on is refused.

mod providers;

use super::checkout::Checkout;
use super::{Backend, BackendError, LoadOptions, Model, Signature};
use crate::tensor::{Data, Tensor, with_numbers};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, TensorElementType, TensorRef};
use perwatt_model::{Datatype, FileSpec, Precision, TensorSpec};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Environment variable with the path of ONNX Runtime's library.
pub const LIBRARY_ENV: &str = "PERWATT_ONNXRUNTIME_LIBRARY";

/// Name by which the loader may know it.
const NAME: &str = "libonnxruntime.so";

/// Loads ONNX graphs into ONNX Runtime.
#[derive(Debug)]
pub struct OnnxRuntime;

impl OnnxRuntime {
    /// Whether its library is there and can be used.
    ///
    /// # Errors
    /// When it cannot; the message says what to install.
    pub fn find() -> Result<(), BackendError> {
        environment().map(drop)
    }
}

impl Backend for OnnxRuntime {
    fn load(
        &self,
        content: &[u8],
        file: &FileSpec,
        signature: &Signature,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Model>, BackendError> {
        let environment = environment()?;
        let names: Vec<_> = options
            .settings
            .execution_providers
            .iter()
            .map(|p| format!("{:?}", p.name))
            .collect();
        let engine = match names[..] {
            [] => format!("ONNX Runtime {}", version()),
            _ => format!("ONNX Runtime {} ({})", version(), names.join(", ")),
        };
        let (content, options) = (Arc::<[u8]>::from(content), options.clone());
        let (declared, precision) = (signature.clone(), file.precision);
        let sessions = Checkout::new(move || {
            let session = session(&environment, &content, precision, &options)?;
            check_inputs(session.inputs(), &declared.inputs)?;
            check_outputs(session.outputs(), &declared.outputs)?;
            Ok(session)
        })?;
        Ok(Arc::new(Graph {
            sessions,
            signature: signature.clone(),
            engine,
        }))
    }
}

/// The one environment of this process. Where the library is not found, the next variant looks again.
fn environment() -> Result<Environment, BackendError> {
    static MADE: Mutex<Option<Environment>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = &*made {
        return Ok(environment.clone());
    }
    let path = library_path();
    let builder = ort::init_from(&path).map_err(|error| {
        BackendError(format!(
            "ONNX Runtime cannot be used: {error}; install its library (the Python package onnxruntime brings one) \
             and set {LIBRARY_ENV} to its path, or write engine: Tract"
        ))
    })?;
    let environment = builder
        .with_name("perwatt")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(refuse("ONNX Runtime cannot start"))?;
    environment.set_log_level(LogLevel::Error);
    tracing::info!(version = version(), path = %path.display(), "ONNX Runtime library");
    Ok(made.insert(environment).clone())
}

fn log(level: LogLevel, category: &str, _id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Fatal | LogLevel::Error => tracing::error!(category, place, "ONNX Runtime: {message}"),
        LogLevel::Warning => tracing::warn!(category, place, "ONNX Runtime: {message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::debug!(category, place, "ONNX Runtime: {message}"),
    }
}

/// The library's version, from the name of the file that its path leads to: its own description of itself has
/// none. Where only the loader knows the file, there is no version to tell.
fn version() -> String {
    let file = std::fs::canonicalize(library_path()).unwrap_or_default();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let version = name.strip_prefix("libonnxruntime.so.");
    version.unwrap_or("of unknown version").to_owned()
}

fn library_path() -> PathBuf {
    let path = std::env::var_os(LIBRARY_ENV).filter(|path| !path.is_empty());
    path.map_or_else(|| PathBuf::from(NAME), PathBuf::from)
}

/// The library's own words on one line.
fn refuse<R>(what: &'static str) -> impl Fn(ort::Error<R>) -> BackendError {
    move |error| BackendError(format!("{what}: {}", error.message()).replace('\n', " "))
}

fn session(
    environment: &Environment,
    content: &[u8],
    precision: Precision,
    options: &LoadOptions,
) -> Result<Session, BackendError> {
    let settings = &options.settings;
    let set = |_| "ONNX Runtime takes no such option";
    let mut builder = Session::builder(environment)
        .map_err(refuse("ONNX Runtime"))?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(refuse(set(())))?
        .with_intra_threads(usize::from(settings.call_threads().get()))
        .map_err(refuse(set(())))?
        .with_inter_threads(1)
        .map_err(refuse(set(())))?
        // A thread that spins for the next request burns what this product is there to save.
        .with_intra_op_spinning(false)
        .map_err(refuse(set(())))?;
    let chosen = &settings.execution_providers;
    if !chosen.is_empty() && !chosen.iter().any(|provider| provider.cpu_operators) {
        builder = builder.with_disable_cpu_fallback().map_err(refuse(set(())))?;
    }
    let dispatches = chosen
        .iter()
        .map(|provider| providers::dispatch(provider, precision))
        .collect::<Result<Vec<_>, _>>()?;
    builder
        .with_execution_providers(dispatches)
        .map_err(refuse("an execution provider cannot be used"))?
        .commit_from_memory(content)
        .map_err(refuse("ONNX Runtime refuses the graph"))
}

/// The graph must take exactly what `model.yaml` declares.
fn check_inputs(found: &[Outlet], declared: &[TensorSpec]) -> Result<(), BackendError> {
    let found_names: BTreeSet<&str> = found.iter().map(Outlet::name).collect();
    let declared_names: BTreeSet<&str> = declared.iter().map(|spec| spec.name.as_str()).collect();
    if found_names != declared_names {
        return Err(BackendError(format!(
            "the graph takes the inputs {found_names:?}, model.yaml declares {declared_names:?}"
        )));
    }
    declared.iter().try_for_each(|spec| check(found, spec, "input"))
}

fn check_outputs(found: &[Outlet], declared: &[TensorSpec]) -> Result<(), BackendError> {
    declared.iter().try_for_each(|spec| check(found, spec, "output"))
}

/// What the graph itself says of a tensor must allow what `model.yaml` says; an axis that it leaves open (−1)
/// allows every length.
fn check(found: &[Outlet], spec: &TensorSpec, what: &str) -> Result<(), BackendError> {
    let name = spec.name.as_str();
    let outlet = found.iter().find(|outlet| outlet.name() == name);
    let outlet = outlet.ok_or_else(|| BackendError(format!("the graph has no {what} {name:?}")))?;
    let allows = |(found, &declared): (&i64, &u32)| *found < 0 || *found == i64::from(declared);
    let fits = outlet
        .dtype()
        .tensor_shape()
        .is_some_and(|shape| shape.len() == spec.shape.len() && shape.iter().zip(&spec.shape).all(allows));
    if fits && outlet.dtype().tensor_type() == element(spec.datatype) {
        return Ok(());
    }
    Err(BackendError(format!(
        "{what} {name:?} of the graph is {}, model.yaml declares {} {:?} (context included)",
        outlet.dtype(),
        spec.datatype.as_str(),
        spec.shape
    )))
}

struct Graph {
    sessions: Checkout<Session>,
    signature: Signature,
    engine: String,
}

impl Model for Graph {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        let names = self.signature.inputs.iter().map(|spec| spec.name.as_str());
        let values = names
            .zip(inputs)
            .map(|(name, tensor)| Ok((name, to_ort(tensor)?)))
            .collect::<Result<Vec<_>, BackendError>>()?;
        self.sessions.with(|session| {
            let outputs = session.run(values).map_err(refuse("the graph failed"))?;
            let read = |spec: &TensorSpec| {
                let value = outputs.get(spec.name.as_str());
                let value =
                    value.ok_or_else(|| BackendError(format!("it gave no {:?}", spec.name.as_str())))?;
                from_ort(value, spec)
            };
            self.signature.outputs.iter().map(read).collect()
        })
    }

    fn engine(&self) -> &str {
        &self.engine
    }
}

/// An output must have the shape that `model.yaml` declares: a graph may leave it open.
fn check_shape(found: &[i64], spec: &TensorSpec) -> Result<Vec<usize>, BackendError> {
    if found.iter().copied().eq(spec.shape.iter().map(|&n| i64::from(n))) {
        return Ok(spec.shape.iter().map(|&n| n as usize).collect());
    }
    Err(BackendError(format!(
        "it gave {:?} the shape {found:?}, model.yaml declares {:?}",
        spec.name.as_str(),
        spec.shape
    )))
}

fn element(datatype: Datatype) -> Option<TensorElementType> {
    Some(match datatype {
        Datatype::Bool => TensorElementType::Bool,
        Datatype::Uint8 => TensorElementType::Uint8,
        Datatype::Uint16 => TensorElementType::Uint16,
        Datatype::Uint32 => TensorElementType::Uint32,
        Datatype::Uint64 => TensorElementType::Uint64,
        Datatype::Int8 => TensorElementType::Int8,
        Datatype::Int16 => TensorElementType::Int16,
        Datatype::Int32 => TensorElementType::Int32,
        Datatype::Int64 => TensorElementType::Int64,
        Datatype::Fp16 => TensorElementType::Float16,
        Datatype::Fp32 => TensorElementType::Float32,
        Datatype::Fp64 => TensorElementType::Float64,
        Datatype::Bf16 => TensorElementType::Bfloat16,
        Datatype::Bytes => return None,
    })
}

macro_rules! conversions {
    ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
        fn to_ort(tensor: &Tensor) -> Result<SessionInputValue<'_>, BackendError> {
            let shape = &tensor.shape[..];
            let value = match &tensor.data {
                $(Data::$variant(v) => TensorRef::from_array_view((shape, &v[..])).map(SessionInputValue::from),)*
                Data::Bytes(_) => return Err(BackendError("backend Onnx takes BYTES by tract alone".into())),
            };
            value.map_err(refuse("an input cannot be passed on"))
        }

        fn from_ort(value: &ort::value::DynValue, spec: &TensorSpec) -> Result<Tensor, BackendError> {
            let unreadable = refuse::<()>("an output cannot be read");
            let (shape, data) = match spec.datatype {
                $(Datatype::$datatype => {
                    let (shape, elements) = value.try_extract_tensor::<$rust>().map_err(unreadable)?;
                    (check_shape(shape, spec)?, Data::$variant(elements.to_vec()))
                })*
                other => return Err(BackendError(format!("ONNX Runtime gives no {}", other.as_str()))),
            };
            Ok(Tensor { shape, data })
        }
    };
}
with_numbers!(conversions);
