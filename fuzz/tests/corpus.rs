//! The corpus: every target takes its inputs; and those that no text editor can write are written.

#![allow(clippy::unwrap_used)]

use perwatt_fuzz::targets::TARGETS;
use perwatt_fuzz::{Args, fuzz};
use perwatt_spiking::{Graph, Integrator, Node, Spiking, Tensor, write};
use std::path::{Path, PathBuf};

fn vector(values: &[f64]) -> Tensor {
    Tensor::vector(values.to_vec())
}

fn lif(n: usize) -> Node {
    let of = |value: f64| vector(&vec![value; n]);
    Node::Lif {
        li: Integrator {
            tau: of(0.01),
            r: of(1.0),
            v_leak: of(0.0),
        },
        spiking: Spiking {
            threshold: of(0.5),
            reset: of(0.0),
            refractory: of(0.0),
        },
    }
}

fn linear(rows: usize, columns: usize) -> Node {
    let values = (0..rows * columns).map(|i| (i % 5) as f64 * 0.25 - 0.5);
    Node::Linear {
        weight: Tensor::new(vec![rows, columns], values.collect()).unwrap(),
    }
}

#[test]
fn every_target_takes_its_corpus() {
    let tmp = tempfile::tempdir().unwrap();
    for target in &TARGETS {
        let args = Args {
            targets: vec![],
            count: 50,
            seed: 7,
            corpus: PathBuf::from("corpus"),
            keep: tmp.path().to_path_buf(),
        };
        // A right input that is refused is an error.
        let counts = fuzz(target, &args).unwrap();
        assert_eq!(counts.accepted + counts.refused, 50, "{}", target.name);
    }
}

#[test]
#[ignore = "writes fuzz/corpus/nir"]
fn nir_files_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/nir");
    std::fs::create_dir_all(&folder).unwrap();
    let forward = Graph::default()
        .with_node("input", Node::Input { shape: vec![3] })
        .with_node("fc", linear(4, 3))
        .with_node("lif", lif(4))
        .with_node("output", Node::Output { shape: vec![4] })
        .with_edge("input", "fc")
        .with_edge("fc", "lif")
        .with_edge("lif", "output");
    let recurrent = forward
        .clone()
        .with_node("back", linear(4, 4))
        .with_edge("lif", "back")
        .with_edge("back", "lif");
    for (name, graph) in [("forward.nir", forward), ("recurrent.nir", recurrent)] {
        std::fs::write(folder.join(name), write(&graph).unwrap()).unwrap();
    }
}
