//! Connections of one socket: counted, bounded, and missed when they end.

use futures::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::transport::server::Connected;

/// How many connections are open.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    open: Arc<watch::Sender<usize>>,
    ended: Arc<watch::Sender<bool>>,
    most: usize,
}

impl Connections {
    /// None yet, and never more than `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            open: Arc::new(watch::Sender::new(0)),
            ended: Arc::new(watch::Sender::new(false)),
            most,
        }
    }

    /// Ends them all: each reads as closed from now on. A server that is dropped leaves its
    /// connections to themselves.
    pub(super) fn end_all(&self) {
        self.ended.send_replace(true);
    }

    /// Returns once none is open.
    pub(super) async fn wait_for_none(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Returns once one is open.
    pub(super) async fn wait_for_some(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open > 0).await;
    }

    fn enter(&self) -> Option<Guard> {
        let mut entered = false;
        self.open.send_if_modified(|open| {
            entered = *open < self.most;
            *open += usize::from(entered);
            entered
        });
        entered.then(|| Guard(self.open.clone()))
    }
}

#[derive(Debug)]
struct Guard(Arc<watch::Sender<usize>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Accepted connections, those beyond the bound closed at once.
pub(super) struct Incoming {
    listener: UnixListener,
    connections: Connections,
}

impl Incoming {
    /// Accepts from `listener` and counts in `connections`.
    pub(super) fn new(listener: UnixListener, connections: Connections) -> Self {
        Self {
            listener,
            connections,
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let (stream, _) = ready!(self.listener.poll_accept(context))?;
            if let Some(guard) = self.connections.enter() {
                return Poll::Ready(Some(Ok(Connection::new(stream, guard, &self.connections))));
            }
        }
    }
}

/// A stream that is counted while it lives, and closed with its socket.
pub(super) struct Connection {
    stream: UnixStream,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _guard: Guard,
}

impl Connection {
    fn new(stream: UnixStream, guard: Guard, connections: &Connections) -> Self {
        let mut ended = connections.ended.subscribe();
        let end = async move {
            let _ = ended.wait_for(|ended| *ended).await;
        };
        Self {
            stream,
            end: Some(Box::pin(end)),
            _guard: guard,
        }
    }

    fn has_ended(&mut self, context: &mut Context<'_>) -> bool {
        if self
            .end
            .as_mut()
            .is_some_and(|end| end.as_mut().poll(context).is_ready())
        {
            self.end = None;
        }
        self.end.is_none()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_ended(context) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
