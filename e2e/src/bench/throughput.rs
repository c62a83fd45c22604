//! `runtime-throughput`: how much one core serves, beside MLServer with the same model, asked by the same client.

use std::time::Duration;

use super::figure::{Figure, RUNS, median};
use super::load::run;
use super::server::{PEER, Server};
use super::wire::Wire;
use super::{echo, failed};
use crate::product::Result;
use crate::progress::Progress;

/// How long one run lasts.
const TIME: Duration = Duration::from_secs(4);
/// Connections that keep a server busy.
const CONNECTIONS: usize = 4;
/// What the other wires are compared with.
const GRPC: &str = "the runtime over gRPC";

/// What the runs of one wire gave, in requests a second.
#[derive(Default)]
struct Samples {
    own: Vec<f64>,
    peer: Vec<f64>,
    ceiling: Vec<f64>,
}

/// Requests a second that one core serves, ours and the peer's.
pub fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let folder = echo::folder()?;
    let ours = Server::runtime(folder.path())?;
    let peer = Server::peer(folder.path())?;
    let mut samples = Wire::ALL.map(|_| Samples::default());
    // All wires in each turn, so that what else the machine does meets all of them.
    for turn in 1..=RUNS {
        for (wire, samples) in Wire::ALL.into_iter().zip(&mut samples) {
            progress.say(format!("run {turn} of {RUNS}: {}", wire.name()));
            let stub = wire.stub(&wire.answer(&ours)?)?;
            let ceiling = run(|| wire.open(stub.address), CONNECTIONS, TIME / 2)?;
            samples.ceiling.push(ceiling.per_second());
            samples.own.push(per_core(&ours, wire)?);
            if wire.is_known_to_peer() {
                wire.answer(&peer)?;
                samples.peer.push(per_core(&peer, wire)?);
            }
        }
    }
    let [.., grpc] = &samples;
    let grpc = median(grpc.own.clone());
    let all = Wire::ALL.into_iter().zip(samples);
    Ok(all
        .flat_map(|(wire, samples)| describe(wire, samples, grpc))
        .collect())
}

fn describe(wire: Wire, samples: Samples, grpc: f64) -> Vec<Figure> {
    let figure = |what: &str, value| {
        let name = format!("{}: {what}", wire.name());
        Figure::new(&name, value, "requests/s", RUNS)
    };
    let own = median(samples.own);
    let mut figures = Vec::new();
    if wire.is_known_to_peer() {
        figures.push(figure("requests a second per core", own).against(PEER, median(samples.peer)));
    }
    if wire != Wire::Grpc {
        figures.push(figure("requests a second per core, beside gRPC", own).against(GRPC, grpc));
    }
    figures.push(figure(
        "what the client alone can send to a server that does nothing",
        median(samples.ceiling),
    ));
    figures
}

/// Requests for each second of the server's processor time: true also where something else had the core.
fn per_core(server: &Server, wire: Wire) -> Result<f64> {
    let before = server.processor_seconds()?;
    let outcome = run(|| wire.open(wire.address(server)), CONNECTIONS, TIME)?;
    let used = server.processor_seconds()? - before;
    // The warm-up used the processor too.
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    let requests = (outcome.times.len() + outcome.warm_up) as f64;
    if used <= 0.0 {
        return Err(failed("the server", "it used no processor time"));
    }
    Ok(requests / used)
}
