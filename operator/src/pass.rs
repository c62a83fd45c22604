//! One pass: snapshot, plan, apply, report.

use crate::apply::children::Children;
use crate::apply::records::{Written, histories};
use crate::apply::{self, Applied, ApplyError};
use crate::evidence::Evidence;
use crate::metrics::{ChangeLabels, Metrics, SlotLabels};
use crate::observe::Stores;
use crate::observe::assumed::Assumed;
use crate::observe::snapshot::{Objects, Snapshot};
use crate::report::{self, events, workload::Facts};
use crate::rollout;
use crate::rollout::collect::{Seen, build_tasks};
use crate::rollout::key::ControlKey;
use crate::settings::Settings;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Resource};
use perwatt_crds::InferenceWorkload;
use perwatt_planner::outcome::{Change, Plan, SlotPlan};
use perwatt_planner::world::{OwnedPod, WorkloadKey};
use perwatt_planner::{plan, silent_agents};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Changes of one pass. What is left is planned again at once, on a newer snapshot: a pass over thousands of writes would
/// see nothing else for minutes.
const CHANGES: usize = 1_000;
/// Writes in flight at once.
const CONCURRENT: usize = 16;
/// When a change was refused for an ordinary reason (endpoints lag behind), it is planned again this soon.
const RETRY_SOON: Duration = Duration::from_millis(300);
/// When the API server refused or did not answer.
const RETRY_LATER: Duration = Duration::from_secs(3);
/// The longest wait between two passes; also "nothing is due".
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// Everything that a pass needs.
pub struct Pass {
    client: Client,
    settings: Settings,
    stores: Stores,
    assumed: Assumed,
    evidence: Evidence,
    key: ControlKey,
    seen: Seen,
    written: Written,
    metrics: Metrics,
    reporter: Reporter,
    reported: BTreeMap<WorkloadKey, Vec<SlotLabels>>,
}

impl Pass {
    /// A pass over `stores`.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        stores: Stores,
        evidence: Evidence,
        metrics: Metrics,
        (key, seen): (ControlKey, Seen),
    ) -> Self {
        let reporter = Reporter {
            controller: "perwatt-operator".into(),
            instance: Some(settings.identity.clone()),
        };
        Self {
            client,
            settings,
            stores,
            assumed: Assumed::default(),
            evidence,
            key,
            seen,
            written: Written::default(),
            metrics,
            reporter,
            reported: BTreeMap::new(),
        }
    }

    /// Runs one pass at the time `now`; returns when the next is due if nothing happens before.
    pub async fn run(&mut self, now: Timestamp) -> Duration {
        let began = Instant::now();
        let mut objects = Objects::from(&self.stores);
        objects.pods = match self.assumed.newest(&self.client, objects.pods, now).await {
            Ok(pods) => pods,
            Err(error) => {
                tracing::warn!(%error, "nothing is planned until pods can be listed, trying again");
                return RETRY_LATER;
            }
        };
        objects.agent_namespace = Some(self.settings.namespace.clone());
        let mut snapshot = Snapshot::of(objects, &self.settings.runtime_image, &self.evidence);
        snapshot.world.breaker = self.settings.breaker(report::breaker::opened_at(&snapshot));
        snapshot.world.agent_grace = self.settings.agent_grace;
        self.metrics
            .show_silent_agents(silent_agents(&snapshot.world, now).count());
        let rolling = self.roll(&mut snapshot, now).await;
        let planning = Instant::now();
        let plan = plan(&snapshot.world, now);
        self.metrics
            .plan_seconds
            .observe(planning.elapsed().as_secs_f64());
        self.metrics.show_breaker(plan.breaker);
        self.metrics.show_degraded(&plan.slots);
        let children = self.apply_children(&snapshot).await;
        let changes = self.apply_changes(&snapshot, &plan, (now, began)).await;
        let statuses = self.write_statuses(&snapshot, &plan, now).await;
        self.metrics.pass_seconds.observe(began.elapsed().as_secs_f64());
        let due = plan.wake_at.map_or(NOTHING_DUE, |at| until(at, now));
        let shown = self.assumed.due(now).unwrap_or(NOTHING_DUE);
        [rolling, children, changes, statuses, due, shown]
            .into_iter()
            .min()
            .unwrap_or(NOTHING_DUE)
    }

    /// Decides on rollouts and keeps that, opens slots to them, and says what runtimes are to be told.
    async fn roll(&mut self, snapshot: &mut Snapshot, now: Timestamp) -> Duration {
        let facts = rollout::Facts {
            histories: histories(&self.written.newest(self.stores.revisions.state())),
            policies: self.stores.policies.state(),
            approvals: self.stores.approvals.state(),
        };
        let mut decisions = rollout::determine(snapshot, &facts, &self.seen, now);
        let image = self.settings.runtime_image.as_str();
        let all = self
            .written
            .keep(&self.client, snapshot, &facts.histories, image, &mut decisions)
            .await;
        let wakes = decisions.rollouts.values().filter_map(|rolling| rolling.wake_at);
        let due = wakes.min().map_or(NOTHING_DUE, |at| until(at, now));
        rollout::open(snapshot, decisions);
        self.seen.set_tasks(build_tasks(snapshot, &self.key, now));
        if all { due } else { RETRY_LATER }
    }

    async fn apply_children(&self, snapshot: &Snapshot) -> Duration {
        let children = Children::new(&self.client, &self.stores, snapshot, &self.settings.runtime_image);
        let alive = snapshot
            .workloads
            .iter()
            .filter(|(_, workload)| workload.metadata.deletion_timestamp.is_none());
        let errors = stream::iter(alive)
            .map(|(key, workload)| children.apply(key, workload))
            .buffer_unordered(CONCURRENT)
            .collect::<Vec<_>>()
            .await;
        let waits = errors.iter().flatten().map(|error| self.retry(error));
        waits.min().unwrap_or(NOTHING_DUE)
    }

    /// Carries out a plan of a pass that began then.
    async fn apply_changes(
        &mut self,
        snapshot: &Snapshot,
        plan: &Plan,
        (now, began): (Timestamp, Instant),
    ) -> Duration {
        let image = self.settings.runtime_image.as_str();
        let (client, key) = (&self.client, &self.key);
        let results = stream::iter(plan.changes.iter().take(CHANGES))
            .map(|change| async move { (change, apply::apply(client, snapshot, (image, key), change).await) })
            .buffer_unordered(CONCURRENT)
            .collect::<Vec<_>>()
            .await;
        // The watch's time begins where the last write ends: a large pass takes longer than that.
        let written = now.saturating_add(began.elapsed()).unwrap_or(now);
        let all = plan.changes.len() <= CHANGES;
        let mut due = if all { NOTHING_DUE } else { Duration::ZERO };
        let mut done = Vec::new();
        for (change, result) in results {
            self.count(change, &result);
            match &result {
                Ok(Applied::Made(_) | Applied::Deleted(_)) => done.push(change),
                Ok(Applied::Already) => {}
                Err(error) => due = due.min(self.retry(error)),
            }
            self.remember(snapshot, change, result, written);
        }
        stream::iter(done)
            .for_each_concurrent(CONCURRENT, |change| self.tell(snapshot, change))
            .await;
        due
    }

    /// Notes what the next pass has to see.
    fn remember(
        &mut self,
        snapshot: &Snapshot,
        change: &Change,
        result: Result<Applied, ApplyError>,
        at: Timestamp,
    ) {
        match (change, result) {
            (Change::Create(_), Ok(Applied::Made(pod))) => self.assumed.note_made(*pod, at),
            // Another process made it, and the watch does not show it yet.
            (Change::Create(plan), Ok(Applied::Already))
                if snapshot.pod(&plan.workload.namespace, &plan.name).is_none() =>
            {
                self.assumed.note_unknown();
            }
            (Change::Delete(delete), Ok(Applied::Deleted(pod))) => {
                self.assumed.note_deleted(&delete.uid, pod.map(|pod| *pod), at);
            }
            (Change::Delete(delete), Ok(Applied::Already)) => {
                self.assumed.note_deleted(&delete.uid, None, at);
            }
            (_, Err(error)) if error.leaves_open() => self.assumed.note_unknown(),
            _ => {}
        }
    }

    /// Says what went wrong, and when to try again.
    fn retry(&self, error: &ApplyError) -> Duration {
        if error.is_ordinary() {
            tracing::debug!(%error, "planned again");
            RETRY_SOON
        } else {
            tracing::warn!(%error, "trying again");
            RETRY_LATER
        }
    }

    fn count(&self, change: &Change, result: &Result<Applied, ApplyError>) {
        let action = match change {
            Change::Create(_) => "create",
            Change::Delete(_) => "delete",
        };
        let result = match result {
            Ok(Applied::Made(_) | Applied::Deleted(_)) => "done",
            Ok(Applied::Already) => "already",
            Err(error) if error.is_ordinary() => "deferred",
            Err(_) => "failed",
        };
        self.metrics
            .changes
            .get_or_create(&ChangeLabels { action, result })
            .inc();
    }

    async fn tell(&self, snapshot: &Snapshot, change: &Change) {
        let told = events::of_change(change);
        tracing::info!(reason = told.reason, "{}", told.note);
        let workload = match change {
            Change::Create(plan) => snapshot.workloads.get(&plan.workload),
            Change::Delete(delete) => {
                let pod = snapshot.world.pods.iter().find(|pod| pod.uid == delete.uid);
                pod.and_then(|pod| snapshot.workloads.get(&pod.owned.as_ref()?.workload))
            }
        };
        if let Some(workload) = workload {
            self.publish(workload, &told).await;
        }
    }

    async fn publish(&self, workload: &InferenceWorkload, told: &events::Told) {
        // A recorder of its own for each event: one that is kept adds events of the same reason up
        // and drops the later texts, and what happened is in the text.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        if let Err(error) = recorder.publish(&told.event(), &workload.object_ref(&())).await {
            tracing::warn!(%error, reason = told.reason, "an event could not be written");
        }
    }

    async fn write_statuses(&mut self, snapshot: &Snapshot, plan: &Plan, now: Timestamp) -> Duration {
        let slots = slots_by_workload(plan);
        let pods = pods_by_workload(snapshot);
        let mut due = NOTHING_DUE;
        let (no_slots, no_pods) = (Vec::new(), HashMap::new());
        let evidence = self.evidence.clone();
        for (key, workload) in &snapshot.workloads {
            let Some(planned) = snapshot.world.workloads.get(key) else {
                continue;
            };
            let facts = Facts {
                workload,
                slots: slots.get(key).unwrap_or(&no_slots),
                pods: pods.get(key).unwrap_or(&no_pods),
                evidence: &evidence,
                revision: &planned.revision,
                breaker: plan.breaker,
                rolling: snapshot.rollouts.get(key),
                history: report::rollout::history(
                    key,
                    &snapshot.past_rollouts,
                    snapshot
                        .rollouts
                        .get(key)
                        .map(|rolling| (rolling.candidate.as_str(), &rolling.record)),
                ),
            };
            due = due.min(self.write_status(key, &facts, now).await);
        }
        self.forget(snapshot);
        let profiles = self.write_profiles(snapshot, now).await;
        due.min(profiles).min(self.write_sites(snapshot, plan, now).await)
    }

    async fn write_status(&mut self, key: &WorkloadKey, facts: &Facts<'_>, now: Timestamp) -> Duration {
        let status = report::workload::compute(facts, now);
        self.gauge(key, &status);
        if facts.workload.status.as_ref() == Some(&status)
            || facts.workload.metadata.deletion_timestamp.is_some()
        {
            return NOTHING_DUE;
        }
        match report::write_workload(&self.client, &key.namespace, &key.name, &status).await {
            Ok(()) => {
                self.metrics.status_writes.inc();
                for told in events::of_status(facts.workload.status.as_ref(), &status) {
                    tracing::info!(workload = %key, reason = told.reason, "{}", told.note);
                    self.publish(facts.workload, &told).await;
                }
                NOTHING_DUE
            }
            Err(error) => {
                tracing::warn!(workload = %key, %error, "a status could not be written, trying again");
                RETRY_LATER
            }
        }
    }

    async fn write_profiles(&self, snapshot: &Snapshot, now: Timestamp) -> Duration {
        let mut due = NOTHING_DUE;
        for (name, status) in report::profile::compute(snapshot, now) {
            let same = snapshot
                .profiles
                .get(&name)
                .and_then(|profile| profile.status.as_ref())
                == Some(&status);
            if same {
                continue;
            }
            match report::write_profile(&self.client, &name, &status).await {
                Ok(()) => {
                    self.metrics.status_writes.inc();
                }
                Err(error) => {
                    tracing::warn!(profile = %name, %error, "a status could not be written, trying again");
                    due = RETRY_LATER;
                }
            }
        }
        due
    }

    async fn write_sites(&self, snapshot: &Snapshot, plan: &Plan, now: Timestamp) -> Duration {
        let mut due = NOTHING_DUE;
        for (name, status) in report::site::compute(snapshot, plan, now) {
            let known = snapshot.sites.get(&name).and_then(|site| site.status.as_ref());
            if known == Some(&status) {
                continue;
            }
            match report::write_site(&self.client, &name, &status).await {
                Ok(()) => {
                    self.metrics.status_writes.inc();
                }
                Err(error) => {
                    tracing::warn!(site = %name, %error, "a status could not be written, trying again");
                    due = RETRY_LATER;
                }
            }
        }
        due
    }

    fn gauge(&mut self, key: &WorkloadKey, status: &perwatt_crds::InferenceWorkloadStatus) {
        let values = [
            ("wanted", status.replicas),
            ("served", status.ready_slots),
            ("degraded", status.degraded_slots),
            ("offline", status.offline_slots),
        ];
        let labels = values.map(|(state, value)| {
            let labels = SlotLabels {
                namespace: key.namespace.clone(),
                workload: key.name.clone(),
                state,
            };
            self.metrics.slots.get_or_create(&labels).set(i64::from(value));
            labels
        });
        self.reported.insert(key.clone(), labels.to_vec());
    }

    /// Metrics of workloads that are gone go with them.
    fn forget(&mut self, snapshot: &Snapshot) {
        self.reported.retain(|key, labels| {
            let alive = snapshot.workloads.contains_key(key);
            if !alive {
                labels.iter().for_each(|labels| {
                    self.metrics.slots.remove(labels);
                });
            }
            alive
        });
    }
}

/// How long until `at`, never negative.
fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
}

fn slots_by_workload(plan: &Plan) -> BTreeMap<WorkloadKey, Vec<&SlotPlan>> {
    let mut slots = BTreeMap::<WorkloadKey, Vec<&SlotPlan>>::new();
    for slot in &plan.slots {
        slots.entry(slot.workload.clone()).or_default().push(slot);
    }
    slots
}

/// Uid and facts of our pods, by workload and name.
type Pods<'a> = BTreeMap<WorkloadKey, HashMap<&'a str, (&'a str, &'a OwnedPod)>>;

fn pods_by_workload(snapshot: &Snapshot) -> Pods<'_> {
    let mut pods = Pods::new();
    for pod in &snapshot.world.pods {
        if let Some(owned) = &pod.owned {
            pods.entry(owned.workload.clone())
                .or_default()
                .insert(&pod.name, (&pod.uid, owned));
        }
    }
    pods
}
