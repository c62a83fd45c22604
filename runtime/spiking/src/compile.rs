//! From a graph to a plan: checks it, orders it, and lays everything out for its steps.

mod cells;

use crate::columns::Columns;
use crate::flatten::{Flat, FlatNode, flatten};
use crate::graph::{Graph, Node, Tensor};
use crate::order::{Order, order, timeless_cycle};
use crate::plan::{Delays, Op, Plan, Port, Source, Step};
use crate::shapes;
use std::collections::{BTreeMap, BTreeSet};

/// Most elements of what all nodes give in a step, and of all state: both are there once for each request under way.
const MAX_ELEMENTS: usize = 1 << 23;
/// Most operations of a dense step: a request must not take for ever.
const MAX_OPERATIONS: u64 = 1 << 32;
/// Longest delay in steps.
const MAX_DELAY: f64 = 65_536.0;

/// Why a graph cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A node that contradicts itself or what comes in.
    #[error("node {name}: {problem}")]
    Node {
        /// Its name, after those of the graphs around it.
        name: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// An edge that cannot be.
    #[error("edge {from} -> {to}: {problem}")]
    Edge {
        /// Where it comes from.
        from: String,
        /// Where it goes.
        to: String,
        /// What is wrong.
        problem: String,
    },
    /// The graph as a whole.
    #[error("the network: {0}")]
    Graph(String),
}

pub(crate) fn node(name: &str, problem: String) -> CompileError {
    CompileError::Node {
        name: name.to_owned(),
        problem,
    }
}

pub(crate) fn edge(from: String, to: String, problem: String) -> CompileError {
    CompileError::Edge { from, to, problem }
}

pub(crate) fn graph(problem: String) -> CompileError {
    CompileError::Graph(problem)
}

/// A node with what it gives.
struct Built {
    op: Op,
    shape: Vec<usize>,
    dense: u64,
}

impl Built {
    fn new(op: Op, shape: Vec<usize>) -> Self {
        Self { op, shape, dense: 0 }
    }
}

impl Plan {
    /// Makes `graph` ready to run in steps of `dt` seconds; without `dt` the graph must say it itself.
    ///
    /// # Errors
    /// With the first node or edge that cannot be run.
    pub fn compile(graph: &Graph, dt: Option<f64>) -> Result<Self, CompileError> {
        let dt = check_dt(dt.or(graph.dt))?;
        let flat = flatten(graph)?;
        let order = check_order(&flat)?;
        let mut compiler = Compiler::new(&flat, &order, dt);
        for &index in &order.sequence {
            compiler.place(index)?;
        }
        compiler.finish()
    }
}

fn check_dt(dt: Option<f64>) -> Result<f64, CompileError> {
    match dt {
        Some(dt) if dt.is_finite() && dt > 0.0 => Ok(dt),
        Some(dt) => Err(graph(format!("a step of {dt} seconds is not possible"))),
        None => Err(graph(
            "the length of a step is not known: the file has no metadata/dt, so give it".into(),
        )),
    }
}

fn is_stateful(node: &Node) -> bool {
    matches!(
        node,
        Node::I { .. }
            | Node::Li(_)
            | Node::If { .. }
            | Node::Lif { .. }
            | Node::CubaLi(_)
            | Node::CubaLif { .. }
            | Node::Delay { .. }
    )
}

fn check_order(flat: &Flat<'_>) -> Result<Order, CompileError> {
    let is_input = |node: &FlatNode<'_>| matches!(node.node, Node::Input { .. }) && !node.is_inner_end;
    let inputs: Vec<usize> = (0..)
        .zip(&flat.nodes)
        .filter(|(_, n)| is_input(n))
        .map(|(i, _)| i)
        .collect();
    if inputs.is_empty() {
        return Err(graph("it has no Input".into()));
    }
    let name = |index: usize| flat.nodes.get(index).map_or("", |node| node.name.as_str());
    let stateful: Vec<bool> = flat.nodes.iter().map(|node| is_stateful(node.node)).collect();
    if let Some(index) = timeless_cycle(&flat.edges, &stateful) {
        let problem = "it is part of a cycle without a neuron or a delay: such a cycle has no time in it";
        return Err(node(name(index), problem.into()));
    }
    let order = order(flat.nodes.len(), &flat.edges, &inputs);
    let reached: BTreeSet<usize> = order.sequence.iter().copied().collect();
    match (0..flat.nodes.len()).find(|index| !reached.contains(index)) {
        Some(index) => Err(node(name(index), "no Input leads to it".into())),
        None => Ok(order),
    }
}

struct Compiler<'a> {
    flat: &'a Flat<'a>,
    order: &'a Order,
    dt: f64,
    steps: Vec<Step>,
    shapes: Vec<Vec<usize>>,
    /// Where a node of the graph went.
    places: BTreeMap<usize, usize>,
    /// By node of the graph, the number of its carry.
    carries: BTreeMap<usize, usize>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    dense: u64,
    /// Elements that may still be given.
    room: usize,
}

impl<'a> Compiler<'a> {
    fn new(flat: &'a Flat<'a>, order: &'a Order, dt: f64) -> Self {
        let sources: BTreeSet<usize> = order.back.iter().map(|&(from, _)| from).collect();
        Self {
            flat,
            order,
            dt,
            steps: Vec::new(),
            shapes: Vec::new(),
            places: BTreeMap::new(),
            carries: sources.into_iter().zip(0..).collect(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            dense: 0,
            room: MAX_ELEMENTS,
        }
    }

    fn place(&mut self, index: usize) -> Result<(), CompileError> {
        let Some(found) = self.flat.nodes.get(index) else {
            return Ok(());
        };
        let place = self.steps.len();
        let sources = self.sources(index);
        let built = self.build(found, &sources)?;
        let elements = self
            .take(&built.shape)
            .map_err(|problem| node(&found.name, problem))?;
        self.dense = self.dense.saturating_add(built.dense);
        if let (Node::Output { .. }, false) = (found.node, found.is_inner_end) {
            self.outputs.push(Port {
                name: found.name.clone(),
                shape: built.shape.clone(),
                step: place,
            });
        }
        self.places.insert(index, place);
        self.shapes.push(built.shape);
        self.steps.push(Step {
            op: built.op,
            sources,
            elements,
        });
        Ok(())
    }

    /// Number of elements, where there is room for them.
    fn take(&mut self, shape: &[usize]) -> Result<usize, String> {
        let elements = shapes::elements(shape).unwrap_or(usize::MAX);
        match self.room.checked_sub(elements) {
            Some(room) if elements > 0 => self.room = room,
            Some(_) => return Err(format!("it gives {shape:?}: that is nothing")),
            None => {
                return Err(format!(
                    "with its {shape:?} all nodes give more than {MAX_ELEMENTS} elements"
                ));
            }
        }
        Ok(elements)
    }

    /// Sources of this step in the order of their names, then those of the step before.
    fn sources(&self, index: usize) -> Vec<Source> {
        let into = self.flat.edges.iter().filter(|(_, to)| *to == index);
        let (back, forward): (Vec<_>, Vec<_>) = into.partition(|edge| self.order.back.contains(edge));
        let now = forward
            .iter()
            .filter_map(|(from, _)| self.places.get(from))
            .map(|&p| Source::Now(p));
        let before = back
            .iter()
            .filter_map(|(from, _)| self.carries.get(from))
            .map(|&c| Source::Before(c));
        now.chain(before).collect()
    }

    /// The shape of what comes in; all of it must have one size.
    fn input_shape(&self, name: &str, sources: &[Source]) -> Result<Vec<usize>, CompileError> {
        let shapes = sources.iter().filter_map(|source| match source {
            Source::Now(place) => self.shapes.get(*place),
            Source::Before(_) => None,
        });
        let mut shapes = shapes.peekable();
        let Some(first) = shapes.peek().copied() else {
            return Err(node(name, "nothing comes in".into()));
        };
        match shapes.find(|shape| shapes::elements(shape) != shapes::elements(first)) {
            Some(other) => Err(node(
                name,
                format!("it gets {first:?} from one node and {other:?} from another"),
            )),
            None => Ok(first.clone()),
        }
    }

    fn build(&mut self, found: &FlatNode<'_>, sources: &[Source]) -> Result<Built, CompileError> {
        if let (Node::Input { shape }, false) = (found.node, found.is_inner_end) {
            let index = self.inputs.len();
            self.inputs.push(Port {
                name: found.name.clone(),
                shape: shape.clone(),
                step: self.steps.len(),
            });
            return Ok(Built::new(Op::Input(index), shape.clone()));
        }
        let input = self.input_shape(&found.name, sources)?;
        let refuse = |problem: String| node(&found.name, problem);
        build(found.node, &input, self.dt).map_err(refuse)
    }

    fn finish(self) -> Result<Plan, CompileError> {
        self.check_carries()?;
        if self.outputs.is_empty() {
            return Err(graph("it has no Output".into()));
        }
        if self.dense > MAX_OPERATIONS {
            return Err(graph(format!(
                "a step takes {} operations, the limit is {MAX_OPERATIONS}",
                self.dense
            )));
        }
        let carries = self
            .carries
            .keys()
            .filter_map(|node| self.places.get(node))
            .copied();
        let mut plan = Plan {
            carries: carries.collect(),
            steps: self.steps,
            inputs: self.inputs,
            outputs: self.outputs,
            dt: self.dt,
            dense: self.dense,
        };
        plan.inputs.sort_by(|a, b| a.name.cmp(&b.name));
        plan.outputs.sort_by(|a, b| a.name.cmp(&b.name));
        number_inputs(&mut plan);
        match plan.state_len() {
            length if length <= MAX_ELEMENTS => Ok(plan),
            length => Err(graph(format!(
                "its state has {length} numbers, the limit is {MAX_ELEMENTS}"
            ))),
        }
    }

    /// What goes back must fit where it goes to.
    fn check_carries(&self) -> Result<(), CompileError> {
        let size = |index: &usize| self.places.get(index).and_then(|&p| self.shapes.get(p));
        let name = |index: usize| self.flat.nodes.get(index).map_or("", |node| node.name.as_str());
        for &(from, to) in &self.order.back {
            let forward = self
                .flat
                .edges
                .iter()
                .find(|edge| edge.1 == to && !self.order.back.contains(edge));
            let (back, forward) = (size(&from), forward.and_then(|(from, _)| size(from)));
            let sizes = (
                back.and_then(|s| shapes::elements(s)),
                forward.and_then(|s| shapes::elements(s)),
            );
            if sizes.0 != sizes.1 {
                let problem = format!("it carries {back:?} to a node that gets {forward:?}");
                return Err(edge(name(from).to_owned(), name(to).to_owned(), problem));
            }
        }
        Ok(())
    }
}

/// Inputs are given in the order of their names, wherever they stand in a step.
fn number_inputs(plan: &mut Plan) {
    for (number, port) in plan.inputs.iter().enumerate() {
        if let Some(Step {
            op: Op::Input(index), ..
        }) = plan.steps.get_mut(port.step)
        {
            *index = number;
        }
    }
}

fn build(node: &Node, input: &[usize], dt: f64) -> Result<Built, String> {
    let count = shapes::elements(input).ok_or("too much comes in")?;
    let same = |op: Op| Ok(Built::new(op, input.to_vec()));
    match node {
        Node::Input { shape } | Node::Output { shape } => {
            if shapes::elements(shape) != Some(count) {
                return Err(format!("its shape is {shape:?}, but {input:?} comes in"));
            }
            Ok(Built::new(Op::Pass, shape.clone()))
        }
        Node::Affine { weight, bias } => layer(weight, Some(bias), count),
        Node::Linear { weight } => layer(weight, None, count),
        Node::Scale { scale } => same(Op::Scale(cells::each("scale", scale, count)?)),
        Node::Threshold { threshold } => {
            let thresholds = cells::each("threshold", threshold, count)?;
            let is_silent_at_zero = thresholds.iter().all(|&t| t >= 0.0);
            same(Op::Threshold {
                thresholds,
                is_silent_at_zero,
            })
        }
        Node::Delay { delay } => same(Op::Delay(delays(delay, count, dt)?)),
        Node::Conv1d(conv) => convolution(conv, input, 1),
        Node::Conv2d(conv) => convolution(conv, input, 2),
        Node::SumPool2d(pool) => pooling(pool, input, false),
        Node::AvgPool2d(pool) => pooling(pool, input, true),
        Node::Flatten {
            start_dim,
            end_dim,
            input: declared,
        } => {
            let input = shapes::reshaped(declared.as_deref(), input)?;
            Ok(Built::new(
                Op::Pass,
                shapes::flattened(&input, *start_dim, *end_dim)?,
            ))
        }
        Node::Graph(_) => Err("it was not flattened".into()),
        neurons => same(Op::Neurons(cells::neurons(neurons, count, dt)?)),
    }
}

fn layer(weight: &Tensor, bias: Option<&Tensor>, count: usize) -> Result<Built, String> {
    let [outputs, inputs] = weight.shape[..] else {
        return Err(format!("weight: its shape is {:?}, not [out, in]", weight.shape));
    };
    if inputs != count || weight.values.len() != outputs.saturating_mul(inputs) {
        return Err(format!("weight: it takes {inputs} elements, but {count} come in"));
    }
    let bias = bias.map(|bias| cells::each("bias", bias, outputs)).transpose()?;
    let columns = Columns::new(&weight.values, outputs, inputs);
    Ok(Built {
        dense: columns.dense_operations(),
        op: Op::Layer {
            columns,
            bias: bias.filter(|bias| bias.iter().any(|&b| b != 0.0)),
        },
        shape: vec![outputs],
    })
}

fn delays(delay: &Tensor, count: usize, dt: f64) -> Result<Delays, String> {
    let steps = cells::each("delay", delay, count)?;
    let whole = |seconds: &f64| {
        let steps = (seconds / dt).round();
        (0.0..=MAX_DELAY).contains(&steps).then_some(steps as u32)
    };
    let steps: Option<Vec<u32>> = steps.iter().map(whole).collect();
    let steps =
        steps.ok_or_else(|| format!("delay: it must be between 0 and {MAX_DELAY} steps of {dt} s"))?;
    let rows = steps.iter().max().map_or(1, |&longest| longest as usize + 1);
    if rows.saturating_mul(count) > MAX_ELEMENTS {
        return Err(format!(
            "delay: {rows} steps of {count} elements are more than {MAX_ELEMENTS} numbers"
        ));
    }
    Ok(Delays { steps, rows })
}

fn convolution(conv: &crate::graph::Conv, input: &[usize], axes: usize) -> Result<Built, String> {
    let (convolution, shape) = shapes::convolution(conv, input, axes)?;
    Ok(Built {
        dense: convolution.dense_operations(),
        op: Op::Conv(convolution),
        shape,
    })
}

fn pooling(pool: &crate::graph::Pool, input: &[usize], is_mean: bool) -> Result<Built, String> {
    let (pooling, shape) = shapes::pooling(pool, input, is_mean)?;
    Ok(Built::new(Op::Pool(pooling), shape))
}
