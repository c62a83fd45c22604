//! Files that contradict themselves, made field by field: each is refused for what is wrong with it.

#![allow(clippy::unwrap_used, clippy::panic)]

use perwatt_litert::{Graph, GraphError};

/// A field of a table.
#[derive(Clone)]
enum Field {
    Absent,
    Number(i32),
    Of(Node),
}
use Field::{Absent, Number, Of};

/// What an offset leads to.
#[derive(Clone)]
enum Node {
    Table(Vec<Field>),
    Tables(Vec<Node>),
    Ints(Vec<i32>),
    Bytes(Vec<u8>),
}

/// Appends a node and what hangs below it; returns where it stands. Children follow their parent, so that all
/// offsets lead forward.
fn write(out: &mut Vec<u8>, node: &Node) -> usize {
    let word = |out: &mut Vec<u8>, value: usize| out.extend(u32::try_from(value).unwrap().to_le_bytes());
    let mut children = Vec::new();
    let mut at = out.len();
    match node {
        Node::Bytes(bytes) => {
            word(out, bytes.len());
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        Node::Ints(values) => {
            word(out, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Node::Tables(nodes) => {
            word(out, nodes.len());
            for child in nodes {
                children.push((out.len(), child));
                word(out, 0);
            }
        }
        Node::Table(fields) => {
            let short =
                |out: &mut Vec<u8>, value: usize| out.extend(u16::try_from(value).unwrap().to_le_bytes());
            short(out, 4 + 2 * fields.len());
            short(out, 4 + 4 * fields.len());
            for (i, field) in fields.iter().enumerate() {
                short(out, if matches!(field, Absent) { 0 } else { 4 + 4 * i });
            }
            out.resize(out.len().next_multiple_of(4), 0);
            let vtable = std::mem::replace(&mut at, out.len());
            word(out, at - vtable);
            for field in fields {
                match field {
                    Absent => word(out, 0),
                    Number(value) => out.extend(value.to_le_bytes()),
                    Of(child) => {
                        children.push((out.len(), child));
                        word(out, 0);
                    }
                }
            }
        }
    }
    for (place, child) in children {
        let offset = write(out, child) - place;
        out[place..place + 4].copy_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
    }
    at
}

/// A model of the parts that tests change; the rest is well.
#[derive(Clone)]
struct Parts {
    schema: i32,
    /// Number of each operator kind.
    codes: Vec<i32>,
    buffers: Vec<usize>,
    subgraphs: Vec<Subgraph>,
}

/// Kind, inputs, outputs, and the numbers in the options.
type Operator = (i32, Vec<i32>, Vec<i32>, Vec<i32>);

#[derive(Clone)]
struct Subgraph {
    /// Shape, type and buffer of each tensor.
    tensors: Vec<(Vec<i32>, i32, i32)>,
    inputs: Vec<i32>,
    operators: Vec<Operator>,
}

const FLOAT: i32 = 0;
const ADD: i32 = 0;
const WHILE: i32 = 119;

/// One ADD of an input and a constant.
fn well() -> Parts {
    Parts {
        schema: 3,
        codes: vec![ADD],
        buffers: vec![0, 16],
        subgraphs: vec![Subgraph {
            tensors: vec![
                (vec![1, 4], FLOAT, 0),
                (vec![4], FLOAT, 1),
                (vec![1, 4], FLOAT, 0),
            ],
            inputs: vec![0],
            operators: vec![(0, vec![0, 1], vec![2], vec![])],
        }],
    }
}

impl Subgraph {
    fn node(&self) -> Node {
        let tensor = |(shape, element, buffer): &(Vec<i32>, i32, i32)| {
            let name = Node::Bytes(b"tensor".to_vec());
            Node::Table(vec![
                Of(Node::Ints(shape.clone())),
                Number(*element),
                Number(*buffer),
                Of(name),
            ])
        };
        let operator = |(code, inputs, outputs, options): &Operator| {
            let options = Node::Table(options.iter().map(|&n| Number(n)).collect());
            Node::Table(vec![
                Number(*code),
                Of(Node::Ints(inputs.clone())),
                Of(Node::Ints(outputs.clone())),
                Number(1),
                Of(options),
            ])
        };
        Node::Table(vec![
            Of(Node::Tables(self.tensors.iter().map(tensor).collect())),
            Of(Node::Ints(self.inputs.clone())),
            Of(Node::Ints(vec![2])),
            Of(Node::Tables(self.operators.iter().map(operator).collect())),
        ])
    }
}

impl Parts {
    fn file(&self) -> Vec<u8> {
        let code = |&code: &i32| Node::Table(vec![Absent, Absent, Absent, Number(code)]);
        let buffer = |&bytes: &usize| Node::Table(vec![Of(Node::Bytes(vec![0; bytes]))]);
        let root = Node::Table(vec![
            Number(self.schema),
            Of(Node::Tables(self.codes.iter().map(code).collect())),
            Of(Node::Tables(self.subgraphs.iter().map(Subgraph::node).collect())),
            Absent,
            Of(Node::Tables(self.buffers.iter().map(buffer).collect())),
        ]);
        let mut out = vec![0; 4];
        out.extend(b"TFL3");
        let at = write(&mut out, &root);
        out[..4].copy_from_slice(&u32::try_from(at).unwrap().to_le_bytes());
        out
    }
}

/// What a well model with one change is refused for.
fn refusal(change: impl FnOnce(&mut Parts)) -> String {
    let mut parts = well();
    change(&mut parts);
    Graph::read(&parts.file()).unwrap_err().to_string()
}

#[test]
fn a_model_that_is_well_is_read() {
    let graph = Graph::read(&well().file()).unwrap();
    assert_eq!(
        (graph.inputs.len(), graph.outputs.len(), graph.operators),
        (1, 1, 1)
    );
    assert_eq!(graph.inputs[0].shape, [1, 4]);
    assert!(!graph.keeps_state);
}

#[test]
fn another_format_or_schema_is_named() {
    assert_eq!(Graph::read(b"\x08\0\0\0ONNX").unwrap_err(), GraphError::Format);
    assert!(refusal(|parts| parts.schema = 2).contains("schema 2"));
}

#[test]
fn every_number_must_name_something() {
    for (change, says) in [
        (
            (|p| p.subgraphs[0].tensors[1].2 = 9) as fn(&mut Parts),
            "buffer 9, there are 2",
        ),
        (
            |p| p.subgraphs[0].operators[0].0 = 1,
            "operator kind 1, there are 1",
        ),
        (
            |p| p.subgraphs[0].operators[0].1 = vec![3],
            "tensor 3, there are 3",
        ),
        (|p| p.subgraphs[0].operators[0].1 = vec![-2], "tensor -2"),
        (|p| p.subgraphs[0].operators[0].2 = vec![-1], "tensor -1"),
        (|p| p.subgraphs[0].inputs = vec![-1], "an input names tensor -1"),
        (|p| p.subgraphs = vec![], "0 subgraphs"),
    ] {
        let said = refusal(change);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn shapes_and_constants_must_agree() {
    for (change, says) in [
        (
            (|p| p.buffers[1] = 12) as fn(&mut Parts),
            "[4] needs 16 bytes, the file holds 12",
        ),
        (|p| p.subgraphs[0].tensors[0].0 = vec![1, -4], "negative length"),
        (
            |p| p.subgraphs[0].tensors[0].0 = vec![i32::MAX; 3],
            "too many elements",
        ),
        (|p| p.subgraphs[0].tensors[0].0 = vec![1; 9], "9 axes"),
        (|p| p.subgraphs[0].tensors[0].1 = 99, "type 99"),
        (
            |p| p.subgraphs[0].tensors[0].0 = vec![1 << 29],
            "its tensors need",
        ),
    ] {
        let said = refusal(change);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn subgraphs_that_call_one_another_without_end_are_refused() {
    let calls = |to: i32| {
        move |parts: &mut Parts| {
            parts.codes.push(WHILE);
            let mut body = parts.subgraphs[0].clone();
            body.operators = vec![(1, vec![0], vec![2], vec![to, to])];
            parts.subgraphs[0]
                .operators
                .push((1, vec![0], vec![2], vec![1, 1]));
            parts.subgraphs.push(body);
        }
    };
    assert!(refusal(calls(0)).contains("calls itself"));
    assert!(refusal(calls(1)).contains("calls itself"));
    assert!(refusal(calls(7)).contains("subgraph 7"));
    // CALL, and StableHLO's composite, which would have to be followed too.
    for code in [31, 206] {
        let said = refusal(|parts| parts.codes[0] = code);
        assert!(
            said.contains(&format!("operator {code} runs other subgraphs")),
            "{said}"
        );
    }
}

#[test]
fn state_outside_the_tensors_is_seen() {
    let mut parts = well();
    parts.codes.push(142);
    assert!(Graph::read(&parts.file()).unwrap().keeps_state);
}

#[test]
fn a_file_cut_or_changed_anywhere_never_panics() {
    let file = well().file();
    for length in 0..file.len() {
        let _ = Graph::read(&file[..length]);
    }
    for at in 0..file.len() {
        for value in 0..=255 {
            let mut changed = file.clone();
            changed[at] = value;
            let _ = Graph::read(&changed);
        }
    }
}
