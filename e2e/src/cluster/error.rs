//! What can go wrong with the cluster, said so that a person can act on it.

use std::path::PathBuf;

use crate::wait::TimedOut;

/// A step of the cluster that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; the text says what to do.
    #[error("{0}")]
    Preflight(String),
    /// A name that cannot be used.
    #[error("{what} {name:?} is not usable: {why}")]
    Name {
        /// What the name is for.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another process is using this cluster.
    #[error(
        "cluster {name} is in use by process {pid}: wait until that ends, end it, or choose another name"
    )]
    InUse {
        /// Cluster.
        name: String,
        /// Its owner.
        pid: u32,
    },
    /// There is no such running cluster.
    #[error("cluster {name} is not running ({why}): start it with `perwatt-e2e up --name {name}`")]
    NotRunning {
        /// Cluster.
        name: String,
        /// How we know.
        why: String,
    },
    /// A file or system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A part of the cluster ended by itself.
    #[error("{part} ended by itself; the last lines of {}:\n{tail}", log.display())]
    PartEnded {
        /// Which part.
        part: String,
        /// Its log.
        log: PathBuf,
        /// The end of that log.
        tail: String,
    },
    /// Something did not happen in time.
    #[error("{source}{logs}")]
    TimedOut {
        /// What and for how long.
        source: TimedOut,
        /// The ends of the logs that may say why.
        logs: String,
    },
    /// A certificate could not be made.
    #[error("making the certificate of {name}: {source}")]
    Certificate {
        /// Whose.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// A file of ours does not parse.
    #[error("reading {}: {why}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The Kubernetes client could not be set up.
    #[error("connecting to the cluster with {}: {why}", kubeconfig.display())]
    Client {
        /// With which kubeconfig.
        kubeconfig: PathBuf,
        /// Why not.
        why: String,
    },
    /// An image could not be made.
    #[error("making image {image}: {why}")]
    Image {
        /// Which image.
        image: String,
        /// Why not.
        why: String,
    },
    /// There is no such node.
    #[error("cluster {cluster} has no node {node}: it has {known}")]
    NoSuchNode {
        /// Cluster.
        cluster: String,
        /// Asked for.
        node: String,
        /// What there is.
        known: String,
    },
    /// Something could not be removed.
    #[error("cleaning up cluster {name}: {what}")]
    Leftover {
        /// Cluster.
        name: String,
        /// What is left, and why.
        what: String,
    },
    /// Asked to end while starting.
    #[error("interrupted")]
    Interrupted,
}

/// Result of a step of the cluster.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names what a file operation was for.
pub(crate) trait IoContext<T> {
    /// Adds `what` to the error.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io {
            what: what(),
            source: errno.into(),
        })
    }
}
