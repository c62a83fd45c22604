//! ONNX graphs, run by tract on the CPU.

mod cost;
mod inspect;
mod tensors;

use super::{Backend, BackendError, LoadOptions, Model, Signature};
use crate::inspect::Inspection;
use crate::tensor::{Data, Tensor, with_elements};
use bytes::Bytes;
use perwatt_model::{Datatype, FileSpec, TensorSpec};
use std::collections::BTreeSet;
use std::sync::Arc;
use tract_onnx::prelude::{
    DatumType, Framework, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTensor, TValue,
    TVec, Tensor as TractTensor, TractError, TractResult, TypedModel, TypedRunnableModel, tract_ndarray,
};
use tract_onnx::tract_hir::infer::Factoid;

/// Loads ONNX graphs.
#[derive(Debug)]
pub struct Onnx;

impl Backend for Onnx {
    fn inspect(&self, content: &[u8], file: &FileSpec, signature: &Signature) -> Inspection {
        inspect::inspect(content, file, signature)
    }

    fn load(
        &self,
        content: &[u8],
        _file: &FileSpec,
        signature: &Signature,
        _options: &LoadOptions,
    ) -> Result<Arc<dyn Model>, BackendError> {
        let mut reader = content;
        let graph = tract_onnx::onnx()
            .model_for_read(&mut reader)
            .map_err(refuse("not a readable ONNX graph"))?;
        check_inputs(&graph, signature)?;
        let typed = specialise(graph, signature).map_err(refuse("the graph does not fit model.yaml"))?;
        check_outputs(&typed, signature)?;
        let plan = typed.into_runnable().map_err(refuse("the graph cannot be run"))?;
        Ok(Arc::new(Graph {
            plan,
            outputs: signature.outputs.clone(),
        }))
    }
}

struct Graph {
    plan: Arc<TypedRunnableModel>,
    outputs: Vec<TensorSpec>,
}

impl Model for Graph {
    fn operations(&self) -> Option<u64> {
        cost::multiply_accumulates(self.plan.model())
    }

    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        let run = || -> TractResult<Vec<Tensor>> {
            let inputs = inputs
                .iter()
                .map(to_tract)
                .collect::<TractResult<TVec<TValue>>>()?;
            let outputs = self.plan.run(inputs)?;
            outputs
                .iter()
                .zip(&self.outputs)
                .map(|(value, spec)| from_tract(value, spec.datatype))
                .collect()
        };
        run().map_err(refuse("the graph failed"))
    }

    fn engine(&self) -> &str {
        "tract"
    }
}

/// The whole chain of causes on one line: tract names the node in one and the problem in another.
fn refuse(what: &'static str) -> impl Fn(TractError) -> BackendError {
    move |error| BackendError(format!("{what}: {error:#}").replace('\n', " "))
}

/// The graph must take exactly what `model.yaml` declares.
fn check_inputs(graph: &InferenceModel, signature: &Signature) -> Result<(), BackendError> {
    let outlets = graph.input_outlets().map_err(refuse("the graph has no inputs"))?;
    let found: BTreeSet<&str> = outlets
        .iter()
        .map(|outlet| graph.node(outlet.node).name.as_str())
        .collect();
    let declared: BTreeSet<&str> = signature.inputs.iter().map(|input| input.name.as_str()).collect();
    if found == declared {
        return Ok(());
    }
    Err(BackendError(format!(
        "the graph takes the inputs {found:?}, model.yaml declares {declared:?}"
    )))
}

fn specialise(mut graph: InferenceModel, signature: &Signature) -> TractResult<TypedModel> {
    graph.set_input_names(signature.inputs.iter().map(|input| input.name.as_str()))?;
    for (i, input) in signature.inputs.iter().enumerate() {
        check_input(graph.input_fact(i)?, input)?;
        let shape: Vec<usize> = input.shape.iter().map(|&n| n as usize).collect();
        graph.set_input_fact(i, InferenceFact::dt_shape(datum_type(input.datatype)?, shape))?;
    }
    graph.select_outputs_by_name(signature.outputs.iter().map(|output| output.name.as_str()))?;
    graph.into_optimized()
}

/// What the graph itself says of an input must allow what `model.yaml` says; an axis that it
/// leaves open allows every length. Without this a graph may run on a shape it was not made for.
fn check_input(found: &InferenceFact, declared: &TensorSpec) -> TractResult<()> {
    let shape = found
        .shape
        .dims()
        .map(|dim| dim.concretize().and_then(|n| n.to_i64().ok()));
    let allows = |(n, found): (&u32, Option<i64>)| found.is_none_or(|found| found == i64::from(*n));
    let is_right_rank = found.shape.is_open() || found.shape.dims().count() == declared.shape.len();
    let datatype = datum_type(declared.datatype)?;
    let is_right_type = found
        .datum_type
        .concretize()
        .is_none_or(|found| found == datatype);
    if is_right_type && is_right_rank && declared.shape.iter().zip(shape).all(allows) {
        return Ok(());
    }
    Err(TractError::msg(format!(
        "input {:?} of the graph is {:?} {:?}, model.yaml declares {} {:?} (context included)",
        declared.name.as_str(),
        found.datum_type,
        found.shape,
        declared.datatype.as_str(),
        declared.shape
    )))
}

fn check_outputs(graph: &TypedModel, signature: &Signature) -> Result<(), BackendError> {
    for (i, output) in signature.outputs.iter().enumerate() {
        let fact = graph
            .output_fact(i)
            .map_err(refuse("the graph lacks an output"))?;
        let shape: Vec<usize> = output.shape.iter().map(|&n| n as usize).collect();
        let datatype = datum_type(output.datatype).map_err(refuse("model.yaml"))?;
        if fact.datum_type != datatype || fact.shape.as_concrete() != Some(&shape[..]) {
            let declared = format!("{} {:?}", output.datatype.as_str(), output.shape);
            return Err(BackendError(format!(
                "output {:?} of the graph is {:?} {:?}, model.yaml declares {declared}",
                output.name.as_str(),
                fact.datum_type,
                fact.shape
            )));
        }
    }
    Ok(())
}

macro_rules! conversions {
    ($(($variant:ident, $rust:ty, $datatype:ident)),*) => {
        fn datum_type(datatype: Datatype) -> TractResult<DatumType> {
            match datatype {
                $(Datatype::$datatype => Ok(DatumType::$variant),)*
                Datatype::Bytes => Ok(DatumType::String),
                Datatype::Bf16 => Err(unknown(datatype)),
            }
        }

        fn to_tract(tensor: &Tensor) -> TractResult<TValue> {
            let tensor = match &tensor.data {
                $(Data::$variant(v) => TractTensor::from_shape(&tensor.shape, v)?,)*
                Data::Bytes(texts) => text_to_tract(&tensor.shape, texts)?,
                Data::Bf16(_) => return Err(unknown(Datatype::Bf16)),
            };
            Ok(tensor.into())
        }

        fn from_tract(value: &TractTensor, datatype: Datatype) -> TractResult<Tensor> {
            let plain = value.try_as_plain_ram()?;
            let data = match datatype {
                $(Datatype::$datatype => Data::$variant(plain.as_slice::<$rust>()?.to_vec()),)*
                Datatype::Bytes => {
                    let texts = plain.as_slice::<String>()?;
                    Data::Bytes(texts.iter().map(|text| text.clone().into()).collect())
                }
                Datatype::Bf16 => return Err(unknown(datatype)),
            };
            Ok(Tensor { shape: value.shape().to_vec(), data })
        }
    };
}
with_elements!(conversions);

fn unknown(datatype: Datatype) -> TractError {
    TractError::msg(format!("backend Onnx does not take {}", datatype.as_str()))
}

/// ONNX knows texts, not bytes.
fn text_to_tract(shape: &[usize], texts: &[Bytes]) -> TractResult<TractTensor> {
    let text = |(i, bytes): (usize, &Bytes)| {
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        text.map_err(|_| {
            TractError::msg(format!(
                "element {i} of BYTES is not UTF-8, as ONNX's strings are"
            ))
        })
    };
    let texts = texts
        .iter()
        .enumerate()
        .map(text)
        .collect::<TractResult<Vec<_>>>()?;
    Ok(tract_ndarray::ArrayD::from_shape_vec(shape, texts)?.into_tensor())
}
