//! The crate decides, and does nothing else.

use std::process::Command;

#[test]
fn no_kubernetes_client_and_no_runtime_is_among_the_dependencies() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--package",
            "perwatt-planner",
            "--edges",
            "normal",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--offline", "--manifest-path", "Cargo.toml"])
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "cargo tree failed: {}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let text = String::from_utf8(tree.stdout).unwrap();
    let packages: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(
        packages.contains(&"perwatt-crds"),
        "the tree lists what there is: {packages:?}"
    );
    for forbidden in ["kube-client", "kube-runtime", "tokio", "hyper", "reqwest"] {
        assert!(
            !packages.contains(&forbidden),
            "perwatt-planner depends on {forbidden}:\n{text}"
        );
    }
}

#[test]
fn no_source_reads_a_clock_an_environment_or_a_file() {
    let folder = "src";
    let forbidden = [
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
    ];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        for word in forbidden {
            assert!(!source.contains(word), "{} contains {word}", path.display());
        }
    }
}
