//! What the pure crates' tests share: which crates they depend on, and which words their sources hold.

use std::process::Command;

/// The packages that `package`, whose folder this is, depends on outside its tests, sorted; it is among them.
fn packages(package: &str) -> Vec<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--package",
            package,
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
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    let mut packages: Vec<_> = names.map(str::to_owned).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Fails where `package` does not depend on `expected` (then the list is not what it seems) or depends on what is forbidden;
/// gives what it depends on.
pub fn check_packages(package: &str, expected: &str, forbidden: &[&str]) -> Vec<String> {
    let packages = packages(package);
    let depends_on = |name: &str| packages.iter().any(|package| package == name);
    assert!(depends_on(expected), "the tree lists what there is: {packages:?}");
    for forbidden in forbidden {
        assert!(
            !depends_on(forbidden),
            "{package} depends on {forbidden}: {packages:?}"
        );
    }
    packages
}

/// Fails where a source of this crate holds one of the words; gives how many sources there are.
pub fn check_sources(forbidden: &[&str]) -> usize {
    let mut seen = 0;
    for entry in std::fs::read_dir("src").unwrap() {
        let path = entry.unwrap().path();
        let source = std::fs::read_to_string(&path).unwrap();
        for word in forbidden {
            assert!(!source.contains(word), "{} contains {word}", path.display());
        }
        seen += 1;
    }
    seen
}
