//! Threads that run model calls, with a bounded queue before them.
//!
//! Every variant has a pool of its own: a device that hangs then blocks nobody else.
//! A thread that hangs in a call is given up and replaced, a few times; a thread cannot be ended from
//! outside, and so each one that hangs stays until its call returns, or the process ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

/// Threads of one pool that may hang at once before it gets no new ones.
pub const MOST_HUNG: usize = 4;

/// A few threads and their queue. When it is dropped, the threads end after the job they are at.
#[derive(Debug)]
pub struct Pool {
    name: String,
    shared: Arc<Shared>,
}

/// Threads of a pool that hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hung {
    /// How many were given up, and have not returned.
    pub threads: usize,
    /// No thread is left that could take a job.
    pub all: bool,
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
    /// Threads that were not given up.
    threads: usize,
    /// How many there should be.
    wanted: usize,
    /// Jobs that are being run.
    running: Vec<Running>,
    next_id: u64,
}

struct Running {
    id: u64,
    since: Instant,
    given_up: bool,
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
        shared.lock().wanted = threads;
        let pool = Self {
            name: format!("infer-{name}"),
            shared,
        };
        for _ in 0..threads {
            pool.add_thread()?;
        }
        Ok(pool)
    }

    fn add_thread(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        // Counted first: the thread must not find itself superfluous.
        shared.lock().threads += 1;
        let started = thread::Builder::new()
            .name(self.name.clone())
            .spawn(move || work(&shared));
        if started.is_err() {
            self.shared.lock().threads -= 1;
        }
        started.map(|_| ())
    }

    /// Queues a job; false when the queue is full.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= self.shared.capacity {
            return false;
        }
        queue.jobs.push_back(Box::new(job));
        // Before the thread wakes, which would else wait for this very lock.
        drop(queue);
        self.shared.wake.notify_one();
        true
    }

    /// Number of jobs that wait.
    pub fn queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Gives up threads whose job took longer than `patience`, and replaces them while few hang.
    pub fn mend(&self, now: Instant, patience: Duration) -> Hung {
        let mut queue = self.shared.lock();
        let Queue { running, threads, .. } = &mut *queue;
        let mut lost = 0;
        for job in running.iter_mut().filter(|job| !job.given_up) {
            if now.saturating_duration_since(job.since) >= patience {
                job.given_up = true;
                *threads -= 1;
                lost += 1;
            }
        }
        let hung = running.iter().filter(|job| job.given_up).count();
        drop(queue);
        let spare = (MOST_HUNG + lost).saturating_sub(hung).min(lost);
        for _ in 0..spare {
            if let Err(error) = self.add_thread() {
                tracing::error!(%error, pool = self.name, "a thread that hangs cannot be replaced");
            }
        }
        Hung {
            threads: hung,
            all: self.shared.lock().threads == 0,
        }
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
        let id = queue.next_id;
        queue.next_id += 1;
        queue.running.push(Running {
            id,
            since: Instant::now(),
            given_up: false,
        });
        drop(queue);
        job();
        if !is_wanted_after(shared, id) {
            return;
        }
    }
}

/// Whether the thread that ran this job goes on. One that was given up has been replaced, unless too many hung.
fn is_wanted_after(shared: &Shared, id: u64) -> bool {
    let mut queue = shared.lock();
    let Some(place) = queue.running.iter().position(|job| job.id == id) else {
        return true;
    };
    if !queue.running.swap_remove(place).given_up {
        return true;
    }
    if queue.threads >= queue.wanted {
        return false;
    }
    queue.threads += 1;
    true
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

    #[test]
    fn a_thread_that_hangs_is_replaced_a_few_times_and_comes_back_when_none_is_left() {
        let pool = Pool::start("test", 1, 16).unwrap();
        let hang = || {
            let (hold, held) = channel::<()>();
            let (started, start) = channel();
            assert!(pool.submit(move || {
                started.send(()).unwrap();
                let _ = held.recv();
            }));
            start.recv().unwrap();
            hold
        };
        let mend = || pool.mend(Instant::now(), Duration::ZERO);
        let mut holds = Vec::new();
        for threads in 1..=MOST_HUNG {
            holds.push(hang());
            assert_eq!(mend(), Hung { threads, all: false }, "it is replaced");
        }
        holds.push(hang());
        let threads = MOST_HUNG + 1;
        assert_eq!(mend(), Hung { threads, all: true }, "now it is not");
        let (done, results) = channel();
        assert!(pool.submit(move || done.send(()).unwrap()));
        holds.pop();
        results.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(holds);
        while pool.mend(Instant::now(), Duration::from_secs(60)).threads > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn a_job_that_takes_its_time_is_left_alone() {
        let pool = Pool::start("test", 1, 16).unwrap();
        let (hold, held) = channel::<()>();
        let (started, start) = channel();
        assert!(pool.submit(move || {
            started.send(()).unwrap();
            let _ = held.recv();
        }));
        start.recv().unwrap();
        let hung = pool.mend(Instant::now(), Duration::from_secs(60));
        assert_eq!(
            hung,
            Hung {
                threads: 0,
                all: false
            }
        );
        drop(hold);
    }
}
