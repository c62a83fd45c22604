//! The processes of the cluster: started so that they outlive their starter,
//! remembered by id and start time, and ended without ever hitting a stranger.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::error::{Error, IoContext, Result};
use super::state::{State, create_folder, write_json};

/// Where the parts find the tools they call.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Joins the cluster's control group before anything else, then becomes the
/// part: whatever kills the starter, a part that runs can be found by its group.
const JOIN_AND_BECOME: &str = r#"echo $$ >"$1" && shift && exec "$@""#;
/// How much of a log goes into a failure message.
const TAIL_BYTES: u64 = 3_000;
const TAIL_LINES: usize = 12;

/// True once this process was told to end: nothing may be started any more.
static ENDING: Mutex<bool> = Mutex::new(false);

/// A process, told apart from a later one with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    started_ticks: u64,
    /// Which boot.
    boot: String,
}

impl Process {
    /// The process that runs under this id now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            started_ticks: read_stat(pid)?.started_ticks,
            boot: boot()?,
        })
    }

    /// This very process.
    pub(crate) fn current() -> Result<Self> {
        let pid = std::process::id();
        Self::of(pid).ok_or_else(|| Error::Preflight("/proc is not mounted".to_owned()))
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        boot().as_ref() == Some(&self.boot)
            && read_stat(self.pid).is_some_and(|stat| stat.started_ticks == self.started_ticks && !stat.ended)
    }

    /// Sends a signal to it, and to no process that took its id since.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        // The descriptor names one process for good, so the check cannot go stale.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if self.is_alive() {
            // It may end in between; then there is nothing to do.
            let _ = pidfd_send_signal(&descriptor, signal);
        }
    }
}

struct Stat {
    started_ticks: u64,
    ended: bool,
}

fn read_stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 3 is the state, field 20 the number of threads and field 22 the start time (proc_pid_stat(5)); field 2 is a name that
/// may itself hold spaces and brackets. A killed process is a zombie while threads of it still hold its sockets.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let threads: u32 = fields.nth(16)?.parse().ok()?;
    let started_ticks = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        started_ticks,
        ended: matches!(state, "Z" | "X") && threads <= 1,
    })
}

fn boot() -> Option<String> {
    Some(
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim()
            .to_owned(),
    )
}

/// How to start one part.
#[derive(Debug)]
pub(crate) struct Part {
    pub name: String,
    command: Vec<OsString>,
    network: Option<PathBuf>,
    mounts: Option<Process>,
}

impl Part {
    /// A part called `name` (also of its log) that runs `program`.
    pub fn new(name: impl Into<String>, program: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.into(),
            command: vec![program.as_ref().to_owned()],
            network: None,
            mounts: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command
            .extend(arguments.into_iter().map(|each| each.as_ref().to_owned()));
        self
    }

    /// Adds `--name=value`.
    pub fn flag(self, name: &str, value: impl std::fmt::Display) -> Self {
        self.arg(format!("--{name}={value}"))
    }

    /// Adds `--name=path`.
    pub fn path(self, name: &str, path: &Path) -> Self {
        self.flag(name, path.display())
    }

    /// Runs inside this network namespace.
    pub fn network(mut self, namespace: PathBuf) -> Self {
        self.network = Some(namespace);
        self
    }

    /// Sees the mounts that this process sees.
    pub fn mounts_of(mut self, holder: &Process) -> Self {
        self.mounts = Some(holder.clone());
        self
    }

    /// The whole command line, from joining the control group on.
    fn command_line(self, group: &Path) -> Vec<OsString> {
        let mut line: Vec<OsString> = ["setsid", "sh", "-c", JOIN_AND_BECOME, "sh"]
            .iter()
            .map(OsString::from)
            .collect();
        line.push(group.into());
        if self.network.is_some() || self.mounts.is_some() {
            line.push("nsenter".into());
        }
        if let Some(network) = &self.network {
            line.push(format!("--net={}", network.display()).into());
        }
        if let Some(holder) = &self.mounts {
            line.push(format!("--mount=/proc/{}/ns/mnt", holder.pid).into());
        }
        line.extend(self.command);
        line
    }
}

/// Starts, finds and ends the parts of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Launcher {
    pub state: State,
    pub binaries: PathBuf,
    /// The `cgroup.procs` that every part joins.
    pub group: PathBuf,
}

impl Launcher {
    /// Path of one of the built binaries.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Environment of parts and tools: nothing of the caller's leaks in.
    pub fn environment(&self) -> BTreeMap<&'static str, OsString> {
        let mut path = self.binaries.clone().into_os_string();
        path.push(":");
        path.push(SYSTEM_PATH);
        BTreeMap::from([("PATH", path), ("HOME", self.state.folder().into_os_string())])
    }

    /// Starts a part that outlives this process, and records it.
    pub fn start(&self, part: Part) -> Result<Process> {
        let name = part.name.clone();
        let log = self.open_log(&name)?;
        let errors = log.try_clone().context(|| format!("opening the log of {name}"))?;
        let line = part.command_line(&self.group);
        // Held while starting, so that an interrupt never misses a new process.
        let ending = ENDING.lock().unwrap_or_else(PoisonError::into_inner);
        if *ending {
            return Err(Error::Interrupted);
        }
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .env_clear()
            .envs(self.environment())
            .current_dir(self.state.folder())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .context(|| format!("starting {name}"))?;
        let process = Process::of(child.id()).ok_or_else(|| self.ended(&name))?;
        write_json(&self.record(&name), &process)?;
        drop(ending);
        // Someone must collect it, or it stays as a zombie while we run.
        std::thread::spawn(move || child.wait());
        Ok(process)
    }

    fn open_log(&self, part: &str) -> Result<File> {
        create_folder(&self.state.logs())?;
        let path = self.state.log(part);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .context(|| format!("opening {}", path.display()))
    }

    fn record(&self, part: &str) -> PathBuf {
        self.state.parts().join(format!("{part}.json"))
    }

    /// The recorded process of a part, alive or not.
    pub fn process(&self, part: &str) -> Option<Process> {
        serde_json::from_str(&fs::read_to_string(self.record(part)).ok()?).ok()
    }

    /// Says which of these parts has ended, with the end of its log.
    pub fn check_alive(&self, parts: &[String]) -> Result<()> {
        match parts
            .iter()
            .find(|part| !self.process(part).is_some_and(|p| p.is_alive()))
        {
            Some(part) => Err(self.ended(part)),
            None => Ok(()),
        }
    }

    fn ended(&self, part: &str) -> Error {
        let log = self.state.log(part);
        Error::PartEnded {
            part: part.to_owned(),
            tail: tail(&log),
            log,
        }
    }

    /// Kills one part and forgets it.
    pub fn kill(&self, part: &str) -> Result<()> {
        let Some(process) = self.process(part) else {
            return Ok(());
        };
        kill_and_wait(std::slice::from_ref(&process));
        if process.is_alive() {
            return Err(Error::Leftover {
                name: self.state.name().to_owned(),
                what: format!("{part} (process {}) does not end", process.pid),
            });
        }
        let record = self.record(part);
        fs::remove_file(&record).context(|| format!("removing {}", record.display()))
    }
}

/// Kills processes and waits until they have ended, up to a generous deadline.
pub(crate) fn kill_and_wait(processes: &[Process]) {
    for process in processes {
        process.signal(Signal::KILL);
    }
    for _ in 0..200 {
        if !processes.iter().any(Process::is_alive) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// From now on nothing is started any more in this process.
pub(crate) fn forbid_starts() {
    *ENDING.lock().unwrap_or_else(PoisonError::into_inner) = true;
}

/// Whether this process was told to end.
pub(crate) fn is_ending() -> bool {
    *ENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All processes that a cluster recorded.
pub(crate) fn recorded(state: &State) -> Vec<Process> {
    let Ok(entries) = fs::read_dir(state.parts()) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| serde_json::from_str(&text).ok())
        .collect()
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return format!("(cannot read it: {error})");
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    match lines.len() {
        0 => "(it is empty)".to_owned(),
        count => lines[count.saturating_sub(TAIL_LINES)..].join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 10";
        let stat = parse_stat(text).expect("parses");
        assert_eq!(stat.started_ticks, 4711);
        assert!(!stat.ended);
    }

    #[test]
    fn a_zombie_has_ended_once_its_threads_have() {
        let text = "7 (a) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 10";
        assert!(parse_stat(text).expect("parses").ended);
        let ending = text.replace(" 20 0 1 0 4711", " 20 0 2 0 4711");
        assert!(!parse_stat(&ending).expect("parses").ended);
    }

    #[test]
    fn another_process_under_the_same_id_is_a_stranger() {
        let mut own = Process::current().expect("own process");
        assert!(own.is_alive());
        own.started_ticks += 1;
        assert!(!own.is_alive());
        // Would end this very test if the id alone counted.
        own.signal(Signal::KILL);
    }

    #[test]
    fn a_part_joins_its_group_before_it_enters_namespaces() {
        let part = Part::new("x", "/bin/x")
            .flag("a", 1)
            .network("/run/netns/n".into());
        let line = part.command_line(Path::new("/cg/cgroup.procs"));
        let text: Vec<_> = line.iter().skip(5).map(|word| word.to_string_lossy()).collect();
        assert_eq!(
            text,
            [
                "/cg/cgroup.procs",
                "nsenter",
                "--net=/run/netns/n",
                "/bin/x",
                "--a=1"
            ]
        );
    }

    #[test]
    fn the_tail_of_a_log_is_its_end() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("part.log");
        let lines: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
        fs::write(&log, lines.join("\n")).expect("written");
        assert_eq!(tail(&log).lines().count(), TAIL_LINES);
        assert!(tail(&log).ends_with("line 999"));
        assert!(tail(&folder.path().join("none")).starts_with("(cannot read it"));
    }
}
