//! The networks of the figure, and the spikes that they are shown. They are the same everywhere.

use perwatt_spiking::{Graph, Integrator, Node, Spiking, Tensor};
use serde::Serialize;

/// Seconds of a step.
pub const DT: f64 = 1e-3;
/// Steps in which a voltage falls to a third.
const DECAY: f64 = 8.0;

/// A network, and how its nodes hang together for those who cannot follow edges.
pub struct Network {
    /// As a figure names it.
    pub name: &'static str,
    /// The network.
    pub graph: Graph,
    /// Elements of a step of its input.
    pub inputs: usize,
    /// Its layers, first to last.
    pub stages: Vec<Stage>,
}

/// A layer, its neurons, and a layer from the neurons back to themselves.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    layer: String,
    neurons: String,
    back: Option<String>,
}

/// A layer larger than a cache, one that fits into it, a deep network, and one that feeds back.
pub fn all() -> Vec<Network> {
    let stage = |has_bias, has_back| Shape { has_bias, has_back };
    vec![
        build("a layer of 2,048 LIF", 2048, &[stage(false, false)]),
        build("a layer of 256 LIF", 256, &[stage(false, false)]),
        build(
            "three layers of 256 LIF with biases",
            256,
            &[stage(true, false); 3],
        ),
        build("a recurrent layer of 512 LIF", 512, &[stage(false, true)]),
    ]
}

#[derive(Clone, Copy)]
struct Shape {
    has_bias: bool,
    has_back: bool,
}

fn build(name: &'static str, size: usize, shapes: &[Shape]) -> Network {
    let mut noise = Noise::new(size as u64);
    let shape = vec![size];
    let mut graph = Graph::default().with_node("input", Node::Input { shape: shape.clone() });
    let mut stages = Vec::new();
    let mut from = "input".to_owned();
    for (number, stage) in shapes.iter().enumerate() {
        let (layer, neurons) = (format!("layer{number}"), format!("lif{number}"));
        graph = graph
            .with_node(&layer, noise.layer(size, stage.has_bias))
            .with_node(&neurons, lif(size))
            .with_edge(&from, &layer)
            .with_edge(&layer, &neurons);
        let back = stage.has_back.then(|| format!("back{number}"));
        if let Some(back) = &back {
            graph = graph
                .with_node(back, noise.layer(size, false))
                .with_edge(&neurons, back)
                .with_edge(back, &neurons);
        }
        from.clone_from(&neurons);
        stages.push(Stage { layer, neurons, back });
    }
    let graph = graph
        .with_node("output", Node::Output { shape })
        .with_edge(&from, "output");
    Network {
        name,
        graph,
        inputs: size,
        stages,
    }
}

fn lif(size: usize) -> Node {
    let all = |value: f64| Tensor::vector(vec![value; size]);
    Node::Lif {
        li: Integrator {
            tau: all(DECAY * DT),
            r: all(1.0),
            v_leak: all(0.0),
        },
        spiking: Spiking {
            threshold: all(1.0),
            reset: all(0.0),
            refractory: Tensor::scalar(0.0),
        },
    }
}

/// An input in which so many hundredths, at random places, are 0 and the others 1.
pub fn spikes(count: usize, sparsity: u32) -> Vec<u8> {
    let mut noise = Noise::new(u64::from(sparsity));
    let mut is_spike = || noise.unit() * 100.0 >= f64::from(sparsity);
    std::iter::repeat_with(|| u8::from(is_spike()))
        .take(count)
        .collect()
}

/// Numbers that look random.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits")]
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// In single precision, so that whoever computes with it has the same weights.
    #[allow(clippy::cast_possible_truncation, reason = "it is meant to be less precise")]
    fn between(&mut self, most: f64) -> f64 {
        f64::from(((self.unit() * 2.0 - 1.0) * most) as f32)
    }

    /// Weights with a mean of zero: a fixed part of the neurons fires, whatever the layer's size.
    #[allow(clippy::cast_precision_loss, reason = "the size of a layer")]
    fn layer(&mut self, size: usize, has_bias: bool) -> Node {
        let most = (2048.0 / size as f64).sqrt();
        let weight = Tensor {
            shape: vec![size, size],
            values: std::iter::repeat_with(|| self.between(most))
                .take(size * size)
                .collect(),
        };
        if !has_bias {
            return Node::Linear { weight };
        }
        let bias = std::iter::repeat_with(|| self.between(1.0)).take(size);
        let bias = Tensor::vector(bias.collect());
        Node::Affine { weight, bias }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_of_the_input_is_zero_as_was_asked_for() {
        for sparsity in [50, 90, 95, 99] {
            let spikes = spikes(200_000, sparsity);
            let zeros = spikes.iter().filter(|&&spike| spike == 0).count() as f64 / 2000.0;
            assert!((zeros - f64::from(sparsity)).abs() < 0.5, "{zeros} at {sparsity}");
        }
    }
}
