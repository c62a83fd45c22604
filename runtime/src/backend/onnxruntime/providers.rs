//! Execution providers of ONNX Runtime, each held to the precision of the file.

use super::super::BackendError;
use super::super::settings::{Provider, ProviderName};
use ort::ep::{
    ArbitrarilyConfigurableExecutionProvider, CUDA, ExecutionProviderDispatch, OpenVINO, TensorRT,
};
use perwatt_model::Precision;

/// Options that decide the precision: `model.yaml` does that.
const PRECISION_OPTIONS: [&str; 6] = [
    "precision",
    "use_tf32",
    "trt_fp16_enable",
    "trt_bf16_enable",
    "trt_int8_enable",
    "inference_precision",
];

/// The provider with its options. Registering it fails where the library does not have it: there is no quiet
/// return to the CPU.
pub(super) fn dispatch(
    provider: &Provider,
    precision: Precision,
) -> Result<ExecutionProviderDispatch, BackendError> {
    let options = options(provider, precision)?;
    let built = match provider.name {
        ProviderName::Cuda => with(CUDA::default(), options).build(),
        ProviderName::TensorRt => with(TensorRT::default(), options).build(),
        ProviderName::OpenVino => with(OpenVINO::default(), options).build(),
    };
    Ok(built.error_on_failure())
}

fn with<P: ArbitrarilyConfigurableExecutionProvider>(provider: P, options: Vec<(String, String)>) -> P {
    options.into_iter().fold(provider, |provider, (key, value)| {
        provider.with_arbitrary_config(key, value)
    })
}

/// What was asked for, and what holds the provider to the precision.
fn options(provider: &Provider, precision: Precision) -> Result<Vec<(String, String)>, BackendError> {
    for (key, value) in &provider.options {
        if PRECISION_OPTIONS.contains(&key.as_str()) {
            return Err(BackendError(format!(
                "option {key} of {:?}: the precision is that of the file in model.yaml, leave it out",
                provider.name
            )));
        }
        // The library's binding takes texts that end with 0.
        if key.contains('\0') || value.contains('\0') {
            return Err(BackendError(format!(
                "option {key:?} of {:?} holds a 0 byte",
                provider.name
            )));
        }
    }
    let given = provider
        .options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()));
    Ok(given.chain(held(provider.name, precision)?).collect())
}

fn held(name: ProviderName, precision: Precision) -> Result<Vec<(String, String)>, BackendError> {
    let flag = |on: bool| if on { "1" } else { "0" };
    let options = match name {
        // TF32 keeps ten bits of a float32's mantissa.
        ProviderName::Cuda => vec![("use_tf32", "0")],
        ProviderName::TensorRt => vec![
            ("trt_fp16_enable", flag(precision == Precision::Float16)),
            ("trt_bf16_enable", flag(precision == Precision::Bfloat16)),
            ("trt_int8_enable", flag(precision == Precision::Int8)),
        ],
        ProviderName::OpenVino => vec![(
            "precision",
            match precision {
                Precision::Float32 => "FP32",
                Precision::Float16 => "FP16",
                // A quantised graph says itself what is int8; the rest of it is float32.
                Precision::Int8 => "ACCURACY",
                Precision::Bfloat16 | Precision::Int4 => {
                    return Err(BackendError(format!(
                        "OpenVINO cannot be held to {precision:?}: use another provider"
                    )));
                }
            },
        )],
    };
    Ok(options
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(name: ProviderName, options: &[(&str, &str)]) -> Provider {
        Provider {
            name,
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            cpu_operators: false,
        }
    }

    fn value(options: &[(String, String)], key: &str) -> Option<String> {
        options.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone())
    }

    #[test]
    fn a_float32_file_is_computed_in_float32() {
        let cuda = options(
            &provider(ProviderName::Cuda, &[("device_id", "1")]),
            Precision::Float32,
        )
        .unwrap();
        assert_eq!(value(&cuda, "use_tf32").as_deref(), Some("0"));
        assert_eq!(value(&cuda, "device_id").as_deref(), Some("1"));
        let trt = options(&provider(ProviderName::TensorRt, &[]), Precision::Float32).unwrap();
        assert_eq!(value(&trt, "trt_fp16_enable").as_deref(), Some("0"));
        let vino = options(&provider(ProviderName::OpenVino, &[]), Precision::Float32).unwrap();
        assert_eq!(
            value(&vino, "precision").as_deref(),
            Some("FP32"),
            "its own choice would be bfloat16"
        );
    }

    #[test]
    fn an_option_cannot_change_the_precision() {
        for (name, key) in [
            (ProviderName::Cuda, "use_tf32"),
            (ProviderName::TensorRt, "trt_fp16_enable"),
            (ProviderName::OpenVino, "precision"),
        ] {
            let error = options(&provider(name, &[(key, "1")]), Precision::Float32).unwrap_err();
            assert!(error.0.contains("leave it out"), "{error}");
        }
        let hostile = provider(ProviderName::Cuda, &[("device_id", "0\0")]);
        assert!(options(&hostile, Precision::Float32).is_err());
    }
}
