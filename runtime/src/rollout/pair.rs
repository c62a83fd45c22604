//! The one or two revisions of a pod, and which of them answers a request.

use super::control::{Command, CommandError, Control, Mode, Names};
use super::mirror::{Drawn, Mirror, comparable};
use super::turns::{Comparison, TurnRing};
use crate::engine::{Answer, Engine, InferError, Query};
use crate::evidence::Evidence;
use crate::metrics;
use crate::state::{Saved, StateDir};
use perwatt_model::Manifest;
use perwatt_verdict::evidence::{Arm, Turn};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why the incumbent answered in the candidate's turn.
const CANDIDATE_FAILED: &str = "CandidateFailed";
/// The least time that a candidate leaves to the incumbent, where there is twice as much.
const LEAST_FOR_INCUMBENT: Duration = Duration::from_millis(20);
/// How often the incumbent's usual time is left to it.
const USUAL_TIMES: u32 = 4;

/// The revision on trial.
pub struct Candidate {
    /// What it is called.
    pub revision: String,
    /// What answers, or why nothing does.
    pub engine: Result<Arc<Engine>, String>,
}

/// The revisions of this pod.
pub struct Revisions {
    incumbent: Arc<Engine>,
    candidate: Option<Candidate>,
    control: Control,
    mirror: Arc<Mirror>,
    turns: Mutex<TurnRing>,
}

/// Who answered a request, and what came of it.
pub struct Served {
    /// What answered.
    pub engine: Arc<Engine>,
    /// The answer.
    pub result: Result<Answer, InferError>,
}

/// What `GET /rollout` answers. The seed is not in it: it would tell which block comes next.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutState {
    /// The revision that is to be replaced.
    pub revision: String,
    /// The new one.
    pub candidate: Option<CandidateState>,
    /// Who answers.
    pub mode: Mode,
    /// The revision that answers requests that come now.
    pub serving: String,
    /// Length of a block.
    pub block_seconds: u32,
    /// Most inputs that are mirrored in a minute.
    pub mirror_per_minute: u32,
    /// That of the command in force.
    pub generation: u64,
}

/// How the candidate is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateState {
    /// What it is called.
    pub revision: String,
    /// Whether it can answer.
    pub state: Readiness,
    /// Why not; empty where it can.
    pub reason: String,
}

/// Whether a candidate can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Readiness {
    /// It is loaded and ran once.
    Ready,
    /// It could not be loaded.
    Failed,
}

impl Revisions {
    /// The revisions, as an earlier process was told to serve them. `turns` are those that it left.
    pub fn new(
        incumbent: Arc<Engine>,
        candidate: Option<Candidate>,
        dir: Option<StateDir>,
        turns: TurnRing,
    ) -> Self {
        let names = Names {
            incumbent: incumbent.config.revision.clone(),
            candidate: candidate
                .as_ref()
                .map_or_else(String::new, |c| c.revision.clone()),
        };
        let pair = (names.incumbent.clone(), names.candidate.clone());
        let failed = candidate.as_ref().is_some_and(|c| c.engine.is_err());
        incumbent.metrics.candidate_failed.set(i64::from(failed));
        Self {
            turns: Mutex::new(turns.resume(pair, incumbent.telemetry.epoch())),
            control: Control::open(names, dir),
            mirror: Arc::default(),
            incumbent,
            candidate,
        }
    }

    // Nothing panics under this lock, so a poisoned lock holds whole data.
    fn turns(&self) -> MutexGuard<'_, TurnRing> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine of the revision that is to be replaced.
    pub fn incumbent(&self) -> &Arc<Engine> {
        &self.incumbent
    }

    /// The candidate's engine, where there is one that works.
    pub fn candidate(&self) -> Option<&Arc<Engine>> {
        self.candidate.as_ref()?.engine.as_ref().ok()
    }

    /// Both engines, or the one there is.
    pub fn engines(&self) -> impl Iterator<Item = &Arc<Engine>> {
        std::iter::once(&self.incumbent).chain(self.candidate())
    }

    /// What was commanded.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What is mirrored.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The engine of a side; the incumbent's where the candidate does not work.
    pub fn engine(&self, arm: Arm) -> &Arc<Engine> {
        match arm {
            Arm::Incumbent => &self.incumbent,
            Arm::Canary => self.candidate().unwrap_or(&self.incumbent),
        }
    }

    /// The engine that answers requests that come now.
    pub fn serving(&self) -> &Arc<Engine> {
        self.engine(self.control.serving().0)
    }

    /// The engine that answers this request. While revisions are compared a sequence stays with the one it began with:
    /// its state would be lost. A rollback moves it.
    fn choose(&self, query: &Query) -> (&Arc<Engine>, Option<&Arc<Engine>>) {
        let Some(candidate) = self.candidate() else {
            return (&self.incumbent, None);
        };
        let (arm, mode) = self.control.serving();
        let (engine, other) = match arm {
            Arm::Incumbent => (&self.incumbent, candidate),
            Arm::Canary => (candidate, &self.incumbent),
        };
        let Some(step) = &query.sequence else {
            return (engine, Some(other));
        };
        if mode == Mode::Compare && !step.start && other.knows(&step.id) {
            return (other, Some(engine));
        }
        other.forget(&step.id);
        (engine, Some(other))
    }

    fn draw(&self, query: &Query) -> Option<Drawn> {
        let command = self.control.command();
        let compares = command.mode == Mode::Compare;
        compares.then(|| self.mirror.draw(query, command.mirror_per_minute))?
    }

    /// Answers one request. What the candidate does not answer the incumbent does.
    pub async fn infer(&self, mut query: Query) -> Served {
        let (mut engine, other) = self.choose(&query);
        let drawn = other.and_then(|other| Some((self.draw(&query)?, other)));
        let is_incumbent = Arc::ptr_eq(engine, &self.incumbent);
        let deadline = query.deadline;
        if !is_incumbent {
            query.deadline = earlier(deadline, self.incumbent.usual());
        }
        let mut result = engine.try_infer(&query).await;
        match &result {
            Err(error) if !is_incumbent => {
                query.deadline = deadline;
                result = self.stand_in(&mut query, engine, error).await;
                engine = &self.incumbent;
            }
            Err(_) => {}
            Ok(answer) => {
                if let Some((drawn, other)) = drawn
                    && let Some(said) = comparable(answer, engine)
                {
                    let (mirror, by, other) = (self.mirror.clone(), engine.clone(), other.clone());
                    tokio::spawn(async move { mirror.run(drawn, said, &by, &other).await });
                }
            }
        }
        Served {
            engine: engine.clone(),
            result: engine.or_safe_value(&query, result),
        }
    }

    /// The incumbent's answer to what the candidate did not answer.
    async fn stand_in(
        &self,
        query: &mut Query,
        candidate: &Engine,
        error: &InferError,
    ) -> Result<Answer, InferError> {
        // The time that the candidate took is none of the incumbent's latency.
        let arrived = std::mem::replace(&mut query.arrived, Instant::now());
        let answered = self.incumbent.try_infer(query).await;
        query.arrived = arrived;
        // Who answered goes on with the sequence: the candidate's memory of it lacks this request. Where neither did,
        // as where the client's input is wrong, all stays as it was.
        if let Some(step) = &query.sequence {
            match &answered {
                Ok(_) => candidate.forget(&step.id),
                Err(_) => self.incumbent.forget(&step.id),
            }
        }
        let mut answer = answered?;
        // What the incumbent takes is no fault of the client's.
        if matches!(error, InferError::Invalid(_)) {
            candidate.telemetry.unanswered();
        }
        candidate.metrics.candidate_errors.inc();
        answer.latency = arrived.elapsed();
        let own = answer.degraded.take();
        let own = own.map_or(String::new(), |(reason, message)| {
            format!("; before it, {reason}: {message}")
        });
        answer.degraded = Some((CANDIDATE_FAILED.to_owned(), format!("{error}{own}")));
        Ok(answer)
    }

    /// Obeys a command.
    ///
    /// # Errors
    /// Where a value cannot be, a newer command is in force, or the candidate that it needs does not work.
    pub fn obey(&self, command: Command) -> Result<(), CommandError> {
        if command.mode != Mode::Incumbent && self.candidate().is_none() {
            let reason = match &self.candidate {
                Some(Candidate {
                    engine: Err(reason), ..
                }) => reason.clone(),
                _ => "this pod carries one revision".into(),
            };
            return Err(CommandError::NoCandidate {
                mode: command.mode,
                reason,
            });
        }
        let mode = command.mode;
        self.control.obey(command)?;
        tracing::info!(?mode, "commanded");
        Ok(())
    }

    /// What is in force.
    pub fn state(&self) -> RolloutState {
        let command = self.control.command();
        RolloutState {
            revision: self.incumbent.config.revision.clone(),
            candidate: self.candidate.as_ref().map(|candidate| CandidateState {
                revision: candidate.revision.clone(),
                state: match candidate.engine {
                    Ok(_) => Readiness::Ready,
                    Err(_) => Readiness::Failed,
                },
                reason: candidate.engine.as_ref().err().cloned().unwrap_or_default(),
            }),
            mode: command.mode,
            serving: self.serving().config.revision.clone(),
            block_seconds: command.block_seconds,
            mirror_per_minute: command.mirror_per_minute,
            generation: command.generation,
        }
    }

    /// Adds a closed turn.
    pub fn close_turn(&self, turn: Turn) {
        self.turns().push(turn);
    }

    /// What the operator pulls; with closed turns after one, where it asks for them.
    pub fn evidence(&self, after: Option<u32>) -> Evidence {
        let mut evidence = self.serving().evidence();
        let saved = self.saved();
        evidence.totals = saved.totals;
        evidence.records = saved.records;
        evidence.comparison = self.candidate.as_ref().map(|candidate| {
            let (last, oldest) = saved.turns.ends();
            let confidence = self.incumbent.manifest.confidence.as_ref();
            Comparison {
                incumbent: self.incumbent.config.revision.clone(),
                candidate: candidate.revision.clone(),
                last,
                oldest,
                turns: after.map_or_else(Vec::new, |after| saved.turns.after(after)),
                confidence_edges: confidence.map_or_else(Vec::new, |c| c.reference.edges.clone()),
                mirrored: self.mirror.mirrored(),
            }
        });
        evidence
    }

    /// What a later process goes on from.
    pub fn saved(&self) -> Saved {
        let mut saved = self.incumbent.saved();
        if let Some(candidate) = self.candidate() {
            let theirs = candidate.saved();
            saved.totals.merge(&theirs.totals);
            saved.records.extend(theirs.records);
        }
        saved.turns = self.turns().clone();
        saved
    }

    /// All metrics, in the OpenMetrics text format.
    pub fn render_metrics(&self) -> String {
        self.engines().for_each(|engine| engine.sweep());
        let texts = self
            .engines()
            .map(|engine| (engine.config.revision.as_str(), engine.metrics.render()));
        metrics::together(&texts.collect::<Vec<_>>())
    }
}

/// A candidate's deadline: what it leaves is time for the incumbent, some times what that usually takes, but half of the
/// time there is at most.
fn earlier(deadline: Instant, usual: Duration) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    let rest = (usual * USUAL_TIMES).max(LEAST_FOR_INCUMBENT).min(left / 2);
    deadline.checked_sub(rest).unwrap_or(deadline)
}

/// Why a candidate cannot stand in for the incumbent: a client must be able to send both the same request.
pub fn check_same_interface(incumbent: &Manifest, candidate: &Manifest) -> Result<(), String> {
    let differs = |what: &str| {
        Err(format!(
            "its {what} differ from the incumbent's: it cannot share a pod with it"
        ))
    };
    if incumbent.name != candidate.name {
        return differs("model names");
    }
    if incumbent.inputs != candidate.inputs {
        return differs("inputs");
    }
    if incumbent.outputs != candidate.outputs {
        return differs("outputs");
    }
    Ok(())
}
