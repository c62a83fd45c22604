//! Where a cluster keeps its files, and how one process finds what another
//! started.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, IoContext, Result};
use super::lock::Lock;
use super::process::Process;

/// Environment variable that moves the folder of all clusters.
const STATE_VARIABLE: &str = "PERWATT_STATE";
/// Where clusters live unless told otherwise.
const STATE_DEFAULT: &str = "/var/lib/perwatt-e2e";
/// Names of namespaces that no node may take.
pub(crate) const CONTROL: &str = "control";
/// The namespace that holds the bridge between all others.
pub(crate) const BRIDGE: &str = "bridge";

/// The folder of one cluster. Cheap to copy; touches nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    name: String,
    root: PathBuf,
}

/// What the next process must know to use a running cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Where the binaries of the parts are.
    pub binaries: PathBuf,
    /// The nodes, in order: a node's addresses follow from its place.
    pub nodes: Vec<NodeRecord>,
}

/// One node of a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    pub name: String,
    pub labels: Vec<(String, String)>,
}

impl State {
    /// The cluster of this name, in `$PERWATT_STATE` or the default place.
    pub fn of(name: &str) -> Result<Self> {
        check_label("cluster name", name)?;
        let root = std::env::var_os(STATE_VARIABLE).map_or(STATE_DEFAULT.into(), PathBuf::from);
        if !root.is_absolute() {
            return Err(Error::Name {
                what: STATE_VARIABLE,
                name: root.display().to_string(),
                why: "it must be an absolute path",
            });
        }
        Ok(Self {
            name: name.to_owned(),
            root,
        })
    }

    /// Name of the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of all clusters.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of this cluster.
    pub fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// Folder of the logs.
    pub fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    /// Log of one part.
    pub fn log(&self, part: &str) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }

    /// A file among the keys and certificates.
    pub(crate) fn pki(&self, file: &str) -> PathBuf {
        self.folder().join("pki").join(file)
    }

    /// Folder of one node.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.folder().join("nodes").join(node)
    }

    /// Folder with one file for each started part.
    pub(crate) fn parts(&self) -> PathBuf {
        self.folder().join("parts")
    }

    /// Control group of everything this cluster runs, relative to a hierarchy.
    /// The dot keeps cluster `a` apart from cluster `a-b`: names have none.
    pub(crate) fn group(&self) -> String {
        format!("perwatt.{}", self.name)
    }

    /// Prefix of the names of all its network namespaces.
    pub(crate) fn namespace_prefix(&self) -> String {
        format!("perwatt.{}.", self.name)
    }

    /// Name of the network namespace of a node, or of [`CONTROL`] or [`BRIDGE`].
    pub fn namespace(&self, member: &str) -> String {
        format!("{}{member}", self.namespace_prefix())
    }

    /// Path of that namespace.
    pub fn namespace_path(&self, member: &str) -> PathBuf {
        Path::new("/run/netns").join(self.namespace(member))
    }

    /// Takes the cluster for a change (start, stop). Held until dropped.
    pub(crate) fn lock(&self) -> Result<Lock> {
        Lock::take(&self.lock_file())?.ok_or_else(|| {
            Error::Preflight(format!(
                "cluster {} is being started or stopped by another process: wait until that has ended",
                self.name
            ))
        })
    }

    /// The file of that lock.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join(format!("{}.lock", self.name))
    }

    /// The process that answers for this cluster, if it lives.
    pub(crate) fn owner(&self) -> Option<Process> {
        let text = fs::read_to_string(self.owner_file()).ok()?;
        let owner: Process = serde_json::from_str(&text).ok()?;
        owner.is_alive().then_some(owner)
    }

    /// Records this process as the one that answers for the cluster.
    pub(crate) fn own(&self) -> Result<()> {
        write_json(&self.owner_file(), &Process::current()?)
    }

    /// Nobody answers for the cluster any more: it runs until told to end.
    pub(crate) fn disown(&self) -> Result<()> {
        match fs::remove_file(self.owner_file()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.context(|| format!("removing {}", self.owner_file().display())),
        }
    }

    fn owner_file(&self) -> PathBuf {
        self.folder().join("owner.json")
    }

    fn record_file(&self) -> PathBuf {
        self.folder().join("cluster.json")
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        write_json(&self.record_file(), record)
    }

    pub(crate) fn read_record(&self) -> Result<Record> {
        let path = self.record_file();
        let text = fs::read_to_string(&path).map_err(|error| Error::NotRunning {
            name: self.name.clone(),
            why: format!("{}: {error}", path.display()),
        })?;
        serde_json::from_str(&text).map_err(|error| Error::Parse {
            path,
            why: error.to_string(),
        })
    }
}

/// Checks a name against RFC 1123 and the length that namespaces allow.
pub(crate) fn check_label(what: &'static str, name: &str) -> Result<()> {
    let fail = |why| {
        Err(Error::Name {
            what,
            name: name.to_owned(),
            why,
        })
    };
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 {
        return fail("it must have 1 to 40 characters");
    }
    if !name.chars().all(inside) || name.starts_with('-') || name.ends_with('-') {
        return fail("it may have lower case letters, digits and inner dashes");
    }
    if [CONTROL, BRIDGE].contains(&name) {
        return fail("the cluster itself uses this name");
    }
    Ok(())
}

/// Makes a folder and its parents.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).context(|| format!("creating {}", path.display()))
}

/// Writes a file in one step, so that no reader sees half of it.
pub(crate) fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
    }
    let part = path.with_extension("part");
    fs::write(&part, content).context(|| format!("writing {}", part.display()))?;
    fs::rename(&part, path).context(|| format!("renaming {}", part.display()))
}

/// Writes a value as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::Parse {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    write_file(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_and_none_of_ours() {
        for good in ["edge-a", "a", "x1"] {
            check_label("node name", good).expect(good);
        }
        for bad in [
            "",
            "Edge",
            "a.b",
            "-a",
            "a-",
            "control",
            "bridge",
            &"x".repeat(41),
        ] {
            let message = check_label("node name", bad).expect_err(bad).to_string();
            assert!(
                message.starts_with(&format!("node name {bad:?} is not usable")),
                "{message}"
            );
        }
    }

    #[test]
    fn clusters_whose_names_begin_alike_share_no_namespace() {
        let one = State {
            name: "demo".into(),
            root: "/x".into(),
        };
        let other = State {
            name: "demo-2".into(),
            root: "/x".into(),
        };
        assert!(!other.namespace("edge-a").starts_with(&one.namespace_prefix()));
    }
}
