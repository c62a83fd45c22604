//! `model bench`: what each variant of a model costs, on this machine.

use super::check::{folder_finding, take_line};
use super::child::{Job, probe};
use super::report::{BenchReport, FileReport, Line, VariantReport};
use super::{BenchArgs, Format, ModelError};
use comfy_table::{Table, presets::NOTHING};
use perwatt_model::{FileSpec, ModelFolder};
use perwatt_runtime::inspect::{Severity, precision_name};
use std::io::Write;

/// Measures the variants of a folder; true when each was measured.
///
/// # Errors
/// When the folder cannot be used, no process can be started, or the result not be printed.
pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<bool, ModelError> {
    let folder = ModelFolder::open(&args.folder)?;
    let mut report = BenchReport {
        ok: true,
        name: folder.manifest().name.to_string(),
        version: folder.manifest().version.to_string(),
        variants: Vec::new(),
    };
    for file in chosen(&folder, args.variant.as_deref())? {
        let variant = measure(&folder, file, args)?;
        report.ok &= variant.measured.is_some();
        report.variants.push(variant);
    }
    match args.output {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        }
        Format::Table => write_report(&report, args, out)?,
    }
    Ok(report.ok)
}

fn chosen<'a>(folder: &'a ModelFolder, variant: Option<&str>) -> Result<Vec<&'a FileSpec>, ModelError> {
    let files = &folder.manifest().files;
    let Some(name) = variant else {
        return Ok(files.iter().collect());
    };
    let file = folder.manifest().file(name).ok_or_else(|| {
        let known: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        ModelError::NoVariant {
            name: name.to_owned(),
            known: known.join(", "),
        }
    })?;
    Ok(vec![file])
}

fn measure(folder: &ModelFolder, file: &FileSpec, args: &BenchArgs) -> Result<VariantReport, ModelError> {
    let mut report = VariantReport {
        file: FileReport::new(file),
        measured: None,
    };
    if let Err(error) = folder.check_file(file) {
        report.file.add(folder_finding(&error));
        return Ok(report);
    }
    let job = Job {
        folder: folder.path(),
        file: file.path.as_str(),
        seconds: args.seconds,
        threads: args.threads,
        limits: &args.limits,
    };
    for line in probe(&job)? {
        match line {
            Line::Measured(measured) => report.measured = Some(measured),
            line => take_line(&mut report.file, line),
        }
    }
    Ok(report)
}

fn write_report(report: &BenchReport, args: &BenchArgs, out: &mut impl Write) -> Result<(), ModelError> {
    let (seconds, threads) = (args.seconds, args.threads);
    writeln!(
        out,
        "{} {}: {seconds} s each, threads at once: {threads}\n",
        report.name, report.version
    )?;
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "VARIANT",
        "BACKEND",
        "PRECISION",
        "P50",
        "P90",
        "P99",
        "MAX",
        "PER SECOND",
        "MACS",
        "LOADS IN",
        "PEAK MEMORY",
        "FAILED",
    ]);
    for variant in &report.variants {
        table.add_row(row(variant));
    }
    writeln!(out, "{table}")?;
    for variant in &report.variants {
        for finding in &variant.file.inspection.findings {
            if finding.severity == Severity::Error {
                writeln!(
                    out,
                    "error    {}: {:?}: {finding}",
                    variant.file.path, finding.code
                )?;
            }
        }
    }
    Ok(())
}

fn row(variant: &VariantReport) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let (load, measured) = (variant.file.load.as_ref(), variant.measured.as_ref());
    let mut cells = vec![
        variant.file.path.clone(),
        format!("{:?}", variant.file.backend),
        precision_name(variant.file.precision).into(),
    ];
    let times = measured.map(|m| {
        [
            m.p50_microseconds,
            m.p90_microseconds,
            m.p99_microseconds,
            m.max_microseconds,
        ]
    });
    match times {
        Some(times) => cells.extend(times.map(show_micros)),
        None => cells.extend(["-", "-", "-", "-"].map(String::from)),
    }
    cells.push(or_dash(measured.map(|m| format!("{:.1}", m.per_second))));
    cells.push(or_dash(
        load.and_then(|load| load.operations)
            .map(|count| count.to_string()),
    ));
    cells.push(or_dash(
        load.map(|load| format!("{} ms", load.load_microseconds / 1000)),
    ));
    cells.push(or_dash(
        measured.map(|m| format!("{} MiB", m.peak_memory_bytes >> 20)),
    ));
    cells.push(or_dash(measured.map(|m| m.failures.to_string())));
    cells
}

fn show_micros(micros: f64) -> String {
    if micros < 10_000.0 {
        format!("{micros:.1} µs")
    } else {
        format!("{:.2} ms", micros / 1e3)
    }
}
