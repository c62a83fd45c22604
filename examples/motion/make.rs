//! Makes `model/motion.nir` of the recordings that `fetch` brought:
//!
//! ```text
//! cargo run -p perwatt-spiking --example motion -- FOLDER/BasicMotions_TRAIN.ts examples/motion/model/motion.nir
//! ```
//!
//! 12 inputs (6 channels, up and down) reach 128 LIF neurons over fixed random weights; a linear readout,
//! found by ridge regression, drives one leaky integrator for each class. Nothing but additions,
//! multiplications and divisions in double precision, one after the other: every machine makes the same file.

pub mod data;

use data::{CLASSES, Recording, STEPS, events, parse};
use perwatt_spiking::{Graph, Integrator, Node, Plan, Readout, Spiking, Tensor, write};
use std::error::Error;
use std::process::ExitCode;

const INPUTS: usize = 12;
const HIDDEN: usize = 128;
/// Length of a step in seconds, that of the recordings.
const DT: f64 = 0.1;
/// Strength of the regression's pull to zero.
const RIDGE: f64 = 30.0;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [train, out] = arguments else {
        return Err("usage: motion BasicMotions_TRAIN.ts motion.nir".into());
    };
    let recordings = parse(&std::fs::read_to_string(train)?).ok_or("not a file of BasicMotions")?;
    std::fs::write(out, write(&make(&recordings)?)?)?;
    Ok(())
}

/// The trained network.
pub fn make(recordings: &[Recording]) -> Result<Graph, Box<dyn Error>> {
    let hidden = hidden();
    let features = features(&hidden, recordings)?;
    let weights = ridge(&features, recordings).ok_or("the regression has no solution")?;
    let (bias, weight): (Vec<f64>, Vec<Vec<f64>>) = weights
        .into_iter()
        .filter_map(|mut row| row.pop().map(|bias| (bias, row)))
        .unzip();
    let weight = single(weight.into_iter().flatten());
    let readout = Node::Affine {
        weight: Tensor::new(vec![CLASSES.len(), HIDDEN], weight).ok_or("the readout has another size")?,
        bias: Tensor::vector(single(bias)),
    };
    Ok(hidden
        .with_node("readout", readout)
        .with_node("li", Node::Li(integrator()))
        .with_node(
            "output",
            Node::Output {
                shape: vec![CLASSES.len()],
            },
        )
        .with_edge("lif", "readout")
        .with_edge("readout", "li")
        .with_edge("li", "output"))
}

/// What a file holds in single precision is what the regression must see.
fn single(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    values.into_iter().map(|value| f64::from(value as f32)).collect()
}

/// One second, one volt.
fn integrator() -> Integrator {
    Integrator {
        tau: Tensor::vector(vec![1.0; CLASSES.len()]),
        r: Tensor::vector(vec![1.0; CLASSES.len()]),
        v_leak: Tensor::vector(vec![0.0; CLASSES.len()]),
    }
}

/// The part that is not trained: weights from -3 to 3, time constants from 0.15 to 1 s.
fn hidden() -> Graph {
    let mut seed = 0x5eed_u64;
    let mut next = move |low: f64, high: f64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let unit = (seed >> 11) as f64 / (1u64 << 53) as f64;
        low + (high - low) * unit
    };
    let weight = single((0..HIDDEN * INPUTS).map(|_| next(-3.0, 3.0)));
    let tau = single((0..HIDDEN).map(|_| next(0.15, 1.0)));
    let lif = Node::Lif {
        li: Integrator {
            tau: Tensor::vector(tau),
            r: Tensor::vector(vec![1.0; HIDDEN]),
            v_leak: Tensor::vector(vec![0.0; HIDDEN]),
        },
        spiking: Spiking {
            threshold: Tensor::vector(vec![0.5; HIDDEN]),
            reset: Tensor::vector(vec![0.0; HIDDEN]),
            refractory: Tensor::scalar(0.0),
        },
    };
    let weight = Tensor {
        shape: vec![HIDDEN, INPUTS],
        values: weight,
    };
    Graph {
        dt: Some(DT),
        ..Graph::default()
    }
    .with_node("input", Node::Input { shape: vec![INPUTS] })
    .with_node("weights", Node::Linear { weight })
    .with_node("lif", lif)
    .with_edge("input", "weights")
    .with_edge("weights", "lif")
}

/// For each recording the sum over time of every neuron's spikes behind the readout's integrator, and that of
/// a constant 1: the sum of the integrator's voltage is a linear function of them.
fn features(hidden: &Graph, recordings: &[Recording]) -> Result<Vec<Vec<f64>>, Box<dyn Error>> {
    let whole = hidden
        .clone()
        .with_node("output", Node::Output { shape: vec![HIDDEN] });
    let plan = Plan::compile(&whole.with_edge("lif", "output"), None)?;
    let mut features = Vec::new();
    for recording in recordings {
        let input = events(&recording.samples);
        let (spikes, _) = plan.run(&mut plan.start(), &[&input], STEPS, Readout::Steps)?;
        let (mut v, mut sum) = (vec![0.0; HIDDEN + 1], vec![0.0; HIDDEN + 1]);
        for step in spikes.iter().flat_map(|spikes| spikes.chunks_exact(HIDDEN)) {
            let drive = step.iter().chain(std::iter::once(&1.0));
            for ((v, sum), z) in v.iter_mut().zip(&mut sum).zip(drive) {
                *v += DT * (z - *v);
                *sum += *v;
            }
        }
        features.push(sum);
    }
    Ok(features)
}

/// Solves `(XᵀX + RIDGE·1)·W = Xᵀ·Y`, with `Y` 1 for a recording's class; gives the rows of `Wᵀ`.
fn ridge(features: &[Vec<f64>], recordings: &[Recording]) -> Option<Vec<Vec<f64>>> {
    let n = HIDDEN + 1;
    let mut rows = vec![vec![0.0; n + CLASSES.len()]; n];
    for (x, recording) in features.iter().zip(recordings) {
        for (row, a) in rows.iter_mut().zip(x) {
            for (cell, b) in row.iter_mut().zip(x) {
                *cell += a * b;
            }
            *row.get_mut(n + recording.class)? += a;
        }
    }
    for (i, row) in rows.iter_mut().enumerate() {
        *row.get_mut(i)? += RIDGE;
    }
    // Gauss and Jordan; the matrix is positive definite, so no pivot is zero.
    for i in 0..n {
        let pivot = *rows.get(i)?.get(i)?;
        rows.get_mut(i)?.iter_mut().for_each(|cell| *cell /= pivot);
        let source = rows.get(i)?.clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(j, _)| *j != i) {
            let factor = *row.get(i)?;
            row.iter_mut()
                .zip(&source)
                .for_each(|(cell, s)| *cell -= factor * s);
        }
    }
    let class = |k: usize| rows.iter().map(|row| row.get(n + k).copied()).collect();
    (0..CLASSES.len()).map(class).collect()
}
