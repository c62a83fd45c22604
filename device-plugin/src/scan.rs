//! The command `scan`: which devices this node has, and how they are, without Kubernetes.

use crate::checkpoint::Checkpoint;
use crate::discovery::Source;
use crate::emulated::Emulated;
use crate::health::{Judge, View};
use crate::paths::Paths;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Instant;

const HEADERS: [&str; 8] = [
    "DEVICE",
    "PROFILE",
    "CLASS",
    "EMULATED",
    "HEALTH",
    "FIRMWARE",
    "TEMPERATURE",
    "REASON",
];

/// One line for each device, read now.
#[must_use]
pub fn run(paths: &Paths) -> String {
    let source = Emulated::new(paths.clone());
    let known = Checkpoint::load_any(paths)
        .map(|checkpoint| checkpoint.known)
        .unwrap_or_default();
    let (profiles, refused) = known.split_profiles();
    let mut rows = vec![HEADERS.map(str::to_owned)];
    let mut seen = BTreeSet::new();
    for (name, spec) in profiles {
        for found in source.find(name, spec, &known.node) {
            let view = Judge::default()
                .judge(&found, source.probe(&found), Instant::now())
                .view;
            rows.push(row(&found, &view));
            seen.insert(found.id);
        }
    }
    let mut text = if rows.len() > 1 {
        table(&rows)
    } else {
        "no devices on this node\n".to_owned()
    };
    for leftover in source.existing().difference(&seen) {
        let _ = writeln!(
            text,
            "{leftover}: an emulated device that no known profile asks for"
        );
    }
    for line in refused {
        let _ = writeln!(text, "{line}");
    }
    if known.node.name.is_empty() {
        let _ = writeln!(
            text,
            "{} holds no hardware profiles yet: the node agent writes them there once it has run on this node",
            paths.checkpoint().display()
        );
    }
    text
}

fn row(found: &crate::discovery::Found, view: &View) -> [String; 8] {
    let temperature = view
        .millicelsius
        .map(|value| format!("{} °C", f64::from(value) / 1000.0));
    let reasons: Vec<_> = view
        .reasons
        .iter()
        .map(|reason| reason.message.as_str())
        .collect();
    [
        found.id.clone(),
        found.profile.clone(),
        found.class.as_str().to_owned(),
        if found.emulated { "yes" } else { "no" }.to_owned(),
        view.health.as_str().to_owned(),
        view.firmware.clone().unwrap_or_else(|| "-".to_owned()),
        temperature.unwrap_or_else(|| "-".to_owned()),
        if reasons.is_empty() {
            "-".to_owned()
        } else {
            reasons.join("; ")
        },
    ]
}

fn table(rows: &[[String; 8]]) -> String {
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
    fn a_node_without_anything_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let text = run(&Paths::below(dir.path()));
        assert!(
            text.contains("no devices on this node") && text.contains("checkpoint.json"),
            "{text}"
        );
    }

    #[test]
    fn rows_line_up() {
        let paths = Paths::below(std::path::Path::new("/nowhere"));
        let device = fixtures::node(&paths).devices.remove("chip-0").unwrap();
        let text = table(&[HEADERS.map(str::to_owned), row(&device.found, &device.view)]);
        assert_eq!(
            text,
            "DEVICE  PROFILE  CLASS  EMULATED  HEALTH   FIRMWARE  TEMPERATURE  REASON\n\
             chip-0  chip     ASIC   yes       Healthy  1.0.0     40 °C        -\n"
        );
    }
}
