//! The crate decides, and does nothing else.

#[path = "../../../purity.rs"]
mod shared;

use shared::{check_packages, check_sources};

#[test]
fn no_kubernetes_client_and_no_runtime_is_among_the_dependencies() {
    check_packages(
        "perwatt-planner",
        "perwatt-crds",
        &["kube-client", "kube-runtime", "tokio", "hyper", "reqwest"],
    );
}

#[test]
fn no_source_reads_a_clock_an_environment_or_a_file() {
    check_sources(&[
        "Timestamp::now",
        "SystemTime",
        "Instant::now",
        "Zoned::now",
        "std::env",
        "std::fs",
        "std::net",
        "std::process",
        "async fn",
        ".await",
        "HashMap",
        "HashSet",
        "rand::",
    ]);
}
