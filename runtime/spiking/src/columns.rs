//! The weights of a fully connected layer, one column for each presynaptic neuron: a spike adds its column.

use crate::counts::Counts;
use crate::signal::{Form, Signal};
use crate::tiles;

/// Below this part of weights that are not zero, only those are kept.
const SPARSE: f64 = 0.25;
/// So many spikes of each input, in the mean, pay for laying the weights out anew; measured on x86-64.
const REUSE: usize = 24;
/// One step after the other a number costs as much as so many spikes: its column is added alone, not with three others.
const NUMBER: usize = 3;

/// A matrix `[out, in]`, laid out by column.
#[derive(Debug)]
pub(crate) struct Columns {
    inputs: usize,
    outputs: usize,
    weights: Weights,
    /// Weights of each column that are not zero.
    nonzero: Vec<u32>,
}

/// Weights in the smallest form that holds them exactly.
#[derive(Debug)]
enum Weights {
    Single(Vec<f32>),
    Double(Vec<f64>),
    Sparse {
        starts: Vec<usize>,
        rows: Vec<u32>,
        weights: Vec<f64>,
    },
}

/// Whether single precision holds every number exactly.
pub(crate) fn is_single(values: &[f64]) -> bool {
    values.iter().all(|&value| f64::from(value as f32) == value)
}

impl Columns {
    /// `weight` row by row, as NIR has it; its length is `outputs · inputs`.
    pub(crate) fn new(weight: &[f64], outputs: usize, inputs: usize) -> Self {
        let column = |j: usize| {
            weight
                .iter()
                .skip(j)
                .step_by(inputs.max(1))
                .take(outputs)
                .copied()
        };
        let count = |j| column(j).filter(|&w| w != 0.0).count();
        let nonzero: Vec<u32> = (0..inputs).map(|j| count(j) as u32).collect();
        let total: u64 = nonzero.iter().map(|&n| u64::from(n)).sum();
        let weights = if (total as f64) < SPARSE * weight.len() as f64 {
            sparse((0..inputs).map(column))
        } else if is_single(weight) {
            Weights::Single((0..inputs).flat_map(column).map(|w| w as f32).collect())
        } else {
            Weights::Double((0..inputs).flat_map(column).collect())
        };
        Self {
            inputs,
            outputs,
            weights,
            nonzero,
        }
    }

    /// Operations of a step in a dense implementation.
    pub(crate) fn dense_operations(&self) -> u64 {
        self.inputs as u64 * self.outputs as u64
    }

    /// Adds weight · input to `sum`, column by column in ascending order.
    pub(crate) fn accumulate(&self, input: &Signal, sum: &mut [f64], counts: &mut Counts) {
        self.add(input, sum);
        self.count(input, counts);
    }

    /// Counts the operations of [`Self::accumulate`].
    pub(crate) fn count(&self, input: &Signal, counts: &mut Counts) {
        match input.form {
            Form::Silent => {}
            Form::Spikes => {
                counts.add_synaptic(self.operations(input.events.iter().map(|&j| j as usize)), true);
            }
            Form::Dense => {
                let active = (0..).zip(&input.values).filter(|(_, x)| **x != 0.0);
                counts.add_synaptic(self.operations(active.map(|(j, _)| j)), false);
            }
        }
    }

    /// Whether [`Self::accumulate_steps`] is quicker for these steps than one after the other.
    pub(crate) fn gains(&self, inputs: &[Signal]) -> bool {
        let is_sparse = matches!(self.weights, Weights::Sparse { .. });
        let spikes = |input: &Signal| match input.form {
            Form::Dense => NUMBER * input.nonzero(),
            _ => input.nonzero(),
        };
        let spikes: usize = inputs.iter().map(spikes).sum();
        !is_sparse && spikes >= REUSE.saturating_mul(self.inputs)
    }

    /// Adds weight · input of many steps, each to the numbers of its sum, in the same order; counts nothing.
    pub(crate) fn accumulate_steps(&self, inputs: &[Signal], sums: &mut [Signal]) {
        match &self.weights {
            Weights::Single(weights) => tiles::add_steps(weights, self.outputs, inputs, sums),
            Weights::Double(weights) => tiles::add_steps(weights, self.outputs, inputs, sums),
            Weights::Sparse { .. } => {
                for (input, sum) in inputs.iter().zip(sums) {
                    self.add(input, &mut sum.values);
                }
            }
        }
    }

    fn add(&self, input: &Signal, sum: &mut [f64]) {
        match input.form {
            Form::Silent => {}
            Form::Spikes => self.add_spikes(&input.events, sum),
            Form::Dense => self.add_numbers(&input.values, sum),
        }
    }

    fn operations(&self, active: impl Iterator<Item = usize>) -> u64 {
        active
            .filter_map(|j| self.nonzero.get(j))
            .map(|&n| u64::from(n))
            .sum()
    }

    fn add_spikes(&self, events: &[u32], sum: &mut [f64]) {
        match &self.weights {
            Weights::Single(weights) => add_columns(weights, self.outputs, events, sum),
            Weights::Double(weights) => add_columns(weights, self.outputs, events, sum),
            Weights::Sparse {
                starts,
                rows,
                weights,
            } => {
                for &j in events {
                    add_sparse(starts, rows, weights, j as usize, 1.0, sum);
                }
            }
        }
    }

    fn add_numbers(&self, values: &[f64], sum: &mut [f64]) {
        match &self.weights {
            Weights::Single(weights) => add_scaled(weights, self.outputs, values, sum),
            Weights::Double(weights) => add_scaled(weights, self.outputs, values, sum),
            Weights::Sparse {
                starts,
                rows,
                weights,
            } => {
                for (j, &x) in values.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                    add_sparse(starts, rows, weights, j, x, sum);
                }
            }
        }
    }
}

fn sparse<C: Iterator<Item = f64>>(columns: impl Iterator<Item = C>) -> Weights {
    let (mut starts, mut rows, mut weights) = (vec![0], Vec::new(), Vec::new());
    for column in columns {
        for (row, weight) in (0u32..).zip(column).filter(|(_, w)| *w != 0.0) {
            rows.push(row);
            weights.push(weight);
        }
        starts.push(rows.len());
    }
    Weights::Sparse {
        starts,
        rows,
        weights,
    }
}

fn column<W>(weights: &[W], outputs: usize, j: usize) -> &[W] {
    weights.get(j * outputs..(j + 1) * outputs).unwrap_or(&[])
}

/// Four columns at a time, so that the sums are loaded and stored once for all four; the order of
/// the additions, and so the result, is that of one column after the other.
fn add_columns<W: Copy + Into<f64>>(weights: &[W], outputs: usize, events: &[u32], sum: &mut [f64]) {
    let of = |j: u32| column(weights, outputs, j as usize);
    let mut quads = events.chunks_exact(4);
    for quad in &mut quads {
        let [a, b, c, d] = *quad else { continue };
        let columns = of(a).iter().zip(of(b)).zip(of(c)).zip(of(d));
        for (sum, (((a, b), c), d)) in sum.iter_mut().zip(columns) {
            *sum = (((*sum + (*a).into()) + (*b).into()) + (*c).into()) + (*d).into();
        }
    }
    for &j in quads.remainder() {
        for (sum, w) in sum.iter_mut().zip(of(j)) {
            *sum += (*w).into();
        }
    }
}

fn add_scaled<W: Copy + Into<f64>>(weights: &[W], outputs: usize, values: &[f64], sum: &mut [f64]) {
    for (j, &x) in values.iter().enumerate().filter(|(_, x)| **x != 0.0) {
        for (sum, w) in sum.iter_mut().zip(column(weights, outputs, j)) {
            *sum += (*w).into() * x;
        }
    }
}

fn add_sparse(starts: &[usize], rows: &[u32], weights: &[f64], j: usize, x: f64, sum: &mut [f64]) {
    let (Some(&start), Some(&end)) = (starts.get(j), starts.get(j + 1)) else {
        return;
    };
    let (Some(rows), Some(weights)) = (rows.get(start..end), weights.get(start..end)) else {
        return;
    };
    for (&row, w) in rows.iter().zip(weights) {
        if let Some(sum) = sum.get_mut(row as usize) {
            *sum += w * x;
        }
    }
}
