//! `kubectl-perwatt rollout preview`: what a rollout would do, before anything is applied. Changes nothing.

use crate::explain::{ExplainError, connect};
use crate::plan::{PlanArgs, PlanError, Wanted, bare_revision, load};
use clap::Args;
use futures::{AsyncReadExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::{Client, ResourceExt};
use perwatt_crds::{InferenceWorkload, RolloutPolicy, names};
use perwatt_operator::rollout::policy::build_policy;
use perwatt_operator::rollout::preview::{Baseline, Forecast, forecast};
use perwatt_planner::world::{Role, WorkloadKey};
use perwatt_verdict::{Counts, Sketch};
use serde::Deserialize;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Runtimes that are asked what they counted.
const ASKED: usize = 8;
/// How long one may take, and the most bytes and records that are read of it.
const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: u64 = 1024 * 1024;
const RECORDS: usize = 32;
/// Seconds. No runtime counts for longer, and a clock that says so is wrong.
const YEAR: u64 = 366 * 86_400;
/// Slots of a cohort that are named.
const NAMED: usize = 5;

/// Arguments of `rollout preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// What is read, as for `plan`.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Requests a second of one slot; default: spec.expectedRatePerMinute, else what runtimes counted
    #[arg(long, value_parser = parse_rate)]
    pub rate: Option<f64>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok();
    rate.filter(|rate| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| format!("{text} is no number of requests a second above 0"))
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// A file or the cluster cannot be read.
    #[error(transparent)]
    Read(#[from] PlanError),
    /// No cluster.
    #[error(transparent)]
    Connect(#[from] ExplainError),
    /// The policy is missing, or cannot be carried out.
    #[error("{workload}: {problem}")]
    Policy {
        /// Of which workload.
        workload: WorkloadKey,
        /// What is wrong.
        problem: String,
    },
    /// The API server said no.
    #[error("cannot read RolloutPolicy {name}: {source}")]
    Kube {
        /// Its name.
        name: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The runtime of this program could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// What is read of a runtime's evidence.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Counted {
    epoch_unix_seconds: u64,
    fallbacks: u64,
    unanswered: u64,
    records: Vec<Record>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    answered: u64,
    latency: Sketch,
}

/// Where the number of requests comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Argument,
    Declared,
    Counted,
}

/// Tells; returns what to print.
///
/// # Errors
/// When a file or the cluster cannot be read, or there is no policy.
pub fn run(arguments: &PreviewArgs) -> Result<String, PreviewError> {
    let wanted = load(&arguments.plan)?;
    let work = async {
        let client = match &arguments.plan.inventory {
            Some(_) => None,
            None => Some(connect(arguments.plan.context.as_deref()).await?.0),
        };
        let mut text = String::from("Nothing was changed.\n");
        for key in &wanted.keys {
            let _ = writeln!(text);
            text += &preview(&wanted, key, client.as_ref(), arguments.rate).await?;
        }
        Ok(text)
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn preview(
    wanted: &Wanted,
    key: &WorkloadKey,
    client: Option<&Client>,
    rate: Option<f64>,
) -> Result<String, PreviewError> {
    let Some((new, before)) = wanted.snapshot.workloads.get(key).zip(wanted.before.get(key)) else {
        return Ok(format!(
            "{key} is new: a first deployment needs no gates, all slots get it at once\n"
        ));
    };
    if bare_revision(new) == bare_revision(before) {
        return Ok(format!("{key}: what runs is the same, no rollout would begin\n"));
    }
    let Some(policy) = policy(wanted, key, new, client).await? else {
        return Ok(format!(
            "{key} has no spec.rollout: all slots get it at once, nothing is compared\n"
        ));
    };
    let problem = |problem| PreviewError::Policy {
        workload: key.clone(),
        problem,
    };
    let policy = build_policy(&policy).map_err(problem)?;
    let (baseline, source) = baseline(wanted, key, new, client, rate).await;
    let forecasts = forecast(
        &wanted.snapshot,
        key,
        &before.spec,
        &policy,
        &baseline,
        Timestamp::now(),
    );
    Ok(render(key, &baseline, source, &forecasts))
}

/// What the workload's rollout follows; nothing where it has none.
async fn policy(
    wanted: &Wanted,
    key: &WorkloadKey,
    workload: &InferenceWorkload,
    client: Option<&Client>,
) -> Result<Option<perwatt_crds::RolloutPolicySpec>, PreviewError> {
    let Some(rollout) = &workload.spec.rollout else {
        return Ok(None);
    };
    if let Some(own) = rollout.own() {
        return Ok(Some(own));
    }
    let name = rollout.policy_ref.clone().unwrap_or_default();
    let is_it = |policy: &&Arc<RolloutPolicy>| {
        let namespace = policy.namespace();
        policy.name_any() == name && namespace.is_none_or(|namespace| namespace == key.namespace)
    };
    // Last the manifest's own, which would be applied.
    if let Some(found) = wanted.policies.iter().rev().find(is_it) {
        return Ok(Some(found.spec.clone()));
    }
    let found = match client {
        Some(client) => {
            let policies: Api<RolloutPolicy> = Api::namespaced(client.clone(), &key.namespace);
            policies
                .get_opt(&name)
                .await
                .map_err(|source| PreviewError::Kube {
                    name: name.clone(),
                    source: Box::new(source),
                })?
        }
        None => None,
    };
    match found {
        Some(found) => Ok(Some(found.spec)),
        None => Err(PreviewError::Policy {
            workload: key.clone(),
            problem: format!(
                "there is no RolloutPolicy {name}: put it into the file, or change spec.rollout.policyRef"
            ),
        }),
    }
}

async fn baseline(
    wanted: &Wanted,
    key: &WorkloadKey,
    workload: &InferenceWorkload,
    client: Option<&Client>,
    rate: Option<f64>,
) -> (Baseline, Source) {
    let mut baseline = Baseline::default();
    let mut rates = Vec::new();
    if let Some(client) = client {
        let pods = wanted.snapshot.pods.iter().filter(|pod| serves(pod, key));
        let asked = futures::stream::iter(pods.take(ASKED).map(|pod| ask(client, pod)));
        let answers: Vec<_> = asked.buffer_unordered(ASKED).collect().await;
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        for counted in answers.into_iter().flatten() {
            rates.extend(add(&mut baseline.counts, counted, now));
        }
    }
    rates.sort_by(f64::total_cmp);
    let counted = rates.get(rates.len() / 2).copied();
    let declared = workload
        .spec
        .expected_rate_per_minute
        .map(|minutely| f64::from(minutely) / 60.0);
    let (found, source) = match (rate, declared) {
        (Some(rate), _) => (Some(rate), Source::Argument),
        (None, Some(declared)) => (Some(declared), Source::Declared),
        (None, None) => (counted, Source::Counted),
    };
    baseline.requests_per_second = found;
    (baseline, source)
}

/// Adds what a runtime counted; gives its requests a second, where its clock can be believed.
fn add(counts: &mut Counts, counted: Counted, now: u64) -> Option<f64> {
    let mut requests = counted.unanswered;
    for record in counted.records.into_iter().take(RECORDS) {
        // What a broken runtime tells is left out.
        if record.latency.check().is_err() {
            continue;
        }
        requests = requests.saturating_add(record.answered);
        counts.answered = counts.answered.saturating_add(record.answered);
        counts.latency.add(&record.latency);
    }
    counts.fallbacks = counts.fallbacks.saturating_add(counted.fallbacks);
    counts.failed = counts.failed.saturating_add(counted.unanswered);
    let began = counted.epoch_unix_seconds;
    let seconds = now.checked_sub(began).filter(|seconds| *seconds > 0)?;
    #[allow(clippy::cast_precision_loss, reason = "a rate of counts")]
    (seconds < YEAR).then(|| requests as f64 / seconds as f64)
}

/// Whether a pod serves a slot of the workload.
fn serves(pod: &Pod, key: &WorkloadKey) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.namespace().as_deref() == Some(&key.namespace)
        && pod.labels().get(names::LABEL_WORKLOAD) == Some(&key.name)
        && pod.labels().get(names::LABEL_ROLE).map(String::as_str) == Some(Role::Serving.as_str())
        && phase == Some("Running")
        && pod.metadata.deletion_timestamp.is_none()
}

/// What a runtime counted; nothing where it, or the right to ask it, is missing.
async fn ask(client: &Client, pod: &Pod) -> Option<Counted> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}:{}/proxy/evidence",
        pod.namespace()?,
        pod.name_any(),
        names::PORT_OBSERVE
    );
    let request = http::Request::get(path).body(Vec::new()).ok()?;
    let asked = async {
        let answer = client.request_stream(request).await.ok()?;
        let mut body = Vec::new();
        let read = answer.take(ANSWER_LIMIT).read_to_end(&mut body).await;
        read.ok().map(|_| body)
    };
    let body = tokio::time::timeout(PATIENCE, asked).await.ok()??;
    serde_json::from_slice(&body).ok()
}

fn render(key: &WorkloadKey, baseline: &Baseline, source: Source, forecasts: &[Forecast]) -> String {
    let slots: usize = forecasts.iter().map(|forecast| forecast.slots.len()).sum();
    let mut text = format!("{key}: {slots} slots");
    if let Some(rate) = baseline.requests_per_second {
        let from = match source {
            Source::Argument => "--rate",
            Source::Declared => "spec.expectedRatePerMinute",
            Source::Counted => "counted by runtimes",
        };
        let rate = (rate * 1e2).round() / 1e2;
        let _ = write!(text, ", {rate} requests/s each ({from})");
    }
    let _ = writeln!(text);
    for forecast in forecasts {
        text += &render_cohort(forecast);
    }
    let times: Option<Vec<_>> = forecasts
        .iter()
        .map(|forecast| forecast.time.filter(|_| !forecast.cohort.manual))
        .collect();
    let _ = match times {
        Some(times) => {
            let sum = |end: usize| times.iter().map(|time| time[end]).sum::<Duration>();
            writeln!(
                text,
                "\nA revision that is as good as the present one is everywhere after {} to {}.",
                duration(sum(0), Round::Down),
                duration(sum(1), Round::Up)
            )
        }
        None => writeln!(
            text,
            "\nHow long it takes is up to a person, or cannot be foreseen."
        ),
    };
    text
}

fn render_cohort(forecast: &Forecast) -> String {
    let Forecast {
        cohort,
        slots,
        sentences,
        time,
    } = forecast;
    let names: Vec<_> = slots.iter().take(NAMED).map(String::as_str).collect();
    let more = slots.len().saturating_sub(NAMED);
    let many = if slots.len() == 1 { "slot" } else { "slots" };
    let mut text = format!("\n{}: {} {many}", cohort.name, slots.len());
    if !names.is_empty() {
        let _ = write!(text, " ({}", names.join(", "));
        let _ = match more {
            0 => write!(text, ")"),
            more => write!(text, " and {more} more)"),
        };
    }
    let person = if cohort.manual {
        "; a person lets it in"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "; bakes {}, waits at most {}{person}",
        duration(cohort.bake, Round::Down),
        duration(cohort.deadline, Round::Down)
    );
    if let Some([shortest, longest]) = time {
        let _ = writeln!(
            text,
            "  one that is as good passes after {} to {}",
            duration(*shortest, Round::Down),
            duration(*longest, Round::Up)
        );
    }
    for sentence in sentences {
        let _ = writeln!(text, "  {sentence}");
    }
    text
}

/// To which side a time is rounded.
#[derive(Clone, Copy, Debug)]
enum Round {
    Up,
    Down,
}

fn duration(time: Duration, round: Round) -> String {
    let seconds = time.as_secs();
    let (length, unit) = match seconds {
        0..180 => (1, "s"),
        180..36_000 => (60, "min"),
        _ => (3_600, "h"),
    };
    let number = match round {
        Round::Up => seconds.div_ceil(length),
        Round::Down => seconds / length,
    };
    format!("{number} {unit}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const OBJECTS: &str = "apiVersion: v1
kind: List
items:
NODES- apiVersion: perwatt.dev/v1alpha1
  kind: InferenceWorkload
  metadata: {name: gate, namespace: lines}
  spec:
    model: {image: 'registry.example/gate@sha256:OLD'}
    placement: {mode: PerNode}
    variants: [{name: cpu, deviceLess: CPU, artifact: {path: a}}]
";
    const NODE: &str = "- apiVersion: v1
  kind: Node
  metadata: {name: NAME, labels: {kubernetes.io/hostname: NAME}}
  status:
    allocatable: {cpu: '2', memory: 1Gi, pods: '20'}
    conditions: [{type: Ready, status: 'True'}]
";
    const WANTED: &str = "apiVersion: perwatt.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  cohorts:
  - {name: canary, nodes: {matchLabels: {kubernetes.io/hostname: edge-a}}, bake: 1m}
  - {name: rest, bake: 2m}
  analysis:
  - {metric: ErrorRate, maxIncrease: {absolute: \"1%\"}}
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: gate}
spec:
  model: {image: 'registry.example/gate@sha256:NEW'}
  placement: {mode: PerNode}
  variants: [{name: cpu, deviceLess: CPU, artifact: {path: a}}]
  rollout: {policyRef: careful}
";

    fn tell(wanted: &str, rate: Option<f64>) -> Result<String, PreviewError> {
        let folder = tempfile::tempdir().unwrap();
        let [filename, inventory] = ["workload.yaml", "objects.yaml"].map(|name| folder.path().join(name));
        let nodes = ["edge-a", "edge-b", "edge-c"].map(|name| NODE.replace("NAME", name));
        let digests = |text: &str| {
            text.replace("OLD", &"0".repeat(64))
                .replace("NEW", &"1".repeat(64))
        };
        std::fs::write(&filename, digests(wanted)).unwrap();
        std::fs::write(&inventory, digests(&OBJECTS.replace("NODES", &nodes.concat()))).unwrap();
        run(&PreviewArgs {
            plan: PlanArgs {
                filename,
                inventory: Some(inventory),
                namespace: Some("lines".into()),
                context: None,
            },
            rate,
        })
    }

    #[test]
    fn cohorts_are_told_with_their_slots_and_what_can_be_seen_in_what_time() {
        let text = tell(WANTED, Some(20.0)).unwrap();
        for part in [
            "lines/gate: 3 slots, 20 requests/s each (--rate)",
            "canary: 1 slot (edge-a); bakes 60 s, waits at most 24 h",
            "rest: 2 slots (edge-b, edge-c); bakes 120 s",
            "of the error rate can be seen in",
            "is everywhere after 3 min to",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn what_runtimes_tell_is_added_and_clocks_that_cannot_be_right_are_not_believed() {
        let counted = |began: u64, answered: u64| Counted {
            epoch_unix_seconds: began,
            unanswered: 10,
            records: vec![Record {
                answered,
                latency: Sketch::default(),
            }],
            ..Counted::default()
        };
        let now = 1_800_000_000;
        let mut counts = Counts::default();
        assert_eq!(add(&mut counts, counted(now - 100, 190), now), Some(2.0));
        assert_eq!((counts.answered, counts.failed), (190, 10));
        for began in [0, now, now + 60] {
            assert_eq!(add(&mut counts, counted(began, u64::MAX), now), None);
        }
        assert_eq!(counts.answered, u64::MAX);
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let unknown = tell(WANTED, None).unwrap();
        assert!(unknown.contains("give --rate"), "{unknown}");
        assert!(unknown.contains("cannot be foreseen"), "{unknown}");
        let missing = tell(&WANTED.replace("{name: careful}", "{name: other}"), None);
        let missing = missing.unwrap_err().to_string();
        assert!(missing.contains("there is no RolloutPolicy careful"), "{missing}");
        let same = tell(&WANTED.replace("NEW", "OLD"), None).unwrap();
        assert!(same.contains("no rollout would begin"), "{same}");
        let empty = tell(
            &WANTED.replace("hostname: edge-a", "hostname: edge-z"),
            Some(20.0),
        )
        .unwrap();
        assert!(empty.contains("it selects no slot"), "{empty}");
        assert!(empty.contains("cannot be foreseen"), "{empty}");
        let rare = tell(WANTED, Some(0.001)).unwrap();
        assert!(rare.contains("longer than the deadline"), "{rare}");
        for rate in ["nan", "inf", "-5", "0", "many"] {
            assert!(parse_rate(rate).is_err(), "{rate}");
        }
        let other = tell(&WANTED.replace("{name: gate}", "{name: new}"), None).unwrap();
        assert!(other.contains("needs no gates"), "{other}");
    }
}
