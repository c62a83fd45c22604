//! `kubectl-perwatt plan`: what would happen if a workload were applied. Changes nothing.
//!
//! Runs the operator's planner on what the cluster has, or on a file of objects where there is no cluster.

use crate::explain::{self, ExplainError};
use clap::Args;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use perwatt_crds::{InferenceWorkload, RolloutPolicy};
use perwatt_operator::evidence::Evidence;
use perwatt_operator::observe::snapshot::{Objects, Snapshot};
use perwatt_planner::outcome::{Change, Plan};
use perwatt_planner::plan;
use perwatt_planner::revision::revision;
use perwatt_planner::world::WorkloadKey;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest file that is read, in bytes: a cluster of thousands of nodes fits.
const FILE_LIMIT: u64 = 256 * 1024 * 1024;
/// Changes that are shown before the rest is counted.
const CHANGES_SHOWN: usize = 40;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Manifest of the InferenceWorkload; EdgeSites and HardwareProfiles in it count too
    #[arg(short, long)]
    pub filename: PathBuf,
    /// Plan on these objects instead of a cluster's: what `kubectl get
    /// nodes,pods,deviceinventories,hardwareprofiles,edgesites,priorityclasses,inferenceworkloads,rolloutpolicies -A -o yaml` prints
    #[arg(long)]
    pub inventory: Option<PathBuf>,
    /// Namespace where the manifest names none; default: the context's, or `default` with --inventory
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; default: the current one
    #[arg(long)]
    pub context: Option<String>,
}

/// Why nothing could be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file is too long.
    #[error("{0} is longer than 256 MiB")]
    TooLong(String),
    /// A file is no YAML.
    #[error("{path}: {source}")]
    Yaml {
        /// The file.
        path: String,
        /// Why.
        source: serde_yaml::Error,
    },
    /// An object is not what its kind says.
    #[error("{path}: {kind} {name}: {source}")]
    Object {
        /// The file.
        path: String,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// There is nothing to plan.
    #[error("{0} has no InferenceWorkload")]
    NoWorkload(String),
    /// The cluster could not be read.
    #[error(transparent)]
    Cluster(#[from] ExplainError),
}

/// What there would be if a manifest were applied.
pub(crate) struct Wanted {
    /// All objects.
    pub snapshot: Snapshot,
    /// The workloads of the manifest.
    pub keys: Vec<WorkloadKey>,
    /// Workloads as they are now.
    pub before: BTreeMap<WorkloadKey, Arc<InferenceWorkload>>,
    /// Policies of rollouts that the files have.
    pub policies: Vec<Arc<RolloutPolicy>>,
}

/// Plans; returns what to print.
///
/// # Errors
/// When a file or the cluster cannot be read.
pub fn run(arguments: &PlanArgs) -> Result<String, PlanError> {
    let wanted = load(arguments)?;
    let planned = plan(&wanted.snapshot.world, Timestamp::now());
    Ok(render(&wanted.snapshot, &planned, &wanted.keys))
}

/// Reads the manifest, and what there is.
pub(crate) fn load(arguments: &PlanArgs) -> Result<Wanted, PlanError> {
    let mut wanted = Files::default();
    read(&arguments.filename, &mut wanted)?;
    if wanted.objects.workloads.is_empty() {
        return Err(PlanError::NoWorkload(arguments.filename.display().to_string()));
    }
    let (known, namespace) = match &arguments.inventory {
        Some(path) => {
            let mut known = Files::default();
            read(path, &mut known)?;
            (known, "default".to_owned())
        }
        None => {
            let (objects, namespace) = explain::objects_of_cluster(arguments.context.as_deref())?;
            let policies = Vec::new();
            (Files { objects, policies }, namespace)
        }
    };
    let Files {
        mut objects,
        mut policies,
    } = known;
    let namespace = arguments.namespace.clone().unwrap_or(namespace);
    let before: BTreeMap<_, _> = (objects.workloads.iter())
        .map(|workload| (key(workload), Arc::clone(workload)))
        .collect();
    let keys = add(&mut objects, wanted.objects, &namespace);
    policies.extend(wanted.policies);
    let mut snapshot = Snapshot::of(objects, "", &Evidence::default());
    for (key, workload) in &mut snapshot.world.workloads {
        let is_same =
            |known: &&Arc<InferenceWorkload>| bare_revision(known) == bare_revision(&snapshot.workloads[key]);
        let written = before.get(key).filter(is_same);
        if let Some(known) = written.and_then(|known| known.status.as_ref()?.revision.as_ref()) {
            workload.revision.clone_from(known);
        }
    }
    Ok(Wanted {
        snapshot,
        keys,
        before,
        policies,
    })
}

/// The hash without the runtime's image, which is the operator's own secret.
pub(crate) fn bare_revision(workload: &InferenceWorkload) -> String {
    revision(&workload.spec, "", &[])
}

fn key(workload: &InferenceWorkload) -> WorkloadKey {
    WorkloadKey {
        namespace: workload.namespace().unwrap_or_default(),
        name: workload.name_any(),
    }
}

/// Puts the wanted objects in the place of those of the same name; what is known of them stays.
fn add(objects: &mut Objects, wanted: Objects, namespace: &str) -> Vec<WorkloadKey> {
    let mut keys = Vec::new();
    for workload in wanted.workloads {
        let mut workload = Arc::unwrap_or_clone(workload);
        workload
            .metadata
            .namespace
            .get_or_insert_with(|| namespace.to_owned());
        let known = objects
            .workloads
            .iter()
            .find(|known| key(known) == key(&workload));
        if let Some(known) = known {
            workload.metadata = known.metadata.clone();
            workload.status.clone_from(&known.status);
        }
        keys.push(key(&workload));
        objects.workloads.retain(|known| key(known) != key(&workload));
        objects.workloads.push(Arc::new(workload));
    }
    replace(&mut objects.profiles, wanted.profiles);
    replace(&mut objects.sites, wanted.sites);
    keys
}

fn replace<K: kube::Resource>(known: &mut Vec<Arc<K>>, wanted: Vec<Arc<K>>) {
    for object in wanted {
        known.retain(|other| other.meta().name != object.meta().name);
        known.push(object);
    }
}

/// The objects of files.
#[derive(Default)]
struct Files {
    objects: Objects,
    policies: Vec<Arc<RolloutPolicy>>,
}

/// Reads every object of a file: documents, and lists in them.
fn read(path: &Path, files: &mut Files) -> Result<(), PlanError> {
    let shown = path.display().to_string();
    let failed = |source| PlanError::Read {
        path: shown.clone(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file
        .take(FILE_LIMIT + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > FILE_LIMIT {
        return Err(PlanError::TooLong(shown));
    }
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).map_err(|source| PlanError::Yaml {
            path: shown.clone(),
            source,
        })?;
        sort(&shown, value, files)?;
    }
    Ok(())
}

fn sort(path: &str, value: Value, files: &mut Files) -> Result<(), PlanError> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    let objects = &mut files.objects;
    match kind.as_str() {
        "RolloutPolicy" => files.policies.push(typed(path, value)?),
        "Node" => objects.nodes.push(typed(path, value)?),
        "Pod" => objects.pods.push(typed(path, value)?),
        "InferenceWorkload" => objects.workloads.push(typed(path, value)?),
        "HardwareProfile" => objects.profiles.push(typed(path, value)?),
        "DeviceInventory" => objects.inventories.push(typed(path, value)?),
        "PriorityClass" => objects.priority_classes.push(typed(path, value)?),
        "EdgeSite" => objects.sites.push(typed(path, value)?),
        list if list.ends_with("List") => {
            let Value::Object(mut fields) = value else {
                return Ok(());
            };
            let Some(Value::Array(items)) = fields.remove("items") else {
                return Ok(());
            };
            for item in items {
                // A list in a list is nobody's output.
                if !item["kind"].as_str().unwrap_or_default().ends_with("List") {
                    sort(path, item, files)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn typed<K: DeserializeOwned>(path: &str, value: Value) -> Result<Arc<K>, PlanError> {
    let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&value["kind"]), text(&value["metadata"]["name"]));
    serde_json::from_value(value)
        .map(Arc::new)
        .map_err(|source| PlanError::Object {
            path: path.to_owned(),
            kind,
            name,
            source,
        })
}

fn render(snapshot: &Snapshot, planned: &Plan, keys: &[WorkloadKey]) -> String {
    let mut text = String::from("Nothing was changed. If it were applied, the first steps would be:\n");
    if planned.changes.is_empty() {
        text.push_str("  none\n");
    }
    for change in planned.changes.iter().take(CHANGES_SHOWN) {
        let _ = match change {
            Change::Create(pod) => writeln!(
                text,
                "  create a pod for {} {}: {}",
                pod.workload, pod.slot, pod.decision
            ),
            Change::Delete(pod) => writeln!(text, "  delete pod {}/{}: {}", pod.namespace, pod.name, pod.why),
        };
    }
    if let Some(more) = planned
        .changes
        .len()
        .checked_sub(CHANGES_SHOWN)
        .filter(|more| *more > 0)
    {
        let _ = writeln!(text, "  and {more} more");
    }
    for site in &planned.sites {
        if let Some(reason) = site.exceeded.as_ref().or(site.claimed_twice.as_ref()) {
            let _ = writeln!(text, "  EdgeSite {}: {}", site.name, reason.message);
        }
    }
    for key in keys {
        let slots: Vec<_> = planned
            .slots
            .iter()
            .filter(|slot| slot.workload == *key)
            .collect();
        let how = snapshot.world.workloads.get(key).map(explain::how_it_chooses);
        let _ = write!(
            text,
            "\n{}",
            explain::render(key, &how.unwrap_or_default(), &slots)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const OBJECTS: &str = "apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Node
  metadata: {name: edge-x}
  status:
    allocatable: {cpu: '2', memory: 1Gi, pods: '20', perwatt.dev/chip: '1'}
    conditions: [{type: Ready, status: 'True'}]
- apiVersion: perwatt.dev/v1alpha1
  kind: HardwareProfile
  metadata: {name: chip}
  spec: {class: ASIC, discovery: {emulated: {count: 1}}, power: {sleepMilliwatts: 50, idleMilliwatts: 500}}
- apiVersion: perwatt.dev/v1alpha1
  kind: DeviceInventory
  metadata: {name: edge-x}
  spec: {}
  status:
    devices:
    - {id: chip-0, profile: chip, class: ASIC, health: Healthy, lastTransitionTime: '2026-01-01T00:00:00Z'}
";

    fn workload(microjoules: u64) -> String {
        format!(
            "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {{name: gate}}
spec:
  model: {{image: 'registry.example/gate@sha256:{}'}}
  expectedRatePerMinute: 60
  variants:
  - {{name: npu, device: {{profiles: [chip]}}, artifact: {{path: a}}, performance: {{microjoulesPerInference: {microjoules}}}}}
  - {{name: cpu, deviceLess: CPU, artifact: {{path: b}}, performance: {{microjoulesPerInference: 900000}}}}
",
            "0".repeat(64)
        )
    }

    fn planned(microjoules: u64) -> String {
        let folder = tempfile::tempdir().unwrap();
        let [filename, inventory] = ["workload.yaml", "objects.yaml"].map(|name| folder.path().join(name));
        std::fs::write(&filename, workload(microjoules)).unwrap();
        std::fs::write(&inventory, OBJECTS).unwrap();
        let arguments = PlanArgs {
            filename,
            inventory: Some(inventory),
            namespace: Some("lines".into()),
            context: None,
        };
        run(&arguments).unwrap()
    }

    #[test]
    fn a_plan_without_a_cluster_says_what_would_be_made_and_why() {
        let text = planned(100_000);
        for part in [
            "create a pod for lines/gate replica-0: npu on chip at edge-x",
            "objective Energy at 60 requests a minute",
            "100mJ declared (nameplate)",
            "560mW",
            "chosen",
        ] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        let text = planned(800_000);
        assert!(
            text.contains("create a pod for lines/gate replica-0: cpu at edge-x"),
            "{text}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let filename = folder.path().join("w.yaml");
        let mut objects = Files::default();
        for (content, words) in [
            ("a: [", "w.yaml"),
            (
                "kind: InferenceWorkload\nmetadata: {name: gate}\nspec: {}\n",
                "InferenceWorkload gate",
            ),
        ] {
            std::fs::write(&filename, content).unwrap();
            let error = read(&filename, &mut objects).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
