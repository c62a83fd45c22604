//! The command `scan`: which devices this machine has, and how they are, without Kubernetes.

mod free;

use crate::checkpoint::Checkpoint;
use crate::discovery::catalogue::{self, CatalogueError};
use crate::discovery::claims::claim;
use crate::discovery::sighting::Bus;
use crate::discovery::snapshot::Snapshot;
use crate::discovery::{Discovered, Found, Search, Source, host};
use crate::emulated::Emulated;
use crate::health::{Judge, View};
use crate::known::Known;
use crate::paths::Paths;
use perwatt_crds::text::tidy;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const HEADERS: [&str; 11] = [
    "DEVICE",
    "PROFILE",
    "CLASS",
    "REGISTERED BY",
    "ADDRESS",
    "DRIVER",
    "NODES",
    "HEALTH",
    "FIRMWARE",
    "TEMPERATURE",
    "REASON",
];

/// The longest line below the table: what devices say of themselves is in it.
const LINE_BYTES: usize = 2048;

/// Of a machine on which nothing was found and all could be read.
const NOTHING: &str = "\
no accelerator was found: no device of this machine fits a profile, and none looks like one by its class, its maker, its name or its device nodes
note: if there is one, it is off, not passed through to this machine, or unlike all that are known; docs/devices.md says how to add a profile
";

type Row = [String; HEADERS.len()];

/// Why nothing was scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A profile to try cannot be read.
    #[error("cannot read the profile {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A profile to try is none.
    #[error(transparent)]
    Profile(#[from] CatalogueError),
}

/// One line for each device, read now; then what a person should know, what looks like an
/// accelerator and has no profile, and what was looked at. Profiles are those of the last checkpoint where `root` is this
/// very machine and an agent ran on it, else the shipped ones; `tried` are added.
///
/// # Errors
/// When a profile to try cannot be used.
pub fn run(paths: &Paths, tried: &[PathBuf]) -> Result<String, ScanError> {
    let own = paths.host == Path::new("/");
    let checkpoint = own.then(|| Checkpoint::load_any(paths)).flatten();
    let shipped = checkpoint.is_none();
    let mut known = match checkpoint {
        Some(checkpoint) => checkpoint.known,
        None => Known {
            profiles: catalogue::profiles()?,
            ..Known::default()
        },
    };
    for path in tried {
        let text = std::fs::read_to_string(path).map_err(|source| ScanError::Read {
            path: path.clone(),
            source,
        })?;
        let (name, spec) = catalogue::parse(&path.display().to_string(), &text)?;
        known.profiles.insert(name, spec);
    }
    let mut text = describe(paths, &known);
    if shipped {
        text.push_str("profiles: those that Perwatt ships; on a node of a cluster the agent's checkpoint has the cluster's\n");
    }
    Ok(text)
}

/// The same for profiles that are known.
#[must_use]
pub fn describe(paths: &Paths, known: &Known) -> String {
    let split = known.split_profiles();
    let (emulated, host) = (Emulated::new(paths.clone()), host::look(&paths.host));
    let search = Search {
        profiles: split.found(),
        node: &known.node,
        before: &BTreeMap::new(),
    };
    let mut rows = vec![HEADERS.map(str::to_owned)];
    let mut notes = split.refused.clone();
    let mut seen = BTreeSet::new();
    let sources: [&dyn Source; 2] = [&emulated, &host];
    for source in sources {
        let discovered: Discovered = source.find(&search);
        notes.extend(discovered.notes);
        for found in discovered.found {
            rows.push(row(&found, &look(source, &found)));
            seen.insert(found.id);
        }
    }
    let snapshot = host.snapshot();
    let claims = claim(&search.profiles, search.node, &snapshot);
    let free = free::describe(&search.profiles, &claims.free);
    notes.extend(free::describe_stray(&paths.host, &snapshot, &claims));
    let mut text = match (rows.len() > 1, free.is_empty() && notes.is_empty()) {
        (true, _) => table(&rows),
        (false, false) => "no device of this machine fits a profile\n".to_owned(),
        (false, true) => NOTHING.to_owned(),
    };
    for leftover in emulated.existing().difference(&seen) {
        notes.push(format!(
            "{leftover}: an emulated device that no known profile asks for"
        ));
    }
    section(&mut text, "note", &notes);
    section(&mut text, "no profile", &free);
    let title = format!("looked at below {}", paths.host.display());
    section(&mut text, &title, &[count(&snapshot, search.profiles.len())]);
    text
}

fn count(snapshot: &Snapshot, profiles: usize) -> String {
    let on = |bus: Bus| {
        let on_bus = snapshot.sightings.iter().filter(|sighting| sighting.bus == bus);
        on_bus.count()
    };
    format!(
        "PCI devices ({}), USB devices ({}), platform devices ({}) and device nodes ({}), with profiles ({profiles})",
        on(Bus::Pci),
        on(Bus::Usb),
        on(Bus::Platform),
        snapshot.nodes.len(),
    )
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    for line in lines {
        let _ = writeln!(text, "{title}: {}", tidy(line, LINE_BYTES));
    }
}

fn look(source: &dyn Source, found: &Found) -> View {
    Judge::default()
        .judge(found, source.probe(found), Instant::now())
        .view
}

fn row(found: &Found, view: &View) -> Row {
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or("-".to_owned());
    let temperature = view
        .millicelsius
        .map(|value| format!("{} °C", f64::from(value) / 1000.0));
    let reasons: Vec<_> = view
        .reasons
        .iter()
        .map(|reason| reason.message.as_str())
        .collect();
    let nodes = match &found.place {
        Some(place) => place.nodes.iter().map(|node| node.path.clone()).collect(),
        None => vec![found.node.display().to_string()],
    };
    let registered = match (found.external, found.emulated) {
        (true, _) => "another plugin",
        (false, true) => "Perwatt (emulated)",
        (false, false) => "Perwatt",
    };
    [
        found.id.clone(),
        found.profile.clone(),
        found.class.as_str().to_owned(),
        registered.to_owned(),
        or_dash(found.address.clone()),
        or_dash(found.driver.clone()),
        or_dash(Some(nodes.join(" "))),
        view.health.as_str().to_owned(),
        or_dash(view.firmware.clone()),
        or_dash(temperature),
        or_dash(Some(reasons.join("; "))),
    ]
}

fn table(rows: &[Row]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADERS.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn a_machine_without_anything_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        std::fs::create_dir_all(&paths.host).unwrap();
        let text = run(&paths, &[]).unwrap();
        assert!(
            text.starts_with("no accelerator was found") && text.contains("those that Perwatt ships"),
            "{text}"
        );
    }

    #[test]
    fn a_root_that_is_not_there_is_told() {
        let paths = Paths::below(Path::new("/nowhere"));
        let text = run(&paths, &[]).unwrap();
        assert!(text.contains("note: cannot read /nowhere/host"), "{text}");
        let error = run(&paths, &["/nowhere/profile.yaml".into()])
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nowhere/profile.yaml"), "{error}");
    }

    #[test]
    fn rows_line_up() {
        let paths = Paths::below(Path::new("/x"));
        let device = fixtures::node(&paths).devices.remove("chip-0").unwrap();
        let text = table(&[HEADERS.map(str::to_owned), row(&device.found, &device.view)]);
        insta::assert_snapshot!(text);
    }
}
