//! The crate decides, and does nothing else.

#[path = "../../../purity.rs"]
mod shared;

use shared::{check_packages, check_sources};

#[test]
fn no_client_and_no_runtime_are_among_the_dependencies() {
    check_packages(
        "perwatt-rollout",
        "perwatt-verdict",
        &[
            "kube",
            "k8s-openapi",
            "tokio",
            "hyper",
            "reqwest",
            "rand",
            "fastrand",
        ],
    );
}

#[test]
fn no_source_reads_a_clock_an_environment_or_a_file_or_rolls_dice() {
    let seen = check_sources(&[
        "SystemTime",
        "Instant::now",
        "Timestamp::now",
        "std::env",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "async fn",
        ".await",
        "HashMap",
        "HashSet",
        "rand::",
    ]);
    assert!(seen >= 4);
}
