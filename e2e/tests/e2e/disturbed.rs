//! Rollouts in the middle of which the operator dies, the spec changes, or a node goes away.

use crate::kills::{kill, operator_uid};
use crate::models::Model;
use crate::rollouts::{NETWORK, Rolling, WORKLOAD, apply, state};
use crate::support::World;
use perwatt_crds::InferenceWorkloadStatus;
use perwatt_e2e::demo;
use perwatt_e2e::product::install::NAMESPACE;

/// The canary is where the operator is, for the other node goes away.
const POLICY: &str = "apiVersion: perwatt.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: near, namespace: audio}
spec:
  cohorts:
  - {name: near, nodes: {matchLabels: {kubernetes.io/hostname: HOME}}, bake: 5s}
  - {name: far, bake: 5s}
  analysis:
  - {metric: ErrorRate, maxIncrease: {absolute: \"10%\"}}
";

/// All of that, one after the other, on one workload.
pub async fn rollouts(world: &World<'_>) {
    let mut images = Vec::new();
    let model = Model::motion();
    for version in 1..=5 {
        model.edit(|text| text.replace("name: motion\n", &format!("name: motion\n# {version}\n")));
        images.push(model.load(world, &format!("disturbed-{version}")).await);
    }
    let [first, second, third, fourth, fifth] = &images[..] else {
        panic!("five models")
    };
    let mut rolling = Rolling::start(world, first).await;
    killed(&mut rolling, second).await;
    changed(&mut rolling, third, fourth).await;
    offline(&mut rolling, fifth).await;
    rolling.end().await;
    world.kubectl("-n audio delete rolloutpolicy near").await;
}

fn cohort<'s>(
    status: &'s InferenceWorkloadStatus,
    name: &str,
) -> Option<&'s perwatt_crds::workload::CohortStatus> {
    let mut cohorts = status.rollout.iter().flat_map(|rollout| &rollout.cohorts);
    cohorts.find(|cohort| cohort.name == name)
}

/// The operator dies while the canary bakes, and again while the next cohort does.
async fn killed(rolling: &mut Rolling<'_>, image: &str) {
    let world = rolling.world;
    apply(world, image, NETWORK, "standard").await;
    for name in ["canary", "more"] {
        world
            .status("a cohort carries both revisions", WORKLOAD, |status| {
                cohort(status, name).is_some_and(|cohort| cohort.updated == 1 && cohort.closed.is_none())
            })
            .await;
        kill("perwatt-operator", &operator_uid(world).await);
    }
    rolling.completes().await;
    println!("      the operator died twice: all cohorts passed");
}

/// Another spec comes while the canary is compared: the first one ends, and its successor replaces what was before both.
async fn changed(rolling: &mut Rolling<'_>, image: &str, other: &str) {
    let world = rolling.world;
    let before = rolling.good.clone();
    apply(world, image, NETWORK, "standard").await;
    let overtaken = world
        .status("the canary carries both revisions", WORKLOAD, |status| {
            state(status) != "Complete" && cohort(status, "canary").is_some_and(|cohort| cohort.updated == 1)
        })
        .await;
    let overtaken = overtaken.revision.expect("a revision");
    apply(world, other, NETWORK, "standard").await;
    let begun = world
        .status("another rollout begins", WORKLOAD, |status| {
            status
                .rollout
                .as_ref()
                .is_some_and(|rollout| rollout.revision != overtaken)
        })
        .await;
    assert_eq!(begun.rollout.expect("a rollout").incumbent, before);
    let done = rolling.completes().await;
    let ends: Vec<_> = done
        .history
        .iter()
        .map(|end| (end.revision.as_str(), end.outcome.as_str()))
        .collect();
    assert!(ends.contains(&(overtaken.as_str(), "Superseded")), "{ends:?}");
    println!("      another spec came in the middle: the first rollout ended, the second passed all cohorts");
}

/// A node is away: its slots are not waited for, and get the revision through the same gates when it is back.
async fn offline(rolling: &mut Rolling<'_>, image: &str) {
    let world = rolling.world;
    let home = world
        .kubectl(&format!(
            "-n {NAMESPACE} get pod -l app.kubernetes.io/name=perwatt-operator -o jsonpath={{.items[0].spec.nodeName}}"
        ))
        .await;
    let dark = if home == demo::ASIC_NODE {
        demo::GPU_NODE
    } else {
        demo::ASIC_NODE
    };
    let policy = POLICY.replace("HOME", &home);
    world.apply(&policy).await.expect("it applies");
    let node = world.cluster.node(dark).expect("a node");
    node.disconnect().expect("unplugged");
    let passed = async {
        world
            .status("the node is away", WORKLOAD, |status| status.offline_slots > 0)
            .await;
        apply(world, image, NETWORK, "near").await;
        world
            .status("the cohort that can be reached passed", WORKLOAD, |status| {
                let far = cohort(status, "far");
                cohort(status, "near").is_some_and(|near| near.verdict.as_deref() == Some("Pass"))
                    && far.is_some_and(|far| far.offline == far.slots && far.updated == 0)
            })
            .await;
    };
    let passed = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(passed)).await;
    node.reconnect().expect("plugged in");
    assert!(passed.is_ok(), "the rollout went on without the node");
    let done = rolling.completes().await;
    assert_eq!(done.offline_slots, 0);
    println!("      a node was away: its slots got the revision when it was back, through the same gates");
}
