//! What the product promises, on one real cluster: the steps run one after the other, those
//! that kill come last. A step that fails does not hide the next: all failures are told at the end.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed test says where"
)]

mod api;
mod dark;
mod devices;
mod disturbed;
mod faults;
mod kills;
mod models;
mod rollouts;
mod serving;
mod sidecar;
mod support;
mod triggers;

use perwatt_e2e::cluster::{Cluster, ClusterOptions};
use perwatt_e2e::demo;
use perwatt_e2e::product::Example;
use perwatt_e2e::product::install::Product;
use perwatt_e2e::progress::Progress;
use support::{Steps, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and the built parts: make test"]
async fn the_product_keeps_its_promises_on_a_real_cluster() {
    let progress = Progress::new();
    let options = ClusterOptions {
        name: "e2e".into(),
        nodes: demo::nodes(),
        port: 0,
        progress: progress.clone(),
    };
    let cluster = Cluster::start(options).await.expect("the cluster starts");
    let product = Product::install(&cluster, &progress)
        .await
        .expect("the product installs");
    let model = product
        .load_model(Example::SPEECH_GATE)
        .await
        .expect("the model is packed and loaded");
    let world = World {
        cluster: &cluster,
        product,
        model,
    };
    let mut steps = Steps::default();

    steps
        .run(
            "rules refuse wrong manifests and say what to do",
            api::rules(&world),
        )
        .await;
    steps
        .run(
            "every pod but the agent's passes restricted Pod Security",
            api::pod_security(&world),
        )
        .await;
    steps
        .run(
            "an agent may write its own node's inventory alone",
            api::own_node(&world),
        )
        .await;
    steps
        .run(
            "the operator is live, ready, and tells its metrics",
            api::metrics(&world),
        )
        .await;
    steps
        .run(
            "the example serves real speech from the ASIC",
            serving::speech(&world),
        )
        .await;
    steps
        .run(
            "kubectl answers what, where, on what, how well",
            serving::columns(&world),
        )
        .await;
    steps
        .run("kubectl says what is wrong, and why", serving::broken(&world))
        .await;
    steps
        .run(
            "a device that fails and recovers loses no request",
            faults::device(&world),
        )
        .await;
    steps
        .run(
            "a device that a person drains and puts back loses no request",
            devices::drained(&world),
        )
        .await;
    steps
        .run(
            "a new revision on the same device loses no request",
            faults::revision(&world),
        )
        .await;
    steps
        .run(
            "the first example runs on the CPU while the ASIC is taken",
            serving::first(&world),
        )
        .await;
    steps
        .run(
            "a vendor's sidecar that is killed under load loses no request",
            sidecar::killed(&world),
        )
        .await;
    steps
        .run("replicas follow kubectl scale", serving::scale(&world))
        .await;
    steps
        .run(
            "mode PerNode serves on every chosen node",
            serving::per_node(&world),
        )
        .await;
    steps
        .run(
            "a spiking network and a LiteRT file serve real data from devices of their own",
            serving::more_silicon(&world),
        )
        .await;
    steps
        .run(
            "a profile that does not exist is named",
            faults::unknown_profile(&world),
        )
        .await;
    steps
        .run(
            "a model file whose hash differs is named",
            faults::wrong_hash(&world),
        )
        .await;
    steps
        .run(
            "an image that cannot be pulled is named",
            faults::missing_image(&world),
        )
        .await;
    steps
        .run(
            "a workload that fits no node says by how much",
            faults::no_room(&world),
        )
        .await;
    steps
        .run(
            "an upgrade applies the definitions and disturbs no pod",
            api::upgrade(&world),
        )
        .await;
    steps
        .run(
            "the kubelet's view of devices and ours are the same after every fault",
            devices::faults(&world),
        )
        .await;
    steps
        .run(
            "a device lost, a device too hot, a budget exceeded: the slot moves and loses no request",
            triggers::of_devices(&world),
        )
        .await;
    steps
        .run_in_full(
            "a model too slow on a device, and one that cannot be loaded there: the slot moves and loses no request",
            triggers::of_models(&world),
        )
        .await;
    steps
        .run("a node that nobody can reach goes on serving", dark::node(&world))
        .await;
    steps
        .run(
            "a good revision goes through its cohorts, and one that answers differently goes back",
            rollouts::cohorts(&world),
        )
        .await;
    steps
        .run_in_full(
            "a revision that is slower, one that errs and one that takes more energy go back",
            rollouts::worse(&world),
        )
        .await;
    steps
        .run_in_full(
            "a rollout outlives a killed operator, another spec and a node that is away",
            disturbed::rollouts(&world),
        )
        .await;
    steps
        .run("a killed operator converges", kills::operator(&world))
        .await;
    steps
        .run("a killed agent disturbs no pod", kills::agent(&world))
        .await;
    steps
        .run("a killed kubelet disturbs no pod", kills::kubelet(&world))
        .await;
    steps
        .run("a killed runtime serves again", kills::runtime(&world))
        .await;
    steps
        .run("a deleted workload leaves nothing", kills::delete(&world))
        .await;

    steps.finish();
    cluster.stop().await.expect("the cluster stops");
}
