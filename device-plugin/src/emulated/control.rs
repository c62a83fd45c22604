//! Control files of an emulated device: what they are called, what they may hold, how they are
//! read and written. Reading never blocks and never fails: what cannot be understood is
//! [`Field::Invalid`] with a text that names the file and what is expected in it.

use crate::constants::CONTROL_FILE_BYTES;
use crate::discovery::Field;
use crate::files::{read_bounded, write_atomically};
use perwatt_crds::inventory::DeviceHealth;
use std::io;
use std::path::Path;
use std::time::Duration;

/// A control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// What the device says of its own health.
    Health,
    /// Temperature in degrees Celsius.
    Temperature,
    /// Power in milliwatts.
    Power,
    /// Firmware version.
    Firmware,
    /// Whether the device is there.
    Present,
    /// How busy it is, in per cent.
    Utilisation,
    /// How long its probe takes, in milliseconds.
    Delay,
    /// Seconds after which it breaks, and after which it is well again, over and over.
    Flap,
}

impl Key {
    /// Every control file.
    pub const ALL: [Self; 8] = [
        Self::Health,
        Self::Temperature,
        Self::Power,
        Self::Firmware,
        Self::Present,
        Self::Utilisation,
        Self::Delay,
        Self::Flap,
    ];

    /// What a new device's files hold. No power: the profile's typical power stands in.
    pub const DEFAULTS: [(Self, &'static str); 4] = [
        (Self::Health, "Healthy"),
        (Self::Temperature, "40"),
        (Self::Firmware, "1.0.0"),
        (Self::Present, "true"),
    ];

    /// Name of the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Temperature => "temperature",
            Self::Power => "power",
            Self::Firmware => "firmware",
            Self::Present => "present",
            Self::Utilisation => "utilisation",
            Self::Delay => "delay",
            Self::Flap => "flap",
        }
    }

    /// What the file may hold, for a person.
    #[must_use]
    pub fn expects(self) -> &'static str {
        match self {
            Self::Health => "Healthy, Degraded or Unhealthy",
            Self::Temperature => "degrees Celsius from -60 to 250, such as 47.5",
            Self::Power => "milliwatts from 0 to 2000000, such as 2500",
            Self::Firmware => "a version of at most 64 characters, such as 1.0.0",
            Self::Present => "true or false",
            Self::Utilisation => "per cent from 0 to 100",
            Self::Delay => "milliseconds from 0 to 60000 that a probe takes",
            Self::Flap => "seconds from 0 (never) to 3600 after which it breaks, and is well again",
        }
    }

    /// The key of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.name() == name)
    }

    /// Whether `value` may be written into the file.
    #[must_use]
    pub fn accepts(self, value: &str) -> bool {
        let value = value.trim();
        match self {
            Self::Health => parse_health(value).is_some(),
            Self::Temperature => parse_temperature(value).is_some(),
            Self::Power => parse_power(value).is_some(),
            Self::Firmware => parse_firmware(value).is_some(),
            Self::Present => parse_present(value).is_some(),
            Self::Utilisation => parse_utilisation(value).is_some(),
            Self::Delay => parse_delay(value).is_some(),
            Self::Flap => parse_flap(value).is_some(),
        }
    }
}

/// Reads one control file.
pub fn read<T>(control: &Path, key: Key, parse: impl Fn(&str) -> Option<T>) -> Field<T> {
    let path = control.join(key.name());
    let invalid = |what: String| {
        Field::Invalid(format!(
            "control file {} {what}: write {}",
            path.display(),
            key.expects()
        ))
    };
    let bytes = match read_bounded(&path, CONTROL_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Field::Absent,
        Err(error) => return invalid(format!("cannot be read ({error})")),
    };
    if bytes.len() as u64 > CONTROL_FILE_BYTES {
        return invalid(format!("holds more than {CONTROL_FILE_BYTES} bytes"));
    }
    let text = String::from_utf8_lossy(&bytes);
    match text.trim() {
        "" => invalid("is empty".to_owned()),
        text => parse(text).map_or_else(|| invalid(format!("holds \"{}\"", shown(text))), Field::Value),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

/// Replaces the content of one control file.
///
/// # Errors
/// When the file cannot be written.
pub fn write(control: &Path, key: Key, value: &str) -> io::Result<()> {
    write_atomically(
        &control.join(key.name()),
        format!("{}\n", value.trim()).as_bytes(),
        0o644,
    )
}

/// Health that a device states of itself; `Unknown` is nothing that a device can state.
#[must_use]
pub fn parse_health(text: &str) -> Option<DeviceHealth> {
    [
        DeviceHealth::Healthy,
        DeviceHealth::Degraded,
        DeviceHealth::Unhealthy,
    ]
    .into_iter()
    .find(|health| text.eq_ignore_ascii_case(health.as_str()))
}

/// Degrees Celsius, as thousandths of a degree.
#[must_use]
pub fn parse_temperature(text: &str) -> Option<i32> {
    let degrees: f64 = text.parse().ok()?;
    // The comparison also turns away infinities and what is no number.
    #[allow(clippy::cast_possible_truncation)]
    (-60.0..=250.0)
        .contains(&degrees)
        .then(|| (degrees * 1000.0).round() as i32)
}

/// Milliwatts.
#[must_use]
pub fn parse_power(text: &str) -> Option<u32> {
    text.parse().ok().filter(|milliwatts| *milliwatts <= 2_000_000)
}

/// A firmware version: words without control characters.
#[must_use]
pub fn parse_firmware(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.chars().count() <= 64 && !text.chars().any(char::is_control);
    (fits && !text.contains(char::REPLACEMENT_CHARACTER)).then(|| text.to_owned())
}

/// Whether the device is there.
#[must_use]
pub fn parse_present(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// Per cent of full use, as thousandths.
#[must_use]
pub fn parse_utilisation(text: &str) -> Option<u16> {
    let percent: u16 = text.parse().ok()?;
    (percent <= 100).then_some(percent * 10)
}

/// Milliseconds that a probe takes.
#[must_use]
pub fn parse_delay(text: &str) -> Option<Duration> {
    let millis: u64 = text.parse().ok()?;
    (millis <= 60_000).then(|| Duration::from_millis(millis))
}

/// Seconds between a break and a recovery; none at all for 0.
#[must_use]
pub fn parse_flap(text: &str) -> Option<Duration> {
    let seconds: u64 = text.parse().ok()?;
    (seconds <= 3600).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read_health(dir: &Path) -> Field<DeviceHealth> {
        read(dir, Key::Health, parse_health)
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Key::Health, "Degraded").unwrap();
        assert_eq!(read_health(dir.path()), Field::Value(DeviceHealth::Degraded));
        write(dir.path(), Key::Temperature, "47.5").unwrap();
        assert_eq!(
            read(dir.path(), Key::Temperature, parse_temperature),
            Field::Value(47_500)
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_cannot_be_understood_names_the_file_and_what_it_expects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("health");
        let garbage: [&[u8]; 5] = [b"", b"\n \n", b"fine", b"\xff\xfe\x00", &[b'x'; 1 << 20]];
        for content in garbage {
            fs::write(&path, content).unwrap();
            let Field::Invalid(text) = read_health(dir.path()) else {
                panic!("{content:?} was understood")
            };
            assert!(
                text.contains("health") && text.contains("Healthy, Degraded or Unhealthy"),
                "{text}"
            );
            assert!(text.len() < 400, "{text}");
        }
    }

    #[test]
    fn a_folder_a_pipe_and_a_loop_of_links_are_no_control_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("health");
        fs::create_dir(&path).unwrap();
        assert!(matches!(read_health(dir.path()), Field::Invalid(_)));
        fs::remove_dir(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from(0o600)).unwrap();
        assert!(matches!(read_health(dir.path()), Field::Invalid(_)));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(matches!(read_health(dir.path()), Field::Invalid(_)));
        fs::remove_file(&path).unwrap();
        assert_eq!(read_health(dir.path()), Field::Absent);
    }

    #[test]
    fn limits_of_each_key() {
        for (key, good, bad) in [
            (Key::Health, "healthy", "Unknown"),
            (Key::Temperature, "-60", "250.1"),
            (Key::Temperature, "1e2", "NaN"),
            (Key::Temperature, "0", "inf"),
            (Key::Power, "2000000", "-1"),
            (Key::Power, "0", "2.5"),
            (Key::Firmware, "4.17.0", "a\u{7}b"),
            (Key::Present, "false", "yes"),
            (Key::Utilisation, "100", "101"),
            (Key::Delay, "60000", "60001"),
            (Key::Flap, "0", "-1"),
        ] {
            assert!(key.accepts(good), "{key:?} {good}");
            assert!(!key.accepts(bad), "{key:?} {bad}");
        }
        assert!(!Key::Firmware.accepts(&"x".repeat(65)));
    }
}
