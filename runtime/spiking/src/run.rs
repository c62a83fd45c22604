//! Runs a plan, step by step.

use crate::ahead::Ahead;
use crate::columns::Columns;
use crate::counts::Counts;
use crate::plan::{Delays, Op, Plan, Source, Step};
use crate::signal::{Form, Signal};
use crate::state::{Line, Memory, State};

/// What a run gives of what an output shows in every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Readout {
    /// Every step, one after the other.
    Steps,
    /// The sum over all steps: for spikes, their number.
    #[default]
    Sum,
    /// The mean of all steps: for spikes, their rate.
    Mean,
    /// The last step.
    Last,
}

/// Why a run is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Another number of inputs.
    #[error("the network has {expected} inputs, {found} were given")]
    Inputs {
        /// Inputs of the network.
        expected: usize,
        /// Inputs given.
        found: usize,
    },
    /// An input that fits neither one step nor all.
    #[error("input {name}: {found} numbers are neither one step ({elements}) nor {steps} steps")]
    Length {
        /// Name of the input.
        name: String,
        /// Numbers given.
        found: usize,
        /// Numbers of one step.
        elements: usize,
        /// Steps of this run.
        steps: usize,
    },
    /// A number that nothing can be computed from.
    #[error("input {name}: number {index} is not finite")]
    NotFinite {
        /// Name of the input.
        name: String,
        /// Index of the number.
        index: usize,
    },
}

impl Plan {
    /// Runs `steps` steps from `state` on, which moves along. Each input holds one step, which is then shown
    /// in every step, or all of them. Gives one list of numbers for each output.
    ///
    /// # Errors
    /// When an input does not fit; the state is then as it was.
    pub fn run(
        &self,
        state: &mut State,
        inputs: &[&[f64]],
        steps: usize,
        readout: Readout,
    ) -> Result<(Vec<Vec<f64>>, Counts), RunError> {
        self.check(inputs, steps)?;
        let mut counts = Counts::default();
        let mut results: Vec<Vec<f64>> = self.outputs.iter().map(|_| Vec::new()).collect();
        let still = self.still(inputs);
        let mut ahead = Ahead::new(self, inputs, steps);
        for time in 0..steps {
            ahead.look(self, time, &mut counts);
            self.step(state, inputs, time, &still, &mut ahead, &mut counts);
            for (result, port) in results.iter_mut().zip(&self.outputs) {
                if let Some(signal) = state.outputs.get(port.step) {
                    collect(result, signal, readout);
                }
            }
        }
        counts.steps = steps as u64;
        counts.dense = self.dense.saturating_mul(steps as u64);
        if readout == Readout::Mean {
            let all = results.iter_mut().flatten();
            all.for_each(|value| *value /= steps as f64);
        }
        Ok((results, counts))
    }

    fn check(&self, inputs: &[&[f64]], steps: usize) -> Result<(), RunError> {
        if inputs.len() != self.inputs.len() {
            return Err(RunError::Inputs {
                expected: self.inputs.len(),
                found: inputs.len(),
            });
        }
        for (input, port) in inputs.iter().zip(&self.inputs) {
            let (name, elements) = (port.name.clone(), port.elements());
            if input.len() != elements && Some(input.len()) != elements.checked_mul(steps) {
                return Err(RunError::Length {
                    name,
                    found: input.len(),
                    elements,
                    steps,
                });
            }
            if let Some(index) = input.iter().position(|value| !value.is_finite()) {
                return Err(RunError::NotFinite { name, index });
            }
        }
        Ok(())
    }

    /// The nodes that give in every step what they gave in the first: inputs that are held, and what depends
    /// on nothing else and has no state.
    fn still(&self, inputs: &[&[f64]]) -> Vec<bool> {
        let mut still: Vec<bool> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let is_still = match step.op {
                Op::Input(index) => inputs
                    .get(index)
                    .is_some_and(|input| input.len() == step.elements),
                Op::Neurons(_) | Op::Delay(_) => false,
                _ => step.sources.iter().all(|source| match *source {
                    Source::Now(place) => still.get(place) == Some(&true),
                    Source::Before(_) => false,
                }),
            };
            still.push(is_still);
        }
        still
    }

    fn step(
        &self,
        state: &mut State,
        inputs: &[&[f64]],
        time: usize,
        still: &[bool],
        ahead: &mut Ahead<'_>,
        counts: &mut Counts,
    ) {
        let State {
            memories,
            carries,
            outputs,
            sum,
            scratch,
        } = state;
        for (place, (step, memory)) in self.steps.iter().zip(memories.iter_mut()).enumerate() {
            if time > 0 && still.get(place) == Some(&true) {
                continue;
            }
            let (before, rest) = outputs.split_at_mut(place);
            let Some(output) = rest.first_mut() else { return };
            if ahead.give(place, time, output) {
                continue;
            }
            if let Op::Input(index) = step.op {
                load(output, inputs.get(index).copied().unwrap_or(&[]), time);
                continue;
            }
            let input = gather(step, before, carries, sum);
            apply(step, input, output, memory, scratch, counts);
        }
        for (carry, &source) in carries.iter_mut().zip(&self.carries) {
            if let Some(output) = outputs.get(source) {
                carry.copy_from(output);
            }
        }
    }
}

/// Shows an input its step.
fn load(output: &mut Signal, values: &[f64], time: usize) {
    let elements = output.length();
    let start = if values.len() == elements {
        0
    } else {
        time * elements
    };
    output.load(values.get(start..start + elements).unwrap_or(&[]));
}

/// The sum of all that comes in; no copy where at most one source says anything.
fn gather<'a>(step: &Step, before: &'a [Signal], carries: &'a [Signal], sum: &'a mut Signal) -> &'a Signal {
    let of = |source: &Source| match *source {
        Source::Now(index) => before.get(index),
        Source::Before(index) => carries.get(index),
    };
    let mut active = step
        .sources
        .iter()
        .filter_map(of)
        .filter(|signal| signal.form != Form::Silent);
    let length = step.sources.iter().find_map(of).map_or(0, Signal::length);
    sum.reshape(length);
    match (active.next(), active.next()) {
        (None, _) => sum,
        (Some(one), None) => one,
        (Some(first), Some(second)) => {
            let values = sum.zeroed();
            first.add_to(values);
            second.add_to(values);
            active.for_each(|signal| signal.add_to(values));
            sum
        }
    }
}

fn apply(
    step: &Step,
    input: &Signal,
    output: &mut Signal,
    memory: &mut Memory,
    scratch: &mut Vec<f64>,
    counts: &mut Counts,
) {
    match (&step.op, memory) {
        (Op::Layer { columns, bias }, _) => layer(columns, bias.as_deref(), input, output, counts),
        (Op::Conv(conv), _) => conv.run(input, output, scratch, counts),
        (Op::Pool(pool), _) => pool.run(input, output),
        (Op::Scale(scale), _) => rescale(scale, input, output),
        (
            Op::Threshold {
                thresholds,
                is_silent_at_zero,
            },
            _,
        ) => {
            threshold(thresholds, *is_silent_at_zero, input, output);
            counts.activations += step.elements as u64;
            counts.spikes += output.nonzero() as u64;
        }
        (Op::Delay(delays), Memory::Line(line)) => delay(delays, line, input, output),
        (Op::Neurons(neurons), Memory::Neurons(cells)) => neurons.step(input, output, cells, counts),
        _ => output.copy_from(input),
    }
}

fn layer(columns: &Columns, bias: Option<&[f64]>, input: &Signal, output: &mut Signal, counts: &mut Counts) {
    if input.form == Form::Silent && bias.is_none() {
        return output.set_silent();
    }
    let sums = output.zeroed();
    columns.accumulate(input, sums, counts);
    for (sum, b) in sums.iter_mut().zip(bias.unwrap_or(&[])) {
        *sum += b;
    }
}

fn rescale(scale: &[f64], input: &Signal, output: &mut Signal) {
    if input.form == Form::Silent {
        return output.set_silent();
    }
    let values = output.zeroed();
    input.add_to(values);
    values.iter_mut().zip(scale).for_each(|(value, s)| *value *= s);
}

fn threshold(thresholds: &[f64], is_silent_at_zero: bool, input: &Signal, output: &mut Signal) {
    if input.form == Form::Silent && is_silent_at_zero {
        return output.set_silent();
    }
    let value = |index: usize| match input.form {
        Form::Silent => 0.0,
        Form::Spikes => f64::from(u8::from(input.events.binary_search(&(index as u32)).is_ok())),
        Form::Dense => input.values.get(index).copied().unwrap_or(0.0),
    };
    let above = thresholds
        .iter()
        .enumerate()
        .filter(|(index, t)| value(*index) > **t);
    output.spikes().extend(above.map(|(index, _)| index as u32));
    output.settle();
}

/// Writes the step's row, then takes every element from the row that is as old as its delay.
fn delay(delays: &Delays, line: &mut Line, input: &Signal, output: &mut Signal) {
    let elements = delays.steps.len();
    line.quiet = if input.form == Form::Silent {
        line.quiet.saturating_add(1)
    } else {
        0
    };
    if line.quiet > delays.rows {
        return output.set_silent();
    }
    if let Some(row) = line
        .rows
        .get_mut(line.head * elements..(line.head + 1) * elements)
    {
        row.fill(0.0);
        input.add_to(row);
    }
    let values = scratch_row(delays, line);
    output.load(&values);
    line.head = (line.head + 1) % delays.rows.max(1);
}

fn scratch_row(delays: &Delays, line: &Line) -> Vec<f64> {
    let elements = delays.steps.len();
    let from = |(index, &steps): (usize, &u32)| {
        let row = (line.head + delays.rows - steps as usize) % delays.rows.max(1);
        line.rows.get(row * elements + index).copied().unwrap_or(0.0)
    };
    delays.steps.iter().enumerate().map(from).collect()
}

fn collect(result: &mut Vec<f64>, signal: &Signal, readout: Readout) {
    let length = signal.length();
    let start = if readout == Readout::Steps {
        result.len()
    } else {
        0
    };
    result.resize(start + length, 0.0);
    let Some(part) = result.get_mut(start..) else {
        return;
    };
    if readout == Readout::Last {
        part.fill(0.0);
    }
    signal.add_to(part);
}
