//! Devices that come, go and change while the agent runs: a new snapshot whenever the machine's
//! buses have changed.
//!
//! The kernel's uevents are the fast way. It sends them to every network namespace that the
//! first user namespace owns, a pod's too; in a pod with a user namespace of its own none come.
//! So they are hints alone, and the buses' folders are looked at now and then all the same.

use super::snapshot::{Snapshot, fingerprint};
use crate::constants::{HOTPLUG_FULL, HOTPLUG_POLL, HOTPLUG_SETTLES};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The kernel's own messages, as against those of udev.
const KERNEL_GROUP: u32 = 1;

/// How often the thread that waits for messages sees whether anybody still wants them.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Sends a new snapshot whenever one differs from the last, until nobody listens. A tree that
/// hangs keeps one thread, and no second look is begun beside it.
pub async fn follow(root: PathBuf, snapshots: watch::Sender<Arc<Snapshot>>) {
    let told = Arc::new(Notify::new());
    if let Err(error) = hear(&told) {
        tracing::info!(%error, "no uevents of the kernel: devices that come and go are seen by looking every {} s", HOTPLUG_POLL.as_secs());
    }
    // Whatever changed since the first snapshot was taken, it is taken again.
    let mut seen = None;
    let mut full = Instant::now();
    let mut hinted = false;
    loop {
        tokio::select! {
            () = told.notified() => {
                // A device that comes is many messages, and its driver takes a moment.
                tokio::time::sleep(HOTPLUG_SETTLES).await;
                hinted = true;
            }
            () = tokio::time::sleep(HOTPLUG_POLL) => {}
            () = snapshots.closed() => return,
        }
        let now = look_at(&root, fingerprint).await;
        // A flood of messages that change no folder must not have everything read all the time.
        let fresh = if hinted { HOTPLUG_POLL } else { HOTPLUG_FULL };
        if now == seen && full.elapsed() < fresh {
            continue;
        }
        (seen, full, hinted) = (now, Instant::now(), false);
        if let Some(snapshot) = look_at(&root, Snapshot::take).await {
            snapshots.send_if_modified(|before| {
                let news = **before != snapshot;
                if news {
                    *before = Arc::new(snapshot);
                }
                news
            });
        }
    }
}

async fn look_at<T: Send + 'static>(root: &Path, look: fn(&Path) -> T) -> Option<T> {
    let root = root.to_owned();
    tokio::task::spawn_blocking(move || look(&root)).await.ok()
}

/// Wakes `told` at every message of the kernel's, from a thread that ends soon after nobody else
/// has `told` any more.
fn hear(told: &Arc<Notify>) -> std::io::Result<()> {
    let socket = open_socket()?;
    let told = told.clone();
    std::thread::Builder::new()
        .name("uevents".to_owned())
        .spawn(move || listen(&socket, &told))?;
    Ok(())
}

fn open_socket() -> std::io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(GIVE_UP))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// What the messages say does not matter: anybody with the right may send some.
fn listen(socket: &OwnedFd, told: &Arc<Notify>) {
    let mut buffer = [0; 64];
    while Arc::strong_count(told) > 1 {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            // More came than the socket holds: a hint too.
            Ok(_) | Err(Errno::NOBUFS) => told.notify_one(),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "no more uevents of the kernel");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By this the kernel sends its message of a device once more.
    const ASK: &str = "/sys/devices/virtual/mem/null/uevent";

    #[tokio::test]
    async fn the_kernels_messages_are_heard() {
        let told = Arc::new(Notify::new());
        if let Err(error) = hear(&told) {
            eprintln!("SKIPPED: no uevents here ({error})");
            return;
        }
        if let Err(error) = std::fs::write(ASK, "change") {
            eprintln!("SKIPPED: {ASK} cannot be written ({error})");
            return;
        }
        tokio::time::timeout(Duration::from_secs(30), told.notified())
            .await
            .unwrap();
    }
}
