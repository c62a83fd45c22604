//! Control groups: one tree a cluster, in every hierarchy, for versions 1 and 2.
//!
//! Everything that a cluster runs, its parts and its containers, is in that
//! tree. So whatever happened to the process that started it, all of it can be
//! found and ended.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{Error, IoContext, Result};
use super::process::{Process, kill_and_wait};
use super::state::create_folder;

/// What the kubelet needs in version 1.
const NEEDED_V1: [&str; 6] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices"];
/// What the kubelet needs in version 2.
const NEEDED_V2: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
/// Group of the cluster's own parts, beside those of its nodes.
const PARTS: &str = "parts";
const REMOVAL_DEADLINE: Duration = Duration::from_secs(30);

/// The control-group hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// One mount for each controller, or for a few. Where version 2 is mounted
    /// beside them ("hybrid"), runc makes groups there too.
    V1(Vec<Hierarchy>, Option<PathBuf>),
    /// One mount for all.
    V2(PathBuf),
}

/// One mount of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    mount: PathBuf,
    controllers: Vec<String>,
}

impl Hierarchies {
    /// Looks at what is mounted.
    pub fn detect() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let mounts = fs::read_to_string(path).context(|| format!("reading {path}"))?;
        parse_mounts(&mounts).ok_or_else(|| {
            Error::Preflight(
                "no control groups are mounted under /sys/fs/cgroup: mount version 2 there \
                 (mount -t cgroup2 none /sys/fs/cgroup)"
                    .to_owned(),
            )
        })
    }

    /// Says which controllers are missing, and what to do.
    pub fn check(&self) -> Result<()> {
        let (version, missing): (&str, Vec<&str>) = match self {
            Self::V1(all, _) => ("1", missing(&NEEDED_V1, |name| all.iter().any(|h| h.has(name)))),
            Self::V2(root) => {
                let file = root.join("cgroup.controllers");
                let has = fs::read_to_string(&file).context(|| format!("reading {}", file.display()))?;
                (
                    "2",
                    missing(&NEEDED_V2, |name| has.split_whitespace().any(|each| each == name)),
                )
            }
        };
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Preflight(format!(
            "control groups version {version} lack {}: enable them on the kernel command line \
             (cgroup_enable=…) or give them to this machine's container",
            missing.join(", ")
        )))
    }

    /// Makes the tree of a cluster with one group for each node.
    pub fn create(&self, group: &str, nodes: &[String]) -> Result<()> {
        match self {
            Self::V1(all, _) => all.iter().try_for_each(|each| each.create(group, nodes)),
            Self::V2(root) => create_v2(root, group, nodes),
        }
    }

    /// The `cgroup.procs` that the parts join.
    pub fn parts(&self, group: &str) -> PathBuf {
        self.tracking().join(group).join(PARTS).join("cgroup.procs")
    }

    /// The hierarchy in which processes are counted and found.
    fn tracking(&self) -> &Path {
        match self {
            Self::V2(root) => root,
            Self::V1(all, _) => all
                .iter()
                .find(|each| each.has("pids"))
                .or(all.first())
                .map_or(Path::new("/sys/fs/cgroup"), |each| &each.mount),
        }
    }

    fn roots(&self) -> Vec<&Path> {
        match self {
            Self::V1(all, unified) => all
                .iter()
                .map(|each| &each.mount)
                .chain(unified)
                .map(PathBuf::as_path)
                .collect(),
            Self::V2(root) => vec![root],
        }
    }

    /// All processes of a cluster, whichever hierarchy still has them.
    pub fn processes(&self, group: &str) -> Vec<Process> {
        let mut pids = BTreeSet::new();
        for root in self.roots() {
            collect_processes(&root.join(group), &mut pids);
        }
        pids.into_iter()
            .filter_map(Process::of)
            .filter(Process::is_alive)
            .collect()
    }

    /// Ends all processes of a cluster and removes its tree.
    pub fn remove(&self, group: &str) -> std::result::Result<(), String> {
        let began = Instant::now();
        loop {
            kill_and_wait(&self.processes(group));
            let left: Vec<PathBuf> = self
                .roots()
                .into_iter()
                .map(|root| root.join(group))
                .filter(|folder| !remove_tree(folder))
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            if began.elapsed() > REMOVAL_DEADLINE {
                let pids: Vec<u32> = self.processes(group).iter().map(|each| each.pid).collect();
                return Err(format!("control groups {left:?} with processes {pids:?} stay"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|each| each == controller)
    }

    fn create(&self, group: &str, nodes: &[String]) -> Result<()> {
        let top = self.mount.join(group);
        self.create_one(&top)?;
        self.create_one(&top.join(PARTS))?;
        nodes.iter().try_for_each(|node| self.create_one(&top.join(node)))
    }

    fn create_one(&self, folder: &Path) -> Result<()> {
        create_folder(folder)?;
        // A new cpuset is empty, and no process can enter an empty one.
        if self.has("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let parent = folder.parent().unwrap_or(&self.mount).join(file);
                let value =
                    fs::read_to_string(&parent).context(|| format!("reading {}", parent.display()))?;
                let own = folder.join(file);
                fs::write(&own, value).context(|| format!("writing {}", own.display()))?;
            }
        }
        Ok(())
    }
}

fn create_v2(root: &Path, group: &str, nodes: &[String]) -> Result<()> {
    let top = root.join(group);
    create_folder(&top)?;
    for folder in [root, &top] {
        let file = folder.join("cgroup.subtree_control");
        let wanted = NEEDED_V2.map(|name| format!("+{name}")).join(" ");
        fs::write(&file, wanted).context(|| format!("giving controllers on in {}", file.display()))?;
    }
    create_folder(&top.join(PARTS))?;
    nodes.iter().try_for_each(|node| create_folder(&top.join(node)))
}

fn missing<'a>(needed: &[&'a str], has: impl Fn(&str) -> bool) -> Vec<&'a str> {
    needed.iter().copied().filter(|name| !has(name)).collect()
}

/// Reads mountinfo: `… mountpoint options … - type source super-options`.
fn parse_mounts(mountinfo: &str) -> Option<Hierarchies> {
    let mut first = Vec::new();
    let mut second = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mount = left.split(' ').nth(4).map(PathBuf::from)?;
        let mut right = right.split(' ');
        match (right.next(), right.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                let controllers = options.split(',').skip(1).map(str::to_owned).collect();
                first.push(Hierarchy { mount, controllers });
            }
            (Some("cgroup2"), _) => second = second.or(Some(mount)),
            _ => {}
        }
    }
    // With both mounted, the controllers are in version 1.
    if first.iter().any(|each| each.has("memory")) {
        return Some(Hierarchies::V1(first, second));
    }
    second.map(Hierarchies::V2)
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect()
}

fn collect_processes(folder: &Path, pids: &mut BTreeSet<u32>) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    for each in subfolders(folder) {
        collect_processes(&each, pids);
    }
}

/// Removes a group with all below it; false where something is still inside.
fn remove_tree(folder: &Path) -> bool {
    // All of them, also after one that stays: each that goes is one less to wait for.
    let left = subfolders(folder)
        .iter()
        .filter(|each| !remove_tree(each))
        .count();
    left == 0 && (fs::remove_dir(folder).is_ok() || !folder.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
23 1 0:6 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
24 23 0:20 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
25 23 0:21 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
26 23 0:22 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V2: &str = "30 1 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn version_one_wins_where_it_has_the_controllers() {
        let Some(Hierarchies::V1(all, unified)) = parse_mounts(V1) else {
            panic!("version 1")
        };
        assert_eq!(all[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(all[1].mount, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(
            unified.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified")),
            "cleaned, too"
        );
    }

    #[test]
    fn version_two_alone_is_version_two() {
        assert_eq!(parse_mounts(V2), Some(Hierarchies::V2("/sys/fs/cgroup".into())));
        assert_eq!(parse_mounts("1 0 8:1 / / rw - ext4 /dev/x rw\n"), None);
    }

    #[test]
    fn missing_controllers_are_named() {
        let some = parse_mounts(V1).expect("version 1");
        let message = some.check().expect_err("some lack").to_string();
        assert!(
            message.contains("version 1 lack cpuset, pids, devices"),
            "{message}"
        );
    }
}
