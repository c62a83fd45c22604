//! Finding the programs that this workspace builds.

use std::path::PathBuf;

use crate::cluster::{Error, Result};

/// Path of a built program: beside this very program (tests are one folder
/// deeper), or in the target folder.
pub fn find(name: &str) -> Result<PathBuf> {
    let folders = folders();
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let shown: Vec<_> = folders
                .iter()
                .map(|folder| folder.display().to_string())
                .collect();
            Error::Preflight(format!(
                "{name} is not built (looked into {}): run `cargo build --workspace --bins`",
                shown.join(", ")
            ))
        })
}

fn folders() -> Vec<PathBuf> {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.ancestors().skip(1).take(2).map(PathBuf::from);
    let target = std::env::var_os("CARGO_TARGET_DIR").map(|folder| PathBuf::from(folder).join("debug"));
    beside.chain(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_says_how_to_build_it() {
        let message = find("perwatt-nothing").expect_err("not there").to_string();
        assert!(
            message.starts_with("perwatt-nothing is not built (looked into /"),
            "{message}"
        );
    }
}
