//! One schedule: steps with faults, then quiet, until what is wanted is there and stays.

use crate::bug::Bug;
use crate::disturb::{Disturbance, edit, put_workload, workload_key};
use crate::kubelet::{self, served_by};
use crate::operator::{start_cluster, start_operator};
use crate::server::{Fault, Shared};
use crate::views::Views;
use crate::{NODES, WORKLOADS, require};
use perwatt_operator::pass::Pass;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Steps with faults of each schedule.
const TURBULENT: u32 = 25;
/// Quiet steps within which the desired state must be there.
const QUIET: u32 = 90;
/// Steps for which it must stay, without a write.
const CALM: u32 = 8;
const STEP: Duration = Duration::from_secs(5);
/// A step where nothing but time is waited for: back-offs, the window of the move breaker.
const LONG_STEP: Duration = Duration::from_secs(40);
/// Quiet steps after which steps are long.
const SHORT_STEPS: u32 = 40;
const FAULTS: [Fault; 6] = [
    Fault::Refuse(429, "TooManyRequests"),
    Fault::Refuse(409, "Conflict"),
    Fault::Refuse(500, "InternalError"),
    Fault::LoseAnswer,
    Fault::CrashBefore,
    Fault::CrashAfter,
];

pub type Outcome = Result<(), String>;

pub struct Simulation {
    server: Shared,
    views: Views,
    pass: Pass,
    random: fastrand::Rng,
}

impl Simulation {
    pub fn new(seed: u64, bug: Option<Bug>) -> Self {
        let server = start_cluster(bug);
        let views = Views::new(&server);
        let server = Arc::new(Mutex::new(server));
        let pass = start_operator(&server, &views);
        Self {
            server,
            views,
            pass,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    pub async fn run(mut self) -> Outcome {
        for _ in 0..TURBULENT {
            self.draw_fault();
            self.step(STEP, false).await?;
        }
        self.mend();
        self.settle().await?;
        for _ in 0..CALM {
            self.step(LONG_STEP, true).await?;
            if self.server.lock().unwrap().writes > 0 {
                return Err("writes go on after quiet".into());
            }
        }
        self.require_desired()
    }

    /// Steps until what is wanted is there, and nothing is written.
    async fn settle(&mut self) -> Outcome {
        for number in 0..QUIET {
            let step = if number < SHORT_STEPS { STEP } else { LONG_STEP };
            self.step(step, true).await?;
            let is_calm = self.server.lock().unwrap().writes == 0;
            if is_calm && self.require_desired().is_ok() {
                return Ok(());
            }
        }
        self.require_desired()
    }

    fn require_desired(&self) -> Outcome {
        require::desired(&self.server.lock().unwrap())
    }

    fn disturb(&mut self) {
        if let Some(disturbance) = Disturbance::draw(&mut self.random) {
            disturbance.strike(&mut self.server.lock().unwrap());
        }
    }

    /// What goes wrong in the next pass, and what a user does in the middle of it.
    fn draw_fault(&mut self) {
        let random = &mut self.random;
        let mut server = self.server.lock().unwrap();
        let write = random.u32(1..6);
        if random.u8(..3) == 0 {
            server.fault = Some((write, FAULTS[random.usize(..FAULTS.len())]));
        }
        if random.u8(..3) == 0 {
            let disturbance = Disturbance::draw(random).filter(|drawn| drawn.spares_pods());
            server.meanwhile = disturbance.map(|drawn| (random.u32(1..6), drawn));
        }
    }

    /// One pass between what the nodes do and what is seen of it.
    async fn step(&mut self, step: Duration, quiet: bool) -> Outcome {
        if !quiet {
            self.disturb();
        }
        let now = self.go_on(step, quiet);
        if !quiet {
            self.disturb();
        }
        self.pass.run(now).await;
        let mut server = self.server.lock().unwrap();
        server.fault = None;
        server.meanwhile = None;
        require::invariants(&server)?;
        if std::mem::take(&mut server.crashed) {
            // The same process again, or another whose watches lag.
            if self.random.bool() {
                self.views = Views::new(&server);
            }
            drop(server);
            self.pass = start_operator(&self.server, &self.views);
        }
        Ok(())
    }

    fn go_on(&mut self, step: Duration, quiet: bool) -> jiff::Timestamp {
        let random = &mut self.random;
        let mut server = self.server.lock().unwrap();
        server.now += step;
        server.writes = 0;
        if quiet || random.u8(..3) < 2 {
            kubelet::run(&mut server, || !quiet && random.u8(..6) == 0);
        }
        let serving = served_by(&server);
        server.served.extend(serving);
        self.views.observe(&server, random, quiet);
        // A slot that the operator sees as not wanted may go, even where its user wants it again by now.
        let mut served = std::mem::take(&mut server.served);
        served.retain(|(workload, slot)| {
            let uid = server.objects[&workload_key(workload)]["metadata"]["uid"].as_str();
            self.views.wants(uid, slot)
        });
        server.served = served;
        server.now
    }

    /// Ends all faults; late edits and a late fault must still be followed.
    fn mend(&mut self) {
        let mut server = self.server.lock().unwrap();
        for (name, replicas) in WORKLOADS.into_iter().zip([2, 1]) {
            if !server.objects.contains_key(&workload_key(name)) {
                put_workload(&mut server, name, 1, 0);
            }
            edit(&mut server, name, |spec| spec["replicas"] = json!(replicas));
        }
        for node in 0..NODES.len() {
            Disturbance::Health(node, node == 0).strike(&mut server);
            Disturbance::Cordon(node, false).strike(&mut server);
        }
    }
}
