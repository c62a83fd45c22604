//! New revisions on their way through cohorts, with requests flowing on both nodes: a good one arrives everywhere, one that
//! quietly answers differently goes back, and no request is lost.

use crate::models::Model;
use crate::support::{World, settled};
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_e2e::demo::{ASIC_NODE, GPU_NODE};
use perwatt_e2e::product::samples::{self, Streaming};
use perwatt_e2e::product::traffic::{Reply, now, tally};

const WORKLOAD: (&str, &str) = ("audio", "rolling");
/// Requests a second on each node.
const RATE: u32 = 40;
/// Limits are wide: a test machine of two cores is no place to tell latencies by tenths, and what is shown here is the way.
const MANIFEST: &str = "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: rolling, namespace: audio}
spec:
  model: {image: \"IMAGE\"}
  placement: {mode: PerNode}
  variants:
  - {name: cpu, deviceLess: CPU, artifact: {path: motion.nir}}
  rollout: {policyRef: standard}
";
const POLICY: &str = "apiVersion: perwatt.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: standard, namespace: audio}
spec:
  cohorts:
  - {name: canary, nodes: {matchLabels: {kubernetes.io/hostname: edge-a}}, bake: 5s}
  - {name: rest, bake: 5s}
  analysis:
  - {metric: ErrorRate, maxIncrease: {absolute: \"10%\"}}
  - {metric: LatencyP50, maxIncrease: {relative: \"400%\"}}
  - {metric: Disagreement, maximum: \"20%\"}
";

fn state(status: &InferenceWorkloadStatus) -> &str {
    status
        .rollout
        .as_ref()
        .map_or("", |rollout| rollout.state.as_str())
}

/// The revisions that answer on a node now.
async fn answers(clients: &[Streaming; 2], revision: &str) {
    for client in clients {
        client
            .traffic
            .wait_for("an answer by the revision", now(), |reply| {
                reply.text("revision") == revision
            })
            .await
            .expect("it answers on both nodes");
    }
}

pub async fn cohorts(world: &World<'_>) {
    let model = Model::motion();
    let first = model.load(world, "rolling-1").await;
    model.edit(|text| text.replace("version: \"1\"", "version: \"2\""));
    let good = model.load(world, "rolling-2").await;
    // Its largest score is the smallest of the one before.
    let upside_down = "postprocess:\n- {from: {name: output, datatype: FP32, shape: [1, 4]}, to: output, steps: [{step: Normalize, mean: [0, 0, 0, 0], std: [1, 1, 1, 1], scale: -1}]}\n";
    model.edit(|text| format!("{text}{upside_down}"));
    let bad = model.load(world, "rolling-3").await;
    world.apply(POLICY).await.expect("it applies");
    let apply = async |image: &str| {
        world
            .apply(&MANIFEST.replace("IMAGE", image))
            .await
            .expect("it applies")
    };
    apply(&first).await;
    let before = world
        .status("both nodes serve", WORKLOAD, |status| {
            settled(status, "cpu") && status.ready_slots == 2
        })
        .await;
    assert_eq!(before.rollout, None, "a first deployment needs no gates");
    let asked = samples::motion().expect("samples");
    let clients = [
        asked
            .stream(world.cluster, ASIC_NODE, WORKLOAD, RATE)
            .await
            .expect("a client"),
        asked
            .stream(world.cluster, GPU_NODE, WORKLOAD, RATE)
            .await
            .expect("a client"),
    ];
    let old = before.revision.expect("a revision");
    answers(&clients, &old).await;

    apply(&good).await;
    let compared = world
        .status("the canary carries both revisions", WORKLOAD, |status| {
            status
                .rollout
                .as_ref()
                .is_some_and(|rollout| rollout.cohorts[0].updated == 1)
        })
        .await;
    let new = compared.revision.clone().expect("a revision");
    assert!(
        compared
            .conditions
            .iter()
            .any(|found| found.type_ == "Ready" && found.status == "True")
    );
    let done = world
        .status("the good revision passed all cohorts", WORKLOAD, |status| {
            state(status) == "Complete"
        })
        .await;
    let rollout = done.rollout.clone().expect("a rollout");
    for cohort in &rollout.cohorts {
        assert_eq!(cohort.verdict.as_deref(), Some("Pass"), "{cohort:?}");
    }
    let [canary, rest] = &rollout.cohorts[..] else {
        panic!("two cohorts: {rollout:?}")
    };
    assert!(canary.closed.as_ref().map(|time| time.0) <= rest.opened.as_ref().map(|time| time.0));
    answers(&clients, &new).await;
    assert_eq!(done.history[0].outcome, "Complete");

    let began = now();
    apply(&bad).await;
    let rejected = world
        .status("the bad revision is rejected", WORKLOAD, |status| {
            state(status) == "Rejected"
        })
        .await;
    let worse = rejected.revision.clone().expect("a revision");
    let rollout = rejected.rollout.clone().expect("a rollout");
    assert!(
        rollout.message.contains("differing answers"),
        "{}",
        rollout.message
    );
    assert_eq!(rollout.cohorts[1].opened, None, "it never reached the rest");
    let stalled = rejected.conditions.iter().find(|found| found.type_ == "Stalled");
    assert_eq!(
        stalled.map(|found| found.reason.as_str()),
        Some("RevisionRejected")
    );
    let gone = now();
    world
        .status("everything is as it was", WORKLOAD, |status| {
            status.ready_slots == 2 && !perwatt_e2e::demo::changing(status)
        })
        .await;
    let settled = now();
    answers(&clients, &new).await;

    let [one, two] = clients;
    let mut replies: Vec<Reply> = one.traffic.stop().await.expect("the client ends");
    let elsewhere = two.traffic.stop().await.expect("the client ends");
    let by = |replies: &[Reply], revision: &str| {
        replies
            .iter()
            .filter(|reply| reply.text("revision") == revision)
            .count()
    };
    assert_eq!(
        by(&elsewhere, &worse),
        0,
        "the bad revision answered on the canary's node alone"
    );
    let late: Vec<_> = replies.iter().filter(|reply| reply.at >= settled).collect();
    assert!(!late.is_empty(), "requests flowed on");
    let by_worse = late.iter().find(|reply| reply.text("revision") == worse);
    assert!(
        by_worse.is_none(),
        "the bad revision answers no more: {by_worse:?}"
    );
    println!(
        "      the bad revision answered {} of {} requests, in {} ms",
        by(&replies, &worse),
        replies.len() + elsewhere.len(),
        gone - began
    );
    replies.extend(elsewhere);
    let counted = tally(&replies);
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
    let events = world
        .kubectl("-n audio get events -o jsonpath={range.items[*]}{.reason}{\"\\n\"}{end}")
        .await;
    let begun = events.lines().filter(|line| *line == "RolloutBegan").count();
    assert_eq!(begun, 2, "each rollout is told once");
    for reason in [
        "RolloutBegan",
        "CohortOpened",
        "CohortPassed",
        "RolloutComplete",
        "RolloutRejected",
    ] {
        assert!(
            events.lines().any(|line| line == reason),
            "event {reason} is missing among\n{events}"
        );
    }
    world.remove(WORKLOAD.0, WORKLOAD.1).await;
    world.kubectl("-n audio delete rolloutpolicy standard").await;
}
