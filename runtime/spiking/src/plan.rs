//! A network that is ready to run: its nodes in the order of a step, with everything laid out for it.

use crate::columns::Columns;
use crate::conv::Convolution;
use crate::neuron::Neurons;
use crate::pool::Pooling;

/// A compiled network. It does not change while it runs and may be shared between threads.
#[derive(Debug)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// The nodes whose output is carried into the next step.
    pub(crate) carries: Vec<usize>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) dt: f64,
    /// Operations of a step in a dense implementation.
    pub(crate) dense: u64,
}

/// Where values go in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name of the Input or Output node.
    pub name: String,
    /// Shape of one step.
    pub shape: Vec<usize>,
    pub(crate) step: usize,
}

impl Port {
    /// Number of elements of one step.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A node in the order of a step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) op: Op,
    pub(crate) sources: Vec<Source>,
    /// Elements of what it gives.
    pub(crate) elements: usize,
}

/// Where a node's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// From an earlier node of this step.
    Now(usize),
    /// From the step before, by a carry.
    Before(usize),
}

/// What a node does.
#[derive(Debug)]
pub(crate) enum Op {
    Input(usize),
    /// Gives what it gets: outputs, flattening, ends of inner graphs.
    Pass,
    Layer {
        columns: Columns,
        bias: Option<Vec<f64>>,
    },
    Conv(Convolution),
    Pool(Pooling),
    Scale(Vec<f64>),
    Threshold {
        thresholds: Vec<f64>,
        is_silent_at_zero: bool,
    },
    Delay(Delays),
    Neurons(Neurons),
}

/// The delay of every element, in steps.
#[derive(Debug)]
pub(crate) struct Delays {
    pub(crate) steps: Vec<u32>,
    /// Rows of the line: the longest delay and the step under way.
    pub(crate) rows: usize,
}

impl Plan {
    /// Where values go in, by name.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Where values come out, by name.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Length of a step in seconds.
    pub fn dt(&self) -> f64 {
        self.dt
    }

    /// Number of neurons.
    pub fn neurons(&self) -> usize {
        let count = |step: &Step| match &step.op {
            Op::Neurons(neurons) => neurons.cells.len(),
            _ => 0,
        };
        self.steps.iter().map(count).sum()
    }

    pub(crate) fn elements(&self, step: usize) -> usize {
        self.steps.get(step).map_or(0, |step| step.elements)
    }
}
