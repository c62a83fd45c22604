//! The crate decides, and does nothing else.

#[path = "../../../purity.rs"]
mod shared;

use shared::{check_sources, packages};

#[test]
fn no_kubernetes_client_and_no_runtime_is_among_the_dependencies() {
    let packages = packages("perwatt-planner");
    let depends_on = |name: &str| packages.iter().any(|package| package == name);
    assert!(
        depends_on("perwatt-crds"),
        "the tree lists what there is: {packages:?}"
    );
    for forbidden in ["kube-client", "kube-runtime", "tokio", "hyper", "reqwest"] {
        assert!(
            !depends_on(forbidden),
            "perwatt-planner depends on {forbidden}: {packages:?}"
        );
    }
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
