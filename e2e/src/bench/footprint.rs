//! `runtime-footprint`: memory, time to start and size of the image, beside MLServer with the same model.

use std::path::Path;
use std::time::Duration;

use super::figure::{Figure, RUNS, median};
use super::load::run;
use super::server::{PEER, Server};
use super::wire::Wire;
use super::{echo, failed};
use crate::images;
use crate::product::Result;
use crate::progress::Progress;

/// How long a server serves before its memory is looked at.
const TIME: Duration = Duration::from_secs(1);
/// Connections that keep it busy.
const CONNECTIONS: usize = 4;

/// Memory idle and serving, start to ready, size of the image.
pub fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let folder = echo::folder()?;
    let (mut ours, mut peer) = (Samples::default(), Samples::default());
    for turn in 1..=RUNS {
        for (who, start, samples) in [
            (
                "the runtime",
                Server::runtime as fn(&Path) -> Result<Server>,
                &mut ours,
            ),
            (PEER, Server::peer, &mut peer),
        ] {
            let server = start(folder.path())?;
            let start = server.start.as_millis();
            progress.say(format!("run {turn} of {RUNS}: {who}: ready after {start} ms"));
            samples.take(&server)?;
        }
    }
    let image = images::product(&progress)?.runtime;
    let size = std::fs::metadata(&image.file).map_err(|error| failed("the image", error))?;
    #[allow(clippy::cast_precision_loss, reason = "bytes of an image")]
    let mebibytes = size.len() as f64 / f64::from(1 << 20);
    let figure =
        |name, ours, unit, theirs| Figure::new(name, median(ours), unit, RUNS).against(PEER, median(theirs));
    Ok(vec![
        figure("memory, idle", ours.idle, "MiB", peer.idle),
        figure("memory, serving", ours.serving, "MiB", peer.serving),
        figure("start to ready", ours.start, "ms", peer.start),
        Figure::new("image of the runtime, not compressed", mebibytes, "MiB", 1),
    ])
}

/// What the runs gave: MiB, MiB, milliseconds.
#[derive(Default)]
struct Samples {
    idle: Vec<f64>,
    serving: Vec<f64>,
    start: Vec<f64>,
}

impl Samples {
    fn take(&mut self, server: &Server) -> Result<()> {
        self.start.push(server.start.as_secs_f64() * 1e3);
        self.idle.push(server.resident_mebibytes()?);
        run(|| Wire::Json.open(server.rest), CONNECTIONS, TIME)?;
        self.serving.push(server.resident_mebibytes()?);
        Ok(())
    }
}
