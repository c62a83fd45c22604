//! How long each process keeps the engines of a DRM device busy, from `/proc/<pid>/fdinfo`
//! (the kernel's `Documentation/gpu/drm-usage-stats.rst`).
//!
//! It needs the processes of the host below `proc`, which the agent's container does not see by
//! itself; and it opens many files, so nobody calls it with every sample.

use super::files;
use crate::discovery::Field;
use std::collections::BTreeMap;
use std::path::Path;

/// The most processes and files of each that are looked at.
const MOST: usize = 4096;

/// One client of a device: an open file, whoever shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// A process that has it open.
    pub pid: u32,
    /// Nanoseconds of work by engine, such as `render` or `compute`.
    pub engines: BTreeMap<String, u64>,
}

/// The clients of the device at `address` (such as `0000:00:02.0`), by client id.
#[must_use]
pub fn clients(proc: &Path, address: &str) -> BTreeMap<u64, Client> {
    let mut found = BTreeMap::new();
    let Ok(processes) = std::fs::read_dir(proc) else {
        return found;
    };
    for process in processes.flatten().take(MOST) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(open) = std::fs::read_dir(process.path().join("fdinfo")) else {
            continue;
        };
        for file in open.flatten().take(MOST) {
            if let Field::Value(text) = files::text(&file.path())
                && let Some((id, engines)) = parse(&text, address)
            {
                // A file that is shared or duplicated is one client.
                found.entry(id).or_insert(Client { pid, engines });
            }
        }
    }
    found
}

fn parse(text: &str, address: &str) -> Option<(u64, BTreeMap<String, u64>)> {
    let mut engines = BTreeMap::new();
    let (mut id, mut is_ours) = (None, false);
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key {
            "drm-pdev" => is_ours = value == address,
            "drm-client-id" => id = value.parse().ok(),
            _ => {
                let engine = key
                    .strip_prefix("drm-engine-")
                    .filter(|name| !name.starts_with("capacity-"));
                let time = value.strip_suffix(" ns").and_then(|time| time.parse().ok());
                if let (Some(engine), Some(time)) = (engine, time) {
                    engines.insert(engine.to_owned(), time);
                }
            }
        }
    }
    is_ours.then_some((id?, engines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const TEXT: &str = "pos:\t0\nflags:\t02\ndrm-driver:\ti915\ndrm-pdev:\t0000:00:02.0\ndrm-client-id:\t7\n\
        drm-engine-render:\t1500000 ns\ndrm-engine-capacity-render:\t1\ndrm-engine-video:\tmuch ns\n";

    #[test]
    fn shared_files_count_once_and_other_devices_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, fd) in [("41", "3"), ("41", "4"), ("42", "3"), ("self", "1")] {
            let folder = dir.path().join(pid).join("fdinfo");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(fd), TEXT).unwrap();
        }
        fs::write(dir.path().join("41/fdinfo/5"), [0xff, 0xfe]).unwrap();
        let found = clients(dir.path(), "0000:00:02.0");
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [7]);
        assert_eq!(
            found[&7].engines,
            BTreeMap::from([("render".to_owned(), 1_500_000)])
        );
        assert!(clients(dir.path(), "0000:00:03.0").is_empty());
        assert!(clients(Path::new("/nowhere"), "0000:00:02.0").is_empty());
    }
}
