//! A NIR graph as its file says it: nodes with their parameters, and edges. Nothing is interpreted here.

use std::collections::BTreeMap;

/// Numbers of a parameter, row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tensor {
    /// Length of every axis; none for a single number.
    pub shape: Vec<usize>,
    /// The numbers.
    pub values: Vec<f64>,
}

impl Tensor {
    /// A single number.
    pub fn scalar(value: f64) -> Self {
        Self {
            shape: Vec::new(),
            values: vec![value],
        }
    }

    /// A list of numbers.
    pub fn vector(values: Vec<f64>) -> Self {
        Self {
            shape: vec![values.len()],
            values,
        }
    }

    /// Numbers in the shape given; nothing where they do not fill it.
    pub fn new(shape: Vec<usize>, values: Vec<f64>) -> Option<Self> {
        (shape.iter().product::<usize>() == values.len()).then_some(Self { shape, values })
    }
}

/// An edge, from a node to a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Where the output comes from.
    pub from: String,
    /// Where it goes.
    pub to: String,
}

/// A network, or a part of one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Edges, in any order.
    pub edges: Vec<Edge>,
    /// Length of a step in seconds, where `metadata/dt` gives it.
    pub dt: Option<f64>,
}

impl Graph {
    /// Adds a node; for graphs that are made by a program.
    pub fn with_node(mut self, name: &str, node: Node) -> Self {
        self.nodes.insert(name.to_owned(), node);
        self
    }

    /// Adds an edge.
    pub fn with_edge(mut self, from: &str, to: &str) -> Self {
        self.edges.push(Edge {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        self
    }
}

/// A node, with the parameters of the NIR paper. Where a neuron's parameter is a single number, it holds for all.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // NIR's own names
pub enum Node {
    /// Where values come in, with the shape of one step.
    Input { shape: Vec<usize> },
    /// Where values go out, with the shape of one step.
    Output { shape: Vec<usize> },
    /// `weight[out, in] · x + bias`.
    Affine { weight: Tensor, bias: Tensor },
    /// `weight[out, in] · x`.
    Linear { weight: Tensor },
    /// `scale · x`, element by element.
    Scale { scale: Tensor },
    /// 1 where `x > threshold`, else 0.
    Threshold { threshold: Tensor },
    /// What came in `delay` seconds ago, element by element.
    Delay { delay: Tensor },
    /// Integrator.
    I { r: Tensor },
    /// Leaky integrator.
    Li(Integrator),
    /// Integrate and fire.
    If { r: Tensor, spiking: Spiking },
    /// Leaky integrate and fire.
    Lif { li: Integrator, spiking: Spiking },
    /// Leaky integrator behind a synapse that decays.
    CubaLi(Cuba),
    /// Leaky integrate and fire behind a synapse that decays.
    CubaLif { cuba: Cuba, spiking: Spiking },
    /// Convolution over one axis; weight `[out, in / groups, width]`, input `[in, length]`.
    Conv1d(Conv),
    /// Convolution over two axes; weight `[out, in / groups, height, width]`, input `[in, height, width]`.
    Conv2d(Conv),
    /// Sum over windows of `[channels, height, width]`.
    SumPool2d(Pool),
    /// Mean over windows of `[channels, height, width]`; padding counts as zeros.
    AvgPool2d(Pool),
    /// The axes `start_dim` to `end_dim` become one; negative ones count from the end.
    Flatten {
        start_dim: i64,
        end_dim: i64,
        input: Option<Vec<usize>>,
    },
    /// A part with one Input and one Output of its own.
    Graph(Graph),
}

/// `tau·dv/dt = (v_leak − v) + r·x`.
#[derive(Debug, Clone, PartialEq)]
pub struct Integrator {
    /// Time constant in seconds.
    pub tau: Tensor,
    /// Resistance.
    pub r: Tensor,
    /// Where the voltage goes by itself.
    pub v_leak: Tensor,
}

/// When a neuron fires and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spiking {
    /// It fires above this voltage.
    pub threshold: Tensor,
    /// Its voltage after a spike.
    pub reset: Tensor,
    /// Seconds after a spike in which it stays at `reset`; zero in plain NIR.
    pub refractory: Tensor,
}

/// A leaky integrator behind `tau_syn·di/dt = −i + w_in·x`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cuba {
    /// Time constant of the synapse in seconds.
    pub tau_syn: Tensor,
    /// The integrator, with `tau_mem` as its `tau`.
    pub membrane: Integrator,
    /// Weight of what comes in.
    pub w_in: Tensor,
}

/// What lies around the input of a convolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// Zeros on both sides of each axis.
    Zeros(Vec<usize>),
    /// As many zeros as keep the length of each axis.
    Same,
}

/// A convolution; one number for each axis, or one for both.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv {
    /// Lengths of the input's axes behind the channels, where the file gives them.
    pub input_shape: Option<Vec<usize>>,
    /// The kernel.
    pub weight: Tensor,
    /// One for each output channel.
    pub bias: Tensor,
    /// Distance of neighbouring windows.
    pub stride: Vec<usize>,
    /// What lies around the input.
    pub padding: Padding,
    /// Distance of neighbouring taps.
    pub dilation: Vec<usize>,
    /// Channels are cut into so many groups that do not mix.
    pub groups: usize,
}

/// A pooling; one number for each axis, or one for both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Lengths of a window.
    pub kernel: Vec<usize>,
    /// Distance of neighbouring windows.
    pub stride: Vec<usize>,
    /// Zeros on both sides of each axis.
    pub padding: Vec<usize>,
}
