//! Looks into an ONNX file without running it: every node, name, tensor and operator, subgraphs included.
//!
//! tract stops at the first thing it cannot do, panics at an output that nobody makes, and looks operators up
//! without their domain. So all of that is checked here first, and all of it is named.

use super::tensors::TensorCheck;
use crate::backend::Signature;
use crate::inspect::{Code, Finding, Inspection, quoted};
use perwatt_model::{Datatype, FileSpec, Precision, TensorSpec};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dim;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, ValueInfoProto};

/// Operator sets that tract says it is tested against.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=18;
/// Domains whose operators tract knows; it looks names up without their domain.
const DOMAINS: [&str; 4] = ["", "ai.onnx", "ai.onnx.ml", "com.microsoft"];
/// Deepest nesting of subgraphs; real graphs have two or three.
const MAX_DEPTH: usize = 16;
/// Nodes of a cycle that are named.
const CYCLE_SHOWN: usize = 6;

/// Everything that can be said of `content` without running it.
pub fn inspect(content: &[u8], file: &FileSpec, signature: &Signature) -> Inspection {
    let mut inspection = Inspection::default();
    let model = match ModelProto::decode(content) {
        Ok(model) => model,
        Err(error) => {
            // What is wrong stands last, behind the path to it, which may be long.
            let cause = error.to_string();
            let cause = cause.rsplit(": ").next().unwrap_or_default();
            let message =
                format!("it is not a readable ONNX file: {cause}; is it cut short, or of another format?");
            inspection.add(Finding::error(Code::Format, "", message));
            return inspection;
        }
    };
    let Some(graph) = &model.graph else {
        let message = "it holds no graph: is it empty, cut short or of another format?";
        inspection.add(Finding::error(Code::Format, "", message));
        return inspection;
    };
    check_opset(&model, &mut inspection);
    let operators = tract_onnx::onnx().op_register.0.keys().cloned().collect();
    let mut walk = Walk {
        operators,
        inspection,
    };
    walk.graph(graph, "main", &mut Vec::new());
    let mut inspection = walk.inspection;
    check_signature(graph, signature, &mut inspection);
    inspection.check_precision(file.precision, precision_of);
    inspection
}

fn check_opset(model: &ModelProto, inspection: &mut Inspection) {
    let is_default = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let opset = model.opset_import.iter().find(|set| is_default(&set.domain));
    let version = opset.map_or(0, |set| set.version);
    inspection.format = format!("ONNX opset {version}");
    if OPSETS.contains(&version) {
        return;
    }
    let (least, most) = (OPSETS.start(), OPSETS.end());
    let message = match opset {
        None => format!("the file names no operator set: export it with one from {least} to {most}"),
        Some(_) => format!(
            "operator set {version} is not one of {least} to {most}, with which the backend is tested: \
             export the model with one of these"
        ),
    };
    inspection.add(Finding::warning(Code::Opset, "", message));
}

/// The walk through a graph and its subgraphs.
struct Walk {
    operators: BTreeSet<String>,
    inspection: Inspection,
}

impl Walk {
    fn error(&mut self, code: Code, place: impl AsRef<str>, message: impl AsRef<str>) {
        self.inspection.add(Finding::error(code, place, message));
    }

    /// Checks a graph; `outer` holds the names that the graphs around it make.
    fn graph<'a>(&mut self, graph: &'a GraphProto, path: &str, outer: &mut Vec<BTreeSet<&'a str>>) {
        if outer.len() >= MAX_DEPTH {
            self.error(
                Code::Graph,
                path,
                format!("subgraphs are nested deeper than {MAX_DEPTH}"),
            );
            return;
        }
        for tensor in &graph.initializer {
            self.tensor(
                tensor,
                &format!("tensor {} in graph {path}", quoted(&tensor.name)),
            );
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |values| &values.name);
            let place = format!("tensor {} in graph {path}", quoted(name));
            self.error(
                Code::Datatype,
                place,
                "sparse weights are not supported: export dense ones",
            );
        }
        let makers = self.names(graph, path);
        outer.push(makers.keys().copied().collect());
        self.edges(graph, path, outer, &makers);
        for node in &graph.node {
            self.node(node, path, outer);
        }
        outer.pop();
    }

    /// Who makes each name: nothing for inputs and weights, else a node. A name made twice is an error.
    fn names<'a>(&mut self, graph: &'a GraphProto, path: &str) -> HashMap<&'a str, Option<usize>> {
        let mut makers = HashMap::new();
        let given = graph.input.iter().map(|input| input.name.as_str());
        // A weight may also be an input: its default value.
        let weights = graph.initializer.iter().map(|tensor| tensor.name.as_str());
        for name in given.chain(weights) {
            makers.insert(name, None);
        }
        for (group, names) in [
            (
                "inputs",
                graph.input.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
            ),
            (
                "weights",
                graph.initializer.iter().map(|i| i.name.as_str()).collect(),
            ),
        ] {
            let mut seen = BTreeSet::new();
            for name in names {
                if !seen.insert(name) {
                    let message = format!("two {group} are named {}", quoted(name));
                    self.error(Code::Graph, format!("graph {path}"), message);
                }
            }
        }
        for (i, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                if makers.insert(output, Some(i)).is_some() {
                    let message = format!("it makes {}, which is made already", quoted(output));
                    self.error(Code::Graph, place(node, path), message);
                }
            }
        }
        makers
    }

    /// Every name that is taken must be made, and no node may wait for itself.
    fn edges(
        &mut self,
        graph: &GraphProto,
        path: &str,
        visible: &[BTreeSet<&str>],
        makers: &HashMap<&str, Option<usize>>,
    ) {
        for node in &graph.node {
            for input in node.input.iter().filter(|name| !name.is_empty()) {
                if !visible.iter().any(|names| names.contains(input.as_str())) {
                    let message = format!("it takes {}, which nothing makes", quoted(input));
                    self.error(Code::Graph, place(node, path), message);
                }
            }
        }
        for output in &graph.output {
            if !visible.iter().any(|names| names.contains(output.name.as_str())) {
                let message = format!("its output {} is made by no node", quoted(&output.name));
                self.error(Code::Graph, format!("graph {path}"), message);
            }
        }
        let left = nodes_in_cycles(graph, makers);
        if left.is_empty() {
            return;
        }
        let named = left.iter().filter_map(|&i| graph.node.get(i)).take(CYCLE_SHOWN);
        let named: Vec<_> = named.map(|node| quoted(node_name(node))).collect();
        let message = format!(
            "{} nodes wait for one another, in a cycle or behind it: {}",
            left.len(),
            named.join(", ")
        );
        self.error(Code::Graph, format!("graph {path}"), message);
    }

    fn node<'a>(&mut self, node: &'a NodeProto, path: &str, outer: &mut Vec<BTreeSet<&'a str>>) {
        let name = match node.domain.as_str() {
            "" | "ai.onnx" => node.op_type.clone(),
            domain => format!("{domain}.{}", node.op_type),
        };
        // A hostile file must not make this map large.
        if self.inspection.operators.len() < 512 || self.inspection.operators.contains_key(&name) {
            *self
                .inspection
                .operators
                .entry(crate::inspect::printable(&name))
                .or_default() += 1;
        }
        if !self.operators.contains(&node.op_type) || !DOMAINS.contains(&node.domain.as_str()) {
            let message = format!(
                "operator {} is not supported by backend Onnx: export the model without it, or use another backend",
                quoted(&name)
            );
            self.error(Code::Operator, place(node, path), message);
        }
        for attribute in &node.attribute {
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                self.tensor(tensor, &place(node, path));
            }
            for (i, graph) in attribute.g.iter().chain(&attribute.graphs).enumerate() {
                let below = format!("{path}/{}.{}[{i}]", node_name(node), attribute.name);
                // Names in a hostile file are as long as it likes, and a path repeats them.
                let below: String = below.chars().take(256).collect();
                self.graph(graph, &below, outer);
            }
        }
    }

    fn tensor(&mut self, tensor: &tract_onnx::pb::TensorProto, place: &str) {
        match super::tensors::check(tensor) {
            TensorCheck::Fine { datatype, elements } => {
                *self
                    .inspection
                    .weights
                    .entry(datatype.as_str_name().into())
                    .or_default() += elements;
            }
            TensorCheck::Wrong(code, message) => self.error(code, place, message),
        }
    }
}

fn node_name(node: &NodeProto) -> &str {
    match node.output.first() {
        Some(output) if node.name.is_empty() => output,
        _ => &node.name,
    }
}

fn place(node: &NodeProto, path: &str) -> String {
    let kind: String = node.op_type.chars().take(64).collect();
    format!("node {} ({kind}) in graph {path}", quoted(node_name(node)))
}

/// Nodes that can never run because they wait for themselves, directly or through others.
fn nodes_in_cycles(graph: &GraphProto, makers: &HashMap<&str, Option<usize>>) -> Vec<usize> {
    let mut waits = vec![0usize; graph.node.len()];
    let mut after: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        for maker in node
            .input
            .iter()
            .filter_map(|name| makers.get(name.as_str()).copied().flatten())
        {
            after.entry(maker).or_default().push(i);
            if let Some(count) = waits.get_mut(i) {
                *count += 1;
            }
        }
    }
    let mut ready: Vec<usize> = (0..waits.len()).filter(|i| waits.get(*i) == Some(&0)).collect();
    while let Some(done) = ready.pop() {
        for &next in after.get(&done).into_iter().flatten() {
            if let Some(count) = waits.get_mut(next) {
                *count -= 1;
                if *count == 0 {
                    ready.push(next);
                }
            }
        }
    }
    (0..waits.len())
        .filter(|i| waits.get(*i).is_some_and(|&count| count > 0))
        .collect()
}

/// The graph's inputs and outputs against those that `model.yaml` declares.
fn check_signature(graph: &GraphProto, signature: &Signature, inspection: &mut Inspection) {
    let weights: BTreeSet<&str> = graph
        .initializer
        .iter()
        .map(|tensor| tensor.name.as_str())
        .collect();
    let given = graph
        .input
        .iter()
        .filter(|input| !weights.contains(input.name.as_str()));
    let given: Vec<&ValueInfoProto> = given.collect();
    for (what, found, declared) in [
        ("input", given, &signature.inputs),
        ("output", graph.output.iter().collect(), &signature.outputs),
    ] {
        for spec in declared {
            let place = format!("{what} {}", quoted(spec.name.as_str()));
            match found.iter().find(|value| value.name == spec.name.as_str()) {
                Some(value) => check_value(value, spec, &place, inspection),
                None => {
                    let names: Vec<_> = found.iter().take(16).map(|value| quoted(&value.name)).collect();
                    let message = format!(
                        "model.yaml declares it, the graph has the {what}s {}",
                        names.join(", ")
                    );
                    inspection.add(Finding::error(Code::Graph, place, message));
                }
            }
        }
    }
    let is_declared =
        |value: &&ValueInfoProto| signature.inputs.iter().any(|i| i.name.as_str() == value.name);
    let extra = graph
        .input
        .iter()
        .filter(|input| !weights.contains(input.name.as_str()));
    for value in extra.filter(|value| !is_declared(value)) {
        let place = format!("input {}", quoted(&value.name));
        inspection.add(Finding::error(
            Code::Graph,
            place,
            "the graph takes it, model.yaml does not declare it",
        ));
    }
}

/// A tensor of the graph must allow what `model.yaml` says; an axis that it leaves open allows every length.
fn check_value(value: &ValueInfoProto, spec: &TensorSpec, place: &str, inspection: &mut Inspection) {
    let kind = value.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let Some(TypeValue::TensorType(tensor)) = kind else {
        // An output need not say its type.
        return;
    };
    let datatype = DataType::try_from(tensor.elem_type).unwrap_or(DataType::Undefined);
    if datatype != DataType::Undefined && datatype != onnx_type(spec.datatype) {
        let message = format!(
            "it is {} in the graph, model.yaml declares {}",
            datatype.as_str_name(),
            spec.datatype.as_str()
        );
        inspection.add(Finding::error(Code::Datatype, place, message));
    }
    let Some(shape) = &tensor.shape else { return };
    let fixed = |dim: &Option<Dim>| match dim {
        Some(Dim::DimValue(n)) if *n >= 0 => Some(*n),
        _ => None,
    };
    let found: Vec<Option<i64>> = shape.dim.iter().map(|dim| fixed(&dim.value)).collect();
    let allows = |(found, n): (&Option<i64>, &u32)| found.is_none_or(|found| found == i64::from(*n));
    if found.len() != spec.shape.len() || !found.iter().zip(&spec.shape).all(allows) {
        let axes: Vec<_> = found
            .iter()
            .take(8)
            .map(|n| n.map_or("?".into(), |n| n.to_string()))
            .collect();
        let message = format!(
            "its shape is [{}] in the graph, model.yaml declares {:?} (context included)",
            axes.join(", "),
            spec.shape
        );
        inspection.add(Finding::error(Code::Shape, place, message));
    }
}

fn onnx_type(datatype: Datatype) -> DataType {
    match datatype {
        Datatype::Bool => DataType::Bool,
        Datatype::Uint8 => DataType::Uint8,
        Datatype::Uint16 => DataType::Uint16,
        Datatype::Uint32 => DataType::Uint32,
        Datatype::Uint64 => DataType::Uint64,
        Datatype::Int8 => DataType::Int8,
        Datatype::Int16 => DataType::Int16,
        Datatype::Int32 => DataType::Int32,
        Datatype::Int64 => DataType::Int64,
        Datatype::Fp16 => DataType::Float16,
        Datatype::Fp32 => DataType::Float,
        Datatype::Fp64 => DataType::Double,
        Datatype::Bytes => DataType::String,
        Datatype::Bf16 => DataType::Bfloat16,
    }
}

/// Which precision a type of weights is; wider floats count as the widest that `model.yaml` knows.
fn precision_of(name: &str) -> Option<Precision> {
    match name {
        "FLOAT" | "DOUBLE" => Some(Precision::Float32),
        "FLOAT16" => Some(Precision::Float16),
        "BFLOAT16" => Some(Precision::Bfloat16),
        "INT8" | "UINT8" => Some(Precision::Int8),
        "INT4" | "UINT4" => Some(Precision::Int4),
        _ => None,
    }
}
