//! Models that are like an example's and yet another: what a new revision, or a variant that disappoints, may be.

use crate::support::{World, copy_model};
use perwatt_e2e::product::Example;
use perwatt_model::ModelFolder;
use perwatt_spiking::{Integrator, Node, Spiking, Tensor, read, write};
use prost::Message;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use tempfile::TempDir;
use tract_onnx::pb;

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
        let spiking = "Spiking\n  spiking: {stepMicroseconds: 100000, steps: 100, readout: Sum}";
        self.add(name, content, spiking);
    }

    /// Adds a graph that looks its answer up by the number of events of its input: it fails where that is `size` or more.
    pub fn add_table(&self, name: &str, size: usize) {
        self.add(name, &table(size), "Onnx");
    }

    fn add(&self, name: &str, content: &[u8], backend: &str) {
        std::fs::write(self.path(name), content).expect("written");
        let digest = hex::encode(Sha256::digest(content));
        let entry = format!(
            "- path: {name}\n  sha256: \"{digest}\"\n  precision: float32\n  backend: {backend}\n\nlabels:"
        );
        self.edit(|manifest| manifest.replace("\nlabels:", &entry));
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

/// `table[sum(input)]`: `[1, 100, 12]` to `[1, 4]`.
fn table(size: usize) -> Vec<u8> {
    const FLOAT: i32 = 1;
    const INT64: i64 = 7;
    let value = |name: &str, shape: &[i64]| {
        let dimension = |&length: &i64| pb::tensor_shape_proto::Dimension {
            value: Some(pb::tensor_shape_proto::dimension::Value::DimValue(length)),
            ..Default::default()
        };
        let shape = pb::TensorShapeProto {
            dim: shape.iter().map(dimension).collect(),
        };
        let tensor = pb::type_proto::Tensor {
            elem_type: FLOAT,
            shape: Some(shape),
        };
        pb::ValueInfoProto {
            name: name.into(),
            r#type: Some(pb::TypeProto {
                value: Some(pb::type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..Default::default()
        }
    };
    let node = |op: &str, inputs: &[&str], output: &str, attribute: Option<(&str, i64)>| {
        let attribute = attribute.map(|(name, value)| pb::AttributeProto {
            name: name.into(),
            r#type: pb::attribute_proto::AttributeType::Int as i32,
            i: value,
            ..Default::default()
        });
        pb::NodeProto {
            op_type: op.into(),
            name: output.into(),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.into()],
            attribute: attribute.into_iter().collect(),
            ..Default::default()
        }
    };
    let rows = i64::try_from(size).expect("a size");
    let table = pb::TensorProto {
        dims: vec![rows, 1, 4],
        data_type: FLOAT,
        float_data: [1.0, 0.0, 0.0, 0.0].repeat(size),
        name: "table".into(),
        ..Default::default()
    };
    let graph = pb::GraphProto {
        name: "table".into(),
        input: vec![value("input", &[1, 100, 12])],
        output: vec![value("output", &[1, 4])],
        initializer: vec![table],
        node: vec![
            node("ReduceSum", &["input"], "events", Some(("keepdims", 0))),
            node("Cast", &["events"], "at", Some(("to", INT64))),
            node("Gather", &["table", "at"], "output", None),
        ],
        ..Default::default()
    };
    let model = pb::ModelProto {
        ir_version: 7,
        opset_import: vec![pb::OperatorSetIdProto {
            version: 11,
            ..Default::default()
        }],
        graph: Some(graph),
        ..Default::default()
    };
    model.encode_to_vec()
}
