//! Many steps at once give what the same steps give one after the other: every number of the outputs and of the
//! state, bit for bit, and every count.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Noise, lif};
use perwatt_spiking::{Counts, Graph, Node, Plan, Readout, Tensor};
use proptest::prelude::*;

const DT: f64 = 1e-3;

/// Two inputs, each with a layer of its own; both layers reach the same neurons.
#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    sizes: [usize; 2],
    neurons: usize,
    steps: usize,
    /// What each input shows: nothing but zeros and ones, numbers, both in turn, or one step that is held.
    kinds: [u8; 2],
    /// Part of the inputs that is not zero.
    density: f64,
    has_bias: bool,
    /// Whether single precision holds the weights.
    is_single: bool,
    /// What is between the first input and its layer: nothing, a Flatten, or a delay.
    between: u8,
    is_recurrent: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (any::<u64>(), [1usize..60, 1usize..20], 1usize..50, 8usize..160);
    let input = ([0u8..4, 0u8..4], 0.0..1.0);
    let graph = (any::<bool>(), any::<bool>(), 0u8..3, any::<bool>());
    (sizes, input, graph).prop_map(|(sizes, input, graph)| Case {
        seed: sizes.0,
        sizes: sizes.1,
        neurons: sizes.2,
        steps: sizes.3,
        kinds: input.0,
        density: input.1,
        has_bias: graph.0,
        is_single: graph.1,
        between: graph.2,
        is_recurrent: graph.3,
    })
}

fn layer(noise: &mut Noise, case: &Case, inputs: usize) -> Node {
    let mut weight = noise.tensor(&[case.neurons, inputs], -0.5, 0.6);
    if !case.is_single {
        weight.values.iter_mut().for_each(|w| *w /= 3.0);
    }
    match case.has_bias {
        true => Node::Affine {
            weight,
            bias: noise.tensor(&[case.neurons], -0.1, 0.2),
        },
        false => Node::Linear { weight },
    }
}

fn build(case: &Case) -> Plan {
    let mut noise = Noise::new(case.seed);
    let mut graph = Graph::default();
    for (k, &n) in case.sizes.iter().enumerate() {
        graph = graph
            .with_node(&format!("in{k}"), Node::Input { shape: vec![n] })
            .with_node(&format!("fc{k}"), layer(&mut noise, case, n))
            .with_edge(&format!("fc{k}"), "lif");
    }
    let delay = noise.tensor(&[case.sizes[0]], 0.0, 4.0 * DT);
    let between = match case.between {
        0 => None,
        1 => Some(Node::Flatten {
            start_dim: 0,
            end_dim: -1,
            input: None,
        }),
        _ => Some(Node::Delay { delay }),
    };
    graph = match between {
        None => graph.with_edge("in0", "fc0"),
        Some(node) => graph
            .with_node("between", node)
            .with_edge("in0", "between")
            .with_edge("between", "fc0"),
    };
    graph = graph
        .with_edge("in1", "fc1")
        .with_node("lif", lif(&mut noise, case.neurons, DT))
        .with_node(
            "output",
            Node::Output {
                shape: vec![case.neurons],
            },
        )
        .with_edge("lif", "output")
        // The sums themselves, so that a difference in their last bit shows.
        .with_node(
            "sums",
            Node::Output {
                shape: vec![case.neurons],
            },
        )
        .with_edge("fc0", "sums");
    if case.is_recurrent {
        graph = graph
            .with_node("rec", layer(&mut noise, case, case.neurons))
            .with_edge("lif", "rec")
            .with_edge("rec", "lif");
    }
    Plan::compile(&graph, Some(DT)).unwrap()
}

fn input(case: &Case, kind: u8, n: usize) -> Vec<f64> {
    let mut noise = Noise::new(case.seed ^ u64::from(kind) ^ 7);
    let steps = if kind == 3 { 1 } else { case.steps };
    let mut values = noise.spikes(n * steps, case.density);
    for (index, value) in values.iter_mut().enumerate() {
        if kind == 1 || kind == 2 && (index / n).is_multiple_of(3) {
            *value *= noise.between(-2.0, 2.0);
        }
    }
    values
}

type Answer = (Vec<Vec<u64>>, Vec<u64>, Counts);

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn at_once(plan: &Plan, inputs: &[&[f64]], steps: usize) -> Answer {
    let mut state = plan.start();
    let (outputs, counts) = plan.run(&mut state, inputs, steps, Readout::Steps).unwrap();
    let outputs = outputs.iter().map(|output| bits(output)).collect();
    (outputs, bits(&plan.save(&mut state)), counts)
}

fn one_by_one(plan: &Plan, inputs: &[&[f64]], steps: usize) -> Answer {
    let mut state = plan.start();
    let mut outputs = vec![Vec::new(); plan.outputs().len()];
    let mut counts = Counts::default();
    for step in 0..steps {
        let shown = inputs.iter().zip(plan.inputs()).map(|(input, port)| {
            let n = port.elements();
            let is_held = input.len() == n;
            if is_held {
                input
            } else {
                &input[step * n..(step + 1) * n]
            }
        });
        let shown: Vec<&[f64]> = shown.collect();
        let (found, more) = plan.run(&mut state, &shown, 1, Readout::Steps).unwrap();
        counts += more;
        for (output, found) in outputs.iter_mut().zip(&found) {
            output.extend(bits(found));
        }
    }
    (outputs, bits(&plan.save(&mut state)), counts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn steps_at_once_are_the_steps_one_by_one(case in cases()) {
        let plan = build(&case);
        let inputs = [0, 1].map(|k| input(&case, case.kinds[k], case.sizes[k]));
        let inputs = [&inputs[0][..], &inputs[1][..]];
        let mut found = at_once(&plan, &inputs, case.steps);
        let expected = one_by_one(&plan, &inputs, case.steps);
        if case.kinds.contains(&3) {
            // What depends on nothing but a held input is counted once in a run.
            found.2 = expected.2;
        }
        prop_assert_eq!(found, expected);
    }
}

/// Neither the inputs nor the outputs are whole tiles; the last block of steps is shorter than the others, some have
/// spikes, some numbers, and one has too little in it to be computed ahead.
#[test]
fn a_wide_input_over_several_blocks() {
    let (n, neurons, steps) = (2500, 35, 450);
    let mut noise = Noise::new(3);
    let mut weight = noise.tensor(&[neurons, n], -0.5, 0.5);
    // Of full length, so that the order of the additions shows.
    weight.values.iter_mut().for_each(|w| *w /= 3.0);
    let graph = Graph::default()
        .with_node("input", Node::Input { shape: vec![n] })
        .with_node("fc", Node::Linear { weight })
        .with_node("lif", lif(&mut noise, neurons, DT))
        .with_node("output", Node::Output { shape: vec![neurons] })
        .with_edge("input", "fc")
        .with_edge("fc", "lif")
        .with_edge("fc", "output");
    let graph = graph
        .with_node("spikes", Node::Output { shape: vec![neurons] })
        .with_edge("lif", "spikes");
    let plan = Plan::compile(&graph, Some(DT)).unwrap();
    let mut input = noise.spikes(n * steps, 0.3);
    input[n * 210..n * 410].fill(0.0);
    input[n * 300] = 1.0;
    for value in &mut input[n * 420..] {
        *value *= 0.3;
    }
    let found = at_once(&plan, &[&input], steps);
    assert!(found == one_by_one(&plan, &[&input], steps));
    assert!(found.0.iter().flatten().any(|&bits| bits != 0));
}

#[test]
fn weights_that_are_negative_zero_or_tiny_keep_their_sums() {
    let weight = Tensor::new(
        vec![1, 9],
        vec![1e16, 1.0, -1e16, -0.0, 5e-324, 1.0, 3.0, 1e-9, 7.0],
    )
    .unwrap();
    let graph = Graph::default()
        .with_node("input", Node::Input { shape: vec![9] })
        .with_node("fc", Node::Linear { weight })
        .with_node("output", Node::Output { shape: vec![1] })
        .with_edge("input", "fc")
        .with_edge("fc", "output");
    let plan = Plan::compile(&graph, Some(DT)).unwrap();
    let input = Noise::new(5).spikes(9 * 64, 0.7);
    assert_eq!(at_once(&plan, &[&input], 64), one_by_one(&plan, &[&input], 64));
}
