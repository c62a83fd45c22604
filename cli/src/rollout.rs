//! `kubectl-perwatt rollout`: shows how far a new revision came, and what a person decides about it.
//!
//! A decision is a RolloutApproval: who may make one is a matter of RBAC, who made one is in the audit log, and the spec
//! stays with Git.

use crate::explain::{ExplainError, connect};
use crate::preview::{self, PreviewArgs, PreviewError};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use perwatt_crds::rollout::Decision;
use perwatt_crds::workload::{CohortStatus, RolloutStatus};
use perwatt_crds::{InferenceWorkload, InferenceWorkloadStatus, RolloutApproval, RolloutApprovalSpec};
use std::fmt::Write;

/// Characters of a cohort's bar.
const BAR: u32 = 20;
/// Rollouts of the past that are shown.
const SHOWN: usize = 5;

/// What can be asked and decided.
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Shows the cohorts, their verdicts, and the evidence so far
    Status(Of),
    /// Tells what each cohort has and what its verdict can see in what time, before anything is applied
    Preview(PreviewArgs),
    /// Lets the revision into a cohort that waits for a person
    Approve(OfCohort),
    /// Opens no further cohort, until it is resumed
    Pause(Decided),
    /// Goes on after a pause
    Resume(Decided),
    /// Goes back to the revision before, everywhere
    Abort(Decided),
    /// Tries a rejected revision again, from its first cohort
    Retry(Decided),
    /// Lets a cohort pass without a verdict
    Promote(Promotion),
}

/// A workload.
#[derive(Debug, Args)]
pub struct Of {
    /// Name of the InferenceWorkload
    pub workload: String,
    /// Its namespace; default: that of the context
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; default: the current one
    #[arg(long)]
    pub context: Option<String>,
}

/// A decision about the rollout of a workload.
#[derive(Debug, Args)]
pub struct Decided {
    /// The workload.
    #[command(flatten)]
    pub of: Of,
    /// Why, for those who read it later
    #[arg(long)]
    pub reason: Option<String>,
}

/// A decision about a cohort.
#[derive(Debug, Args)]
pub struct OfCohort {
    /// The decision.
    #[command(flatten)]
    pub decided: Decided,
    /// The cohort; default: the one that waits
    #[arg(long)]
    pub cohort: Option<String>,
}

/// A decision to go on without a verdict.
#[derive(Debug, Args)]
pub struct Promotion {
    /// The cohort.
    #[command(flatten)]
    pub cohort: OfCohort,
    /// That no verdict is waited for: a bad revision may reach everything
    #[arg(long, required = true)]
    pub skip_analysis: bool,
}

/// Why nothing was shown or decided.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// No cluster.
    #[error(transparent)]
    Connect(#[from] ExplainError),
    /// Nothing can be told beforehand.
    #[error(transparent)]
    Preview(#[from] PreviewError),
    /// No such workload.
    #[error(
        "there is no InferenceWorkload {name} in namespace {namespace}: `kubectl get inferenceworkloads -A` lists them"
    )]
    NotFound {
        /// Where it was looked for.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// There is nothing to decide.
    #[error("{0}")]
    Nothing(String),
    /// The API server said no.
    #[error("cannot {what}: {source}")]
    Kube {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The runtime of this program could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Shows or decides; returns what to print.
///
/// # Errors
/// When the cluster cannot be reached, or there is nothing to decide.
pub fn run(command: &RolloutCommand) -> Result<String, RolloutError> {
    match command {
        RolloutCommand::Status(of) => block_on(async {
            let (_, key, status) = read(of).await?;
            Ok(render(&key.1, &status, Timestamp::now()))
        }),
        RolloutCommand::Preview(arguments) => Ok(preview::run(arguments)?),
        RolloutCommand::Approve(of) => block_on(decide(&of.decided, of.cohort.as_deref(), Decision::Approve)),
        RolloutCommand::Pause(decided) => block_on(decide(decided, None, Decision::Pause)),
        RolloutCommand::Resume(decided) => block_on(decide(decided, None, Decision::Resume)),
        RolloutCommand::Abort(decided) => block_on(decide(decided, None, Decision::Abort)),
        RolloutCommand::Retry(decided) => block_on(decide(decided, None, Decision::Retry)),
        RolloutCommand::Promote(promotion) => {
            let of = &promotion.cohort;
            block_on(decide(&of.decided, of.cohort.as_deref(), Decision::Promote))
        }
    }
}

fn block_on(work: impl Future<Output = Result<String, RolloutError>>) -> Result<String, RolloutError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The workload's status, and its namespace and name.
async fn read(of: &Of) -> Result<(Client, (String, String), InferenceWorkloadStatus), RolloutError> {
    let (client, namespace) = connect(of.context.as_deref()).await?;
    let namespace = of.namespace.clone().unwrap_or(namespace);
    let api: Api<InferenceWorkload> = Api::namespaced(client.clone(), &namespace);
    let found = api
        .get_opt(&of.workload)
        .await
        .map_err(|source| RolloutError::Kube {
            what: "read the workload",
            source: Box::new(source),
        })?;
    let Some(workload) = found else {
        return Err(RolloutError::NotFound {
            namespace,
            name: of.workload.clone(),
        });
    };
    Ok((
        client,
        (namespace, of.workload.clone()),
        workload.status.unwrap_or_default(),
    ))
}

async fn decide(decided: &Decided, cohort: Option<&str>, decision: Decision) -> Result<String, RolloutError> {
    let (client, (namespace, name), status) = read(&decided.of).await?;
    let spec = build(&name, &status, (cohort, decided.reason.as_deref()), decision)
        .map_err(RolloutError::Nothing)?;
    let approval = RolloutApproval {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        spec,
    };
    let api: Api<RolloutApproval> = Api::namespaced(client, &namespace);
    let made = api
        .create(&PostParams::default(), &approval)
        .await
        .map_err(|source| RolloutError::Kube {
            what: "make the RolloutApproval",
            source: Box::new(source),
        })?;
    let of = made
        .spec
        .cohort
        .as_ref()
        .map(|cohort| format!(" (cohort {cohort})"))
        .unwrap_or_default();
    Ok(format!(
        "{decision:?} of revision {}{of}: RolloutApproval {} is made; `kubectl perwatt rollout status {name} -n {namespace}` shows what comes of it\n",
        made.spec.revision,
        made.metadata.name.unwrap_or_default()
    ))
}

/// What is to be made, or why it would do nothing.
fn build(
    workload: &str,
    status: &InferenceWorkloadStatus,
    (cohort, reason): (Option<&str>, Option<&str>),
    decision: Decision,
) -> Result<RolloutApprovalSpec, String> {
    let Some(rollout) = &status.rollout else {
        return Err(format!(
            "{workload} has no rollout: its revision needs no gates, or it has no spec.rollout"
        ));
    };
    let ended = ["Complete", "Rejected"].contains(&rollout.state.as_str());
    match decision {
        Decision::Retry if rollout.state != "Rejected" => {
            return Err(format!(
                "revision {} is not rejected, it is {}",
                rollout.revision, rollout.state
            ));
        }
        Decision::Retry => {}
        _ if ended => {
            return Err(format!(
                "the rollout of revision {} is over: {}",
                rollout.revision, rollout.state
            ));
        }
        _ => {}
    }
    if let Some(cohort) = cohort
        && !rollout.cohorts.iter().any(|known| known.name == cohort)
    {
        let names: Vec<_> = rollout
            .cohorts
            .iter()
            .map(|cohort| cohort.name.as_str())
            .collect();
        return Err(format!(
            "there is no cohort {cohort}; the cohorts are {}",
            names.join(", ")
        ));
    }
    let next = match decision {
        Decision::Approve => rollout.cohorts.iter().find(|cohort| cohort.opened.is_none()),
        Decision::Promote => rollout.cohorts.iter().find(|cohort| cohort.closed.is_none()),
        _ => None,
    };
    let cohort = cohort.or_else(|| next.map(|cohort| cohort.name.as_str()));
    if decision == Decision::Approve && cohort.is_none() {
        return Err("every cohort is open already: there is nothing to approve".to_owned());
    }
    Ok(RolloutApprovalSpec {
        workload: workload.to_owned(),
        revision: rollout.revision.clone(),
        cohort: cohort.map(str::to_owned),
        decision,
        reason: reason.map(str::to_owned),
        by: std::env::var("USER").ok().filter(|user| !user.is_empty()),
    })
}

/// The rollout as text.
#[must_use]
pub fn render(name: &str, status: &InferenceWorkloadStatus, now: Timestamp) -> String {
    let mut text = String::new();
    match &status.rollout {
        Some(rollout) => render_rollout(&mut text, name, rollout, now),
        None => {
            let revision = status.revision.as_deref().unwrap_or("-");
            let _ = writeln!(
                text,
                "{name}: revision {revision} is on all slots, no rollout is on its way"
            );
        }
    }
    if !status.history.is_empty() {
        let _ = writeln!(text, "\nEnded:");
        let mut table = new_table();
        for end in status.history.iter().take(SHOWN) {
            let ended = format!("{:.0}", end.ended.0);
            table.add_row([
                &format!("  {}", end.revision),
                &end.outcome,
                &ended,
                &end.cohorts,
                &end.message,
            ]);
        }
        let _ = writeln!(text, "{table}");
    }
    text
}

fn render_rollout(text: &mut String, name: &str, rollout: &RolloutStatus, now: Timestamp) {
    let _ = writeln!(
        text,
        "{name}: revision {} replaces {}: {}",
        rollout.revision, rollout.incumbent, rollout.state
    );
    if !rollout.message.is_empty() {
        let _ = writeln!(text, "  {}", rollout.message);
    }
    if !rollout.obeyed {
        let _ = writeln!(text, "  Some runtimes do not do yet as they were told.");
    }
    let _ = writeln!(text);
    let mut table = new_table();
    table.set_header(["COHORT", "CARRY IT", "", "SINCE", "VERDICT", "WHY"]);
    for cohort in &rollout.cohorts {
        let verdict = match (&cohort.verdict, &cohort.closed, &cohort.opened) {
            (Some(verdict), ..) => verdict.clone(),
            (None, Some(_), _) => "none needed".to_owned(),
            (None, None, Some(_)) => "not yet".to_owned(),
            (None, None, None) => "closed".to_owned(),
        };
        table.add_row([
            cohort.name.clone(),
            format!("{}/{}{}", cohort.updated, cohort.slots, offline(cohort)),
            bar(cohort),
            cohort
                .opened
                .as_ref()
                .map_or_else(|| "-".to_owned(), |opened| age(opened.0, now)),
            verdict,
            cohort.message.clone(),
        ]);
    }
    let _ = writeln!(text, "{table}");
    if rollout.analysis.is_empty() {
        return;
    }
    let _ = writeln!(text, "\nEvidence of the cohort that is open:");
    let mut table = new_table();
    table.set_header(["METRIC", "OF", "OUTCOME", "TURNS", "REQUESTS", "WHAT IS KNOWN"]);
    for finding in &rollout.analysis {
        table.add_row([
            finding.metric.clone(),
            finding.series.clone(),
            finding.outcome.clone(),
            finding.turns.to_string(),
            finding.requests.to_string(),
            finding.message.clone(),
        ]);
    }
    let _ = writeln!(text, "{table}");
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

fn offline(cohort: &CohortStatus) -> String {
    match cohort.offline {
        0 => String::new(),
        offline => format!(", {offline} offline"),
    }
}

fn bar(cohort: &CohortStatus) -> String {
    let part = cohort.updated.min(cohort.slots) * BAR;
    let full = part.checked_div(cohort.slots).unwrap_or(0);
    format!(
        "[{}{}]",
        "#".repeat(full as usize),
        ".".repeat((BAR - full) as usize)
    )
}

fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    fn status(state: &str) -> InferenceWorkloadStatus {
        serde_json::from_value(json!({"revision": "bb", "rollout": {
            "revision": "bb", "incumbent": "aa", "state": state, "message": "cohort rest waits for a person's approval", "obeyed": true,
            "cohorts": [
                {"name": "canary", "slots": 2, "updated": 2, "opened": "2026-11-27T10:00:00Z", "closed": "2026-11-27T10:20:00Z",
                 "verdict": "Pass", "message": "revision bb is within all 3 limits"},
                {"name": "rest", "slots": 8, "updated": 0, "offline": 1},
            ],
            "analysis": [{"metric": "p95", "series": "npu on hailo-8", "outcome": "Pass", "turns": 12, "requests": 4000,
                "message": "p95 of revision bb is 1.0% below that of aa"}],
        }}))
        .unwrap()
    }

    #[test]
    fn cohorts_are_drawn_with_bars_verdicts_and_evidence() {
        let text = render(
            "gate",
            &status("AwaitingApproval"),
            "2026-11-27T10:30:00Z".parse().unwrap(),
        );
        for part in [
            "gate: revision bb replaces aa: AwaitingApproval",
            "[####################]",
            "[....................]",
            "2/2",
            "0/8, 1 offline",
            "30m",
            "npu on hailo-8",
            "closed",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn a_decision_is_about_the_cohort_that_waits_and_refused_where_it_would_do_nothing() {
        let decide = |state: &str, cohort, decision| build("gate", &status(state), (cohort, None), decision);
        let approve = decide("AwaitingApproval", None, Decision::Approve).unwrap();
        assert_eq!(
            (approve.revision.as_str(), approve.cohort.as_deref()),
            ("bb", Some("rest"))
        );
        assert!(
            decide("Comparing", Some("none"), Decision::Approve)
                .unwrap_err()
                .contains("canary, rest")
        );
        assert!(
            decide("Complete", None, Decision::Abort)
                .unwrap_err()
                .contains("is over")
        );
        assert!(
            decide("Comparing", None, Decision::Retry)
                .unwrap_err()
                .contains("not rejected")
        );
        decide("Rejected", None, Decision::Retry).unwrap();
        let none = build(
            "gate",
            &InferenceWorkloadStatus::default(),
            (None, None),
            Decision::Pause,
        );
        assert!(none.unwrap_err().contains("no rollout"));
    }
}
