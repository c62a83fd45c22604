//! A real Kubernetes cluster in a box, and what the end-to-end tests and the
//! demo share on top of it.
//!
//! What lives here: starting and ending the cluster ([`cluster`]), the images
//! of the product as the cluster runs them ([`images`]), waiting by condition
//! ([`wait`]) and progress lines ([`progress`]). What does not: anything the
//! product itself needs to run.

use std::path::{Path, PathBuf};

pub mod bench;
pub mod cli;
pub mod cluster;
pub mod demo;
pub mod images;
pub mod product;
pub mod programs;
pub mod progress;
pub mod wait;

/// Root of the project: the checkout that we are run in. Never the one that this was compiled
/// in, for checkouts share what they build.
#[must_use]
pub fn project() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let root = here
        .ancestors()
        .find(|folder| folder.join("e2e/cluster/go.mod").is_file());
    root.map_or_else(|| here.clone(), Path::to_path_buf)
}

pub use cluster::{Cluster, ClusterOptions, Node, NodeOptions};

/// Chooses what computes TLS. Built beside a crate that wants reqwest's TLS without saying which, every client
/// of reqwest asks for it, even one that speaks plain HTTP.
pub fn set_up_tls() {
    // An error means that it is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
