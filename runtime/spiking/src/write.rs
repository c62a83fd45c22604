//! Writes NIR files, so that a network made by a program can be served. The same graph gives the same bytes.

use crate::graph::{Conv, Cuba, Graph, Integrator, Node, Padding, Pool, Spiking, Tensor};
use hdf5_pure::{FileBuilder, GroupBuilder};

/// The version of NIR whose layout is written.
const VERSION: &str = "1.0.8";

/// Why a graph cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the network as HDF5: {0}")]
pub struct WriteError(String);

/// The bytes of a NIR file. Numbers that single precision holds exactly are stored so.
///
/// # Errors
/// When a name cannot be one in HDF5.
pub fn write(graph: &Graph) -> Result<Vec<u8>, WriteError> {
    let mut file = FileBuilder::new();
    file.create_dataset("version")
        .with_vlen_strings(&[VERSION])
        .with_shape(&[]);
    let mut root = file.create_group("node");
    put_graph(&mut root, graph);
    file.add_group(root.finish());
    file.finish().map_err(|error| WriteError(error.to_string()))
}

fn put_graph(group: &mut GroupBuilder, graph: &Graph) {
    put_text(group, "type", "NIRGraph");
    let names: Vec<&str> = graph
        .edges
        .iter()
        .flat_map(|edge| [edge.from.as_str(), &edge.to])
        .collect();
    let edges = group.create_dataset("edges").with_vlen_strings(&names);
    edges.with_shape(&[graph.edges.len() as u64, 2]);
    let mut nodes = group.create_group("nodes");
    for (name, node) in &graph.nodes {
        let mut inside = nodes.create_group(name);
        put_node(&mut inside, node);
        nodes.add_group(inside.finish());
    }
    group.add_group(nodes.finish());
    if let Some(dt) = graph.dt {
        let mut metadata = group.create_group("metadata");
        metadata.create_dataset("dt").with_f64_data(&[dt]).with_shape(&[]);
        group.add_group(metadata.finish());
    }
}

fn put_node(group: &mut GroupBuilder, node: &Node) {
    let kind = match node {
        Node::Graph(graph) => return put_graph(group, graph),
        Node::Input { shape } => {
            put_lengths(group, "shape", shape);
            "Input"
        }
        Node::Output { shape } => {
            put_lengths(group, "shape", shape);
            "Output"
        }
        Node::Affine { weight, bias } => put_tensors(group, "Affine", &[("weight", weight), ("bias", bias)]),
        Node::Linear { weight } => put_tensors(group, "Linear", &[("weight", weight)]),
        Node::Scale { scale } => put_tensors(group, "Scale", &[("scale", scale)]),
        Node::Threshold { threshold } => put_tensors(group, "Threshold", &[("threshold", threshold)]),
        Node::Delay { delay } => put_tensors(group, "Delay", &[("delay", delay)]),
        Node::I { r } => put_tensors(group, "I", &[("r", r)]),
        Node::Li(li) => put_integrator(group, "LI", "tau", li),
        Node::If { r, spiking } => {
            put_spiking(group, spiking);
            put_tensors(group, "IF", &[("r", r)])
        }
        Node::Lif { li, spiking } => {
            put_spiking(group, spiking);
            put_integrator(group, "LIF", "tau", li)
        }
        Node::CubaLi(cuba) => put_cuba(group, "CubaLI", cuba),
        Node::CubaLif { cuba, spiking } => {
            put_spiking(group, spiking);
            put_cuba(group, "CubaLIF", cuba)
        }
        Node::Conv1d(conv) => put_conv(group, "Conv1d", conv),
        Node::Conv2d(conv) => put_conv(group, "Conv2d", conv),
        Node::SumPool2d(pool) => put_pool(group, "SumPool2d", pool),
        Node::AvgPool2d(pool) => put_pool(group, "AvgPool2d", pool),
        Node::Flatten {
            start_dim,
            end_dim,
            input,
        } => {
            group
                .create_dataset("start_dim")
                .with_i64_data(&[*start_dim])
                .with_shape(&[]);
            group
                .create_dataset("end_dim")
                .with_i64_data(&[*end_dim])
                .with_shape(&[]);
            if let Some(input) = input {
                put_lengths(group, "input_type", input);
            }
            "Flatten"
        }
    };
    put_text(group, "type", kind);
}

fn put_text(group: &mut GroupBuilder, name: &str, text: &str) {
    group
        .create_dataset(name)
        .with_vlen_strings(&[text])
        .with_shape(&[]);
}

fn put_lengths(group: &mut GroupBuilder, name: &str, lengths: &[usize]) {
    let lengths: Vec<i64> = lengths.iter().map(|&n| n as i64).collect();
    let count = lengths.len() as u64;
    group
        .create_dataset(name)
        .with_i64_data(&lengths)
        .with_shape(&[count]);
}

fn put_tensor(group: &mut GroupBuilder, name: &str, tensor: &Tensor) {
    let shape: Vec<u64> = tensor.shape.iter().map(|&n| n as u64).collect();
    let dataset = group.create_dataset(name);
    let is_single = tensor
        .values
        .iter()
        .all(|&value| f64::from(value as f32) == value);
    if is_single {
        let values: Vec<f32> = tensor.values.iter().map(|&value| value as f32).collect();
        dataset.with_f32_data(&values).with_shape(&shape);
    } else {
        dataset.with_f64_data(&tensor.values).with_shape(&shape);
    }
}

fn put_tensors(group: &mut GroupBuilder, kind: &'static str, tensors: &[(&str, &Tensor)]) -> &'static str {
    for (name, tensor) in tensors {
        put_tensor(group, name, tensor);
    }
    kind
}

fn put_integrator(group: &mut GroupBuilder, kind: &'static str, tau: &str, li: &Integrator) -> &'static str {
    put_tensors(
        group,
        kind,
        &[(tau, &li.tau), ("r", &li.r), ("v_leak", &li.v_leak)],
    )
}

fn put_cuba(group: &mut GroupBuilder, kind: &'static str, cuba: &Cuba) -> &'static str {
    put_integrator(group, kind, "tau_mem", &cuba.membrane);
    put_tensors(group, kind, &[("tau_syn", &cuba.tau_syn), ("w_in", &cuba.w_in)])
}

fn put_spiking(group: &mut GroupBuilder, spiking: &Spiking) {
    put_tensor(group, "v_threshold", &spiking.threshold);
    put_tensor(group, "v_reset", &spiking.reset);
    if spiking.refractory.values.iter().any(|&seconds| seconds != 0.0) {
        let mut metadata = group.create_group("metadata");
        put_tensor(&mut metadata, "refractory", &spiking.refractory);
        group.add_group(metadata.finish());
    }
}

fn put_conv(group: &mut GroupBuilder, kind: &'static str, conv: &Conv) -> &'static str {
    if let Some(shape) = &conv.input_shape {
        put_lengths(group, "input_shape", shape);
    }
    put_lengths(group, "stride", &conv.stride);
    put_lengths(group, "dilation", &conv.dilation);
    match &conv.padding {
        Padding::Zeros(zeros) => put_lengths(group, "padding", zeros),
        Padding::Same => put_text(group, "padding", "same"),
    }
    group
        .create_dataset("groups")
        .with_i64_data(&[conv.groups as i64])
        .with_shape(&[]);
    put_tensors(group, kind, &[("weight", &conv.weight), ("bias", &conv.bias)])
}

fn put_pool(group: &mut GroupBuilder, kind: &'static str, pool: &Pool) -> &'static str {
    put_lengths(group, "kernel_size", &pool.kernel);
    put_lengths(group, "stride", &pool.stride);
    put_lengths(group, "padding", &pool.padding);
    kind
}
