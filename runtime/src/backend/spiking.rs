//! Spiking networks (NIR), run event by event on the CPU.
//!
//! A request is a run of steps. Its state goes round as one FP64 tensor where `model.yaml` declares one under
//! `sequence.state`, so that the next request of the sequence goes on from there; else every request starts anew.

use super::{Backend, BackendError, LoadOptions, Model, Signature};
use crate::tensor::{Data, Tensor};
use perwatt_model::{Datatype, FileSpec, SpikingReadout, SpikingSpec, TensorSpec};
use perwatt_spiking::{Plan, Port, Readout, read};
use std::sync::Arc;

/// Most numbers that an input or output of a request has over all its steps.
const MAX_NUMBERS: usize = 1 << 26;

/// Loads NIR files.
#[derive(Debug)]
pub struct Spiking;

impl Backend for Spiking {
    fn load(
        &self,
        content: &[u8],
        file: &FileSpec,
        signature: &Signature,
        _options: &LoadOptions,
    ) -> Result<Arc<dyn Model>, BackendError> {
        let spec = file.spiking.as_ref();
        let spec = spec.ok_or_else(|| refuse("model.yaml says nothing under `spiking` of this file"))?;
        let graph = read(content).map_err(refuse)?;
        let dt = spec.step_microseconds.map(|step| step as f64 / 1e6);
        let plan = Plan::compile(&graph, dt).map_err(refuse)?;
        Ok(Arc::new(Network::new(plan, spec, signature)?))
    }
}

fn refuse(problem: impl ToString) -> BackendError {
    BackendError(problem.to_string())
}

struct Network {
    plan: Plan,
    steps: usize,
    readout: Readout,
    /// For each of the plan's inputs its place in a request.
    inputs: Vec<usize>,
    /// Place of the state among the inputs.
    state: Option<usize>,
    outputs: Vec<(TensorSpec, Given)>,
}

/// What an output of the model shows.
#[derive(Debug, Clone, Copy)]
enum Given {
    /// The plan's output of this number.
    Port(usize),
    /// The state after the last step.
    State,
}

impl Network {
    fn new(plan: Plan, spec: &SpikingSpec, signature: &Signature) -> Result<Self, BackendError> {
        let steps = spec.steps as usize;
        let readout = match spec.readout {
            SpikingReadout::Steps => Readout::Steps,
            SpikingReadout::Sum => Readout::Sum,
            SpikingReadout::Mean => Readout::Mean,
            SpikingReadout::Last => Readout::Last,
        };
        let shown = if readout == Readout::Steps { steps } else { 1 };
        for port in plan.inputs() {
            let declared = named(&signature.inputs, port, "input")?;
            check_elements(declared, port, &[1, steps])?;
        }
        for port in plan.outputs() {
            check_elements(named(&signature.outputs, port, "output")?, port, &[shown])?;
        }
        let inputs = plan
            .inputs()
            .iter()
            .filter_map(|port| place(&signature.inputs, &port.name));
        let outputs = signature.outputs.iter().map(|spec| {
            let port = plan
                .outputs()
                .iter()
                .position(|port| port.name == spec.name.as_str());
            (spec.clone(), port.map_or(Given::State, Given::Port))
        });
        let state = state_of(&plan, &signature.inputs, plan.inputs(), "input")?;
        if state_of(&plan, &signature.outputs, plan.outputs(), "output")?.is_some() != state.is_some() {
            return Err(refuse("the state must be both an input and an output"));
        }
        Ok(Self {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            plan,
            steps,
            readout,
            state,
        })
    }
}

impl Model for Network {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        let of = |place: &usize| inputs.get(*place).ok_or_else(|| refuse("an input is missing"));
        let mut state = match &self.state {
            None => self.plan.start(),
            Some(place) => self.plan.restore(&numbers(&of(place)?.data)?).map_err(refuse)?,
        };
        let values = self.inputs.iter().map(|place| numbers(&of(place)?.data));
        let values: Vec<Vec<f64>> = values.collect::<Result<_, _>>()?;
        let slices: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
        let run = self.plan.run(&mut state, &slices, self.steps, self.readout);
        let (mut results, counts) = run.map_err(refuse)?;
        tracing::trace!(?counts, "ran a spiking network");
        let give = |(spec, given): &(TensorSpec, Given)| {
            let values = match given {
                Given::State => self.plan.save(&mut state),
                Given::Port(port) => results.get_mut(*port).map(std::mem::take).unwrap_or_default(),
            };
            tensor(spec, values)
        };
        self.outputs.iter().map(give).collect()
    }
}

fn place(specs: &[TensorSpec], name: &str) -> Option<usize> {
    specs.iter().position(|spec| spec.name.as_str() == name)
}

fn named<'a>(specs: &'a [TensorSpec], port: &Port, what: &str) -> Result<&'a TensorSpec, BackendError> {
    let found = place(specs, &port.name).and_then(|index| specs.get(index));
    found.ok_or_else(|| {
        refuse(format!(
            "the network has an {what} {:?}, model.yaml has not",
            port.name
        ))
    })
}

/// A tensor holds one step, or all of them.
fn check_elements(spec: &TensorSpec, port: &Port, steps: &[usize]) -> Result<(), BackendError> {
    let possible: Vec<usize> = steps
        .iter()
        .map(|steps| steps.saturating_mul(port.elements()))
        .collect();
    if spec.elements() > MAX_NUMBERS || !possible.contains(&spec.elements()) {
        return Err(refuse(format!(
            "{:?} has {} elements in model.yaml; with {:?} a step in the network they must be {}",
            spec.name.as_str(),
            spec.elements(),
            port.shape,
            possible
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(" or ")
        )));
    }
    if numbers(&Data::zeros(spec.datatype, 0)).is_err() {
        return Err(unsupported(spec));
    }
    Ok(())
}

fn unsupported(spec: &TensorSpec) -> BackendError {
    refuse(format!(
        "{:?} is {}: backend Spiking takes BOOL, INT8, UINT8, INT32, FP32 and FP64, and gives FP32 and FP64",
        spec.name.as_str(),
        spec.datatype.as_str()
    ))
}

/// The one tensor that is no port, and so must be the state.
fn state_of(
    plan: &Plan,
    specs: &[TensorSpec],
    ports: &[Port],
    what: &str,
) -> Result<Option<usize>, BackendError> {
    let is_port = |spec: &TensorSpec| ports.iter().any(|port| port.name == spec.name.as_str());
    let mut others = specs.iter().enumerate().filter(|(_, spec)| !is_port(spec));
    let Some((index, spec)) = others.next() else {
        return Ok(None);
    };
    let expected = plan.state_len();
    if others.next().is_some() || spec.datatype != Datatype::Fp64 || spec.elements() != expected {
        return Err(refuse(format!(
            "{what} {:?} is no {what} of the network; its state is one tensor of FP64 [{expected}]",
            spec.name.as_str()
        )));
    }
    Ok(Some(index))
}

fn numbers(data: &Data) -> Result<Vec<f64>, BackendError> {
    Ok(match data {
        Data::F64(values) => values.clone(),
        Data::F32(values) => values.iter().map(|&x| f64::from(x)).collect(),
        Data::I8(values) => values.iter().map(|&x| f64::from(x)).collect(),
        Data::U8(values) => values.iter().map(|&x| f64::from(x)).collect(),
        Data::I32(values) => values.iter().map(|&x| f64::from(x)).collect(),
        Data::Bool(values) => values.iter().map(|&x| f64::from(u8::from(x))).collect(),
        other => return Err(refuse(format!("it does not take {}", other.datatype().as_str()))),
    })
}

fn tensor(spec: &TensorSpec, values: Vec<f64>) -> Result<Tensor, BackendError> {
    let data = match spec.datatype {
        Datatype::Fp64 => Data::F64(values),
        Datatype::Fp32 => Data::F32(values.into_iter().map(|x| x as f32).collect()),
        _ => return Err(unsupported(spec)),
    };
    let shape = spec.shape.iter().map(|&n| n as usize).collect();
    Ok(Tensor { shape, data })
}
