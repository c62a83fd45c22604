//! `runtime-spiking`: spiking networks run event by event, beside snnTorch with the same NIR file and the same input,
//! both on one thread and one core; and spike trains beside a reference in double precision.
//!
//! Every network is run in two ways: step by step, as from a sensor, where nobody may look ahead, and over a whole
//! recording, where snnTorch multiplies a layer with all steps at once.

mod networks;
mod peer;

use std::path::Path;
use std::time::Instant;

use perwatt_spiking::{Plan, Readout, read, write};
use serde_json::json;

use super::figure::{Figure, RUNS, median};
use super::load::on_server_core;
use super::{failed, install};
use crate::product::Result;
use crate::progress::Progress;
use networks::{DT, Network};
use peer::Peer;

/// Steps of a recording.
const STEPS: usize = 100;
/// Part of the input that is zero, in hundredths.
const SPARSITIES: [u32; 4] = [50, 90, 95, 99];

/// Steps a second of each network at each sparsity, and mismatches of its spikes.
pub fn measure() -> Result<Vec<Figure>> {
    let progress = Progress::new();
    let python = install::peer("snntorch")?.join("bin/python");
    let folder = tempfile::tempdir().map_err(|error| failed("a folder", error))?;
    let mut peer = Peer::start(&python)?;
    let mut figures = Vec::new();
    for network in networks::all() {
        let file = write(&network.graph).map_err(|error| failed(network.name, error))?;
        let path = folder.path().join("network.nir");
        std::fs::write(&path, &file).map_err(|error| failed(path.display(), error))?;
        // What is run is what the file says.
        let graph = read(&file).map_err(|error| failed(network.name, error))?;
        let plan = Plan::compile(&graph, Some(DT)).map_err(|error| failed(network.name, error))?;
        for sparsity in SPARSITIES {
            progress.say(format!("{} at {sparsity}%", network.name));
            let input = networks::spikes(network.inputs * STEPS, sparsity);
            let job = Job {
                network: &network,
                plan: &plan,
                input: &input,
                sparsity,
            };
            figures.extend(job.measure(&mut peer, folder.path())?);
        }
    }
    Ok(figures)
}

/// A network and what it is shown.
struct Job<'a> {
    network: &'a Network,
    plan: &'a Plan,
    /// One byte for each element of each step.
    input: &'a [u8],
    sparsity: u32,
}

impl Job<'_> {
    fn measure(&self, peer: &mut Peer, folder: &Path) -> Result<Vec<Figure>> {
        let [input, reference, trains] = ["input", "reference", "trains"].map(|name| folder.join(name));
        std::fs::write(&input, self.input).map_err(|error| failed(input.display(), error))?;
        let answer = peer.ask(&json!({
            "do": "load", "network": folder.join("network.nir"), "input": input, "dt": DT,
            "stages": self.network.stages, "reference": reference, "trains": trains,
        }))?;
        let name = answer["name"].as_str().unwrap_or_default().to_owned();
        let load = |path: &Path| std::fs::read(path).map_err(|error| failed(path.display(), error));
        let (reference, theirs) = (load(&reference)?, load(&trains)?);
        // The first run of either finds its weights in no cache.
        let ours = on_server_core(|| self.run_whole())?;
        on_server_core(|| self.run_steps())?;

        let [mut steps, mut whole, mut peer_steps, mut peer_whole] = [const { Vec::new() }; 4];
        for _ in 0..RUNS {
            steps.push(on_server_core(|| rate(|| self.run_steps()))?);
            peer_steps.push(per_second(peer.seconds("steps")?));
            whole.push(on_server_core(|| rate(|| self.run_whole().map(drop)))?);
            peer_whole.push(per_second(peer.seconds("whole")?));
        }
        let title = |what: &str| format!("{} at {}% sparsity: {what}", self.network.name, self.sparsity);
        let speed = |what: &str, ours, theirs| {
            Figure::new(&title(what), median(ours), "steps/s", RUNS).against(&name, median(theirs))
        };
        let spikes = reference.iter().filter(|&&spike| spike != 0).count();
        let wrong = mismatches(&reference, &ours)?;
        let what = format!(
            "mismatches of {} outputs, {spikes} of them spikes",
            reference.len()
        );
        Ok(vec![
            speed("step by step", steps, peer_steps),
            speed("a whole recording at once", whole, peer_whole),
            Figure::new(&title(&what), wrong, "outputs", 1).against(&name, mismatches(&reference, &theirs)?),
        ])
    }

    /// Shows the network one step at a time.
    fn run_steps(&self) -> Result<()> {
        let mut state = self.plan.start();
        let mut step: Vec<f64> = vec![0.0; self.network.inputs];
        for spikes in self.input.chunks_exact(self.network.inputs) {
            step.iter_mut()
                .zip(spikes)
                .for_each(|(x, &spike)| *x = f64::from(spike));
            let run = self.plan.run(&mut state, &[&step], 1, Readout::Last);
            std::hint::black_box(run.map_err(|error| failed(self.network.name, error))?);
        }
        Ok(())
    }

    /// Shows the network everything at once; its spikes in each step.
    fn run_whole(&self) -> Result<Vec<f64>> {
        let input: Vec<f64> = self.input.iter().map(|&spike| f64::from(spike)).collect();
        let run = self
            .plan
            .run(&mut self.plan.start(), &[&input], STEPS, Readout::Steps);
        let (outputs, _) = run.map_err(|error| failed(self.network.name, error))?;
        let first = outputs.into_iter().next();
        first.ok_or_else(|| failed(self.network.name, "it has no output"))
    }
}

fn rate(run: impl FnOnce() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    run()?;
    Ok(per_second(began.elapsed().as_secs_f64()))
}

#[allow(clippy::cast_precision_loss, reason = "a hundred steps")]
fn per_second(seconds: f64) -> f64 {
    STEPS as f64 / seconds
}

/// In how many outputs spike trains differ.
#[allow(clippy::cast_precision_loss, reason = "a count of outputs")]
fn mismatches<T: Copy + Into<f64>>(reference: &[u8], found: &[T]) -> Result<f64> {
    if found.len() != reference.len() {
        let what = format!(
            "{} outputs where there should be {}",
            found.len(),
            reference.len()
        );
        return Err(failed("spike trains", what));
    }
    let differs = |(expected, found): &(&u8, &T)| f64::from(**expected) != (**found).into();
    Ok(reference.iter().zip(found).filter(differs).count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_of_spike_trains_counts_and_a_missing_step_is_an_error() {
        assert_eq!(
            mismatches(&[0, 1, 1, 0], &[0.0, 1.0, 0.0, 2.0]).expect("counts"),
            2.0
        );
        assert_eq!(mismatches(&[0, 1], &[0u8, 1]).expect("counts"), 0.0);
        assert!(mismatches(&[0, 1], &[0u8]).is_err());
    }

    #[test]
    fn every_network_runs_and_fires_and_is_not_always_on() {
        for network in networks::all() {
            let plan = Plan::compile(&network.graph, Some(DT)).expect("a plan");
            for sparsity in SPARSITIES {
                let input = networks::spikes(network.inputs * STEPS, sparsity);
                let job = Job {
                    network: &network,
                    plan: &plan,
                    input: &input,
                    sparsity,
                };
                let train = job.run_whole().expect("runs");
                let rate = train.iter().sum::<f64>() / train.len() as f64;
                assert!(
                    (0.005..0.6).contains(&rate),
                    "{} {sparsity}%: {rate}",
                    network.name
                );
            }
        }
    }
}
