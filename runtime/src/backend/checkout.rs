//! Copies of something that serves one caller at a time, made as callers meet.

use super::BackendError;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Make<T> = Box<dyn Fn() -> Result<T, BackendError> + Send + Sync>;

/// Copies of a `T`. There are never more than there were callers at once.
pub(super) struct Checkout<T> {
    idle: Mutex<Vec<T>>,
    make: Make<T>,
}

impl<T> Checkout<T> {
    /// Makes the first copy, so that what cannot be made is known at once.
    pub fn new(
        make: impl Fn() -> Result<T, BackendError> + Send + Sync + 'static,
    ) -> Result<Self, BackendError> {
        let first = make()?;
        Ok(Self {
            idle: Mutex::new(vec![first]),
            make: Box::new(make),
        })
    }

    // Nothing panics under this lock, so a poisoned lock holds whole copies.
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lends a copy for one call. One that failed, or whose call panicked, is not lent again.
    pub fn with<R>(&self, call: impl FnOnce(&mut T) -> Result<R, BackendError>) -> Result<R, BackendError> {
        let idle = self.lock().pop();
        let mut copy = match idle {
            Some(copy) => copy,
            None => (self.make)()?,
        };
        let result = call(&mut copy)?;
        self.lock().push(copy);
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};

    #[test]
    fn callers_that_meet_get_copies_of_their_own_and_failed_ones_go() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let checkout = Arc::new(Checkout::new(move || Ok(counter.fetch_add(1, Ordering::SeqCst))).unwrap());
        for _ in 0..5 {
            assert_eq!(
                checkout.with(|copy| Ok(*copy)),
                Ok(0),
                "the first serves while it is free"
            );
        }
        let barrier = Arc::new(Barrier::new(2));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (checkout, barrier) = (checkout.clone(), barrier.clone());
                std::thread::spawn(move || {
                    checkout.with(|copy| {
                        barrier.wait();
                        Ok(*copy)
                    })
                })
            })
            .collect();
        let mut lent: Vec<_> = threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect();
        lent.sort_unstable();
        assert_eq!(lent, [0, 1]);
        let failed = checkout.with(|_| Err::<(), _>(BackendError("no".into())));
        assert!(failed.is_err());
        assert_eq!(checkout.lock().len(), 1);
    }
}
