//! The crate judges, and does nothing else.

#[path = "../../../purity.rs"]
mod shared;

use shared::{check_packages, check_sources};

#[test]
fn few_crates_and_no_client_and_no_runtime_are_among_the_dependencies() {
    let packages = check_packages(
        "perwatt-verdict",
        "statrs",
        &[
            "kube",
            "kube-client",
            "k8s-openapi",
            "tokio",
            "hyper",
            "reqwest",
            "rand",
            "fastrand",
        ],
    );
    assert!(packages.len() <= 20, "few dependencies: {packages:?}");
}

#[test]
fn no_source_reads_a_clock_an_environment_or_a_file_or_rolls_dice() {
    let seen = check_sources(&[
        "SystemTime",
        "Instant::now",
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
    assert!(seen > 10);
}
