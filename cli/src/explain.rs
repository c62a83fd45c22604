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
use perwatt_operator::evidence::Evidence;
use perwatt_operator::observe::snapshot::{Objects, Snapshot};
use perwatt_planner::outcome::{Candidate, SlotPlan};
use perwatt_planner::plan;
use perwatt_planner::world::WorkloadKey;
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
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(explain(arguments))
}

async fn explain(arguments: &ExplainArgs) -> Result<String, ExplainError> {
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_kubeconfig(&options).await?;
    let namespace = arguments
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| ExplainError::Client(Box::new(error)))?;
    let key = WorkloadKey {
        namespace,
        name: arguments.workload.clone(),
    };
    let objects = Objects {
        nodes: list(&client).await?,
        pods: list(&client).await?,
        workloads: list(&client).await?,
        profiles: list(&client).await?,
        inventories: list(&client).await?,
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
    if !snapshot.workloads.contains_key(&key) {
        return Err(ExplainError::NotFound(key));
    }
    let planned = plan(&snapshot.world, Timestamp::now());
    let slots: Vec<_> = planned.slots.iter().filter(|slot| slot.workload == key).collect();
    Ok(render(&key, &slots))
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
pub fn render(key: &WorkloadKey, slots: &[&SlotPlan]) -> String {
    let mut text =
        format!("InferenceWorkload {key}: objective Order (variants as listed, no figures are used yet)\n");
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
    table.set_header(["VARIANT", "PROFILE", "NODE", "VERDICT", "WHY"]);
    for candidate in &slot.candidates {
        table.add_row(row(candidate));
    }
    let _ = writeln!(text, "{table}");
}

fn row(candidate: &Candidate) -> [String; 5] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let (verdict, why) = match &candidate.rejected {
        Some(reason) => (reason.code.as_str(), reason.message.as_str()),
        None if candidate.chosen => ("chosen", ""),
        None => ("possible", "a better one was chosen"),
    };
    [
        candidate.variant.clone(),
        or_dash(&candidate.profile),
        or_dash(&candidate.node),
        verdict.to_owned(),
        why.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use perwatt_planner::outcome::{Reason, ReasonCode};

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
        };
        let slot = SlotPlan {
            workload: WorkloadKey {
                namespace: "lines".into(),
                name: "gate".into(),
            },
            slot: "replica-0".into(),
            target: None,
            best_variant: Some("chip".into()),
            serving: None,
            degraded: Some(reason.clone()),
            problem: None,
            offline: false,
            changing: false,
            candidates: vec![
                candidate("chip", Some(reason), false),
                candidate("cpu", None, true),
            ],
        };
        let text = render(&slot.workload.clone(), &[&slot]);
        for part in [
            "lines/gate",
            "planned best: chip",
            "DeviceUnhealthy",
            "chip-0 on edge-x is Unhealthy",
            "chosen",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
    }
}
