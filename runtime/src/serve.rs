//! HTTP listeners that end without losing a request.
//!
//! Draining has two steps. First everything is still served, while answers say
//! `connection: close` and readiness is gone, so that clients move elsewhere.
//! Then no connection is accepted any more, and what is under way is finished.

mod http2;

pub use http2::serve_grpc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;

/// Connections that one listener holds at once; others wait to be accepted.
const CONNECTIONS: usize = 1024;
/// A connection that sends no request for this long is closed. Longer than the
/// idle time of usual clients' pools, so that they close first and lose nothing.
const IDLE: Duration = Duration::from_secs(120);

/// Connections that were accepted last get this long to send their request.
const LAST_REQUESTS: Duration = Duration::from_millis(100);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Stopping,
}

/// Tells listeners and handlers how far the end has come.
#[derive(Debug, Clone)]
pub struct Drain(Arc<watch::Sender<Phase>>);

impl Default for Drain {
    fn default() -> Self {
        Self(Arc::new(watch::channel(Phase::Serving).0))
    }
}

impl Drain {
    /// Readiness goes; everything is still served.
    pub fn start(&self) {
        self.0.send_replace(Phase::Draining);
    }

    /// Listeners accept no more and finish what is under way.
    pub fn stop(&self) {
        self.0.send_replace(Phase::Stopping);
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }

    /// Whether listeners accept no more.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() >= Phase::Stopping
    }

    /// Waits until the end has begun.
    pub async fn draining(&self) {
        self.reaches(Phase::Draining).await;
    }

    /// Waits until listeners accept no more.
    pub async fn stopping(&self) {
        self.reaches(Phase::Stopping).await;
    }

    async fn reaches(&self, least: Phase) {
        // The sender lives in `self`, so this ends only when the phase is reached.
        let _ = self.0.subscribe().wait_for(|phase| *phase >= least).await;
    }
}

/// Serves `router` until the drain stops it and all requests are answered.
pub async fn serve(listener: TcpListener, router: Router, drain: Drain) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = tokio::select! {
            () = drain.stopping() => break,
            next = accept(&listener, &connections) => next,
        };
        spawn(next, router.clone(), drain.clone(), graceful.watcher());
    }
    // A connection that the kernel has accepted already would be reset with the listener.
    while let Some(next) = accept(&listener, &connections).now_or_never() {
        spawn(next, router.clone(), drain.clone(), graceful.watcher());
    }
    drop(listener);
    // A new connection would be closed before its first request is read.
    tokio::time::sleep(LAST_REQUESTS).await;
    graceful.shutdown().await;
}

type Accepted = (TcpStream, OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> Accepted {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            // The semaphore is never closed.
            std::future::pending().await
        };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                // No file descriptors, most often: others must end before one can begin.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn spawn((stream, permit): Accepted, router: Router, drain: Drain, watcher: Watcher) {
    // Small answers must not wait for more of them; where it cannot be set they only come later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, drain) = (router.clone(), drain.clone());
        async move {
            let mut response = respond(router, request.map(Body::new)).await;
            if drain.is_draining() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::spawn(async move {
        let _permit = permit;
        // A client that breaks off is its own affair.
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended");
        }
    });
}

async fn respond(router: Router, request: Request<Body>) -> Response<Body> {
    let Ok(response) = router.oneshot(request).await;
    response
}
