//! `model probe`, hidden: loads one file with the runtime's own loader and tells standard output how far it got.
//!
//! It runs in a process of its own, under limits that it sets itself before it reads anything.

use super::report::{Line, Load, Measured};
use super::{Limits, ModelError, ProbeArgs};
use hdrhistogram::Histogram;
use perwatt_model::ModelFolder;
use perwatt_runtime::backend::{Model, Settings, Signature};
use perwatt_runtime::inspect::{Code, Finding};
use perwatt_runtime::loader::Loader;
use perwatt_runtime::tensor::{Data, Tensor};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// As large as the runtime gives its own loading thread.
const STACK_BYTES: usize = 64 << 20;
/// Part of the time in which a model is run before it is measured.
const WARM_UP: u32 = 10;

/// Loads and runs a file, reporting line by line.
///
/// # Errors
/// When nothing can be reported.
pub fn run(args: &ProbeArgs, out: &mut impl Write) -> Result<(), ModelError> {
    confine(&args.limits, args.seconds * args.threads)?;
    std::thread::scope(|scope| {
        let (send, lines) = std::sync::mpsc::channel::<Line>();
        let work = move || {
            // Nobody reads any more where sending fails.
            let report = |line| drop(send.send(line));
            if let Err(finding) = probe(args, &report) {
                report(Line::Refused(finding));
            }
        };
        let builder = std::thread::Builder::new()
            .name("load".into())
            .stack_size(STACK_BYTES);
        builder.spawn_scoped(scope, work)?;
        for line in lines {
            serde_json::to_writer(&mut *out, &line)?;
            out.write_all(b"\n")?;
            // A line that is still in a buffer when the process crashes tells nobody anything.
            out.flush()?;
        }
        Ok(())
    })
}

/// Takes from this process what loading a file does not need.
fn confine(limits: &Limits, bench_seconds: u64) -> io::Result<()> {
    let limit = |resource, most: u64| {
        let both = Rlimit {
            current: Some(most),
            // At the second limit of time the process is killed outright, and cannot be told from a crash.
            maximum: Some(most.saturating_add(5)),
        };
        setrlimit(resource, both)
    };
    // The one who reads our lines is gone: so are we.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::As, limits.memory_mebibytes << 20)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    limit(Resource::Cpu, limits.load_seconds * cores + 2 * bench_seconds)?;
    Ok(())
}

fn probe(args: &ProbeArgs, report: &impl Fn(Line)) -> Result<(), Finding> {
    let began = Instant::now();
    let refuse = |code, error: &dyn std::error::Error| Finding::error(code, "", error.to_string());
    let folder = ModelFolder::open(&args.folder).map_err(|error| refuse(Code::Manifest, &error))?;
    let signature = Signature::of(folder.manifest());
    let mut loader = Loader::new(folder);
    let settings = Settings::default();
    let inspection = loader
        .inspect(&args.file, &settings)
        .map_err(|error| refuse(Code::Load, &error))?;
    let is_refused = inspection.refusal().is_some();
    report(Line::Inspected(inspection));
    if is_refused {
        return Ok(());
    }
    let model = loader
        .model(&args.file, &settings)
        .map_err(|error| refuse(Code::Load, &error))?;
    let loaded = began.elapsed();
    report(Line::Loaded);
    let inputs = make_inputs(&signature, 0.0);
    let began = Instant::now();
    call(&*model, &inputs).map_err(|message| Finding::error(Code::Inference, "", message))?;
    report(Line::Ran(Load {
        load_microseconds: micros(loaded),
        first_inference_microseconds: micros(began.elapsed()),
        peak_memory_bytes: peak_memory().unwrap_or(0),
        operations: model.operations(),
    }));
    if args.seconds > 0 {
        let measured = measure(
            &model,
            &signature,
            args.threads,
            Duration::from_secs(args.seconds),
        )?;
        report(Line::Measured(measured));
    }
    Ok(())
}

/// Runs a model; one that panics has failed.
fn call(model: &dyn Model, inputs: &[Tensor]) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(|| model.infer(inputs))) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("the first inference failed: {error}")),
        Err(_) => Err("the first inference failed: the backend panicked".into()),
    }
}

/// Inputs for a model: zeros, or for floats a fixed noise of this height, since some arithmetic is faster on zeros.
fn make_inputs(signature: &Signature, height: f32) -> Vec<Tensor> {
    let mut state = 0x9E37_79B9_u32;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX) - 0.5) as f32 * height
    };
    let input = |spec: &perwatt_model::TensorSpec| {
        let mut tensor = Tensor::zeros(spec.datatype, &spec.shape);
        if let Data::F32(values) = &mut tensor.data {
            values.fill_with(&mut noise);
        }
        tensor
    };
    signature.inputs.iter().map(input).collect()
}

/// Calls the model from all threads at once for the given time, after a tenth of it to warm up.
fn measure(
    model: &Arc<dyn Model>,
    signature: &Signature,
    threads: u64,
    time: Duration,
) -> Result<Measured, Finding> {
    let failed = |message: String| Finding::error(Code::Inference, "", message);
    let inputs = make_inputs(signature, 1.0);
    let ready = Barrier::new(usize::try_from(threads).unwrap_or(1));
    let results: Vec<_> = std::thread::scope(|scope| {
        let (ready, inputs) = (&ready, &inputs);
        let handles: Vec<_> = (0..threads)
            .map(|_| scope.spawn(move || worker(&**model, inputs, ready, time)))
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().ok().flatten())
            .collect()
    });
    let mut all = new_histogram().ok_or_else(|| failed("a histogram cannot be made".into()))?;
    let (mut failures, mut per_second) = (0, 0.0);
    for result in results {
        let one = result.ok_or_else(|| failed("a measuring thread ended early".into()))?;
        all.add(&one.latencies)
            .map_err(|error| failed(error.to_string()))?;
        failures += one.failures;
        per_second += one.latencies.len() as f64 / one.took.as_secs_f64();
    }
    let at = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Measured {
        threads,
        seconds: time.as_secs_f64(),
        inferences: all.len(),
        failures,
        per_second,
        p50_microseconds: at(0.5),
        p90_microseconds: at(0.9),
        p99_microseconds: at(0.99),
        p999_microseconds: at(0.999),
        max_microseconds: all.max() as f64 / 1e3,
        peak_memory_bytes: peak_memory().unwrap_or(0),
    })
}

struct Counted {
    latencies: Histogram<u64>,
    failures: u64,
    took: Duration,
}

/// Nanoseconds up to an hour.
fn new_histogram() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).ok()
}

fn worker(model: &dyn Model, inputs: &[Tensor], ready: &Barrier, time: Duration) -> Option<Counted> {
    let mut latencies = new_histogram()?;
    ready.wait();
    let began = Instant::now();
    while began.elapsed() < time / WARM_UP {
        let _ = call(model, inputs);
    }
    let (began, mut failures) = (Instant::now(), 0);
    loop {
        let start = Instant::now();
        let result = call(model, inputs);
        let took = start.elapsed();
        match result {
            Ok(()) => latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            Err(_) => failures += 1,
        }
        if began.elapsed() >= time {
            return Some(Counted {
                latencies,
                failures,
                took: began.elapsed(),
            });
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Peak of resident memory of this process.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
