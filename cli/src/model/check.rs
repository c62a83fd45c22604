//! `model check`: everything that is wrong with a model's folder, as the runtime would find it.

use super::child::{Job, probe};
use super::report::{CheckReport, FileReport, Line};
use super::{CheckArgs, Format, Limits, ModelError};
use comfy_table::{Table, presets::NOTHING};
use perwatt_model::manifest::FILE_NAME;
use perwatt_model::{FileSpec, FolderError, Manifest, ModelFolder, Step};
use perwatt_runtime::inspect::{Code, Finding, Severity, precision_name, printable};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// Files beside those of `model.yaml` that are named.
const MAX_UNLISTED: usize = 16;

/// Checks a folder and prints what was found; true when the model can be served.
///
/// # Errors
/// When the check cannot be done, or its result not be printed.
pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<bool, ModelError> {
    let (report, manifest) = check(&args.folder, &args.limits)?;
    match args.output {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        }
        Format::Table => write_report(&report, manifest.as_ref(), out)?,
    }
    Ok(report.ok)
}

/// Checks a folder; with what `model.yaml` says, where it could be read.
///
/// # Errors
/// When no process can be started.
pub fn check(path: &Path, limits: &Limits) -> Result<(CheckReport, Option<Manifest>), ModelError> {
    let mut report = CheckReport {
        ok: true,
        name: None,
        version: None,
        findings: Vec::new(),
        files: Vec::new(),
    };
    let folder = match ModelFolder::open(path) {
        Ok(folder) => folder,
        Err(error) => {
            report.ok = false;
            report.findings.push(folder_finding(&error));
            return Ok((report, None));
        }
    };
    let manifest = folder.manifest().clone();
    report.name = Some(manifest.name.to_string());
    report.version = Some(manifest.version.to_string());
    report.findings = check_beside(&folder);
    for file in &manifest.files {
        report.files.push(check_file(&folder, file, limits)?);
    }
    let is_error = |finding: &Finding| finding.severity == Severity::Error;
    report.ok = !report.findings.iter().any(is_error) && report.files.iter().all(|file| file.ok);
    Ok((report, Some(manifest)))
}

/// The licence's file, and files that nobody names.
fn check_beside(folder: &ModelFolder) -> Vec<Finding> {
    let manifest = folder.manifest();
    let licence = folder.check_licence().err();
    let mut findings: Vec<_> = licence.iter().map(folder_finding).collect();
    let mut named: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    named.extend(
        manifest
            .licence
            .iter()
            .filter_map(|licence| Some(licence.file.as_ref()?.as_str())),
    );
    named.insert(FILE_NAME);
    // What lies in subfolders is not looked at: such a folder is named itself where nothing in it is used.
    let entries = std::fs::read_dir(folder.path()).into_iter().flatten().flatten();
    let is_named = |name: &str| named.iter().any(|path| path.split('/').next() == Some(name));
    let mut unlisted: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !is_named(name))
        .take(MAX_UNLISTED)
        .collect();
    unlisted.sort();
    findings.extend(unlisted.iter().map(|name| {
        let message = "model.yaml does not name it: it is neither served nor packed";
        Finding::warning(Code::Unlisted, format!("{name:?}"), message)
    }));
    findings
}

fn check_file(folder: &ModelFolder, file: &FileSpec, limits: &Limits) -> Result<FileReport, ModelError> {
    let mut report = FileReport::new(file);
    if let Err(error) = folder.check_file(file) {
        report.add(folder_finding(&error));
        return Ok(report);
    }
    let job = Job {
        folder: folder.path(),
        file: file.path.as_str(),
        seconds: 0,
        threads: 1,
        limits,
    };
    for line in probe(&job)? {
        take_line(&mut report, line);
    }
    Ok(report)
}

/// Puts a line of the loading process into the report.
pub fn take_line(report: &mut FileReport, line: Line) {
    match line {
        Line::Inspected(inspection) => {
            report.ok &= inspection.refusal().is_none();
            report.inspection = inspection;
        }
        Line::Ran(load) => report.load = Some(load),
        Line::Refused(finding) => report.add(finding),
        Line::Loaded | Line::Measured(_) => {}
    }
}

/// What a folder's error is, as a finding.
pub fn folder_finding(error: &FolderError) -> Finding {
    let code = match error {
        FolderError::Folder { .. } => Code::Folder,
        FolderError::Manifest { .. } => Code::Manifest,
        FolderError::Hash { .. } => Code::Hash,
        FolderError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Code::Missing,
        FolderError::Read { .. } | FolderError::File { .. } | FolderError::Image(_) => Code::File,
    };
    Finding::error(code, "", error.to_string())
}

fn write_report(
    report: &CheckReport,
    manifest: Option<&Manifest>,
    out: &mut impl Write,
) -> Result<(), ModelError> {
    if let Some(manifest) = manifest {
        writeln!(out, "model    {} {}", manifest.name, manifest.version)?;
        write_tensors(manifest, out)?;
        writeln!(out, "\n{}\n", build_table(report))?;
    }
    for finding in &report.findings {
        write_finding("", finding, out)?;
    }
    for file in &report.files {
        for finding in &file.inspection.findings {
            write_finding(&file.path, finding, out)?;
        }
        if file.inspection.more > 0 {
            writeln!(out, "         {}: and {} more", file.path, file.inspection.more)?;
        }
    }
    let verdict = if report.ok {
        "the model can be served"
    } else {
        "the model is refused"
    };
    writeln!(out, "{verdict}")?;
    Ok(())
}

fn write_finding(path: &str, finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let colon = if path.is_empty() { "" } else { ": " };
    writeln!(out, "{severity:8} {path}{colon}{:?}: {finding}", finding.code)
}

fn build_table(report: &CheckReport) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "VARIANT",
        "BACKEND",
        "PRECISION",
        "FORMAT",
        "OPERATORS",
        "WEIGHTS",
        "LOADS IN",
        "PEAK MEMORY",
        "VERDICT",
    ]);
    for file in &report.files {
        let inspection = &file.inspection;
        let load = file.load.as_ref();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let nodes: u64 = inspection.operators.values().sum();
        let weights: u64 = inspection.weights.values().sum();
        table.add_row([
            printable(&file.path),
            format!("{:?}", file.backend),
            precision_name(file.precision).into(),
            or_dash((!inspection.format.is_empty()).then(|| inspection.format.clone())),
            or_dash((nodes > 0).then(|| format!("{nodes} of {} kinds", inspection.operators.len()))),
            or_dash((weights > 0).then(|| weights.to_string())),
            or_dash(load.map(|load| format!("{} ms", load.load_microseconds / 1000))),
            or_dash(load.map(|load| format!("{} MiB", load.peak_memory_bytes >> 20))),
            if file.ok { "well".into() } else { "refused".into() },
        ]);
    }
    table
}

fn write_steps(manifest: &Manifest, out: &mut impl Write) -> io::Result<()> {
    let named = |steps: &[Step]| steps.iter().map(Step::name).collect::<Vec<_>>().join(", ");
    for p in &manifest.preprocess {
        let (to, datatype) = (&p.to.name, p.to.datatype.as_str());
        let (shape, steps) = (&p.to.shape, named(&p.steps));
        writeln!(out, "before   {} → {to} {datatype} {shape:?}: {steps}", p.from)?;
    }
    for p in &manifest.postprocess {
        let (from, datatype) = (&p.from.name, p.from.datatype.as_str());
        let (shape, steps) = (&p.from.shape, named(&p.steps));
        writeln!(out, "after    {from} {datatype} {shape:?} → {}: {steps}", p.to)?;
    }
    Ok(())
}

fn write_tensors(manifest: &Manifest, out: &mut impl Write) -> io::Result<()> {
    let groups = [("takes", &manifest.inputs), ("gives", &manifest.outputs)];
    for (what, tensors) in groups {
        for tensor in tensors {
            let (name, datatype) = (&tensor.name, tensor.datatype.as_str());
            writeln!(out, "{what:8} {name} {datatype} {:?}", tensor.shape)?;
        }
    }
    write_steps(manifest, out)?;
    if let Some(sequence) = &manifest.sequence {
        for state in &sequence.state {
            writeln!(
                out,
                "keeps    {} → {} {:?}",
                state.output, state.input, state.shape
            )?;
        }
        for context in &sequence.context {
            writeln!(out, "keeps    the last {} of {}", context.samples, context.input)?;
        }
    }
    Ok(())
}
