//! The cluster's network: a namespace for the control plane and for each node,
//! joined by a bridge in a namespace of its own. Nothing of it is in the
//! machine's own namespace, and nothing in it reaches beyond.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::{Error, IoContext, Result};
use super::state::{BRIDGE, CONTROL, State};

/// Every pod of the cluster.
pub(crate) const PODS: &str = "10.78.0.0/16";
/// Every Service of the cluster.
pub(crate) const SERVICES: &str = "10.79.0.0/16";
/// The Service of the API server.
pub(crate) const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// The control plane.
pub(crate) const API_SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Port of the API server.
pub(crate) const API_PORT: u16 = 6443;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// What fits into the addresses above.
pub(crate) const MOST_NODES: usize = 200;
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);

/// Address of the node at this place of the list.
pub(crate) fn node_address(place: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, octet(place + 10))
}

/// Addresses of that node's pods.
pub(crate) fn pod_subnet(place: usize) -> String {
    format!("10.78.{}.0/24", octet(place))
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// Makes the namespaces, the bridge and the routes.
pub(crate) fn create(state: &State, nodes: &[String]) -> Result<()> {
    let members: Vec<&str> = std::iter::once(CONTROL)
        .chain(nodes.iter().map(String::as_str))
        .collect();
    for member in std::iter::once(&BRIDGE).chain(&members) {
        ip(&["netns", "add", &state.namespace(member)], "")?;
    }
    ip(
        &["-n", &state.namespace(BRIDGE), "-batch", "-"],
        &bridge_batch(state, &members),
    )?;
    for (place, member) in members.iter().enumerate() {
        let namespace = state.namespace(member);
        ip(
            &["-n", &namespace, "-batch", "-"],
            &member_batch(place, nodes.len()),
        )?;
        in_namespace(&state.namespace_path(member), || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        })?
        .context(|| format!("allowing forwarding in namespace {namespace}"))?;
    }
    Ok(())
}

/// The bridge with one port for each member.
fn bridge_batch(state: &State, members: &[&str]) -> String {
    let mut batch = format!(
        "link set lo up\nlink add bridge type bridge\naddr add {GATEWAY}/24 dev bridge\nlink set bridge up\n"
    );
    for (place, member) in members.iter().enumerate() {
        let peer = state.namespace(member);
        let _ = writeln!(
            batch,
            "link add port{place} type veth peer name eth0 netns {peer}"
        );
        let _ = writeln!(batch, "link set port{place} master bridge up");
    }
    batch
}

/// Address and routes of one member; place 0 is the control plane.
fn member_batch(place: usize, nodes: usize) -> String {
    let address = place.checked_sub(1).map_or(API_SERVER, node_address);
    let mut batch = format!(
        "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}\n"
    );
    for node in (0..nodes).filter(|node| node + 1 != place) {
        let _ = writeln!(batch, "route add {} via {}", pod_subnet(node), node_address(node));
    }
    batch
}

/// Plugs the node at this place of the list out of the bridge, or in again. Inside it everything goes on.
pub(crate) fn plug(state: &State, place: usize, connected: bool) -> Result<()> {
    // The control plane has the first port.
    let port = format!("port{}", place + 1);
    let set = if connected { "up" } else { "down" };
    ip(&["-n", &state.namespace(BRIDGE), "link", "set", &port, set], "")
}

/// Removes whatever namespaces of the cluster there are.
pub(crate) fn remove(state: &State) -> std::result::Result<(), String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return Ok(());
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut left = Vec::new();
    for name in names.filter(|name| name.starts_with(&state.namespace_prefix())) {
        if ip(&["netns", "delete", &name], "").is_err() {
            // What a start leaves that was killed between file and mount.
            let path = Path::new("/run/netns").join(&name);
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(&path)
                .stderr(Stdio::null())
                .status();
            if let Err(error) = std::fs::remove_file(&path) {
                left.push(format!("network namespace {name}: {error}"));
            }
        }
    }
    if left.is_empty() {
        Ok(())
    } else {
        Err(left.join("; "))
    }
}

/// Runs `ip` with input.
fn ip(arguments: &[&str], input: &str) -> Result<()> {
    run(Command::new("ip").args(arguments), input).map_err(|error| match error {
        Error::Command {
            command,
            status,
            stderr,
        } if stderr.contains("nknown device type") => Error::Preflight(format!(
            "the kernel lacks virtual Ethernet pairs or bridges (CONFIG_VETH, CONFIG_BRIDGE; \
                 try `modprobe veth bridge`): `{command}` failed ({status}): {stderr}"
        )),
        other => other,
    })
}

/// Runs a program to its end with input; its errors become ours.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<()> {
    let shown = format!("{command:?}").replace('"', "");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context(|| format!("starting `{shown}`"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ended early says why on its standard error.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .context(|| format!("running `{shown}`"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: shown,
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Does `work` inside a network namespace, on a thread of its own.
pub(crate) fn in_namespace<T: Send + 'static>(
    namespace: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let path = namespace.to_owned();
    let thread = std::thread::spawn(move || {
        enter(&path)?;
        Ok(work())
    });
    thread.join().unwrap_or_else(|_| {
        Err(Error::Io {
            what: format!("working in namespace {}", namespace.display()),
            source: std::io::Error::other("the thread ended early"),
        })
    })
}

/// Moves the calling thread into a network namespace for good.
pub(crate) fn enter(namespace: &Path) -> Result<()> {
    let file = File::open(namespace).context(|| format!("opening {}", namespace.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context(|| format!("entering {}", namespace.display()))
}

/// Asks an HTTP health endpoint inside a namespace whether all is well.
pub(crate) async fn healthy(namespace: &Path, port: u16, path: &str) -> std::result::Result<(), String> {
    let (namespace, path) = (namespace.to_owned(), path.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        in_namespace(&namespace, move || get(port, &path)).map_err(|error| error.to_string())
    });
    asked
        .await
        .map_err(|error| error.to_string())??
        .map_err(|error| error.to_string())
}

fn get(port: u16, path: &str) -> std::io::Result<()> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    match reply.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(std::io::Error::other(format!(
            "port {port}{path} answers {reply:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_reaches_the_pods_of_all_other_nodes() {
        let control = member_batch(0, 2);
        assert!(control.contains("addr add 10.77.0.1/24"), "{control}");
        assert!(control.contains("10.78.0.0/24 via 10.77.0.10"), "{control}");
        assert!(control.contains("10.78.1.0/24 via 10.77.0.11"), "{control}");
        let second = member_batch(2, 2);
        assert!(second.contains("addr add 10.77.0.11/24"), "{second}");
        assert!(
            !second.contains("10.78.1.0/24"),
            "no route to its own pods: {second}"
        );
    }

    #[test]
    fn the_last_node_has_addresses_of_its_own() {
        assert_eq!(node_address(MOST_NODES - 1), Ipv4Addr::new(10, 77, 0, 209));
        assert_eq!(pod_subnet(MOST_NODES - 1), "10.78.199.0/24");
    }

    #[test]
    fn a_failed_program_says_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2; exit 3"]);
        let message = run(&mut command, "").expect_err("fails").to_string();
        assert!(
            message.contains("broken") && message.contains("exit status: 3"),
            "{message}"
        );
    }
}
