//! `kubectl-perwatt explain`: why a workload is served as it is.
//!
//! Takes the same snapshot and runs the same planner as the operator, on this machine, and
//! changes nothing.

use clap::Args;
use comfy_table::{Table, presets::NOTHING};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::config::KubeConfigOptions;
use kube::{Client, Config, Resource};
use perwatt_crds::workload::Objective;
use perwatt_operator::evidence::Evidence;
use perwatt_operator::observe::snapshot::{Objects, Snapshot};
use perwatt_operator::report::figures;
use perwatt_planner::outcome::{Candidate, Reason, SlotPlan};
use perwatt_planner::world::{Workload, WorkloadKey};
use perwatt_planner::{Expected, plan};
use serde::de::DeserializeOwned;
use std::fmt::{Debug, Write};
use std::sync::Arc;

/// Slots that are shown before the rest is counted.
const SLOTS_SHOWN: usize = 20;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Name of the InferenceWorkload
    pub workload: String,
    /// Only slots on this node, or that are to be there
    #[arg(long)]
    pub node: Option<String>,
    /// Its namespace; default: the context's
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; default: the current one
    #[arg(long)]
    pub context: Option<String>,
}

/// Why nothing could be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// No usable kubeconfig.
    #[error("cannot use the kubeconfig: {0}; set KUBECONFIG or --context")]
    Config(#[from] kube::config::KubeconfigError),
    /// The API server did not answer or refused.
    #[error("cannot list {kind}: {source}")]
    List {
        /// What was listed.
        kind: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The client could not be made.
    #[error("cannot connect: {0}")]
    Client(Box<kube::Error>),
    /// No such workload.
    #[error("there is no InferenceWorkload {0}: `kubectl get inferenceworkloads -A` lists them")]
    NotFound(WorkloadKey),
    /// The runtime of this program could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Explains a workload; returns what to print.
///
/// # Errors
/// When the cluster cannot be read or there is no such workload.
pub fn run(arguments: &ExplainArgs) -> Result<String, ExplainError> {
    let (objects, namespace) = objects_of_cluster(arguments.context.as_deref())?;
    let key = WorkloadKey {
        namespace: arguments.namespace.clone().unwrap_or(namespace),
        name: arguments.workload.clone(),
    };
    let mut snapshot = Snapshot::of(objects, "", &Evidence::default());
    // Which runtime image the operator uses is its own secret: the revision that it wrote says enough.
    for (key, workload) in &mut snapshot.world.workloads {
        let status = snapshot
            .workloads
            .get(key)
            .and_then(|object| object.status.as_ref());
        if let Some(revision) = status.and_then(|status| status.revision.clone()) {
            workload.revision = revision;
        }
    }
    let Some(workload) = snapshot.world.workloads.get(&key) else {
        return Err(ExplainError::NotFound(key));
    };
    let planned = plan(&snapshot.world, Timestamp::now());
    let slots: Vec<_> = planned
        .slots
        .iter()
        .filter(|slot| slot.workload == key)
        .filter(|slot| is_on(slot, arguments.node.as_deref()))
        .collect();
    Ok(render(&key, &how_it_chooses(workload), &slots))
}

/// Whether a slot is on a node, or is to be; every slot where none is named.
fn is_on(slot: &SlotPlan, node: Option<&str>) -> bool {
    let Some(node) = node else { return true };
    let serving = slot.serving.as_ref().map(|pod| pod.assignment.node.as_str());
    let target = slot.target.as_ref().map(|target| target.node.as_str());
    slot.slot == node || serving == Some(node) || target == Some(node)
}

/// By what a workload's ways are compared, and what is missing for it.
#[must_use]
pub fn how_it_chooses(workload: &Workload) -> String {
    let rate = workload.expected_rate_per_minute;
    match (workload.objective, rate) {
        (Objective::Energy, None) => {
            "objective Energy, but without expectedRatePerMinute no watts are known: the order of variants decides".into()
        }
        (Objective::Energy, Some(rate)) => format!(
            "objective Energy at {rate} requests a minute; where a figure is missing the order of variants decides"
        ),
        (Objective::Latency, _) => {
            "objective Latency; where a figure is missing the order of variants decides".into()
        }
        (Objective::Quality, _) => {
            "objective Quality; where a figure is missing the order of variants decides".into()
        }
        (Objective::Order, _) => "objective Order: variants as listed".into(),
    }
}

/// What planning needs of the cluster, and the context's namespace.
///
/// # Errors
/// When the cluster cannot be read.
pub fn objects_of_cluster(context: Option<&str>) -> Result<(Objects, String), ExplainError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(read_cluster(context))
}

/// The cluster of a context, and the context's namespace.
pub(crate) async fn connect(context: Option<&str>) -> Result<(Client, String), ExplainError> {
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_kubeconfig(&options).await?;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| ExplainError::Client(Box::new(error)))?;
    Ok((client, namespace))
}

async fn read_cluster(context: Option<&str>) -> Result<(Objects, String), ExplainError> {
    let (client, namespace) = connect(context).await?;
    let objects = Objects {
        nodes: list(&client).await?,
        pods: list(&client).await?,
        workloads: list(&client).await?,
        profiles: list(&client).await?,
        inventories: list(&client).await?,
        sites: list(&client).await?,
        priority_classes: list(&client).await?,
        agent_namespace: None,
    };
    Ok((objects, namespace))
}

async fn list<K>(client: &Client) -> Result<Vec<Arc<K>>, ExplainError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let listed = api
        .list(&ListParams::default())
        .await
        .map_err(|source| ExplainError::List {
            kind: K::plural(&()).into_owned(),
            source: Box::new(source),
        })?;
    Ok(listed.items.into_iter().map(Arc::new).collect())
}

/// The slots as text: what serves, and every candidate with what ruled it out.
#[must_use]
pub fn render(key: &WorkloadKey, how: &str, slots: &[&SlotPlan]) -> String {
    let mut text = format!("InferenceWorkload {key}: {how}\n");
    if slots.is_empty() {
        text.push_str("It has no slots: no node matches placement.nodes, or replicas is 0.\n");
    }
    for slot in slots.iter().take(SLOTS_SHOWN) {
        render_slot(&mut text, slot);
    }
    if slots.len() > SLOTS_SHOWN {
        let _ = writeln!(text, "\nand {} slots more", slots.len() - SLOTS_SHOWN);
    }
    text
}

fn render_slot(text: &mut String, slot: &SlotPlan) {
    let serving = slot.serving.as_ref().map_or_else(
        || "nothing".to_owned(),
        |pod| {
            format!(
                "{} on {}, pod {}",
                pod.assignment.variant, pod.assignment.node, pod.name
            )
        },
    );
    let _ = writeln!(text, "\nSlot {}: served by {serving}", slot.slot);
    if let Some(best) = &slot.best_variant {
        let _ = writeln!(text, "  planned best: {best}");
    }
    for (word, reason) in [("degraded", &slot.degraded), ("problem", &slot.problem)] {
        if let Some(reason) = reason {
            let _ = writeln!(text, "  {word}: {}: {}", reason.code.as_str(), reason.message);
        }
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "VARIANT", "PROFILE", "NODE", "ENERGY", "WATTS", "P99", "VERDICT", "WHY",
    ]);
    for candidate in &slot.candidates {
        table.add_row(row(candidate));
    }
    let _ = writeln!(text, "{table}");
}

fn row(candidate: &Candidate) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let (verdict, why) = match &candidate.rejected {
        Some(reason) => (reason.code.as_str(), because(reason)),
        None if candidate.chosen => ("chosen", String::new()),
        None => ("possible", "a better one was chosen".to_owned()),
    };
    let notes: Vec<_> = [Some(why), candidate.note.clone()]
        .into_iter()
        .flatten()
        .collect();
    let notes: Vec<_> = notes.into_iter().filter(|note| !note.is_empty()).collect();
    let Expected {
        microjoules,
        p99_microseconds,
        microwatts,
        ..
    } = candidate.expected;
    [
        candidate.variant.clone(),
        or_dash(candidate.profile.clone()),
        or_dash(candidate.node.clone()),
        or_dash(microjoules.map(|figure| format!("{} {}", figures::energy(figure.value), figure.words()))),
        or_dash(microwatts.map(figures::power)),
        or_dash(p99_microseconds.map(|figure| {
            #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
            let seconds = figure.value as f64 * 1e-6;
            format!("{} {}", figures::latency(seconds), figure.words())
        })),
        verdict.to_owned(),
        notes.join("; "),
    ]
}

/// A reason, and what would change it.
fn because(reason: &Reason) -> String {
    match reason.code.remedy() {
        "" => reason.message.clone(),
        remedy => format!("{} (what would help: {remedy})", reason.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perwatt_planner::figure::{Figure, Origin};
    use perwatt_planner::outcome::ReasonCode;

    #[test]
    fn an_explanation_names_every_candidate_and_what_ruled_it_out() {
        let reason = Reason {
            code: ReasonCode::DeviceUnhealthy,
            message: "chip-0 on edge-x is Unhealthy".into(),
        };
        let candidate = |variant: &str, rejected: Option<Reason>, chosen| Candidate {
            variant: variant.into(),
            profile: None,
            node: Some("edge-x".into()),
            rejected,
            chosen,
            expected: Expected {
                microjoules: Some(Figure {
                    value: 820,
                    origin: Origin::Declared,
                    source: perwatt_crds::performance::FigureSource::Measured,
                    emulated: false,
                }),
                microwatts: Some(1_200_000),
                ..Expected::default()
            },
            note: None,
        };
        let slot = SlotPlan {
            workload: WorkloadKey {
                namespace: "lines".into(),
                name: "gate".into(),
            },
            slot: "replica-0".into(),
            ordinal: 0,
            target: None,
            best_variant: Some("chip".into()),
            serving: None,
            degraded: Some(reason.clone()),
            problem: None,
            offline: false,
            changing: false,
            expected: None,
            candidates: vec![
                candidate("chip", Some(reason), false),
                candidate("cpu", None, true),
            ],
        };
        let text = render(&slot.workload.clone(), "objective Energy", &[&slot]);
        for part in [
            "lines/gate",
            "planned best: chip",
            "DeviceUnhealthy",
            "chip-0 on edge-x is Unhealthy (what would help: a healthy device)",
            "820uJ declared (measured)",
            "1.2W",
            "chosen",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }
}
