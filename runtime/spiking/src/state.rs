//! What a network remembers from one step to the next. The caller keeps it, one for each sequence.

use crate::plan::{Op, Plan};
use crate::signal::Signal;

/// The state of one run of a [`Plan`]: voltages, currents, delay lines and what recurrent edges carry.
/// It belongs to the plan that made it.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) memories: Vec<Memory>,
    /// What the edges that close cycles carry into the next step.
    pub(crate) carries: Vec<Signal>,
    /// The outputs of all nodes in the last step; only so that their memory is used again.
    pub(crate) outputs: Vec<Signal>,
    pub(crate) sum: Signal,
    pub(crate) scratch: Vec<f64>,
}

/// What one node remembers.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    Nothing,
    Neurons(Cells),
    Line(Line),
}

/// The neurons of one node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cells {
    pub(crate) v: Vec<f64>,
    /// Currents of the synapses.
    pub(crate) i: Vec<f64>,
    /// Steps that are left of the refractory time.
    pub(crate) wait: Vec<u32>,
    /// What comes in, in the step under way.
    pub(crate) drive: Vec<f64>,
    /// Silent steps that are not yet made up for.
    pub(crate) idle: u32,
    /// Whether a step has shown that no voltage is above its threshold.
    pub(crate) is_settled: bool,
}

impl Cells {
    pub(crate) fn drive(&mut self, input: &Signal) {
        self.drive.fill(0.0);
        input.add_to(&mut self.drive);
    }
}

/// The last inputs of a delay node.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// One row for each step.
    pub(crate) rows: Vec<f64>,
    /// The row of the step to come.
    pub(crate) head: usize,
    /// Steps since something other than zeros came in.
    pub(crate) quiet: usize,
}

/// Why numbers are no state of a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Another number of them.
    #[error("a state of this network has {expected} numbers, not {found}")]
    Length {
        /// Numbers of the plan's state.
        expected: usize,
        /// Numbers given.
        found: usize,
    },
    /// Not a number that a state can have.
    #[error("number {0} of the state is not finite")]
    NotFinite(usize),
}

impl Plan {
    /// The state at the start of a sequence: zeros.
    pub fn start(&self) -> State {
        let memories = self.steps.iter().map(|step| match &step.op {
            Op::Neurons(neurons) => {
                let count = neurons.cells.len();
                Memory::Neurons(Cells {
                    v: vec![0.0; count],
                    i: vec![0.0; if neurons.has_synapse { count } else { 0 }],
                    wait: vec![0; if neurons.has_refractory { count } else { 0 }],
                    drive: vec![0.0; count],
                    ..Cells::default()
                })
            }
            Op::Delay(delays) => Memory::Line(Line {
                rows: vec![0.0; delays.rows * step.elements],
                head: 0,
                quiet: delays.rows,
            }),
            _ => Memory::Nothing,
        });
        State {
            memories: memories.collect(),
            carries: self
                .carries
                .iter()
                .map(|&source| Signal::new(self.elements(source)))
                .collect(),
            outputs: self.steps.iter().map(|step| Signal::new(step.elements)).collect(),
            sum: Signal::default(),
            scratch: Vec::new(),
        }
    }

    /// Number of numbers that [`Self::save`] gives.
    pub fn state_len(&self) -> usize {
        let nodes = self.steps.iter().map(|step| match &step.op {
            Op::Neurons(neurons) => {
                let parts = 1 + usize::from(neurons.has_synapse) + usize::from(neurons.has_refractory);
                parts * neurons.cells.len()
            }
            Op::Delay(delays) => delays.rows * step.elements,
            _ => 0,
        });
        let carries = self.carries.iter().map(|&source| self.elements(source));
        nodes.chain(carries).sum()
    }

    /// The state as plain numbers, zeros at the start of a sequence. Another process that has the same
    /// file goes on from them by [`Self::restore`], and gives the same answers.
    pub fn save(&self, state: &mut State) -> Vec<f64> {
        let mut numbers = Vec::with_capacity(self.state_len());
        for (step, memory) in self.steps.iter().zip(&mut state.memories) {
            match (&step.op, memory) {
                (Op::Neurons(neurons), Memory::Neurons(cells)) => {
                    neurons.catch_up(cells);
                    numbers.extend_from_slice(&cells.v);
                    numbers.extend_from_slice(&cells.i);
                    numbers.extend(cells.wait.iter().map(|&steps| f64::from(steps)));
                }
                (Op::Delay(_), Memory::Line(line)) => {
                    let (newer, older) = line
                        .rows
                        .split_at((line.head * step.elements).min(line.rows.len()));
                    numbers.extend_from_slice(older);
                    numbers.extend_from_slice(newer);
                }
                _ => {}
            }
        }
        for carry in &state.carries {
            let start = numbers.len();
            numbers.resize(start + carry.length(), 0.0);
            if let Some(part) = numbers.get_mut(start..) {
                carry.add_to(part);
            }
        }
        numbers
    }

    /// The state that [`Self::save`] gave.
    ///
    /// # Errors
    /// When the numbers cannot be one.
    pub fn restore(&self, numbers: &[f64]) -> Result<State, StateError> {
        if numbers.len() != self.state_len() {
            return Err(StateError::Length {
                expected: self.state_len(),
                found: numbers.len(),
            });
        }
        if let Some(index) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(StateError::NotFinite(index));
        }
        let mut state = self.start();
        let mut numbers = numbers.iter().copied();
        for memory in &mut state.memories {
            match memory {
                Memory::Nothing => {}
                Memory::Neurons(cells) => {
                    fill(&mut cells.v, &mut numbers);
                    fill(&mut cells.i, &mut numbers);
                    for (wait, number) in cells.wait.iter_mut().zip(&mut numbers) {
                        *wait = number as u32;
                    }
                }
                Memory::Line(line) => {
                    fill(&mut line.rows, &mut numbers);
                    line.quiet = 0;
                }
            }
        }
        for carry in &mut state.carries {
            let values: Vec<f64> = numbers.by_ref().take(carry.length()).collect();
            carry.load(&values);
        }
        Ok(state)
    }
}

/// `zip` over the target first: it asks the source for no number too many.
fn fill(target: &mut [f64], numbers: &mut impl Iterator<Item = f64>) {
    for (target, number) in target.iter_mut().zip(numbers) {
        *target = number;
    }
}
