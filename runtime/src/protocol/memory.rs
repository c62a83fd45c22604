//! Memory for requests that arrive, shared by all of them: a bound on what clients can make the server hold.
//!
//! REST knows the length of a body, or its limit, before it reads it. A gRPC message comes frame by frame, in a
//! stream that may have many: a [`Meter`] counts what came since the last message was taken out, and the body of
//! a request ends with an error where there is no memory left, or where a message stays half sent for too long.

use super::body::READ_TIMEOUT;
use super::refusal::{Kind, Refused};
use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// Bytes of one permit.
const UNIT: usize = 1024;

/// The memory that all requests share.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Semaphore>);

/// A part of it, given back when dropped.
#[derive(Debug)]
pub struct Share(#[allow(dead_code)] OwnedSemaphorePermit);

impl Memory {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS),
        )))
    }

    /// A part of it, where there is as much left.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(units).ok().map(Share)
    }
}

/// Counts what a gRPC request holds.
#[derive(Debug, Clone)]
pub struct Meter(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    memory: Memory,
    share: Option<OwnedSemaphorePermit>,
}

impl Meter {
    /// A meter that has counted nothing.
    pub fn new(memory: Memory) -> Self {
        Self(Arc::new(Mutex::new(Held { memory, share: None })))
    }

    /// Hands over what was counted so far: a message is whole, and whoever answers it holds its memory.
    pub fn take(&self) -> Option<Share> {
        self.held().share.take().map(Share)
    }

    // Nothing panics under this lock.
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_holding(&self) -> bool {
        self.held().share.is_some()
    }

    /// Counts bytes; false where there is no memory for them.
    fn charge(&self, bytes: usize) -> bool {
        let mut held = self.held();
        let Some(Share(more)) = held.memory.try_take(bytes) else {
            return false;
        };
        match &mut held.share {
            Some(share) => share.merge(more),
            none => *none = Some(more),
        }
        true
    }
}

/// The body of a gRPC request, counted.
pub struct Metered<B> {
    body: B,
    meter: Meter,
    /// How long a message may take, once it has begun.
    patience: Duration,
    /// Ends the wait for the rest of one.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> Metered<B> {
    /// Counts what `body` gives by `meter`.
    pub fn new(body: B, meter: Meter) -> Self {
        Self {
            body,
            meter,
            patience: READ_TIMEOUT,
            timer: None,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B>
where
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.meter.is_holding() {
            self.timer = None;
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if bytes == 0 || self.meter.charge(bytes) {
                    return Poll::Ready(Some(Ok(frame)));
                }
                let refused = Refused::from(crate::engine::InferError::Overloaded);
                Poll::Ready(Some(Err(refused.into())))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending if self.meter.is_holding() => {
                let patience = self.patience;
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
                ready!(timer.as_mut().poll(context));
                let refused = Refused::new(Kind::Slow, "the message did not arrive in time");
                Poll::Ready(Some(Err(refused.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;

    fn frames(sizes: &[usize]) -> impl Body<Data = Bytes, Error = Infallible> + Unpin + use<> {
        let frames: Vec<_> = sizes
            .iter()
            .map(|&n| Ok(Frame::data(vec![0; n].into())))
            .collect();
        StreamBody::new(futures::stream::iter(frames))
    }

    #[tokio::test]
    async fn what_arrives_is_counted_until_it_is_taken_and_dropped() {
        let memory = Memory::new(8 * UNIT);
        let meter = Meter::new(memory.clone());
        let mut body = Metered::new(frames(&[4 * UNIT, 3 * UNIT, UNIT]), meter.clone());
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().await.unwrap().is_ok());
        assert!(memory.try_take(2 * UNIT).is_none());
        let share = meter.take();
        assert!(
            memory.try_take(2 * UNIT).is_none(),
            "whoever answers still holds it"
        );
        drop(share);
        assert!(memory.try_take(8 * UNIT).is_some());
        assert!(body.frame().await.unwrap().is_ok());
        drop((body, meter));
        assert!(memory.try_take(8 * UNIT).is_some());
    }

    #[tokio::test]
    async fn there_is_no_more_than_there_is() {
        let meter = Meter::new(Memory::new(8 * UNIT));
        let mut body = Metered::new(frames(&[8 * UNIT, 1]), meter);
        assert!(body.frame().await.unwrap().is_ok());
        let status = body.frame().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn half_a_message_is_not_waited_for_for_ever_and_silence_between_two_is() {
        let meter = Meter::new(Memory::new(8 * UNIT));
        let first = futures::stream::iter([Ok::<_, Infallible>(Frame::data(vec![0; 5].into()))]);
        let body = StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending()));
        let mut body = Metered::new(body, meter.clone());
        body.patience = Duration::from_millis(20);
        assert!(body.frame().await.unwrap().is_ok());
        let _share = meter.take();
        let quiet = tokio::time::timeout(body.patience * 5, body.frame()).await;
        assert!(quiet.is_err(), "a sensor may be silent");
        assert!(meter.charge(5));
        let status = body.frame().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }
}
