//! Threads that run model calls, with a bounded queue before them.
//!
//! Every variant has a pool of its own: a device that hangs then blocks nobody else.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads and their queue. When it is dropped, the threads end after the job they are at.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("queued", &self.lock().jobs.len())
            .finish_non_exhaustive()
    }
}

impl Shared {
    // A job never runs under this lock, so a poisoned lock holds a whole queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Starts `threads` threads whose queue holds `capacity` jobs.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(name: &str, threads: usize, capacity: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            capacity,
        });
        let pool = Self { shared };
        for _ in 0..threads {
            let shared = pool.shared.clone();
            thread::Builder::new()
                .name(format!("infer-{name}"))
                .spawn(move || work(&shared))?;
        }
        Ok(pool)
    }

    /// Queues a job; false when the queue is full.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= self.shared.capacity {
            return false;
        }
        queue.jobs.push_back(Box::new(job));
        self.shared.wake.notify_one();
        true
    }

    /// Number of jobs that wait.
    pub fn queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.lock();
        let job = loop {
            if queue.closed {
                return;
            }
            match queue.jobs.pop_front() {
                Some(job) => break job,
                None => queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(queue);
        job();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_run_and_a_full_queue_refuses() {
        let pool = Pool::start("test", 1, 2).unwrap();
        let (hold, held) = channel::<()>();
        let (started, start) = channel();
        let (done, results) = channel();
        assert!(pool.submit(move || {
            started.send(()).unwrap();
            held.recv().unwrap();
        }));
        start.recv().unwrap();
        for i in 0..2 {
            let done = done.clone();
            assert!(pool.submit(move || done.send(i).unwrap()));
        }
        assert!(!pool.submit(|| ()), "the queue holds two");
        hold.send(()).unwrap();
        assert_eq!([results.recv().unwrap(), results.recv().unwrap()], [0, 1]);
    }
}
