//! Connections: TCP, TLS over it, or a unix socket; the same for REST and gRPC.

use super::RemoteError;
use super::endpoint::{At, Endpoint, address};
use axum::http::Uri;
use futures::future::BoxFuture;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tower::Service;

/// A connection that is not there by then will not come in time for a request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Makes connections to one endpoint, whatever address it is asked for.
#[derive(Clone)]
pub struct Connector {
    endpoint: Arc<Endpoint>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    /// A connector for this endpoint; `alpn` is the protocol that TLS agrees on.
    ///
    /// # Errors
    /// When the endpoint asks for TLS, and no authority is trusted here or its name is none that one can vouch for.
    pub fn new(endpoint: &Endpoint, alpn: &[u8]) -> Result<Self, RemoteError> {
        let tls = match endpoint.at() {
            At::Tcp { host, .. } if endpoint.has_tls() => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|_| RemoteError::Tls(format!("{host:?} is no name of a server")))?;
                Some((tls_connector(alpn)?, name))
            }
            _ => None,
        };
        Ok(Self {
            endpoint: Arc::new(endpoint.clone()),
            tls,
        })
    }

    async fn connect(self) -> io::Result<Stream> {
        let stream: Box<dyn Io> = match self.endpoint.at() {
            At::Unix(path) => Box::new(UnixStream::connect(path).await?),
            At::Tcp { host, port } => {
                // A literal address, and localhost, never ask a name server: they cannot lead off the node.
                let tcp = match address(host) {
                    Some(ip) => TcpStream::connect((ip, *port)).await?,
                    None => TcpStream::connect((host.as_str(), *port)).await?,
                };
                tcp.set_nodelay(true)?;
                match self.tls {
                    Some((tls, name)) => Box::new(tls.connect(name, tcp).await?),
                    None => Box::new(tcp),
                }
            }
        };
        Ok(Stream(TokioIo::new(stream)))
    }
}

fn tls_connector(alpn: &[u8]) -> Result<TlsConnector, RemoteError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (trusted, _) = roots.add_parsable_certificates(found.certs);
    if trusted == 0 {
        let text = "no certificate authority is trusted here: set SSL_CERT_FILE to a file of them";
        return Err(RemoteError::Tls(text.into()));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| RemoteError::Tls(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let late = || {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {CONNECT_TIMEOUT:?}"),
                )
            };
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, own.connect()).await;
            connected.map_err(|_| late())?
        })
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An open connection.
pub struct Stream(TokioIo<Box<dyn Io>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
