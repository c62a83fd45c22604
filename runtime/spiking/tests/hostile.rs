//! Files that are cut, bent or made to harm: refused with the node and the field, never a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Noise, lif};
use perwatt_spiking::{Conv, Graph, Node, Padding, Plan, Pool, Readout, Tensor, read, write};

const DT: f64 = 1e-3;

fn small() -> Graph {
    let mut noise = Noise::new(9);
    let weight = noise.tensor(&[4, 3], -1.0, 1.0);
    Graph::default()
        .with_node("input", Node::Input { shape: vec![3] })
        .with_node("fc", Node::Linear { weight })
        .with_node("lif", lif(&mut noise, 4, DT))
        .with_node("output", Node::Output { shape: vec![4] })
        .with_edge("input", "fc")
        .with_edge("fc", "lif")
        .with_edge("lif", "output")
}

/// Why this graph, as a file, is refused.
fn refusal(graph: &Graph) -> String {
    let graph = match read(&write(graph).unwrap()) {
        Ok(graph) => graph,
        Err(error) => return error.to_string(),
    };
    Plan::compile(&graph, Some(DT)).unwrap_err().to_string()
}

/// As the runtime takes a file: reading, compiling, one step.
fn try_all(content: &[u8]) -> bool {
    let Ok(graph) = read(content) else { return false };
    let Ok(plan) = Plan::compile(&graph, Some(DT)) else {
        return false;
    };
    let inputs: Vec<Vec<f64>> = plan
        .inputs()
        .iter()
        .map(|port| vec![1.0; port.elements()])
        .collect();
    let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
    plan.run(&mut plan.start(), &inputs, 1, Readout::Sum).is_ok()
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = write(&small()).unwrap();
    assert!(try_all(&file));
    for length in 0..file.len() {
        assert!(read(&file[..length]).is_err(), "{length} of {} bytes", file.len());
    }
}

#[test]
fn bent_bytes_never_panic() {
    let file = write(&small()).unwrap();
    let mut noise = Noise::new(10);
    let mut survived = 0;
    for _ in 0..20_000 {
        let mut bent = file.clone();
        for _ in 0..1 + (noise.unit() * 4.0) as usize {
            let place = (noise.unit() * bent.len() as f64) as usize;
            bent[place] = match (noise.unit() * 3.0) as u8 {
                0 => 0xff,
                1 => 0,
                _ => (noise.unit() * 256.0) as u8,
            };
        }
        survived += u32::from(try_all(&bent));
    }
    assert!(survived > 0, "some bytes do not matter");
}

/// `loops.nir` has a group that holds itself; `claims.nir` has weights of 2^40 numbers, none of them stored.
#[test]
fn loops_and_false_claims_are_refused() {
    let message = |content: &[u8]| read(content).unwrap_err().to_string();
    let loops = message(include_bytes!("data/loops.nir"));
    assert!(loops.contains("nested deeper than 8"), "{loops}");
    let claims = message(include_bytes!("data/claims.nir"));
    assert_eq!(
        claims,
        "node/nodes/fc/weight: the file's parameters have more than 33554432 numbers"
    );
}

#[test]
fn messages_name_the_node_and_the_field() {
    let with = |name: &str, node: Node| refusal(&small().with_node(name, node));
    let bad_weight = Tensor::new(vec![4, 2], vec![0.0; 8]).unwrap();
    assert_eq!(
        with("fc", Node::Linear { weight: bad_weight }),
        "node fc: weight: it takes 2 elements, but 3 come in"
    );
    let nan = Tensor::new(vec![4, 3], vec![f64::NAN; 12]).unwrap();
    assert_eq!(
        with("fc", Node::Linear { weight: nan }),
        "node/nodes/fc/weight: number 0 is NaN"
    );
    assert_eq!(
        with("output", Node::Output { shape: vec![5] }),
        "node output: its shape is [5], but [4] comes in"
    );
    assert_eq!(
        with("input", Node::Input { shape: vec![0] }),
        "node input: it gives [0]: that is nothing"
    );
    assert_eq!(
        with(
            "alone",
            Node::I {
                r: Tensor::scalar(1.0)
            }
        ),
        "node alone: no Input leads to it"
    );
    let slow = Node::Lif {
        li: perwatt_spiking::Integrator {
            tau: Tensor::scalar(DT / 2.0),
            r: Tensor::scalar(1.0),
            v_leak: Tensor::scalar(0.0),
        },
        spiking: perwatt_spiking::Spiking {
            threshold: Tensor::scalar(1.0),
            reset: Tensor::scalar(0.0),
            refractory: Tensor::scalar(0.0),
        },
    };
    let message = with("lif", slow);
    assert!(
        message.starts_with("node lif: tau[0]: a time constant of 0.0005 s is shorter"),
        "{message}"
    );
    let flat = Pool {
        kernel: vec![2],
        stride: vec![2],
        padding: vec![0],
    };
    let message = with("fc", Node::SumPool2d(flat));
    assert_eq!(
        message,
        "node fc: it takes [channels, height, width], but [3] comes in"
    );
    let endless = Node::Delay {
        delay: Tensor::scalar(1e9),
    };
    assert!(with("lif", endless).starts_with("node lif: delay: it must be between 0 and 65536 steps"));
}

#[test]
fn edges_that_cannot_be_are_named() {
    let with = |from: &str, to: &str| refusal(&small().with_edge(from, to));
    assert_eq!(with("lif", "gone"), "edge lif -> gone: there is no node \"gone\"");
    assert_eq!(
        with("lif", "input"),
        "edge lif -> input: no edge goes to an Input of its own graph"
    );
    assert_eq!(
        with("output", "fc"),
        "edge output -> fc: no edge comes from an Output of its own graph"
    );
    assert_eq!(
        with("lif", "fc"),
        "edge lif -> fc: it carries Some([4]) to a node that gets Some([3])"
    );
    assert_eq!(
        with("input", "lif"),
        "node lif: it gets [4] from one node and [3] from another"
    );
    let square = Node::Linear {
        weight: Tensor::new(vec![4, 4], vec![1.0; 16]).unwrap(),
    };
    let timeless = small().with_node("a", square.clone()).with_node("b", square);
    let timeless = timeless
        .with_edge("fc", "a")
        .with_edge("a", "b")
        .with_edge("b", "a");
    let message = refusal(&timeless);
    assert!(
        message.contains("part of a cycle without a neuron or a delay"),
        "{message}"
    );
}

#[test]
fn graphs_without_ends_or_time_are_refused() {
    let mut graph = small();
    graph.nodes.remove("output");
    graph.edges.pop();
    assert_eq!(refusal(&graph), "the network: it has no Output");
    assert_eq!(refusal(&Graph::default()), "the network: it has no Input");
    let unknown = Plan::compile(&small(), None).unwrap_err().to_string();
    assert!(unknown.contains("the length of a step is not known"), "{unknown}");
    assert!(Plan::compile(&small(), Some(f64::NAN)).is_err());
    assert!(Plan::compile(&small(), Some(0.0)).is_err());
}

#[test]
fn a_tower_of_graphs_and_a_convolution_without_end_are_refused() {
    let mut tower = small();
    for _ in 0..9 {
        tower = Graph::default()
            .with_node("input", Node::Input { shape: vec![3] })
            .with_node("part", Node::Graph(tower))
            .with_node("output", Node::Output { shape: vec![4] })
            .with_edge("input", "part")
            .with_edge("part", "output");
    }
    assert!(refusal(&tower).ends_with("graphs are nested deeper than 8"));
    let wide = Conv {
        input_shape: None,
        weight: Tensor::new(vec![1, 1, 1], vec![1.0]).unwrap(),
        bias: Tensor::vector(vec![0.0]),
        stride: vec![1],
        padding: Padding::Zeros(vec![1 << 26]),
        dilation: vec![1],
        groups: 1,
    };
    let message = refusal(
        &small()
            .with_node("input", Node::Input { shape: vec![1, 3] })
            .with_node("fc", Node::Conv1d(wide)),
    );
    assert!(message.contains("more than 8388608 elements"), "{message}");
}

#[test]
fn inputs_and_states_that_do_not_fit_change_nothing() {
    let plan = Plan::compile(&small(), Some(DT)).unwrap();
    let mut state = plan.start();
    let before = plan.save(&mut state);
    let mut refuse = |inputs: &[&[f64]]| {
        plan.run(&mut state, inputs, 4, Readout::Sum)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refuse(&[&[0.0; 5]]),
        "input input: 5 numbers are neither one step (3) nor 4 steps"
    );
    assert_eq!(refuse(&[]), "the network has 1 inputs, 0 were given");
    assert_eq!(
        refuse(&[&[0.0, f64::NAN, 0.0]]),
        "input input: number 1 is not finite"
    );
    assert_eq!(plan.save(&mut state), before);
    assert_eq!(
        plan.restore(&[0.0; 3]).unwrap_err().to_string(),
        "a state of this network has 4 numbers, not 3"
    );
    assert!(plan.restore(&[f64::INFINITY; 4]).is_err());
}
