//! A way from the machine's own namespace into the cluster: listens on loopback
//! and connects from inside a network namespace.

use std::future::pending;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::error::{Error, IoContext, Result};
use super::network::enter;

/// Connections to [`Forward::address`] end at an address of the cluster, until
/// this is dropped.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    _end: oneshot::Sender<()>,
}

impl Forward {
    /// Forwards from `listen` to `target` as seen from inside `namespace`.
    pub fn start(listen: SocketAddr, namespace: &Path, target: SocketAddr) -> Result<Self> {
        let listener = bind(listen)?;
        let address = listener
            .local_addr()
            .context(|| format!("listening on {listen}"))?;
        let (end, ended) = oneshot::channel();
        let (entered, result) = std::sync::mpsc::channel();
        let path = namespace.to_owned();
        // A thread of its own: entering a namespace holds for the whole thread.
        std::thread::spawn(move || {
            let enter = enter(&path);
            let ok = enter.is_ok();
            let _ = entered.send(enter);
            if ok {
                serve(listener, target, ended);
            }
        });
        result.recv().map_err(|_| Error::Interrupted)??;
        Ok(Self { address, _end: end })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Forwards for as long as the process lives.
pub(crate) async fn run_forever(
    listen: SocketAddr,
    namespace: &Path,
    target: SocketAddr,
    announce: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    let forward = Forward::start(listen, namespace, target)?;
    announce(forward.address())?;
    pending().await
}

fn bind(listen: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(listen).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::Preflight(format!(
            "port {} on {} is in use by another program: end that (ss -ltnp shows it), or choose \
             another port; 0 takes any free one",
            listen.port(),
            listen.ip()
        )),
        _ => Error::Io {
            what: format!("listening on {listen}"),
            source: error,
        },
    })?;
    listener
        .set_nonblocking(true)
        .context(|| format!("listening on {listen}"))?;
    Ok(listener)
}

fn serve(listener: TcpListener, target: SocketAddr, ended: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        tokio::select! {
            () = accept_all(listener, target) => {}
            // Also when the sender is dropped.
            _ = ended => {}
        }
    });
}

async fn accept_all(listener: TcpListener, target: SocketAddr) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, most likely: some will close.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        tokio::spawn(carry(client, target));
    }
}

/// A target that refuses shows as a closed connection.
async fn carry(mut client: TcpStream, target: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_says_what_to_do() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = holder.local_addr().expect("bound");
        let message = bind(address).expect_err("taken").to_string();
        assert!(message.starts_with(&format!("port {} on 127.0.0.1 is in use", address.port())));
    }
}
