//! What the machine must have, checked before anything is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::cgroup::Hierarchies;
use super::config::CNI_PLUGINS;
use super::error::{Error, IoContext, Result};
use super::network::run;
use super::state::{CONTROL, State};

/// Programs that the cluster and its parts call.
const TOOLS: [&str; 10] = [
    "setsid",
    "nsenter",
    "unshare",
    "mount",
    "umount",
    "ip",
    "runc",
    "nft",
    "iptables",
    "conntrack",
];
const PLUGINS: [&str; 4] = ["ptp", "host-local", "portmap", "loopback"];
/// Where Debian has them.
const FOLDERS: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
const SPACE_BYTES: u64 = 2 << 30;

/// Folder of the scripts that install and build the parts.
fn scripts() -> PathBuf {
    crate::project().join("e2e/cluster")
}

/// Folder of everything that is built once, `$PERWATT_CACHE` or under the home folder.
pub fn cache() -> PathBuf {
    let set = std::env::var_os("PERWATT_CACHE").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map_or("/root".into(), PathBuf::from);
    set.unwrap_or_else(|| home().join(".cache/perwatt"))
}

/// Installs and builds what is missing; gives the folder of the binaries.
pub(crate) fn prepare() -> Result<PathBuf> {
    check_root()?;
    let install = scripts().join("install");
    run_visible(&mut Command::new(&install))?;
    let output = run_visible(Command::new(scripts().join("build")).arg(cache()))?;
    Ok(PathBuf::from(output.trim()))
}

/// Runs a script whose progress the user sees; gives its standard output.
fn run_visible(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context(|| format!("starting `{shown}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command {
        command: shown,
        status: output.status.to_string(),
        stderr: "see its messages above".to_owned(),
    })
}

fn check_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Preflight(
        "the cluster needs root, for namespaces, mounts and control groups: run this as root \
         (sudo -E …)"
            .to_owned(),
    ))
}

/// Checks tools, kernel and disk.
pub(crate) fn check(state: &State, hierarchies: &Hierarchies) -> Result<()> {
    check_tools()?;
    hierarchies.check()?;
    check_space(state.root())?;
    check_length(&state.folder())?;
    Ok(())
}

/// A socket's path has at most 107 bytes, and containerd's is some way down.
fn check_length(folder: &Path) -> Result<()> {
    if folder.as_os_str().len() <= 60 {
        return Ok(());
    }
    Err(Error::Preflight(format!(
        "the state folder {} has too long a path for the sockets below it: set PERWATT_STATE to a \
         shorter one (60 characters with the name of the cluster)",
        folder.display()
    )))
}

fn check_tools() -> Result<()> {
    let found = |tool: &&str| FOLDERS.iter().any(|folder| Path::new(folder).join(tool).exists());
    let plugin = |name: &&str| Path::new(CNI_PLUGINS).join(name).exists();
    let missing: Vec<String> = TOOLS
        .iter()
        .filter(|tool| !found(tool))
        .map(|tool| (*tool).to_owned())
        .chain(
            PLUGINS
                .iter()
                .filter(|name| !plugin(name))
                .map(|n| format!("{CNI_PLUGINS}/{n}")),
        )
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Preflight(format!(
        "missing programs: {}; `{}` installs them on Debian",
        missing.join(", "),
        scripts().join("install").display()
    )))
}

fn check_space(root: &Path) -> Result<()> {
    let stat = rustix::fs::statvfs(root).context(|| format!("looking at the disk of {}", root.display()))?;
    let free = stat.f_bavail * stat.f_frsize;
    if free >= SPACE_BYTES {
        return Ok(());
    }
    Err(Error::Preflight(format!(
        "only {} MiB are free under {}: the cluster needs {} MiB; free some, or set PERWATT_STATE \
         to a folder on a larger disk",
        free >> 20,
        root.display(),
        SPACE_BYTES >> 20
    )))
}

/// How containerd can stack image layers below this folder.
pub(crate) fn snapshotter(folder: &Path) -> Result<&'static str> {
    let supported = |name: &str| {
        fs::read_to_string("/proc/filesystems").is_ok_and(|all| {
            all.lines()
                .any(|line| line.split_whitespace().next_back() == Some(name))
        })
    };
    if !supported("overlay") {
        let _ = Command::new("modprobe")
            .arg("overlay")
            .stderr(Stdio::null())
            .status();
    }
    let stat = rustix::fs::statfs(folder).context(|| format!("looking at {}", folder.display()))?;
    // An overlay cannot be the upper layer of another (a cluster inside a container).
    const OVERLAY_MAGIC: i64 = 0x794c_7630;
    let nested = stat.f_type == OVERLAY_MAGIC;
    Ok(if supported("overlay") && !nested {
        "overlayfs"
    } else {
        "native"
    })
}

/// Checks, inside the control namespace, that kube-proxy will find nf_tables.
pub(crate) fn check_nftables(state: &State) -> Result<()> {
    let namespace = format!("--net={}", state.namespace_path(CONTROL).display());
    let rules = "add table ip check\nadd chain ip check nat { type nat hook output priority 0; }\n\
                 delete table ip check\n";
    let mut command = Command::new("nsenter");
    command.args([&namespace, "nft", "-f", "-"]);
    run(&mut command, rules).map_err(|error| {
        Error::Preflight(format!(
            "the kernel lacks nf_tables with address translation (CONFIG_NF_TABLES, \
             CONFIG_NFT_NAT; try `modprobe nf_tables nft_chain_nat`), which Services need: {error}"
        ))
    })
}
