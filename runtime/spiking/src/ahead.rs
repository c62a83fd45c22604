//! What is known before a step is run: inputs, and the layers that nothing but an input feeds.
//!
//! Such layers are computed for a block of steps at once, which reads their weights once instead of once a step.
//! The block is bounded, and with it the memory. How the sums are made is in `tiles`; everything that depends on
//! neurons, delays or edges that go back stays in `run`.

use crate::columns::Columns;
use crate::counts::Counts;
use crate::plan::{Op, Plan, Source};
use crate::signal::{Form, Signal};
use std::collections::{BTreeMap, BTreeSet};

/// Most numbers that are known ahead at a time, 4 MiB of them.
const ROOM: usize = 1 << 19;
/// Fewer steps than this are run one by one.
const FEW: usize = 8;

/// What inputs and layers give in the steps of a block.
#[derive(Debug, Default)]
pub(crate) struct Ahead<'a> {
    layers: Vec<Layer<'a>>,
    /// Places of the inputs that feed them, each with the numbers of all steps.
    inputs: BTreeMap<usize, &'a [f64]>,
    /// Steps of a block.
    block: usize,
    /// First step of the block under way.
    start: usize,
    /// By place in a step, one signal for each step of the block.
    signals: BTreeMap<usize, Vec<Signal>>,
}

/// A layer that can be computed ahead.
#[derive(Debug)]
struct Layer<'a> {
    place: usize,
    input: usize,
    columns: &'a Columns,
    bias: Option<&'a [f64]>,
}

impl<'a> Ahead<'a> {
    /// Finds what can be known ahead in a run of `steps` steps.
    pub(crate) fn new(plan: &'a Plan, inputs: &[&'a [f64]], steps: usize) -> Self {
        if steps < FEW {
            return Self::default();
        }
        let layers = layers(plan, inputs);
        let fed: BTreeSet<usize> = layers.iter().map(|layer| layer.input).collect();
        let numbers = |&place: &usize| match plan.steps.get(place).map(|step| &step.op) {
            Some(Op::Input(index)) => inputs.get(*index).map(|numbers| (place, *numbers)),
            _ => None,
        };
        let inputs: BTreeMap<usize, &[f64]> = fed.iter().filter_map(numbers).collect();
        let places = layers.iter().map(|layer| layer.place).chain(fed);
        let elements: usize = places.map(|place| plan.elements(place)).sum();
        let block = steps.min(ROOM / elements.max(1));
        if layers.is_empty() || block < FEW {
            return Self::default();
        }
        Self {
            layers,
            inputs,
            block,
            ..Self::default()
        }
    }

    /// Computes the block that begins with the step `time`; within a block it does nothing.
    pub(crate) fn look(&mut self, plan: &Plan, time: usize, counts: &mut Counts) {
        if self.layers.is_empty() || !time.is_multiple_of(self.block) {
            return;
        }
        self.start = time;
        self.load(plan);
        self.compute(plan, counts);
    }

    fn load(&mut self, plan: &Plan) {
        for (&place, numbers) in &self.inputs {
            let elements = plan.elements(place);
            let steps = numbers.chunks_exact(elements.max(1));
            let steps = steps.skip(self.start).take(self.block);
            let known = self.signals.entry(place).or_default();
            known.resize_with(steps.len(), || Signal::new(elements));
            for (signal, values) in known.iter_mut().zip(steps) {
                signal.load(values);
            }
        }
    }

    fn compute(&mut self, plan: &Plan, counts: &mut Counts) {
        for layer in &self.layers {
            // A layer that is left out stays away, and is computed step by step.
            let mut known = self.signals.remove(&layer.place).unwrap_or_default();
            let Some(inputs) = self.signals.get(&layer.input) else {
                continue;
            };
            if layer.columns.gains(inputs) {
                known.resize_with(inputs.len(), || Signal::new(plan.elements(layer.place)));
                layer.compute(inputs, &mut known, counts);
                self.signals.insert(layer.place, known);
            }
        }
    }

    /// Gives what the node at `place` gives in the step `time`, once; false where that is not known.
    pub(crate) fn give(&mut self, place: usize, time: usize, output: &mut Signal) -> bool {
        let known = self.signals.get_mut(&place);
        let signal = known.and_then(|known| known.get_mut(time - self.start));
        // Swapped, not copied: the block to come overwrites what it gets.
        signal.map(|signal| std::mem::swap(signal, output)).is_some()
    }
}

/// The layers that have one source, an input that is not held, directly or through nodes that pass on what they get.
fn layers<'a>(plan: &'a Plan, inputs: &[&[f64]]) -> Vec<Layer<'a>> {
    let mut layers = Vec::new();
    // By place, the input that it passes on.
    let mut passes: Vec<Option<usize>> = Vec::with_capacity(plan.steps.len());
    for (place, step) in plan.steps.iter().enumerate() {
        let source = match step.sources[..] {
            [Source::Now(source)] => passes.get(source).copied().flatten(),
            _ => None,
        };
        passes.push(match (&step.op, source) {
            (Op::Input(index), _) => {
                let is_held = |numbers: &&[f64]| numbers.len() == step.elements;
                (!inputs.get(*index).is_none_or(is_held)).then_some(place)
            }
            (Op::Pass, source) => source,
            (Op::Layer { columns, bias }, Some(input)) => {
                let bias = bias.as_deref();
                layers.push(Layer {
                    place,
                    input,
                    columns,
                    bias,
                });
                None
            }
            _ => None,
        });
    }
    layers
}

impl Layer<'_> {
    /// What [`Columns::accumulate`] and the bias give, for every step.
    fn compute(&self, inputs: &[Signal], outputs: &mut [Signal], counts: &mut Counts) {
        for (input, output) in inputs.iter().zip(outputs.iter_mut()) {
            if input.form == Form::Silent && self.bias.is_none() {
                output.set_silent();
            } else {
                output.zeroed();
                self.columns.count(input, counts);
            }
        }
        self.columns.accumulate_steps(inputs, outputs);
        for output in outputs.iter_mut().filter(|output| output.form == Form::Dense) {
            for (sum, b) in output.values.iter_mut().zip(self.bias.unwrap_or(&[])) {
                *sum += b;
            }
        }
    }
}
