//! gRPC's listener: HTTP/2 connections that end without losing a request, within bounds.
//!
//! A connection ends by GOAWAY: what is under way on it is finished, and its client opens another, elsewhere
//! where a balancer says so. That happens to each after [`MAX_AGE`], so that load follows the pods, and when the
//! server drains.

use super::{Accepted, CONNECTIONS, Drain, LAST_REQUESTS, accept, respond};
use crate::protocol::memory::{Memory, Meter, Metered};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Age at which a connection is replaced; some are up to a quarter older, so that they do not all go at once.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// A connection that is opened during the drain is served for so long.
const DRAIN_AGE: Duration = Duration::from_secs(1);
/// A client that opens a connection and says nothing is given up after this time.
const SILENCE: Duration = Duration::from_secs(10);

/// Streams of one connection; a client has more requests wait.
const STREAMS: u32 = 128;
/// Bytes that may arrive on one connection before they are read.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// And on one stream.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of a reply that wait for a client that reads slowly.
const SEND_BUFFER: usize = 256 << 10;
/// Bytes of the headers of one request.
const HEADERS: u32 = 16 << 10;
/// A client that was not heard of for this time is asked whether it is there,
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// and given up when it does not answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams that a client opened and reset at once: more of them is an attack.
const RESETS: usize = 64;

/// Serves `router` until the drain stops it and all requests are answered.
pub async fn serve_grpc(listener: TcpListener, router: Router, memory: Memory, drain: Drain) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let spawn = |next| spawn(next, router.clone(), memory.clone(), drain.clone());
    loop {
        tokio::select! {
            () = drain.stopping() => break,
            next = accept(&listener, &connections) => spawn(next),
        }
    }
    while let Some(next) = accept(&listener, &connections).now_or_never() {
        spawn(next);
    }
    drop(listener);
    sleep(LAST_REQUESTS).await;
    // Every connection gives its permit back when it ends.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = connections.acquire_many(all).await;
}

fn spawn((stream, permit): Accepted, router: Router, memory: Memory, drain: Drain) {
    let _ = stream.set_nodelay(true);
    tokio::spawn(async move {
        let _permit = permit;
        let speaks = timeout(SILENCE, stream.readable());
        let speaks = tokio::select! {
            speaks = speaks => speaks.is_ok(),
            () = drain.stopping() => false,
        };
        if speaks {
            tend(stream, router, memory, drain).await;
        }
    });
}

async fn tend(stream: TcpStream, router: Router, memory: Memory, drain: Drain) {
    // Clients choose their port as good as by chance.
    let port = stream.peer_addr().map_or(0, |address| address.port());
    let age = MAX_AGE + MAX_AGE / 4 * u32::from(port) / u32::from(u16::MAX);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let meter = Meter::new(memory.clone());
        request.extensions_mut().insert(meter.clone());
        let request = request.map(|body| Body::new(Metered::new(body, meter)));
        let router = router.clone();
        async move { Ok::<_, Infallible>(respond(router, request).await) }
    });
    let mut connection = pin!(builder().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = until_it_should_go(age, drain) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a gRPC connection ended");
    }
}

/// Until a connection is old, or the server drains.
async fn until_it_should_go(age: Duration, drain: Drain) {
    // A connection of the drain itself has a short life, or its first request would find it closed.
    let is_late = drain.is_draining();
    tokio::select! {
        () = sleep(if is_late { DRAIN_AGE } else { age }) => {}
        () = drain.draining(), if !is_late => {}
        () = drain.stopping() => {}
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}
