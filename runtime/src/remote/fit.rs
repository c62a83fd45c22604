//! Whether what a server serves, and what it answers, is the model of `model.yaml`.

use super::RemoteError;
use crate::backend::Signature;
use crate::protocol::PLATFORM;
use crate::tensor::Tensor;
use perwatt_model::{Manifest, TensorSpec};
use perwatt_oip::message::Named;
use perwatt_oip::metadata::{ModelMetadata, TensorMetadata};

/// What is sent to a server and expected from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// The tensors that go over the wire.
    pub signature: Signature,
    /// The server remembers sequences itself, as one of ours does; we then send it their ids.
    pub keeps_sequences: bool,
    /// The server takes the steps before and after the model itself, as one of ours does.
    pub takes_steps: bool,
}

/// Compares a server's metadata with the model. It serves the model file, whose states we keep; or the model with its
/// states, between the steps that we take; or the whole model, steps included.
///
/// # Errors
/// When it serves none of them; says what differs.
pub fn determine_fit(found: &ModelMetadata, manifest: &Manifest) -> Result<Fit, RemoteError> {
    let mut fits = build_fits(found, manifest);
    if found.inputs.is_empty() && found.outputs.is_empty() && !fits.is_empty() {
        // Some servers do not know their models' tensors; the first inference then shows whether they fit.
        tracing::warn!(
            model = found.name,
            "the server does not say what its model takes and gives"
        );
        return Ok(fits.swap_remove(0).1);
    }
    let mut problems = Vec::new();
    for (what, fit) in fits {
        match compare(found, &fit.signature) {
            Ok(()) => return Ok(fit),
            Err(problem) => problems.push((what, problem)),
        }
    }
    Err(RemoteError::Mismatch(match &problems[..] {
        [(_, problem)] => problem.clone(),
        several => {
            let each = several
                .iter()
                .map(|(what, problem)| format!("as {what}: {problem}"));
            each.collect::<Vec<_>>().join("; ")
        }
    }))
}

/// What the server may be, the likeliest first: two that differ inside may look alike from outside.
fn build_fits(found: &ModelMetadata, manifest: &Manifest) -> Vec<(&'static str, Fit)> {
    let has_steps = !manifest.preprocess.is_empty() || !manifest.postprocess.is_empty();
    let file = Fit {
        signature: Signature::of(manifest),
        keeps_sequences: false,
        takes_steps: false,
    };
    let with_states = Fit {
        signature: Signature {
            inputs: manifest.prepared_inputs().cloned().collect(),
            outputs: manifest.raw_outputs().into_iter().cloned().collect(),
        },
        keeps_sequences: true,
        takes_steps: false,
    };
    let whole = Fit {
        signature: Signature {
            inputs: manifest.inputs.clone(),
            outputs: manifest.outputs.clone(),
        },
        keeps_sequences: true,
        takes_steps: true,
    };
    let file = ("the model's file", file);
    let with_states = ("the model with its states", with_states);
    let whole = ("the whole model", whole);
    let mut fits = match (&manifest.sequence, manifest.has_own_state()) {
        (None, _) => vec![file],
        // A state inside the file lies where the file runs.
        (Some(_), true) => vec![with_states, file],
        (Some(_), false) => vec![file, with_states],
    };
    if has_steps && found.platform == PLATFORM {
        fits.insert(0, whole);
    } else if has_steps {
        fits.push(whole);
    }
    fits
}

fn compare(found: &ModelMetadata, wanted: &Signature) -> Result<(), String> {
    compare_all("input", &found.inputs, &wanted.inputs)?;
    compare_all("output", &found.outputs, &wanted.outputs)?;
    let unknown = found
        .inputs
        .iter()
        .find(|tensor| wanted.inputs.iter().all(|spec| spec.name.as_str() != tensor.name));
    match unknown {
        Some(tensor) => Err(format!(
            "it takes an input {:?} that model.yaml does not have",
            short(&tensor.name)
        )),
        None => Ok(()),
    }
}

fn compare_all(kind: &str, found: &[TensorMetadata], wanted: &[TensorSpec]) -> Result<(), String> {
    for spec in wanted {
        let name = spec.name.as_str();
        let Some(tensor) = found.iter().find(|tensor| tensor.name == name) else {
            return Err(format!("it has no {kind} {name:?}"));
        };
        let fits = |(&found, &wanted): (&i64, &u32)| found < 0 || found == i64::from(wanted);
        let same_shape =
            tensor.shape.len() == spec.shape.len() && tensor.shape.iter().zip(&spec.shape).all(fits);
        if tensor.datatype != spec.datatype.as_str() || !same_shape {
            let shape: Vec<_> = tensor.shape.iter().take(8).collect();
            return Err(format!(
                "its {kind} {name:?} is {} {shape:?}, model.yaml says {} {:?}",
                short(&tensor.datatype),
                spec.datatype.as_str(),
                spec.shape
            ));
        }
    }
    Ok(())
}

/// The outputs of a reply in the order of the specs. Values are the model's business, NaN included.
///
/// # Errors
/// When one is missing, or has another type or shape.
pub fn pick_outputs(mut found: Vec<Named>, wanted: &[TensorSpec]) -> Result<Vec<Tensor>, RemoteError> {
    let mut pick = |spec: &TensorSpec| {
        let name = spec.name.as_str();
        let place = found.iter().position(|output| output.name == name);
        let place = place.ok_or_else(|| RemoteError::Wrong(format!("it has no output {name:?}")))?;
        let tensor = found.swap_remove(place).tensor;
        let (datatype, shape) = (tensor.data.datatype(), &tensor.shape);
        let same_shape = shape.len() == spec.shape.len()
            && shape
                .iter()
                .zip(&spec.shape)
                .all(|(&found, &wanted)| found == wanted as usize);
        if datatype == spec.datatype && same_shape && tensor.data.len() == spec.elements() {
            return Ok(tensor);
        }
        Err(RemoteError::Wrong(format!(
            "output {name:?} is {} {shape:?}, model.yaml says {} {:?}",
            datatype.as_str(),
            spec.datatype.as_str(),
            spec.shape
        )))
    };
    wanted.iter().map(&mut pick).collect()
}

fn short(text: &str) -> String {
    super::error::words(text).chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Data;

    fn manifest() -> Manifest {
        Manifest::parse(
            "schema: 1\nname: m\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [1, 3]}]\n\
             outputs: [{name: y, datatype: FP32, shape: [1]}]\n\
             sequence: {state: [{input: h, output: hn, datatype: FP32, shape: [1]}], context: [{input: x, samples: 2}]}\n\
             files: [{path: a, sha256: '0000000000000000000000000000000000000000000000000000000000000000', \
             backend: Onnx, precision: float32}]\n",
        )
        .unwrap()
    }

    fn metadata(inputs: &[(&str, &str, &[i64])], outputs: &[(&str, &str, &[i64])]) -> ModelMetadata {
        let tensors = |tensors: &[(&str, &str, &[i64])]| {
            let tensor = |&(name, datatype, shape): &(&str, &str, &[i64])| TensorMetadata {
                name: name.into(),
                datatype: datatype.into(),
                shape: shape.to_vec(),
            };
            tensors.iter().map(tensor).collect()
        };
        ModelMetadata {
            name: "m".into(),
            versions: vec![],
            platform: String::new(),
            inputs: tensors(inputs),
            outputs: tensors(outputs),
        }
    }

    #[test]
    fn a_server_serves_the_file_or_the_whole_model() {
        let file = metadata(
            &[("h", "FP32", &[1]), ("x", "FP32", &[-1, 5])],
            &[("y", "FP32", &[1]), ("hn", "FP32", &[1]), ("more", "INT8", &[7])],
        );
        let fit = determine_fit(&file, &manifest()).unwrap();
        assert!(!fit.keeps_sequences && fit.signature.inputs.len() == 2);
        let whole = metadata(&[("x", "FP32", &[1, 3])], &[("y", "FP32", &[1])]);
        let fit = determine_fit(&whole, &manifest()).unwrap();
        assert!(fit.keeps_sequences && fit.signature.inputs.len() == 1);
        assert!(
            !determine_fit(&metadata(&[], &[]), &manifest())
                .unwrap()
                .keeps_sequences
        );
    }

    #[test]
    fn another_model_is_refused_with_what_differs() {
        for (inputs, outputs, says) in [
            (
                ("x", "FP16", &[1i64, 3][..]),
                ("y", "FP32", &[1i64][..]),
                "FP16 [1, 3]",
            ),
            (("x", "FP32", &[1, 4]), ("y", "FP32", &[1]), "[1, 4]"),
            (("x", "FP32", &[3]), ("y", "FP32", &[1]), "[3]"),
            (("z", "FP32", &[1, 3]), ("y", "FP32", &[1]), "no input \"x\""),
            (("x", "FP32", &[1, 3]), ("p", "FP32", &[1]), "no output \"y\""),
        ] {
            let found = metadata(&[inputs], &[outputs]);
            let error = determine_fit(&found, &manifest()).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let more = metadata(
            &[("x", "FP32", &[1, 3]), ("gain", "FP32", &[1])],
            &[("y", "FP32", &[1])],
        );
        let error = determine_fit(&more, &manifest()).unwrap_err().to_string();
        assert!(error.contains("\"gain\""), "{error}");
    }

    #[test]
    fn steps_are_taken_here_unless_the_server_is_one_of_ours() {
        let text = "schema: 1\nname: m\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [1, 3]}]\n\
             outputs: [{name: y, datatype: FP32, shape: [1, 3]}]\n\
             preprocess: [{from: x, to: {name: x, datatype: FP32, shape: [1, 3]}, \
             steps: [{step: Normalize, mean: [1], std: [2]}]}]\n\
             files: [{path: a, sha256: '0000000000000000000000000000000000000000000000000000000000000000', \
             backend: Onnx, precision: float32}]\n";
        let steps = Manifest::parse(text).unwrap();
        let mut found = metadata(&[("x", "FP32", &[1, 3])], &[("y", "FP32", &[1, 3])]);
        assert!(!determine_fit(&found, &steps).unwrap().takes_steps);
        found.platform = PLATFORM.into();
        let fit = determine_fit(&found, &steps).unwrap();
        assert!(fit.takes_steps && fit.keeps_sequences);
        // One that does not say what it is shows it by what it takes.
        let renamed = Manifest::parse(&text.replace("to: {name: x,", "to: {name: z,")).unwrap();
        found.platform = "another".into();
        assert!(determine_fit(&found, &renamed).unwrap().takes_steps);
        found.inputs[0].name = "z".into();
        let fit = determine_fit(&found, &renamed).unwrap();
        assert!(!fit.takes_steps && fit.signature.inputs[0].name.as_str() == "z");
        found.inputs[0].name = "q".into();
        let error = determine_fit(&found, &renamed).unwrap_err().to_string();
        assert!(error.contains("\"z\"") && error.contains("\"x\""), "{error}");
    }

    #[test]
    fn a_state_inside_the_file_is_the_servers() {
        let text = "schema: 1\nname: m\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [1]}]\n\
             outputs: [{name: y, datatype: FP32, shape: [1]}]\nsequence: {ownState: true}\n\
             files: [{path: a, sha256: '0000000000000000000000000000000000000000000000000000000000000000', \
             backend: Onnx, precision: float32}]\n";
        let found = metadata(&[("x", "FP32", &[1])], &[("y", "FP32", &[1])]);
        let fit = determine_fit(&found, &Manifest::parse(text).unwrap()).unwrap();
        assert!(fit.keeps_sequences);
    }

    #[test]
    fn outputs_are_picked_by_name_and_checked() {
        let named = |name: &str, shape: &[usize], data| Named {
            name: name.into(),
            tensor: Tensor {
                shape: shape.to_vec(),
                data,
            },
        };
        let wanted = manifest().model_outputs();
        let hn = || named("hn", &[1], Data::F32(vec![2.0]));
        let nan = named("y", &[1], Data::F32(vec![f32::NAN]));
        let picked = pick_outputs(vec![hn(), nan], &wanted).unwrap();
        assert!(matches!(&picked[0].data, Data::F32(v) if v[0].is_nan()));
        assert_eq!(picked[1].data, Data::F32(vec![2.0]));
        for (bad, says) in [
            (named("q", &[1], Data::F32(vec![1.0])), "no output \"y\""),
            (named("y", &[1], Data::I8(vec![1])), "INT8"),
            (named("y", &[2], Data::F32(vec![1.0, 2.0])), "[2]"),
            (named("y", &[], Data::F32(vec![1.0])), "[]"),
            (named("y", &[1], Data::F32(vec![])), "FP32 [1]"),
        ] {
            let error = pick_outputs(vec![hn(), bad], &wanted).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
