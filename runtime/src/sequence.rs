//! What the runtime remembers of sequences, in a table of bounded size.

use crate::backend::{BackendError, Model, SequenceRun};
use crate::pipeline::Pasts;
use crate::telemetry::jitter::Rhythm;
use crate::tensor::{Data, Tensor};
use perwatt_model::Manifest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Which sequence a request belongs to. A number and the same digits as text are two sequences.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SequenceId {
    /// An integer other than 0.
    Number(u64),
    /// A text that is not empty.
    Text(String),
}

/// Longest text of a sequence id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// What one sequence hands from a request to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// The variant that made the states; another one cannot use them.
    pub variant: Option<usize>,
    /// One tensor for each state that `model.yaml` declares.
    pub states: Vec<Tensor>,
    /// For every input the end of its last window; nothing where windows do not overlap.
    pub contexts: Vec<Option<Data>>,
    /// The state of a model that keeps it inside; nothing for models that do not.
    pub run: Option<Run>,
    /// The state inside the model was lost; the next answer says so.
    pub lost: bool,
    /// How evenly its requests come; another variant can use it.
    pub rhythm: Rhythm,
    /// What the steps before and after the model remember. It is the sequence's: another variant goes on with it.
    pub past: Pasts,
}

/// A model that keeps its state inside, as it runs for one sequence. It is made by the first call that gets
/// to run, on the thread of that call. Clones are the same run.
#[derive(Debug, Clone, Default)]
pub struct Run(Arc<StdMutex<RunState>>);

#[derive(Debug, Default)]
enum RunState {
    #[default]
    New,
    Begun(Box<dyn SequenceRun>),
    /// A call failed or panicked: where the state is, nobody knows.
    Lost,
}

/// The state inside a model while a call has it.
#[derive(Debug)]
pub struct Held {
    run: Run,
    lost: bool,
}

impl Held {
    /// What the call runs.
    pub fn run(&self) -> Run {
        self.run.clone()
    }
}

impl Run {
    /// Runs the next request of the sequence.
    ///
    /// # Errors
    /// When the model fails, did so before, or keeps no state.
    pub fn infer(&self, model: &dyn Model, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        // A panic leaves `Lost` behind, and so a poisoned lock holds a whole state.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut run = match std::mem::replace(&mut *state, RunState::Lost) {
            RunState::Begun(run) => run,
            RunState::Lost => return Err(BackendError("an earlier call of this sequence failed".into())),
            RunState::New => match model.begin()? {
                Some(run) => run,
                None => return Err(BackendError("the model keeps no state of its own".into())),
            },
        };
        let outputs = run.infer(inputs)?;
        *state = RunState::Begun(run);
        Ok(outputs)
    }
}

impl Memory {
    /// The memory at the start of a sequence: zeros.
    pub fn fresh(manifest: &Manifest) -> Self {
        let states = manifest
            .states()
            .iter()
            .map(|s| Tensor::zeros(s.datatype, &s.shape));
        let contexts = manifest
            .prepared_inputs()
            .map(|input| match manifest.context_samples(&input.name) {
                0 => None,
                samples => Some(Data::zeros(input.datatype, samples as usize)),
            });
        Self {
            variant: None,
            states: states.collect(),
            contexts: contexts.collect(),
            run: manifest.has_own_state().then(Run::default),
            lost: false,
            rhythm: Rhythm::default(),
            past: Pasts::default(),
        }
    }

    /// Lends the state inside the model to a call. Until it is given back it counts as lost: the call may fail,
    /// be late, or lose its client half-way, and has then perhaps taken a request in that nobody got an answer to.
    pub fn hold_run(&mut self) -> Option<Held> {
        let run = self.run.as_mut().map(std::mem::take)?;
        let held = Held { run, lost: self.lost };
        self.lost |= self.variant.is_some();
        Some(held)
    }

    /// Takes the state back after a call that was answered, or never began.
    pub fn give_back(&mut self, held: Held) {
        self.run = Some(held.run);
        self.lost = held.lost;
    }

    /// What the model takes: what the steps before it give, after its context, then the states.
    pub fn model_inputs(&self, inputs: &[Tensor]) -> Option<Vec<Tensor>> {
        let windows = inputs
            .iter()
            .zip(&self.contexts)
            .map(|(input, context)| match context {
                Some(context) => input.after(context),
                None => Some(input.clone()),
            });
        windows.chain(self.states.iter().cloned().map(Some)).collect()
    }

    /// A memory that begins anew for another variant: what belongs to none of them stays.
    pub fn begun_anew(&self, fresh: Self) -> Self {
        Self {
            past: self.past.clone(),
            ..fresh
        }
    }

    /// Remembers what the next request needs; the rest of `outputs` is the reply's.
    pub fn advance(&mut self, variant: usize, inputs: &[Tensor], outputs: &mut Vec<Tensor>) {
        let replies = outputs.len().saturating_sub(self.states.len());
        self.states = outputs.split_off(replies);
        for (context, input) in self.contexts.iter_mut().zip(inputs) {
            if let Some(context) = context {
                *context = input.data.tail(context.len());
            }
        }
        self.variant = Some(variant);
        self.lost = false;
    }
}

/// A sequence's memory; requests of one sequence take turns at it, in the order they came.
pub type Shared = Arc<Mutex<Memory>>;

/// The sequences that are under way.
#[derive(Debug)]
pub struct Sequences {
    table: StdMutex<HashMap<SequenceId, Entry>>,
    capacity: usize,
    idle: Duration,
}

#[derive(Debug)]
struct Entry {
    memory: Shared,
    used: Instant,
}

impl Sequences {
    /// A table for `capacity` sequences that forgets one after it was `idle`.
    pub fn new(capacity: usize, idle: Duration) -> Self {
        Self {
            table: StdMutex::default(),
            capacity: capacity.max(1),
            idle,
        }
    }

    // Nothing panics under this lock, so a poisoned lock holds a whole table.
    fn lock(&self) -> MutexGuard<'_, HashMap<SequenceId, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of `id` and whether it was known; an unknown one gets `fresh`.
    pub fn open(&self, id: &SequenceId, fresh: Memory, now: Instant) -> (Shared, bool) {
        let mut table = self.lock();
        if let Some(entry) = table.get_mut(id) {
            entry.used = now;
            return (entry.memory.clone(), true);
        }
        make_room(&mut table, self.capacity, self.idle, now);
        let memory = Arc::new(Mutex::new(fresh));
        table.insert(
            id.clone(),
            Entry {
                memory: memory.clone(),
                used: now,
            },
        );
        (memory, false)
    }

    /// Whether a sequence is under way.
    pub fn contains(&self, id: &SequenceId) -> bool {
        self.lock().contains_key(id)
    }

    /// Forgets a sequence that ended.
    pub fn close(&self, id: &SequenceId) {
        self.lock().remove(id);
    }

    /// Forgets what was idle for too long.
    pub fn sweep(&self, now: Instant) {
        let idle = self.idle;
        self.lock().retain(|_, entry| !is_stale(entry, idle, now));
    }

    /// Number of sequences under way.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no sequence is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_stale(entry: &Entry, idle: Duration, now: Instant) -> bool {
    now.saturating_duration_since(entry.used) >= idle && Arc::strong_count(&entry.memory) == 1
}

/// Forgets the stale ones, and if that is not enough the one unused for longest.
fn make_room(table: &mut HashMap<SequenceId, Entry>, capacity: usize, idle: Duration, now: Instant) {
    if table.len() < capacity {
        return;
    }
    table.retain(|_, entry| !is_stale(entry, idle, now));
    while table.len() >= capacity {
        // One that a request holds right now goes last.
        let oldest = table
            .iter()
            .min_by_key(|(_, e)| (Arc::strong_count(&e.memory) > 1, e.used));
        let Some(id) = oldest.map(|(id, _)| id.clone()) else {
            return;
        };
        table.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> SequenceId {
        SequenceId::Number(n)
    }

    #[test]
    fn a_full_table_forgets_the_one_unused_for_longest() {
        let table = Sequences::new(2, Duration::from_secs(60));
        let start = Instant::now();
        for n in 1..=2 {
            assert!(
                !table
                    .open(&id(n), Memory::default(), start + Duration::from_secs(n))
                    .1
            );
        }
        assert!(
            table
                .open(&id(1), Memory::default(), start + Duration::from_secs(3))
                .1
        );
        assert!(
            !table
                .open(&id(3), Memory::default(), start + Duration::from_secs(4))
                .1
        );
        assert!(
            table
                .open(&id(1), Memory::default(), start + Duration::from_secs(5))
                .1
        );
        assert!(
            !table
                .open(&id(2), Memory::default(), start + Duration::from_secs(6))
                .1,
            "2 was forgotten"
        );
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn an_idle_one_is_forgotten_unless_a_request_holds_it() {
        let table = Sequences::new(8, Duration::from_secs(60));
        let start = Instant::now();
        let (held, _) = table.open(&id(1), Memory::default(), start);
        table.open(&id(2), Memory::default(), start);
        table.sweep(start + Duration::from_secs(61));
        assert_eq!(table.len(), 1);
        drop(held);
        table.sweep(start + Duration::from_secs(61));
        assert!(table.is_empty());
    }

    #[test]
    fn ends_are_forgotten_and_text_is_not_a_number() {
        let table = Sequences::new(8, Duration::from_secs(60));
        let now = Instant::now();
        table.open(&id(1), Memory::default(), now);
        assert!(
            !table
                .open(&SequenceId::Text("1".into()), Memory::default(), now)
                .1
        );
        table.close(&id(1));
        assert!(!table.open(&id(1), Memory::default(), now).1);
    }

    #[test]
    fn memory_moves_states_and_contexts_on() {
        let manifest = Manifest::parse(
            "schema: 1\nname: m\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [1, 3]}]\n\
             outputs: [{name: y, datatype: FP32, shape: [1]}]\n\
             sequence: {state: [{input: h, output: hn, datatype: FP32, shape: [1]}], context: [{input: x, samples: 2}]}\n\
             files: [{path: a, sha256: '0000000000000000000000000000000000000000000000000000000000000000', \
             backend: Onnx, precision: float32}]\n",
        )
        .unwrap();
        let mut memory = Memory::fresh(&manifest);
        let window = |v: [f32; 3]| {
            vec![Tensor {
                shape: vec![1, 3],
                data: Data::F32(v.to_vec()),
            }]
        };
        let inputs = memory.model_inputs(&window([1., 2., 3.])).unwrap();
        assert_eq!(inputs[0].data, Data::F32(vec![0., 0., 1., 2., 3.]));
        assert_eq!(inputs[1].data, Data::F32(vec![0.]));
        let scalar = |v: f32| Tensor {
            shape: vec![1],
            data: Data::F32(vec![v]),
        };
        let mut outputs = vec![scalar(7.), scalar(8.)];
        memory.advance(4, &window([1., 2., 3.]), &mut outputs);
        assert_eq!(outputs, [scalar(7.)]);
        assert_eq!(memory.variant, Some(4));
        let inputs = memory.model_inputs(&window([4., 5., 6.])).unwrap();
        assert_eq!(inputs[0].data, Data::F32(vec![2., 3., 4., 5., 6.]));
        assert_eq!(inputs[1], scalar(8.));
    }
}
