//! Neurons: their parameters for one length of step, and what a step does to them.

use crate::counts::Counts;
use crate::signal::{Form, Signal};
use crate::state::Cells;

/// Up to so many silent steps are made up for one by one, with the very roundings that the steps would have
/// had; more of them by one power.
const EXACT_STEPS: u32 = 64;

/// Parameters of one neuron, ready for use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    /// `dt / tau`; for integrators without a leak `dt · r`.
    pub(crate) rate: f64,
    pub(crate) r: f64,
    pub(crate) leak: f64,
    pub(crate) threshold: f64,
    pub(crate) reset: f64,
    /// Steps after a spike in which it stays at `reset`.
    pub(crate) refractory: u32,
    /// `dt / tau_syn`.
    pub(crate) synapse_rate: f64,
    pub(crate) w_in: f64,
}

/// A layer of neurons of one kind.
#[derive(Debug)]
pub(crate) struct Neurons {
    pub(crate) cells: Vec<Cell>,
    pub(crate) is_leaky: bool,
    pub(crate) is_spiking: bool,
    pub(crate) has_synapse: bool,
    pub(crate) has_refractory: bool,
    can_rest: bool,
}

impl Neurons {
    pub(crate) fn new(cells: Vec<Cell>, is_leaky: bool, is_spiking: bool, has_synapse: bool) -> Self {
        let has_refractory = cells.iter().any(|cell| cell.refractory > 0);
        // Left alone, a voltage below the threshold goes towards `leak` and never past it.
        let stays = |cell: &Cell| {
            let is_below = cell.reset <= cell.threshold;
            is_below && (!is_leaky || (cell.leak <= cell.threshold && cell.rate <= 1.0))
        };
        let can_rest = is_spiking && !has_synapse && !has_refractory && cells.iter().all(stays);
        Self {
            cells,
            is_leaky,
            is_spiking,
            has_synapse,
            has_refractory,
            can_rest,
        }
    }

    /// One step.
    pub(crate) fn step(&self, input: &Signal, output: &mut Signal, state: &mut Cells, counts: &mut Counts) {
        if self.can_rest && state.is_settled && input.form == Form::Silent {
            state.idle = state.idle.saturating_add(1);
            output.set_silent();
        } else {
            self.catch_up(state);
            counts.neuron_updates += self.cells.len() as u64;
            state.drive(input);
            self.integrate(state);
            self.emit(output, state);
            state.is_settled = true;
        }
        if self.is_spiking {
            counts.activations += self.cells.len() as u64;
            counts.spikes += output.nonzero() as u64;
        }
    }

    /// Makes up for the steps in which nothing came.
    pub(crate) fn catch_up(&self, state: &mut Cells) {
        let steps = std::mem::take(&mut state.idle);
        if steps == 0 || !self.is_leaky {
            return;
        }
        for (v, cell) in state.v.iter_mut().zip(&self.cells) {
            if steps <= EXACT_STEPS {
                for _ in 0..steps {
                    *v += cell.rate * (cell.leak - *v);
                }
            } else {
                let exponent = i32::try_from(steps).unwrap_or(i32::MAX);
                *v = cell.leak + (*v - cell.leak) * (1.0 - cell.rate).powi(exponent);
            }
        }
    }

    fn integrate(&self, state: &mut Cells) {
        if self.has_synapse {
            for ((i, x), cell) in state.i.iter_mut().zip(&mut state.drive).zip(&self.cells) {
                *i += cell.synapse_rate * (cell.w_in * *x - *i);
                *x = *i;
            }
        }
        let cells = state.v.iter_mut().zip(&state.drive).zip(&self.cells);
        if self.is_leaky {
            for ((v, x), cell) in cells {
                *v += cell.rate * ((cell.leak - *v) + cell.r * x);
            }
        } else {
            for ((v, x), cell) in cells {
                *v += cell.rate * x;
            }
        }
        if self.has_refractory {
            self.hold(state);
        }
    }

    /// Neurons in their refractory time stay at `reset`.
    fn hold(&self, state: &mut Cells) {
        for ((v, wait), cell) in state.v.iter_mut().zip(&mut state.wait).zip(&self.cells) {
            if *wait > 0 {
                *wait -= 1;
                *v = cell.reset;
            }
        }
    }

    fn emit(&self, output: &mut Signal, state: &mut Cells) {
        if !self.is_spiking {
            output
                .dense()
                .iter_mut()
                .zip(&state.v)
                .for_each(|(out, v)| *out = *v);
            return;
        }
        let events = output.spikes();
        for ((index, v), cell) in (0u32..).zip(&mut state.v).zip(&self.cells) {
            if *v > cell.threshold {
                *v = cell.reset;
                events.push(index);
            }
        }
        if self.has_refractory {
            for &index in events.iter() {
                let cell = self.cells.get(index as usize);
                if let (Some(wait), Some(cell)) = (state.wait.get_mut(index as usize), cell) {
                    *wait = cell.refractory;
                }
            }
        }
        output.settle();
    }
}
