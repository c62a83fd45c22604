//! The command `emulate`: what an emulated device tells of itself, shown and set.

use crate::checkpoint::Checkpoint;
use crate::discovery::{PrepareError, Source};
use crate::emulated::Emulated;
use crate::emulated::control::{self, Key};
use crate::paths::Paths;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// Why a device was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EmulateError {
    /// No such device.
    #[error("no emulated device {device} on this node; it has: {known}")]
    NoSuchDevice {
        /// The device asked for.
        device: String,
        /// What there is.
        known: String,
    },
    /// No such key, or a value that it does not take.
    #[error("cannot set {setting}: {text}\nkeys and what they take:\n{keys}")]
    Setting {
        /// What was asked.
        setting: String,
        /// What is wrong with it.
        text: String,
        /// Every key.
        keys: String,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}; run as root in the agent's container or on its node")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The device cannot be brought back.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
}

/// Sets what `settings` say and tells what the device holds then; without a device, lists them.
///
/// # Errors
/// When device, key or value do not exist; nothing is written then.
pub fn run(paths: &Paths, device: Option<&str>, settings: &[String]) -> Result<String, EmulateError> {
    let source = Emulated::new(paths.clone());
    let Some(device) = device else {
        return Ok(list(paths, &source));
    };
    // A device whose folder was deleted still is one, and can be brought back.
    let wanted = wanted(paths, &source, device);
    if wanted.is_none() && !source.existing().contains(device) {
        let known: Vec<_> = source.existing().into_iter().collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Err(EmulateError::NoSuchDevice {
            device: device.to_owned(),
            known,
        });
    }
    let settings = settings
        .iter()
        .map(|setting| parse(setting))
        .collect::<Result<Vec<_>, _>>()?;
    for (key, value) in settings {
        if let (Key::Present, "true", Some(found)) = (key, value, &wanted) {
            source.prepare(found)?;
        }
        let control = paths.control(device);
        control::write(&control, key, value).map_err(|source| EmulateError::Write {
            path: control.join(key.name()),
            source,
        })?;
    }
    Ok(show(paths, device))
}

fn wanted(paths: &Paths, source: &Emulated, device: &str) -> Option<crate::discovery::Found> {
    let known = Checkpoint::load_any(paths)?.known;
    let mut found = known
        .profiles
        .iter()
        .flat_map(|(name, spec)| source.devices_of(name, spec, &known.node));
    found.find(|found| found.id == device)
}

fn parse(setting: &str) -> Result<(Key, &str), EmulateError> {
    let wrong = |text: String| EmulateError::Setting {
        setting: setting.to_owned(),
        text,
        keys: keys(),
    };
    let (name, value) = setting
        .split_once('=')
        .ok_or_else(|| wrong("write KEY=VALUE".to_owned()))?;
    let key = Key::parse(name).ok_or_else(|| wrong(format!("there is no key {name}")))?;
    if !key.accepts(value) {
        return Err(wrong(format!("{name} takes {}", key.expects())));
    }
    Ok((key, value.trim()))
}

fn keys() -> String {
    Key::ALL
        .map(|key| format!("  {:<12} {}", key.name(), key.expects()))
        .join("\n")
}

fn list(paths: &Paths, source: &Emulated) -> String {
    let existing = source.existing();
    if existing.is_empty() {
        return format!("no emulated devices in {}\n", paths.emulated().display());
    }
    let devices: String = existing.iter().map(|device| show(paths, device)).collect();
    format!("{devices}\nkeys and what they take:\n{}\n", keys())
}

fn show(paths: &Paths, device: &str) -> String {
    let mut text = format!("{device}\n");
    for key in Key::ALL {
        let content = std::fs::read_to_string(paths.control(device).join(key.name()));
        let shown: String = content
            .as_deref()
            .map(str::trim)
            .unwrap_or("-")
            .chars()
            .take(80)
            .collect();
        let _ = writeln!(text, "  {:<12} {shown}", key.name());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        std::fs::create_dir_all(paths.control("chip-0")).unwrap();
        (dir, paths)
    }

    #[test]
    fn what_is_set_is_shown() {
        let (_dir, paths) = device();
        let text = run(
            &paths,
            Some("chip-0"),
            &["health=Unhealthy".into(), "temperature=99".into()],
        )
        .unwrap();
        assert!(
            text.contains("health       Unhealthy") && text.contains("temperature  99"),
            "{text}"
        );
        assert!(run(&paths, None, &[]).unwrap().contains("chip-0"));
    }

    #[test]
    fn a_mistake_lists_what_there_is_and_writes_nothing() {
        let (_dir, paths) = device();
        let error = run(&paths, Some("chip-9"), &[]).unwrap_err().to_string();
        assert!(error.contains("it has: chip-0"), "{error}");
        for setting in ["health", "heat=1", "health=Broken", "temperature=warm"] {
            let settings = ["present=false".to_owned(), setting.to_owned()];
            let error = run(&paths, Some("chip-0"), &settings).unwrap_err().to_string();
            assert!(
                error.contains(setting) && error.contains("Healthy, Degraded or Unhealthy"),
                "{error}"
            );
        }
        assert!(!paths.control("chip-0").join("present").exists());
    }
}
