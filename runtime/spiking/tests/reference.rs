//! Spike trains equal those of a dense implementation in double precision, without one mismatch.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Noise, Reference, cuba, lif, spiking};
use perwatt_spiking::{Conv, Graph, Integrator, Node, Padding, Plan, Pool, Readout, Tensor, read, write};
use std::collections::BTreeMap;

const DT: f64 = 1e-3;

fn shape(n: &[usize]) -> Vec<usize> {
    n.to_vec()
}

fn chain(graph: Graph, names: &[&str]) -> Graph {
    names
        .windows(2)
        .fold(graph, |graph, pair| graph.with_edge(pair[0], pair[1]))
}

/// Runs both on the same input and counts the elements in which they differ; returns the ones that are not zero.
fn compare(graph: &Graph, order: &[&str], back: &[(&str, &str)], steps: usize, probability: f64) -> usize {
    // Through the file format, so that what is run is what a file says.
    let graph = &read(&write(graph).unwrap()).unwrap();
    let plan = Plan::compile(graph, Some(DT)).unwrap();
    let n = plan.inputs()[0].elements();
    let mut noise = Noise::new(42);
    let mut input = noise.spikes(n * steps, probability);
    // A long silence in the middle.
    input[n * steps / 2..n * steps * 3 / 4].fill(0.0);
    let mut state = plan.start();
    let (found, counts) = plan.run(&mut state, &[&input], steps, Readout::Steps).unwrap();
    let mut reference = Reference::new(graph, order, back, DT);
    let (mut mismatches, mut active) = (0, 0);
    let outputs = plan.outputs();
    for step in 0..steps {
        reference.step(&BTreeMap::from([("input", &input[step * n..(step + 1) * n])]));
        for (port, found) in outputs.iter().zip(&found) {
            let m = port.elements();
            for (found, expected) in found[step * m..(step + 1) * m]
                .iter()
                .zip(reference.of(&port.name))
            {
                mismatches += usize::from(found != expected);
                active += usize::from(*expected != 0.0);
            }
        }
    }
    assert_eq!(
        mismatches,
        0,
        "of {} outputs, {active} of them not zero",
        steps * outputs[0].elements()
    );
    assert!(
        counts.effective_acs + counts.effective_macs <= counts.dense,
        "{counts:?}"
    );
    active
}

#[test]
fn two_layers_of_lif_with_biases() {
    let mut noise = Noise::new(1);
    let graph = Graph::default()
        .with_node("input", Node::Input { shape: shape(&[40]) })
        .with_node(
            "fc1",
            Node::Linear {
                weight: noise.tensor(&[64, 40], -0.5, 1.0),
            },
        )
        .with_node("lif1", lif(&mut noise, 64, DT))
        .with_node(
            "fc2",
            Node::Affine {
                weight: noise.tensor(&[10, 64], -0.5, 1.0),
                bias: noise.tensor(&[10], -0.1, 0.1),
            },
        )
        .with_node("lif2", lif(&mut noise, 10, DT))
        .with_node("output", Node::Output { shape: shape(&[10]) });
    let order = ["input", "fc1", "lif1", "fc2", "lif2", "output"];
    let active = compare(&chain(graph, &order), &order, &[], 2000, 0.05);
    assert!((1000..19_000).contains(&active), "{active} spikes");
}

#[test]
fn a_recurrent_layer_of_refractory_cuba_lif() {
    let mut noise = Noise::new(2);
    let mut spiking = spiking(&mut noise, 48);
    spiking.refractory = noise.tensor(&[48], 0.0, 4.0 * DT);
    let graph = Graph::default()
        .with_node("input", Node::Input { shape: shape(&[12]) })
        .with_node(
            "fc",
            Node::Linear {
                weight: noise.tensor(&[48, 12], -0.5, 1.5),
            },
        )
        .with_node(
            "lif",
            Node::CubaLif {
                cuba: cuba(&mut noise, 48, DT),
                spiking,
            },
        )
        .with_node(
            "rec",
            Node::Affine {
                weight: noise.tensor(&[48, 48], -0.4, 0.3),
                bias: noise.tensor(&[48], -0.05, 0.05),
            },
        )
        .with_node("output", Node::Output { shape: shape(&[48]) })
        .with_edge("lif", "rec")
        .with_edge("rec", "lif");
    let order = ["input", "fc", "lif", "rec", "output"];
    let graph = chain(graph, &["input", "fc", "lif", "output"]);
    let active = compare(&graph, &order, &[("rec", "lif")], 2000, 0.1);
    assert!((2000..90_000).contains(&active), "{active} spikes");
}

#[test]
fn a_convolutional_network_with_pools_groups_and_dilation() {
    let mut noise = Noise::new(3);
    let conv =
        |noise: &mut Noise, shape: &[usize], groups: usize, padding: Padding, stride: usize, dilation| Conv {
            input_shape: None,
            weight: noise.tensor(shape, -0.3, 0.6),
            bias: noise.tensor(&[shape[0]], 0.0, 0.02),
            stride: vec![stride],
            padding,
            dilation: vec![dilation],
            groups,
        };
    let fire = |noise: &mut Noise, n: &[usize]| Node::If {
        r: Tensor::scalar(1.0 / DT),
        spiking: perwatt_spiking::Spiking {
            threshold: noise.tensor(n, 0.8, 1.5),
            reset: Tensor::scalar(0.0),
            refractory: Tensor::scalar(0.0),
        },
    };
    let pool = Pool {
        kernel: vec![2],
        stride: vec![2],
        padding: vec![0],
    };
    let mean = Pool {
        kernel: vec![3, 2],
        stride: vec![2, 1],
        padding: vec![1, 0],
    };
    let graph = Graph::default()
        .with_node(
            "input",
            Node::Input {
                shape: shape(&[2, 17, 12]),
            },
        )
        .with_node(
            "conv1",
            Node::Conv2d(conv(
                &mut noise,
                &[6, 2, 5, 3],
                1,
                Padding::Zeros(vec![2, 1]),
                1,
                1,
            )),
        )
        .with_node("if1", fire(&mut noise, &[6, 17, 12]))
        .with_node("pool1", Node::SumPool2d(pool))
        .with_node(
            "conv2",
            Node::Conv2d(conv(&mut noise, &[8, 3, 3, 3], 2, Padding::Same, 1, 2)),
        )
        .with_node("if2", fire(&mut noise, &[8, 8, 6]))
        .with_node("pool2", Node::AvgPool2d(mean))
        .with_node(
            "conv3",
            Node::Conv2d(conv(&mut noise, &[4, 8, 2, 2], 1, Padding::Zeros(vec![1]), 2, 1)),
        )
        .with_node("if3", fire(&mut noise, &[4, 3, 3]))
        .with_node(
            "flatten",
            Node::Flatten {
                start_dim: 0,
                end_dim: -1,
                input: Some(vec![4, 3, 3]),
            },
        )
        .with_node(
            "fc",
            Node::Linear {
                weight: noise.tensor(&[5, 36], -0.5, 1.0),
            },
        )
        .with_node("if4", fire(&mut noise, &[5]))
        .with_node("output", Node::Output { shape: shape(&[5]) });
    let order = [
        "input", "conv1", "if1", "pool1", "conv2", "if2", "pool2", "conv3", "if3", "flatten", "fc", "if4",
        "output",
    ];
    let active = compare(&chain(graph, &order), &order, &[], 400, 0.02);
    assert!((200..1990).contains(&active), "{active} spikes");
}

#[test]
fn the_other_nodes_and_their_numbers_bit_by_bit() {
    let mut noise = Noise::new(4);
    let conv = Conv {
        input_shape: Some(vec![9]),
        weight: noise.tensor(&[4, 1, 3], -0.5, 1.0),
        bias: noise.tensor(&[4], -0.1, 0.1),
        stride: vec![2],
        padding: Padding::Zeros(vec![1]),
        dilation: vec![1],
        groups: 2,
    };
    let li = Integrator {
        tau: noise.tensor(&[20], 3.0 * DT, 9.0 * DT),
        r: noise.tensor(&[20], 0.5, 2.0),
        v_leak: Tensor::scalar(0.25),
    };
    let graph = Graph::default()
        .with_node(
            "input",
            Node::Input {
                shape: shape(&[2, 9]),
            },
        )
        .with_node(
            "delay",
            Node::Delay {
                delay: noise.tensor(&[18], 0.0, 12.0 * DT),
            },
        )
        .with_node("conv", Node::Conv1d(conv))
        .with_node("cuba", Node::CubaLi(cuba(&mut noise, 20, DT)))
        .with_node(
            "scale",
            Node::Scale {
                scale: noise.tensor(&[20], 0.5, 2.0),
            },
        )
        .with_node("li", Node::Li(li))
        .with_node(
            "threshold",
            Node::Threshold {
                threshold: noise.tensor(&[20], -0.1, 0.6),
            },
        )
        .with_node(
            "i",
            Node::I {
                r: noise.tensor(&[20], -1.0, 1.0),
            },
        )
        .with_node("output", Node::Output { shape: shape(&[20]) })
        .with_node("spikes", Node::Output { shape: shape(&[20]) })
        .with_edge("scale", "output")
        .with_edge("threshold", "spikes");
    let path = [
        "input",
        "delay",
        "conv",
        "cuba",
        "scale",
        "li",
        "threshold",
        "i",
        "output",
    ];
    let graph = chain(graph, &path);
    let order = [&path[..], &["spikes"]].concat();
    assert!(compare(&graph, &order, &[], 1000, 0.1) > 1000);
}

#[test]
fn a_graph_within_a_graph_gives_what_it_gives_alone() {
    let mut noise = Noise::new(5);
    let (weight, neurons) = (noise.tensor(&[8, 6], -0.5, 1.0), lif(&mut noise, 8, DT));
    let input = Node::Input { shape: shape(&[6]) };
    let output = Node::Output { shape: shape(&[8]) };
    let part = Graph::default()
        .with_node("in", Node::Input { shape: shape(&[6]) })
        .with_node("fc", Node::Linear { weight })
        .with_node("lif", neurons)
        .with_node("out", Node::Output { shape: shape(&[8]) });
    let alone = part
        .clone()
        .with_node("input", input.clone())
        .with_node("output", output.clone());
    let mut alone = chain(alone, &["input", "fc", "lif", "output"]);
    alone.nodes.remove("in");
    alone.nodes.remove("out");
    let nested = Graph::default()
        .with_node("input", input)
        .with_node("part", Node::Graph(chain(part, &["in", "fc", "lif", "out"])))
        .with_node("output", output);
    let nested = chain(nested, &["input", "part", "output"]);
    let nested = read(&write(&nested).unwrap()).unwrap();
    let spikes = Noise::new(6).spikes(6 * 300, 0.2);
    let results = [&alone, &nested].map(|graph| {
        let plan = Plan::compile(graph, Some(DT)).unwrap();
        plan.run(&mut plan.start(), &[&spikes], 300, Readout::Steps)
            .unwrap()
    });
    assert_eq!(results[0], results[1]);
    assert!(results[0].1.spikes > 100);
}

#[test]
fn silence_costs_nothing_and_decay_is_made_up_for() {
    let mut noise = Noise::new(7);
    let graph = Graph::default()
        .with_node("input", Node::Input { shape: shape(&[6]) })
        .with_node(
            "fc",
            Node::Linear {
                weight: noise.tensor(&[50, 6], 0.1, 0.3),
            },
        )
        .with_node("lif", lif(&mut noise, 50, DT))
        .with_node("output", Node::Output { shape: shape(&[50]) });
    let graph = chain(graph, &["input", "fc", "lif", "output"]);
    let plan = Plan::compile(&graph, Some(DT)).unwrap();
    let mut input = vec![0.0; 6 * 1000];
    input[..6].fill(1.0);
    let (_, counts) = plan
        .run(&mut plan.start(), &[&input], 1000, Readout::Sum)
        .unwrap();
    assert_eq!(counts.neuron_updates, 50, "one step of 1000 had spikes");
    assert_eq!(counts.effective_acs, 6 * 50);
    assert_eq!(counts.effective_macs, 0);
    assert_eq!(counts.dense, 6 * 50 * 1000);
    assert_eq!(counts.activations, 50 * 1000);
    assert!(counts.activation_sparsity().unwrap() > 0.99);
}
