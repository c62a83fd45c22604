//! A management library of two made GPUs, built by the system's C compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a GPU tells that is well.
pub const WELL: &str = "temperature 61\nshutdown 104\npower 4500\nenergy 1234567\nutilisation 37\nclock 1410\nlimit 1980\nthrottle 1\nused 1048576\necc 0\npending 0\n";

/// The library, and the file whose lines it tells.
pub struct Fake {
    control: PathBuf,
}

impl Fake {
    /// Builds the library at `path`; it tells what `holds` says.
    pub fn build(path: &Path, holds: &str) -> Self {
        let folder = path.parent().unwrap();
        std::fs::create_dir_all(folder).unwrap();
        let fake = Self {
            control: folder.join("control"),
        };
        fake.holds(holds);
        let (source, built) = (folder.join("nvml.c"), folder.join("built"));
        std::fs::write(&source, include_str!("nvml.c")).unwrap();
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&built)
            .arg(format!("-DCONTROL=\"{}\"", fake.control.display()))
            .arg(&source)
            .status()
            .expect("a C compiler builds the library of this test: install one (Debian: gcc)");
        assert!(status.success());
        // Whoever waits for the library finds it whole.
        std::fs::rename(built, path).unwrap();
        fake
    }

    /// What it tells from now on.
    pub fn holds(&self, text: &str) {
        let new = self.control.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.control).unwrap();
    }
}
