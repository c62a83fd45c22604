//! Model files, read and checked as the runtime does before it runs them.

use perwatt_litert::Graph;
use perwatt_model::Manifest;
use perwatt_runtime::backend::{Backend, LoadOptions, Onnx, Settings, Signature};
use perwatt_spiking::{Plan, Readout, read};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Length of a step in seconds, for networks that count in it.
const STEP: f64 = 1e-3;

/// What the ONNX files of the corpus take and give.
const MODEL: &str = "schema: 1\nname: gate\nversion: '2'\n\
     inputs: [{name: x, datatype: FP32, shape: [1, 4]}]\n\
     outputs: [{name: y, datatype: FP32, shape: [1, 4]}]\n\
     files: [{path: a.onnx, backend: Onnx, precision: float32, \
     sha256: '0000000000000000000000000000000000000000000000000000000000000000'}]\n";

/// Looks into an ONNX file, which must never panic, and loads what was found to be well.
pub fn onnx(input: &[u8]) -> bool {
    let Ok(manifest) = Manifest::parse(MODEL) else {
        return false;
    };
    let signature = Signature::of(&manifest);
    let Some(file) = manifest.files.first() else {
        return false;
    };
    if Onnx.inspect(input, file, &signature).refusal().is_some() {
        return false;
    }
    let options = LoadOptions {
        own_state: false,
        settings: Settings::default(),
    };
    // The runtime takes a panic of tract for a refusal, and so does this.
    let load = AssertUnwindSafe(|| Onnx.load(input, file, &signature, &options).is_ok());
    catch_unwind(load).unwrap_or(false)
}

/// Reads a spiking network, compiles it and runs one step.
pub fn nir(input: &[u8]) -> bool {
    let Ok(graph) = read(input) else { return false };
    let Ok(plan) = Plan::compile(&graph, Some(STEP)) else {
        return false;
    };
    let inputs: Vec<Vec<f64>> = plan.inputs().iter().map(|p| vec![1.0; p.elements()]).collect();
    let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
    plan.run(&mut plan.start(), &inputs, 1, Readout::Sum).is_ok()
}

/// Checks a LiteRT file as it is checked before the C library sees it.
pub fn litert(input: &[u8]) -> bool {
    Graph::read(input).is_ok()
}
