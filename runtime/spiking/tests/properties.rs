//! What holds for every network: equal to the reference, and one state however the steps are cut.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Noise, Reference, cuba, lif, spiking};
use perwatt_spiking::{Graph, Node, Plan, Readout, Tensor, read, write};
use proptest::prelude::*;
use std::collections::BTreeMap;

const DT: f64 = 1e-3;

/// Layers one after the other, the last with an edge back to the first.
#[derive(Debug, Clone)]
struct Shape {
    seed: u64,
    sizes: Vec<usize>,
    kinds: Vec<u8>,
    /// Part of the weights that are zero.
    zeros: f64,
    is_recurrent: bool,
    probability: f64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let layers = prop::collection::vec((1usize..24, 0u8..6), 1..5);
    (
        any::<u64>(),
        1usize..16,
        layers,
        0.0..1.0,
        any::<bool>(),
        0.0..0.6,
    )
        .prop_map(|(seed, input, layers, zeros, is_recurrent, probability)| Shape {
            seed,
            sizes: std::iter::once(input).chain(layers.iter().map(|l| l.0)).collect(),
            kinds: layers.iter().map(|l| l.1).collect(),
            zeros,
            is_recurrent,
            probability,
        })
}

fn neurons(noise: &mut Noise, kind: u8, n: usize) -> Node {
    let mut spiking = spiking(noise, n);
    match kind {
        0 => lif(noise, n, DT),
        1 => Node::If {
            r: noise.tensor(&[n], 100.0, 1000.0),
            spiking,
        },
        2 => Node::CubaLif {
            cuba: cuba(noise, n, DT),
            spiking,
        },
        3 => {
            spiking.refractory = noise.tensor(&[n], 0.0, 5.0 * DT);
            Node::CubaLif {
                cuba: cuba(noise, n, DT),
                spiking,
            }
        }
        4 => Node::Threshold {
            threshold: noise.tensor(&[n], -0.1, 0.5),
        },
        _ => Node::Delay {
            delay: noise.tensor(&[n], 0.0, 6.0 * DT),
        },
    }
}

fn weight(noise: &mut Noise, shape: &[usize], zeros: f64) -> Tensor {
    let mut weight = noise.tensor(shape, -0.4, 0.8);
    weight
        .values
        .iter_mut()
        .for_each(|w| *w *= f64::from(u8::from(noise.unit() >= zeros)));
    weight
}

/// The graph and the order of its step.
fn build(shape: &Shape) -> (Graph, Vec<String>) {
    let mut noise = Noise::new(shape.seed);
    let mut graph = Graph::default().with_node(
        "input",
        Node::Input {
            shape: vec![shape.sizes[0]],
        },
    );
    let mut order = vec!["input".to_owned()];
    for (layer, (pair, &kind)) in shape.sizes.windows(2).zip(&shape.kinds).enumerate() {
        let (fc, cells) = (format!("fc{layer}"), format!("n{layer}"));
        let weight = weight(&mut noise, &[pair[1], pair[0]], shape.zeros);
        graph = graph
            .with_node(&fc, Node::Linear { weight })
            .with_node(&cells, neurons(&mut noise, kind, pair[1]))
            .with_edge(order.last().unwrap(), &fc)
            .with_edge(&fc, &cells);
        order.extend([fc, cells]);
    }
    let last = order.last().unwrap().clone();
    let n = *shape.sizes.last().unwrap();
    graph = graph
        .with_node("output", Node::Output { shape: vec![n] })
        .with_edge(&last, "output");
    if shape.is_recurrent {
        let back = weight(&mut noise, &[shape.sizes[1], n], shape.zeros);
        graph = graph
            .with_node("rec", Node::Linear { weight: back })
            .with_edge(&last, "rec")
            .with_edge("rec", "n0");
        order.push("rec".to_owned());
    }
    order.push("output".to_owned());
    (graph, order)
}

/// Spikes, with silences of every length in them.
fn input(shape: &Shape, steps: usize) -> Vec<f64> {
    let n = shape.sizes[0];
    let mut noise = Noise::new(shape.seed ^ 1);
    let mut input = noise.spikes(n * steps, shape.probability);
    for start in [10, 40, 80] {
        let length = (noise.unit() * 30.0) as usize;
        input[n * start..n * (start + length)].fill(0.0);
    }
    input
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_network_equals_the_reference(shape in shapes()) {
        let (graph, order) = build(&shape);
        let has_time = shape.kinds.iter().any(|&kind| kind != 4);
        let Ok(plan) = Plan::compile(&graph, Some(DT)) else {
            prop_assert!(shape.is_recurrent && !has_time, "only a cycle of thresholds has no time");
            return Ok(());
        };
        let (steps, n) = (120, shape.sizes[0]);
        let input = input(&shape, steps);
        let (found, _) = plan.run(&mut plan.start(), &[&input], steps, Readout::Steps).unwrap();
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        let mut reference = Reference::new(&graph, &order, &[("rec", "n0")], DT);
        let mut expected = Vec::new();
        for step in input.chunks(n) {
            reference.step(&BTreeMap::from([("input", step)]));
            expected.extend_from_slice(reference.of("output"));
        }
        prop_assert_eq!(&found[0], &expected);
    }

    #[test]
    fn steps_in_pieces_are_the_steps_in_one(shape in shapes(), cut in 1usize..119) {
        let (graph, _) = build(&shape);
        let Ok(plan) = Plan::compile(&graph, Some(DT)) else { return Ok(()) };
        let (steps, n) = (120, shape.sizes[0]);
        let input = input(&shape, steps);
        let (whole, _) = plan.run(&mut plan.start(), &[&input], steps, Readout::Steps).unwrap();
        let mut state = plan.start();
        let (first, rest) = input.split_at(cut * n);
        let (mut pieces, _) = plan.run(&mut state, &[first], cut, Readout::Steps).unwrap();
        let numbers = plan.save(&mut state);
        prop_assert_eq!(numbers.len(), plan.state_len());
        let mut restored = plan.restore(&numbers).unwrap();
        prop_assert_eq!(plan.save(&mut restored), numbers);
        let (more, _) = plan.run(&mut restored, &[rest], steps - cut, Readout::Steps).unwrap();
        pieces[0].extend_from_slice(&more[0]);
        prop_assert_eq!(&pieces, &whole);
    }

    #[test]
    fn a_file_holds_the_graph_and_is_the_same_each_time(shape in shapes()) {
        let (graph, _) = build(&shape);
        let file = write(&graph).unwrap();
        prop_assert_eq!(&file, &write(&graph).unwrap());
        prop_assert_eq!(read(&file).unwrap(), graph);
    }
}
