//! Steps before and after a model: whatever `model.yaml` declares and is taken when it is read must run on any
//! values without a panic, and give what the reader said it would.
//!
//! An input is a `model.yaml`, a line `%%`, and bytes that become the elements of every tensor, over and over.

use perwatt_model::pipeline::flows;
use perwatt_model::{Datatype, Manifest, TensorSpec};
use perwatt_oip::bytes::Bytes;
use perwatt_oip::raw;
use perwatt_runtime::pipeline::Side;
use perwatt_runtime::tensor::{Data, Tensor};

const MARK: &[u8] = b"\n%%\n";
/// Elements of the largest tensor that is run: what is slow alone finds nothing.
const MOST_ELEMENTS: u64 = 1 << 16;

pub fn steps(input: &[u8]) -> bool {
    let Some(at) = input.windows(MARK.len()).position(|part| part == MARK) else {
        return false;
    };
    let (text, values) = (input.get(..at), input.get(at + MARK.len()..));
    let (Some(text), Some(values)) = (text, values) else {
        return false;
    };
    let Some(manifest) = str::from_utf8(text).ok().and_then(|t| Manifest::parse(t).ok()) else {
        return false;
    };
    if !is_small(&manifest) {
        return false;
    }
    let prepared: Vec<&TensorSpec> = manifest.prepared_inputs().collect();
    let inputs: Vec<&TensorSpec> = manifest.inputs.iter().collect();
    let outputs: Vec<&TensorSpec> = manifest.outputs.iter().collect();
    let before = run(Side::before(&manifest), &inputs, &prepared, values);
    let after = run(Side::after(&manifest), &manifest.raw_outputs(), &outputs, values);
    before && after
}

/// Runs one side twice, as for a sequence; true where nothing was refused.
fn run(side: Option<Side>, from: &[&TensorSpec], to: &[&TensorSpec], values: &[u8]) -> bool {
    // What was read can be made ready.
    assert!(
        side.is_some(),
        "a manifest that was read has steps that cannot be made"
    );
    let (Some(side), Some(tensors)) = (side, build(from, values)) else {
        return false;
    };
    let mut past = vec![];
    for _ in 0..2 {
        let Ok((made, next)) = side.run(&tensors, &past) else {
            return false;
        };
        assert_eq!(made.len(), to.len());
        for (tensor, spec) in made.iter().zip(to) {
            assert_eq!(tensor.data.datatype(), spec.datatype, "{}", spec.name);
            assert_eq!(tensor.data.len(), spec.elements(), "{}", spec.name);
        }
        past = next;
    }
    true
}

fn build(specs: &[&TensorSpec], values: &[u8]) -> Option<Vec<Tensor>> {
    let tensor = |spec: &&TensorSpec| {
        let count = spec.elements();
        let data = if spec.datatype == Datatype::Bytes {
            Data::Bytes(vec![Bytes::copy_from_slice(values); count])
        } else {
            let length = raw::encoded_len(&Data::zeros(spec.datatype, count));
            let bytes: Vec<u8> = values.iter().copied().cycle().take(length).collect();
            raw::decode(&bytes.into(), spec.datatype, count).ok()?
        };
        Some(Tensor {
            shape: spec.shape.iter().map(|&n| n as usize).collect(),
            data,
        })
    };
    specs.iter().map(tensor).collect()
}

fn is_small(manifest: &Manifest) -> bool {
    let size = |axes: &mut dyn Iterator<Item = u32>| axes.map(u64::from).product::<u64>() <= MOST_ELEMENTS;
    let labels = manifest.labels.len();
    let is_small = |from: &TensorSpec, steps: &[_]| {
        let flows = flows(from, steps, labels).unwrap_or_default();
        flows
            .iter()
            .all(|flow| size(&mut flow.shape.iter().flatten().copied()))
    };
    let whole = manifest.inputs.iter().chain(&manifest.outputs);
    whole
        .into_iter()
        .all(|spec| size(&mut spec.shape.iter().copied()))
        && manifest.preprocess.iter().all(|p| {
            let from = manifest.inputs.iter().find(|input| input.name == p.from);
            from.is_some_and(|from| is_small(from, &p.steps))
        })
        && manifest.postprocess.iter().all(|p| is_small(&p.from, &p.steps))
}
