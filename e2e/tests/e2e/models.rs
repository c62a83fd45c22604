//! Models that are like an example's and yet another: what a new revision, or a variant that disappoints, may be.

use crate::support::{World, copy_model};
use perwatt_e2e::product::Example;
use perwatt_model::ModelFolder;
use perwatt_spiking::{Integrator, Node, Spiking, Tensor, read, write};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use tempfile::TempDir;

const NETWORK: &str = "motion.nir";

/// A folder with a model.
pub struct Model(TempDir);

impl Model {
    /// The motion example without memory between windows: networks of other sizes remember other things.
    pub fn motion() -> Self {
        let model = Self(copy_model(Example::MOTION));
        model.edit(|manifest| {
            let (before, rest) = manifest.split_once("# The windows of").expect("a sequence");
            let (_, after) = rest.split_once("\n\n").expect("and what follows");
            format!("{before}{after}")
        });
        model
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Changes `model.yaml`.
    pub fn edit(&self, change: impl Fn(&str) -> String) {
        let path = self.path("model.yaml");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, change(&text)).expect("written");
    }

    /// Adds a network beside the example's own.
    pub fn add_network(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).expect("written");
        let digest = hex::encode(Sha256::digest(content));
        self.edit(|manifest| {
            let entry = format!(
                "- path: {name}\n  sha256: \"{digest}\"\n  backend: Spiking\n  precision: float32\n  \
                 spiking: {{stepMicroseconds: 100000, steps: 100, readout: Sum}}\n\nlabels:"
            );
            manifest.replace("\nlabels:", &entry)
        });
    }

    /// The example's network with so many neurons more, that never fire: the same answers for more work.
    pub fn heavier(&self, neurons: usize) -> Vec<u8> {
        let content = std::fs::read(self.path(NETWORK)).expect("readable");
        let graph = read(&content).expect("a network");
        let all = |value: f64| Tensor::vector(vec![value; neurons]);
        let weights = |shape: [usize; 2], value: f64| Node::Linear {
            weight: Tensor {
                values: vec![value; shape[0] * shape[1]],
                shape: shape.to_vec(),
            },
        };
        let silent = Node::Lif {
            li: Integrator {
                tau: all(0.5),
                r: all(1.0),
                v_leak: all(0.0),
            },
            spiking: Spiking {
                threshold: all(1e9),
                reset: all(0.0),
                refractory: Tensor::scalar(0.0),
            },
        };
        let graph = graph
            .with_node("silent_weights", weights([neurons, 12], 1.0))
            .with_node("silent", silent)
            .with_node("silent_readout", weights([4, neurons], 0.0))
            .with_edge("input", "silent_weights")
            .with_edge("silent_weights", "silent")
            .with_edge("silent", "silent_readout")
            .with_edge("silent_readout", "li");
        write(&graph).expect("it is written")
    }

    /// Packs it as an image and gives it to the nodes; its reference.
    pub async fn load(&self, world: &World<'_>, name: &str) -> String {
        let model = ModelFolder::open(self.0.path()).expect("a model");
        let archives = tempfile::tempdir().expect("a folder");
        let archive = archives.path().join("image.tar");
        let packed = model
            .pack(&format!("registry.example/models/{name}"), &archive)
            .expect("packed");
        world.cluster.load_image(&archive).await.expect("loaded");
        packed.reference
    }
}
