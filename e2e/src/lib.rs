//! A real Kubernetes cluster in a box, and what the end-to-end tests and the
//! demo share on top of it.
//!
//! What lives here: starting and ending the cluster ([`cluster`]), the images
//! of the product as the cluster runs them ([`images`]), waiting by condition
//! ([`wait`]) and progress lines ([`progress`]). What does not: anything the
//! product itself needs to run.

pub mod bench;
pub mod cli;
pub mod cluster;
pub mod demo;
pub mod images;
pub mod product;
pub mod programs;
pub mod progress;
pub mod wait;

pub use cluster::{Cluster, ClusterOptions, Node, NodeOptions};
