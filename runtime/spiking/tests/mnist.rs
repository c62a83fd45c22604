//! A trained network over 5,000 digits. Needs `PERWATT_MNIST_DIR`: the folder that `fetch` beside this file
//! filled (`make test` sets it); without it nothing is proved here, and it says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use perwatt_spiking::{Counts, Plan, Readout, read};
use std::path::PathBuf;

const STEPS: usize = 32;

fn fetched() -> Option<PathBuf> {
    let dir = std::env::var_os("PERWATT_MNIST_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("skipped: PERWATT_MNIST_DIR is not set; run runtime/spiking/tests/fetch and set it");
    }
    dir
}

/// Pixels as the network was trained on them, and the digit.
fn digits(text: &str) -> impl Iterator<Item = (Vec<f64>, usize)> + '_ {
    text.lines().map(|line| {
        let mut numbers: Vec<f64> = line.split(',').map(|x| x.trim().parse().unwrap()).collect();
        let digit = numbers.pop().unwrap() as usize;
        let pixels = numbers.iter().map(|x| (x / 255.0 - 0.1307) / 0.3081).collect();
        (pixels, digit)
    })
}

#[test]
fn a_trained_network_reads_digits() {
    let Some(dir) = fetched() else { return };
    let graph = read(&std::fs::read(dir.join("mlp.nir")).unwrap()).unwrap();
    // Its neurons count in steps.
    let plan = Plan::compile(&graph, Some(1.0)).unwrap();
    let text = std::fs::read_to_string(dir.join("mnist_5k.csv")).unwrap();
    let (mut right, mut all, mut counts) = (0, 0, Counts::default());
    for (pixels, digit) in digits(&text) {
        let (found, cost) = plan
            .run(&mut plan.start(), &[&pixels], STEPS, Readout::Sum)
            .unwrap();
        let best = found[0]
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .unwrap();
        right += usize::from(best.0 == digit);
        all += 1;
        counts += cost;
    }
    println!("{right} of {all} right; {counts:?}");
    assert_eq!(all, 5000);
    // What the same network gives in numpy, in double precision: 93.8 %.
    assert!((4680..=4700).contains(&right), "{right} of 5000");
    assert!(counts.activation_sparsity().unwrap() > 0.8, "{counts:?}");
}
