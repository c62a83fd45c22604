//! How a variant's file is to be run, as `PERWATT_CONFIG` says it; what each backend makes of it is its own business.

use super::BackendError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;

/// Environment variable with the engine for ONNX graphs, where a variant names none.
pub const ENGINE_ENV: &str = "PERWATT_ONNX_ENGINE";

/// How a variant's file is to be run. Unknown fields are errors: one that is not understood could change answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// What runs ONNX graphs; [`ENGINE_ENV`] where it is not said, and else tract.
    pub engine: Option<Engine>,
    /// What ONNX Runtime runs on, best first; its CPU where none is named.
    pub execution_providers: Vec<Provider>,
    /// What takes over parts of a LiteRT graph.
    pub delegate: Option<DelegateSettings>,
    /// Threads of one call; 1 where it is not said.
    pub threads: Option<NonZeroU16>,
}

/// What runs ONNX graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum Engine {
    /// tract, which is part of this program.
    Tract,
    /// ONNX Runtime, whose library must be there.
    OnnxRuntime,
    /// ONNX Runtime where its library is there, else tract.
    Auto,
}

/// An execution provider of ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Which.
    pub name: ProviderName,
    /// Its options, as ONNX Runtime names them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Whether it may leave operators that it does not have to the CPU; else such a graph is refused.
    #[serde(default)]
    pub cpu_operators: bool,
}

/// The execution providers that can be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[allow(missing_docs)] // the names say all
pub enum ProviderName {
    #[serde(rename = "CUDA")]
    Cuda,
    #[serde(rename = "TensorRT")]
    TensorRt,
    #[serde(rename = "OpenVINO")]
    OpenVino,
}

/// A delegate of LiteRT: a vendor's library with `tflite_plugin_create_delegate`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DelegateSettings {
    /// Path or name of the library.
    pub library: PathBuf,
    /// Its options, as it names them.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl Settings {
    /// What runs ONNX graphs.
    ///
    /// # Errors
    /// When the environment names no engine, or execution providers are named without ONNX Runtime.
    pub fn onnx_engine(&self) -> Result<Engine, BackendError> {
        let engine = match self.engine {
            Some(engine) => engine,
            None => parse(std::env::var(ENGINE_ENV).ok().as_deref())?,
        };
        if engine != Engine::OnnxRuntime && !self.execution_providers.is_empty() {
            return Err(BackendError(
                "executionProviders need the engine OnnxRuntime: write engine: OnnxRuntime".into(),
            ));
        }
        Ok(engine)
    }

    /// Threads of one call.
    pub fn call_threads(&self) -> NonZeroU16 {
        self.threads.unwrap_or(NonZeroU16::MIN)
    }
}

fn parse(text: Option<&str>) -> Result<Engine, BackendError> {
    match text {
        None | Some("" | "Tract") => Ok(Engine::Tract),
        Some("OnnxRuntime") => Ok(Engine::OnnxRuntime),
        Some("Auto") => Ok(Engine::Auto),
        Some(other) => Err(BackendError(format!(
            "{ENGINE_ENV} is {other:?}: it can be Tract, OnnxRuntime or Auto"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_what_is_not_understood_is_refused() {
        let settings: Settings = serde_json::from_str(
            r#"{"engine": "OnnxRuntime", "threads": 2,
                "executionProviders": [{"name": "CUDA", "options": {"device_id": "0"}}]}"#,
        )
        .unwrap();
        assert_eq!(settings.onnx_engine(), Ok(Engine::OnnxRuntime));
        assert_eq!(settings.call_threads().get(), 2);
        for wrong in [
            r#"{"engine": "Onnx"}"#,
            r#"{"threads": 0}"#,
            r#"{"executionProviders": [{"name": "cuda"}]}"#,
            r#"{"precision": "float16"}"#,
        ] {
            assert!(serde_json::from_str::<Settings>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_engine_is_tract_unless_another_is_named() {
        assert_eq!(parse(None), Ok(Engine::Tract));
        assert_eq!(parse(Some("")), Ok(Engine::Tract));
        assert_eq!(parse(Some("Auto")), Ok(Engine::Auto));
        assert!(parse(Some("auto")).unwrap_err().0.contains("PERWATT_ONNX_ENGINE"));
    }

    #[test]
    fn execution_providers_without_onnx_runtime_are_a_mistake() {
        let settings: Settings =
            serde_json::from_str(r#"{"engine": "Auto", "executionProviders": [{"name": "CUDA"}]}"#).unwrap();
        assert!(
            settings
                .onnx_engine()
                .unwrap_err()
                .0
                .contains("engine: OnnxRuntime")
        );
    }
}
