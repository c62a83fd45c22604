//! `runtime-overhead`: what the runtime adds to a model.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::figure::{Figure, RUNS, median};
use super::load::run;
use super::server::Server;
use super::wire::Wire;
use super::{echo, failed};
use crate::product::Result;
use crate::programs;
use crate::progress::Progress;

/// How long one run lasts.
const TIME: Duration = Duration::from_secs(4);

/// Server-side time added to the model call: the time of a request over one connection, less that of the same
/// bytes to and from a server that does nothing, less the model alone.
pub fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let folder = echo::folder()?;
    progress.say("the model alone");
    let model = model_microseconds(folder.path())?;
    let server = Server::runtime(folder.path())?;
    let mut figures = vec![Figure::new("model call alone, p50", model, "µs", 1)];
    for wire in Wire::ALL {
        figures.extend(of_wire(&progress, &server, wire, model)?);
    }
    Ok(figures)
}

fn of_wire(progress: &Progress, server: &Server, wire: Wire, model: f64) -> Result<Vec<Figure>> {
    let stub = wire.stub(&wire.answer(server)?)?;
    let (mut added, mut added_p99, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=RUNS {
        progress.say(format!("{}: run {turn} of {RUNS}", wire.name()));
        // One after the other, so that what else the machine does meets both.
        let nothing = run(|| wire.open(stub.address), 1, TIME / 2)?;
        let ours = run(|| wire.open(wire.address(server)), 1, TIME)?;
        let difference = |quantile| ours.microseconds(quantile) - nothing.microseconds(quantile) - model;
        added.push(difference(0.5));
        added_p99.push(difference(0.99));
        bare.push(nothing.microseconds(0.5));
    }
    let figure = |what: &str, values| {
        let name = format!("{}: {what}", wire.name());
        Figure::new(&name, median(values), "µs", RUNS)
    };
    Ok(vec![
        figure("server-side time added to the model call, p50", added),
        figure(
            "server-side time added to the model call, p99 (difference of quantiles)",
            added_p99,
        ),
        figure("client and network alone, p50", bare),
    ])
}

/// The model alone, as `kubectl perwatt model bench` measures it.
fn model_microseconds(folder: &Path) -> Result<f64> {
    let mut command = Command::new(programs::find("kubectl-perwatt")?);
    command
        .args(["model", "bench", "--seconds", "2", "--output", "json"])
        .arg(folder);
    let output = command
        .output()
        .map_err(|error| failed("kubectl-perwatt", error))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let measured = &report["variants"][0]["measured"];
    measured["p50Microseconds"].as_f64().ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        failed("the model alone cannot be measured", said)
    })
}
