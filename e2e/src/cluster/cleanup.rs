//! Removing every trace of a cluster, also of one whose start was killed.
//!
//! Works from what the system has, not from what a start got to write down.
//! Synchronous, so that it can run in `drop` and after a signal.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::cgroup::Hierarchies;
use super::error::{Error, IoContext, Result};
use super::lock;
use super::network;
use super::process::{forbid_starts, is_ending, kill_and_wait, recorded};
use super::state::{State, create_folder, write_file};

/// Clusters that this process answers for.
static OWNED: Mutex<Vec<State>> = Mutex::new(Vec::new());
/// List of the folders that were made on the machine as places to mount on.
const MADE_FOLDERS: &str = "made-folders";

/// What of the state folder stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing.
    Nothing,
    /// The logs, to find out what went wrong.
    Logs,
}

/// Ends the cluster and removes everything of it.
pub(crate) fn remove(state: &State, keep: Keep) -> Result<()> {
    let hierarchies = Hierarchies::detect()?;
    let mut problems = Vec::new();
    kill_and_wait(&recorded(state));
    problems.extend(hierarchies.remove(&state.group()).err());
    unmount_below(&state.folder());
    problems.extend(network::remove(state).err());
    problems.extend(remove_files(state, keep).err());
    remove_made_folders(state);
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Leftover {
        name: state.name().to_owned(),
        what: problems.join("; "),
    })
}

/// Nothing of ours is mounted in the machine's own namespace; where it is all
/// the same, removing files below such a mount would remove someone's data.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
    for mount in below.filter(|mount| Path::new(mount).starts_with(folder)) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(mount)
            .stderr(Stdio::null())
            .status();
    }
}

fn remove_files(state: &State, keep: Keep) -> std::result::Result<(), String> {
    let folder = state.folder();
    let Ok(entries) = fs::read_dir(&folder) else {
        return Ok(());
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if keep == Keep::Logs && path == state.logs() {
            continue;
        }
        let gone = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        gone.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if keep == Keep::Nothing {
        fs::remove_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(())
}

/// Makes folders on the machine that nodes mount theirs on, and remembers which.
pub(crate) fn make_folders(state: &State, folders: &[&str]) -> Result<()> {
    let _lock = lock_folders(state)?;
    let list = state.root().join(MADE_FOLDERS);
    let mut made = read_list(&list);
    for folder in folders.iter().map(Path::new) {
        let missing = folder.ancestors().take_while(|each| !each.exists());
        made.extend(missing.map(Path::to_owned));
    }
    // Written first: a start that is killed in between has them all on the list.
    let lines: Vec<_> = made.iter().map(|path| path.display().to_string()).collect();
    write_file(&list, lines.join("\n"))?;
    folders
        .iter()
        .try_for_each(|folder| create_folder(Path::new(folder)))
}

/// Clusters may start and stop at the same time. The lock is on the folder of
/// all clusters itself.
fn lock_folders(state: &State) -> Result<fs::File> {
    let root = state.root();
    create_folder(root)?;
    let folder = fs::File::open(root).context(|| format!("opening {}", root.display()))?;
    folder.lock().context(|| format!("locking {}", root.display()))?;
    Ok(folder)
}

fn read_list(list: &Path) -> BTreeSet<PathBuf> {
    let text = fs::read_to_string(list).unwrap_or_default();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(PathBuf::from)
        .collect()
}

/// Removes those folders with the last cluster: while another runs, removing
/// one would silently unmount what that cluster has mounted on it.
fn remove_made_folders(state: &State) {
    let Ok(_lock) = lock_folders(state) else { return };
    let list = state.root().join(MADE_FOLDERS);
    let others = fs::read_dir(state.root()).into_iter().flatten();
    let mut parts = others.filter_map(|entry| Some(entry.ok()?.path().join("parts")));
    if parts.any(|folder| folder.exists()) {
        return;
    }
    // Deepest first; one that someone has put a file into stays.
    for folder in read_list(&list).iter().rev() {
        let _ = fs::remove_dir(folder);
    }
    let _ = fs::remove_file(list);
}

/// From now on, Ctrl-C and a polite kill end this cluster before the process.
pub(crate) fn own(state: &State) -> Result<()> {
    let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
    owned.push(state.clone());
    drop(owned);
    state.own()?;
    watch_signals()
}

/// This process no longer answers for the cluster.
pub(crate) fn disown(state: &State) {
    OWNED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|each| each != state);
}

/// Once a signal has come, its thread cleans up and ends the process: what fails
/// meanwhile, because parts are being ended, must neither do the same nor end
/// the process with another exit status.
pub(crate) fn wait_where_interrupted() {
    while is_ending() {
        std::thread::park();
    }
}

/// Starts, once, the thread that waits for a signal.
fn watch_signals() -> Result<()> {
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if *started {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "waiting for signals".to_owned())?;
    std::thread::spawn(move || runtime.block_on(end_on_signal()));
    *started = true;
    Ok(())
}

async fn end_on_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let number = tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    };
    forbid_starts();
    let owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for state in &owned {
        eprintln!("interrupted: ending cluster {}…", state.name());
        if let Err(error) = remove(state, Keep::Nothing) {
            eprintln!("{error}");
        }
    }
    for state in &owned {
        // Held by whoever starts or stops it, and that is this process.
        lock::forget(&state.lock_file());
    }
    std::process::exit(128 + number);
}
