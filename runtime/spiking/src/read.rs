//! Reads NIR files (HDF5). Every length is checked before anything of that length is read.

mod fields;

use crate::graph::{Conv, Cuba, Edge, Graph, Integrator, Node, Padding, Pool, Spiking, Tensor};
use fields::{Budget, Fields};
use hdf5_pure::{File, Group};

/// Largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 256 << 20;
/// Most nodes of a file, those of its parts included.
pub const MAX_NODES: usize = 4096;
/// Graphs within graphs.
pub const MAX_NESTING: usize = 8;

/// Why a file is no network.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Larger than any that is read.
    #[error("the file has {0} bytes, the limit is {MAX_FILE_BYTES}")]
    TooLarge(usize),
    /// Not HDF5, or cut short.
    #[error("{at}: not readable as HDF5: {problem}")]
    Container {
        /// Path of the node or field.
        at: String,
        /// What the container's reader says.
        problem: String,
    },
    /// A field that cannot be right.
    #[error("{at}: {problem}")]
    Field {
        /// Path of the node or field, such as `node/nodes/lif/tau`.
        at: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

pub(crate) fn field(at: impl Into<String>, problem: impl Into<String>) -> ReadError {
    ReadError::Field {
        at: at.into(),
        problem: problem.into(),
    }
}

pub(crate) fn container(at: &str) -> impl Fn(hdf5_pure::Error) -> ReadError + '_ {
    move |error| ReadError::Container {
        at: at.to_owned(),
        problem: error.to_string(),
    }
}

/// Makes a graph of the bytes of a NIR file.
///
/// # Errors
/// With the first node and field that cannot be right.
pub fn read(content: &[u8]) -> Result<Graph, ReadError> {
    if content.len() > MAX_FILE_BYTES {
        return Err(ReadError::TooLarge(content.len()));
    }
    let file = File::from_bytes(content.to_vec()).map_err(container("the file"))?;
    let root = file.group("node").map_err(container("node"))?;
    let mut budget = Budget::new(MAX_NODES);
    match node(&root, "node", 0, &mut budget)? {
        Node::Graph(graph) => Ok(graph),
        _ => Err(field("node/type", "the root of a file must be a NIRGraph")),
    }
}

fn node(group: &Group, at: &str, depth: usize, budget: &mut Budget) -> Result<Node, ReadError> {
    budget.take_node(at)?;
    let mut fields = Fields::new(group, at, budget);
    let kind = fields.text("type")?;
    Ok(match kind.as_str() {
        "Input" => Node::Input {
            shape: fields.lengths("shape")?,
        },
        "Output" => Node::Output {
            shape: fields.lengths("shape")?,
        },
        "Affine" => Node::Affine {
            weight: fields.tensor("weight")?,
            bias: fields.tensor("bias")?,
        },
        "Linear" => Node::Linear {
            weight: fields.tensor("weight")?,
        },
        "Scale" => Node::Scale {
            scale: fields.tensor("scale")?,
        },
        "Threshold" => Node::Threshold {
            threshold: fields.tensor("threshold")?,
        },
        "Delay" => Node::Delay {
            delay: fields.tensor("delay")?,
        },
        "I" => Node::I {
            r: fields.tensor("r")?,
        },
        "LI" => Node::Li(integrator(&mut fields, "tau")?),
        "IF" => Node::If {
            r: fields.tensor("r")?,
            spiking: spiking(&mut fields)?,
        },
        "LIF" => Node::Lif {
            li: integrator(&mut fields, "tau")?,
            spiking: spiking(&mut fields)?,
        },
        "CubaLI" => Node::CubaLi(cuba(&mut fields)?),
        "CubaLIF" => Node::CubaLif {
            cuba: cuba(&mut fields)?,
            spiking: spiking(&mut fields)?,
        },
        "Conv1d" => Node::Conv1d(conv(&mut fields)?),
        "Conv2d" => Node::Conv2d(conv(&mut fields)?),
        "SumPool2d" => Node::SumPool2d(pool(&mut fields)?),
        "AvgPool2d" => Node::AvgPool2d(pool(&mut fields)?),
        "Flatten" => Node::Flatten {
            start_dim: fields.integer("start_dim")?,
            end_dim: fields.integer("end_dim")?,
            input: fields.optional_lengths("input_type")?,
        },
        "NIRGraph" => Node::Graph(graph(group, at, depth, budget)?),
        other => {
            return Err(field(
                format!("{at}/type"),
                format!("{other:?} is no node type of NIR"),
            ));
        }
    })
}

fn graph(group: &Group, at: &str, depth: usize, budget: &mut Budget) -> Result<Graph, ReadError> {
    if depth == MAX_NESTING {
        return Err(field(at, format!("graphs are nested deeper than {MAX_NESTING}")));
    }
    let mut fields = Fields::new(group, at, budget);
    let edges = fields.edges()?;
    let dt = fields.optional_number("metadata/dt")?;
    let inside = format!("{at}/nodes");
    let nodes = group.group("nodes").map_err(container(&inside))?;
    let mut graph = Graph {
        edges,
        dt,
        ..Graph::default()
    };
    for (name, child) in nodes.iter_groups().map_err(container(&inside))? {
        let at = format!("{inside}/{}", fields::shown(&name));
        fields::check_name(&at, &name)?;
        let node = node(&child, &at, depth + 1, budget)?;
        if graph.nodes.insert(name, node).is_some() {
            return Err(field(at, "the name is there twice"));
        }
    }
    Ok(graph)
}

fn integrator(fields: &mut Fields<'_>, tau: &str) -> Result<Integrator, ReadError> {
    Ok(Integrator {
        tau: fields.tensor(tau)?,
        r: fields.tensor("r")?,
        v_leak: fields.tensor("v_leak")?,
    })
}

fn cuba(fields: &mut Fields<'_>) -> Result<Cuba, ReadError> {
    Ok(Cuba {
        tau_syn: fields.tensor("tau_syn")?,
        membrane: integrator(fields, "tau_mem")?,
        w_in: fields
            .optional_tensor("w_in")?
            .unwrap_or_else(|| Tensor::scalar(1.0)),
    })
}

fn spiking(fields: &mut Fields<'_>) -> Result<Spiking, ReadError> {
    let mut or_zero = |name| -> Result<Tensor, ReadError> {
        Ok(fields
            .optional_tensor(name)?
            .unwrap_or_else(|| Tensor::scalar(0.0)))
    };
    Ok(Spiking {
        reset: or_zero("v_reset")?,
        refractory: or_zero("metadata/refractory")?,
        threshold: fields.tensor("v_threshold")?,
    })
}

fn conv(fields: &mut Fields<'_>) -> Result<Conv, ReadError> {
    Ok(Conv {
        input_shape: fields.optional_lengths("input_shape")?,
        weight: fields.tensor("weight")?,
        bias: fields.tensor("bias")?,
        stride: fields.lengths("stride")?,
        padding: fields.padding("padding")?,
        dilation: fields.lengths("dilation")?,
        groups: fields.length("groups")?,
    })
}

fn pool(fields: &mut Fields<'_>) -> Result<Pool, ReadError> {
    Ok(Pool {
        kernel: fields.lengths("kernel_size")?,
        stride: fields.lengths("stride")?,
        padding: fields.lengths("padding")?,
    })
}

/// An edge as the file holds it: two names.
pub(crate) fn edges(names: Vec<String>) -> Vec<Edge> {
    let mut edges = Vec::new();
    let mut names = names.into_iter();
    while let (Some(from), Some(to)) = (names.next(), names.next()) {
        edges.push(Edge { from, to });
    }
    edges
}

pub(crate) fn zeros(lengths: Vec<usize>) -> Padding {
    Padding::Zeros(lengths)
}
