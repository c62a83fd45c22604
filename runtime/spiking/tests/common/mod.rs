//! A second implementation for tests: dense, in double precision, step by step, written from NIR's equations
//! alone. The order of a step and the edges that go back are said by the test, not found.

#![allow(dead_code)] // each test takes what it needs

use perwatt_spiking::{Conv, Cuba, Graph, Integrator, Node, Padding, Pool, Spiking, Tensor};
use std::collections::{BTreeMap, VecDeque};

/// Numbers that look random and are the same everywhere.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// As files usually have them: in single precision.
    pub fn tensor(&mut self, shape: &[usize], low: f64, high: f64) -> Tensor {
        let count = shape.iter().product();
        let values = (0..count)
            .map(|_| f64::from(self.between(low, high) as f32))
            .collect();
        Tensor::new(shape.to_vec(), values).unwrap()
    }

    /// Spikes of `steps` steps, each with this probability.
    pub fn spikes(&mut self, count: usize, probability: f64) -> Vec<f64> {
        (0..count)
            .map(|_| f64::from(u8::from(self.unit() < probability)))
            .collect()
    }
}

pub fn lif(noise: &mut Noise, n: usize, dt: f64) -> Node {
    Node::Lif {
        li: Integrator {
            tau: noise.tensor(&[n], 2.0 * dt, 20.0 * dt),
            r: noise.tensor(&[n], 0.5, 3.0),
            v_leak: noise.tensor(&[n], -0.1, 0.1),
        },
        spiking: spiking(noise, n),
    }
}

pub fn spiking(noise: &mut Noise, n: usize) -> Spiking {
    Spiking {
        threshold: noise.tensor(&[n], 0.2, 1.0),
        reset: noise.tensor(&[n], -0.2, 0.15),
        refractory: Tensor::scalar(0.0),
    }
}

pub fn cuba(noise: &mut Noise, n: usize, dt: f64) -> Cuba {
    Cuba {
        tau_syn: noise.tensor(&[n], 2.0 * dt, 5.0 * dt),
        membrane: Integrator {
            tau: noise.tensor(&[n], 2.0 * dt, 20.0 * dt),
            r: noise.tensor(&[n], 0.5, 3.0),
            v_leak: noise.tensor(&[n], -0.1, 0.1),
        },
        w_in: noise.tensor(&[n], 0.5, 2.0),
    }
}

#[derive(Default)]
struct Cells {
    v: Vec<f64>,
    i: Vec<f64>,
    wait: Vec<i64>,
    past: VecDeque<Vec<f64>>,
}

pub struct Reference<'a> {
    graph: &'a Graph,
    order: Vec<&'a str>,
    back: Vec<(&'a str, &'a str)>,
    dt: f64,
    cells: BTreeMap<&'a str, Cells>,
    now: BTreeMap<&'a str, Vec<f64>>,
    before: BTreeMap<&'a str, Vec<f64>>,
    /// Shape of what each node gives.
    shapes: BTreeMap<&'a str, Vec<usize>>,
}

impl<'a> Reference<'a> {
    pub fn new(graph: &'a Graph, order: &[&'a str], back: &[(&'a str, &'a str)], dt: f64) -> Self {
        Self {
            graph,
            order: order.to_vec(),
            back: back.to_vec(),
            dt,
            cells: BTreeMap::new(),
            now: BTreeMap::new(),
            before: BTreeMap::new(),
            shapes: BTreeMap::new(),
        }
    }

    /// One step; what every node gave is then in [`Self::of`].
    pub fn step(&mut self, inputs: &BTreeMap<&str, &[f64]>) {
        self.before = std::mem::take(&mut self.now);
        for name in self.order.clone() {
            let node = &self.graph.nodes[name];
            let (x, shape) = match node {
                Node::Input { shape } => (inputs[name].to_vec(), shape.clone()),
                _ => self.gather(name),
            };
            let (y, shape) = self.apply(name, node, x, shape);
            self.now.insert(name, y);
            self.shapes.insert(name, shape);
        }
    }

    pub fn of(&self, name: &str) -> &[f64] {
        &self.now[name]
    }

    fn gather(&self, name: &str) -> (Vec<f64>, Vec<usize>) {
        let (mut sum, mut shape) = (Vec::new(), Vec::new());
        let sources = self.graph.edges.iter().filter(|edge| edge.to == name);
        let (back, now): (Vec<_>, Vec<_>) =
            sources.partition(|edge| self.back.contains(&(edge.from.as_str(), name)));
        let mut now: Vec<_> = now.iter().map(|edge| edge.from.as_str()).collect();
        now.sort_unstable();
        let mut add = |values: &[f64]| {
            sum.resize(values.len(), 0.0);
            sum.iter_mut()
                .zip(values)
                .for_each(|(s, v): (&mut f64, _)| *s += v);
        };
        for from in now {
            add(&self.now[from]);
            shape = self.shapes[from].clone();
        }
        for edge in back {
            if let Some(values) = self.before.get(edge.from.as_str()) {
                add(values);
            }
        }
        (sum, shape)
    }

    fn apply(
        &mut self,
        name: &'a str,
        node: &Node,
        x: Vec<f64>,
        shape: Vec<usize>,
    ) -> (Vec<f64>, Vec<usize>) {
        let n = x.len();
        let cells = self.cells.entry(name).or_default();
        cells.v.resize(n, 0.0);
        cells.i.resize(n, 0.0);
        cells.wait.resize(n, 0);
        let dt = self.dt;
        match node {
            Node::Input { shape } | Node::Output { shape } => (x, shape.clone()),
            Node::Affine { weight, bias } => {
                let y = matrix(weight, &x)
                    .iter()
                    .zip(&bias.values)
                    .map(|(y, b)| y + b)
                    .collect();
                (y, vec![weight.shape[0]])
            }
            Node::Linear { weight } => (matrix(weight, &x), vec![weight.shape[0]]),
            Node::Scale { scale } => (
                x.iter().enumerate().map(|(k, x)| x * at(scale, k)).collect(),
                shape,
            ),
            Node::Threshold { threshold } => (
                x.iter()
                    .enumerate()
                    .map(|(k, x)| f64::from(u8::from(*x > at(threshold, k))))
                    .collect(),
                shape,
            ),
            Node::Delay { delay } => {
                cells.past.push_front(x);
                let back = |k: usize| {
                    let row = cells.past.get((at(delay, k) / dt).round() as usize);
                    row.map_or(0.0, |row| row[k])
                };
                ((0..n).map(back).collect(), shape)
            }
            Node::Flatten { .. } => (x, vec![n]),
            Node::SumPool2d(p) => pool(p, &x, &shape, 1.0),
            Node::AvgPool2d(p) => pool(p, &x, &shape, (p.kernel[0] * p.kernel[p.kernel.len() - 1]) as f64),
            Node::Conv2d(c) => convolve(c, &x, shape[1], shape[2]),
            Node::Conv1d(c) => {
                let (y, shape) = convolve(c, &x, 1, shape[1]);
                (y, vec![shape[0], shape[2]])
            }
            Node::Graph(_) => unreachable!("tests flatten by hand"),
            _ => (neurons(node, cells, &x, dt), shape),
        }
    }
}

fn at(tensor: &Tensor, k: usize) -> f64 {
    if tensor.values.len() == 1 {
        tensor.values[0]
    } else {
        tensor.values[k]
    }
}

fn matrix(weight: &Tensor, x: &[f64]) -> Vec<f64> {
    let n = weight.shape[1];
    weight
        .values
        .chunks(n)
        .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
        .collect()
}

fn neurons(node: &Node, cells: &mut Cells, x: &[f64], dt: f64) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for k in 0..x.len() {
        let mut drive = x[k];
        if let Node::CubaLi(cuba) | Node::CubaLif { cuba, .. } = node {
            cells.i[k] += dt / at(&cuba.tau_syn, k) * (at(&cuba.w_in, k) * x[k] - cells.i[k]);
            drive = cells.i[k];
        }
        let v = &mut cells.v[k];
        match node {
            Node::I { r } | Node::If { r, .. } => *v += dt * at(r, k) * drive,
            Node::Li(li) | Node::Lif { li, .. } => leak(v, li, k, drive, dt),
            Node::CubaLi(cuba) | Node::CubaLif { cuba, .. } => leak(v, &cuba.membrane, k, drive, dt),
            _ => unreachable!(),
        }
        let (Node::If { spiking, .. } | Node::Lif { spiking, .. } | Node::CubaLif { spiking, .. }) = node
        else {
            y[k] = *v;
            continue;
        };
        if cells.wait[k] > 0 {
            cells.wait[k] -= 1;
            *v = at(&spiking.reset, k);
        } else if *v > at(&spiking.threshold, k) {
            y[k] = 1.0;
            *v = at(&spiking.reset, k);
            cells.wait[k] = (at(&spiking.refractory, k) / dt).round() as i64;
        }
    }
    y
}

fn leak(v: &mut f64, li: &Integrator, k: usize, x: f64, dt: f64) {
    *v += dt / at(&li.tau, k) * ((at(&li.v_leak, k) - *v) + at(&li.r, k) * x);
}

fn two(lengths: &[usize], place: usize) -> usize {
    lengths[place.min(lengths.len() - 1)]
}

fn convolve(conv: &Conv, x: &[f64], height: usize, width: usize) -> (Vec<f64>, Vec<usize>) {
    let shape = &conv.weight.shape;
    let (outs, ins) = (shape[0], shape[1]);
    let (kh, kw) = if shape.len() == 4 {
        (shape[2], shape[3])
    } else {
        (1, shape[2])
    };
    let is_flat = shape.len() == 3;
    let pick = |lengths: &[usize], place: usize, unit: usize| match (is_flat, place) {
        (true, 0) => unit,
        _ => two(lengths, place),
    };
    let (sy, sx) = (pick(&conv.stride, 0, 1), pick(&conv.stride, 1, 1));
    let (dy, dx) = (pick(&conv.dilation, 0, 1), pick(&conv.dilation, 1, 1));
    let (py, px, oh, ow) = match &conv.padding {
        Padding::Same => (dy * (kh - 1) / 2, dx * (kw - 1) / 2, height, width),
        Padding::Zeros(zeros) => {
            let (py, px) = (pick(zeros, 0, 0), pick(zeros, 1, 0));
            let windows =
                |n: usize, p: usize, d: usize, k: usize, s: usize| (n + 2 * p - d * (k - 1) - 1) / s + 1;
            (
                py,
                px,
                windows(height, py, dy, kh, sy),
                windows(width, px, dx, kw, sx),
            )
        }
    };
    let mut y = Vec::new();
    for o in 0..outs {
        let first = o / (outs / conv.groups) * ins;
        for (oy, ox) in (0..oh).flat_map(|oy| (0..ow).map(move |ox| (oy, ox))) {
            let mut sum = 0.0;
            for (c, ky, kx) in
                (0..ins).flat_map(|c| (0..kh).flat_map(move |ky| (0..kw).map(move |kx| (c, ky, kx))))
            {
                let (iy, ix) = (
                    (oy * sy + ky * dy) as i64 - py as i64,
                    (ox * sx + kx * dx) as i64 - px as i64,
                );
                if iy < 0 || ix < 0 || iy >= height as i64 || ix >= width as i64 {
                    continue;
                }
                let w = conv.weight.values[((o * ins + c) * kh + ky) * kw + kx];
                sum += w * x[((first + c) * height + iy as usize) * width + ix as usize];
            }
            y.push(sum + conv.bias.values[o]);
        }
    }
    (y, vec![outs, oh, ow])
}

fn pool(p: &Pool, x: &[f64], shape: &[usize], divisor: f64) -> (Vec<f64>, Vec<usize>) {
    let (height, width) = (shape[1], shape[2]);
    let windows = |n: usize, place: usize| {
        (n + 2 * two(&p.padding, place) - two(&p.kernel, place)) / two(&p.stride, place) + 1
    };
    let (oh, ow) = (windows(height, 0), windows(width, 1));
    let mut y = vec![0.0; shape[0] * oh * ow];
    for (k, y) in y.iter_mut().enumerate() {
        let (c, oy, ox) = (k / (oh * ow), k / ow % oh, k % ow);
        for ky in 0..two(&p.kernel, 0) {
            for kx in 0..two(&p.kernel, 1) {
                let iy = (oy * two(&p.stride, 0) + ky) as i64 - two(&p.padding, 0) as i64;
                let ix = (ox * two(&p.stride, 1) + kx) as i64 - two(&p.padding, 1) as i64;
                if iy >= 0 && ix >= 0 && iy < height as i64 && ix < width as i64 {
                    *y += x[(c * height + iy as usize) * width + ix as usize];
                }
            }
        }
        *y /= divisor;
    }
    (y, vec![shape[0], oh, ow])
}
