//! Requests that wait for one variant, put together for its next call.
//!
//! Every request queues one job in the variant's pool. The job that runs first takes as many requests as one call may
//! have, and the jobs of the others find nothing left to do: there are never fewer jobs than requests that wait.

use crate::backend::{BackendError, Batching, Model};
use crate::variant::{Ask, Call, run};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A request waits for others no longer than this part of the time that it has.
const SHARE_OF_TIME: u32 = 4;

/// Requests that no call has taken yet.
pub(crate) struct Batcher {
    waiting: Mutex<Queue>,
    more: Condvar,
    batching: Batching,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Waiting>,
    next_id: u64,
}

struct Waiting {
    id: u64,
    ask: Ask,
    reply: oneshot::Sender<Call>,
    came: Instant,
    /// It waits for others until then.
    until: Instant,
}

impl Batcher {
    /// Nothing waits.
    pub fn new(batching: Batching) -> Self {
        Self {
            waiting: Mutex::default(),
            more: Condvar::new(),
            batching,
        }
    }

    // Nothing panics under this lock, so a poisoned lock holds a whole queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request wait; `queue` queues the job that will call [`Batcher::serve`]. Nothing where it cannot.
    pub fn wait(&self, ask: Ask, queue: impl FnOnce() -> bool) -> Option<oneshot::Receiver<Call>> {
        let (reply, receiver) = oneshot::channel();
        let came = Instant::now();
        let until = came + self.batching.delay.min(ask.timeout / SHARE_OF_TIME);
        let id = {
            let mut waiting = self.lock();
            let id = waiting.next_id;
            waiting.next_id += 1;
            waiting.requests.push_back(Waiting {
                id,
                ask,
                reply,
                came,
                until,
            });
            id
        };
        self.more.notify_all();
        // Where another's job has taken it meanwhile, it needs none of its own.
        let taken = queue() || !self.forget(id);
        taken.then_some(receiver)
    }

    fn forget(&self, id: u64) -> bool {
        let mut waiting = self.lock();
        let before = waiting.requests.len();
        waiting.requests.retain(|request| request.id != id);
        waiting.requests.len() < before
    }

    /// Answers as many requests as one call may have; nothing to do where none waits.
    pub fn serve(&self, model: &dyn Model) {
        let taken = self.take();
        if taken.len() > 1
            && let Some(answers) = together(model, &taken)
        {
            return answer(taken, answers);
        }
        // A call that failed is not the fault of all: each gets its own.
        for request in taken {
            if !request.reply.is_closed() {
                let call = run(model, None, &request.ask.inputs, request.came);
                // Nobody listens any more where this fails: the call was late.
                let _ = request.reply.send(call);
            }
        }
    }

    /// The next requests, once enough wait or the first has waited for long enough. Those whose caller went are dropped.
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.lock();
        loop {
            waiting.requests.retain(|request| !request.reply.is_closed());
            let Some(until) = waiting.requests.iter().map(|request| request.until).min() else {
                return Vec::new();
            };
            let left = until.saturating_duration_since(Instant::now());
            if waiting.requests.len() >= self.batching.most() || left.is_zero() {
                let count = self.batching.fit(waiting.requests.len());
                return waiting.requests.drain(..count).collect();
            }
            let woken = self.more.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What one call gave, and how long it took; nothing where it failed.
struct Answers {
    outputs: Vec<Vec<crate::tensor::Tensor>>,
    began: Instant,
    took: Duration,
}

fn together(model: &dyn Model, taken: &[Waiting]) -> Option<Answers> {
    let requests: Vec<_> = taken.iter().map(|request| &request.ask.inputs[..]).collect();
    let began = Instant::now();
    let outputs = catch_unwind(AssertUnwindSafe(|| model.infer_together(&requests)));
    let outputs = outputs.unwrap_or_else(|_| Err(BackendError("the backend panicked".into())));
    match outputs {
        Ok(outputs) if outputs.len() == taken.len() => Some(Answers {
            outputs,
            began,
            took: began.elapsed(),
        }),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, requests = taken.len(), "a batch failed; its requests are tried one by one");
            None
        }
    }
}

fn answer(taken: Vec<Waiting>, answers: Answers) {
    let together = taken.len();
    for (place, (request, outputs)) in taken.into_iter().zip(answers.outputs).enumerate() {
        let waited = answers.began.saturating_duration_since(request.came);
        let call = Call {
            together,
            leads: place == 0,
            ..Call::new(Ok(outputs), answers.took, waited)
        };
        // Nobody listens any more where this fails: the call was late.
        let _ = request.reply.send(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Data, Tensor};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Gives its input back; fails where a request is negative, and counts its calls.
    #[derive(Default)]
    struct Echo {
        calls: AtomicUsize,
    }

    impl Model for Echo {
        fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            match &inputs[0].data {
                Data::F32(values) if values.iter().any(|x| *x < 0.) => Err(BackendError("negative".into())),
                _ => Ok(inputs.to_vec()),
            }
        }

        fn infer_together(&self, requests: &[&[Tensor]]) -> Result<Vec<Vec<Tensor>>, BackendError> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let negative = |inputs: &&[Tensor]| matches!(&inputs[0].data, Data::F32(v) if v[0] < 0.);
            if requests.iter().any(negative) {
                return Err(BackendError("negative".into()));
            }
            Ok(requests.iter().map(|inputs| inputs.to_vec()).collect())
        }
    }

    fn batcher(delay: Duration) -> Batcher {
        Batcher::new(Batching {
            sizes: vec![4, 2, 1],
            delay,
        })
    }

    fn ask(x: f32) -> Ask {
        Ask {
            inputs: vec![Tensor {
                shape: vec![1],
                data: Data::F32(vec![x]),
            }],
            timeout: Duration::from_secs(60),
            ..Ask::default()
        }
    }

    fn value(call: Call) -> Result<f32, String> {
        match &call.outputs.map_err(|error| error.0)?[0].data {
            Data::F32(values) => Ok(values[0]),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn those_that_wait_are_answered_by_one_call_in_their_order() {
        let (batcher, echo) = (batcher(Duration::ZERO), Echo::default());
        let receivers: Vec<_> = (0..5)
            .map(|n| batcher.wait(ask(n as f32), || true).unwrap())
            .collect();
        for _ in 0..5 {
            batcher.serve(&echo);
        }
        assert_eq!(echo.calls.load(Ordering::SeqCst), 2, "four, then one");
        let calls: Vec<_> = receivers
            .into_iter()
            .map(|r| r.blocking_recv().unwrap())
            .collect();
        assert_eq!(
            calls.iter().map(|c| c.together).collect::<Vec<_>>(),
            [4, 4, 4, 4, 1]
        );
        assert_eq!(calls.iter().filter(|c| c.leads).count(), 2);
        let values: Vec<_> = calls.into_iter().map(|call| value(call).unwrap()).collect();
        assert_eq!(values, [0., 1., 2., 3., 4.]);
    }

    #[test]
    fn one_request_that_fails_takes_no_other_along() {
        let (batcher, echo) = (batcher(Duration::ZERO), Echo::default());
        let receivers: Vec<_> = [1., -1., 2., 3.]
            .map(|x| batcher.wait(ask(x), || true).unwrap())
            .into();
        batcher.serve(&echo);
        let values: Vec<_> = receivers
            .into_iter()
            .map(|receiver| value(receiver.blocking_recv().unwrap()))
            .collect();
        assert_eq!(values, [Ok(1.), Err("negative".to_owned()), Ok(2.), Ok(3.)]);
    }

    #[test]
    fn callers_that_went_and_full_queues_leave_nothing_behind() {
        let (batcher, echo) = (batcher(Duration::ZERO), Echo::default());
        drop(batcher.wait(ask(1.), || true));
        batcher.serve(&echo);
        assert_eq!(echo.calls.load(Ordering::SeqCst), 0);
        assert!(batcher.wait(ask(1.), || false).is_none());
        assert!(batcher.lock().requests.is_empty());
    }

    #[test]
    fn the_first_waits_for_others_but_not_for_long() {
        let batcher = Arc::new(batcher(Duration::from_secs(3600)));
        let (thread, echo) = (batcher.clone(), Arc::new(Echo::default()));
        let first = batcher.wait(ask(0.), || true).unwrap();
        let model = echo.clone();
        let serving = std::thread::spawn(move || thread.serve(&*model));
        let others: Vec<_> = (1..4)
            .map(|n| batcher.wait(ask(n as f32), || true).unwrap())
            .collect();
        serving.join().unwrap();
        assert_eq!(
            first.blocking_recv().unwrap().together,
            4,
            "an hour was not waited for"
        );
        assert_eq!(others.len(), 3);
        // A request with a deadline is not late because others might come.
        let short = Ask {
            timeout: Duration::from_millis(8),
            ..ask(9.)
        };
        let receiver = batcher.wait(short, || true).unwrap();
        batcher.serve(&*echo);
        assert_eq!(receiver.blocking_recv().unwrap().together, 1);
    }
}
