//! What moves a slot that serves: each trigger with requests flowing, of which none is lost.

use crate::support::{World, settled};
use kube::ResourceExt;
use kube::api::Api;
use perwatt_crds::EdgeSite;
use perwatt_e2e::demo;
use perwatt_e2e::product::install::NAMESPACE;
use perwatt_e2e::product::traffic::{Reply, StreamOptions, Traffic, now, service_url, tally};
use perwatt_e2e::wait::{DEADLINE, until};

const WORKLOAD: (&str, &str) = ("audio", "trigger");
const NODE: &str = "edge-b";
const SITE: &str = "trigger";

const PROFILE_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: duo-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 2, nodes: {matchLabels: {kubernetes.io/hostname: edge-b}}}}
  power: {sleepMilliwatts: 50, idleMilliwatts: 500, typicalMilliwatts: 2500, maxMilliwatts: 5000}
  thermal: {throttleCelsius: 85, resumeCelsius: 75, criticalCelsius: 105}
";
const WORKLOAD_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: trigger, namespace: audio}
spec:
  model: {image: \"MODEL\"}
  expectedRatePerMinute: 3720
  placement: {objective: Order}
  variants:
  - {name: npu, device: {profiles: [duo-emulated]}, artifact: {path: silero_vad.onnx}, performance: {microjoulesPerInference: 20000, source: Nameplate}}
  - {name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}, performance: {microjoulesPerInference: 1000, source: Nameplate}}
  fallback: {recovery: {stableFor: 5s}}
";
const SITE_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: EdgeSite
metadata: {name: trigger}
spec:
  nodes: {matchLabels: {kubernetes.io/hostname: edge-b}}
";

/// A workload on one of two devices, and requests that flow to it.
struct Triggered<'a> {
    world: &'a World<'a>,
    traffic: Traffic,
}

/// A device lost, a device too hot, a budget exceeded.
pub async fn of_devices(world: &World<'_>) {
    for manifest in [PROFILE_OF, SITE_OF, WORKLOAD_OF] {
        world.apply(manifest).await.expect("it applies");
    }
    world
        .status("a device serves", WORKLOAD, |status| settled(status, "npu"))
        .await;
    world.alone(WORKLOAD.0, WORKLOAD.1).await;
    let triggered = Triggered {
        world,
        traffic: traffic(world, WORKLOAD, NODE).await,
    };
    triggered.lost().await;
    triggered.hot().await;
    triggered.hungry().await;
    let replies = triggered.traffic.stop().await.expect("the client ends");
    let counted = tally(&replies);
    assert_eq!(counted.failures, 0, "{:?}", counted.first_error);
    assert!(counted.rate >= 30.0, "requests flow: {}/s", counted.rate);
    world.remove(WORKLOAD.0, WORKLOAD.1).await;
    world.kubectl("delete edgesite trigger").await;
    world.kubectl("delete hardwareprofile duo-emulated").await;
}

impl Triggered<'_> {
    /// The device that answers, as replies say.
    async fn device(&self) -> String {
        let reply = self.wait("an answer by a device", now(), |reply| {
            reply.text("variant") == "npu"
        });
        reply.await.text("device").to_owned()
    }

    /// One of two devices of a profile dies under its pod: with the dead one held, nothing is free until that pod goes.
    async fn lost(&self) {
        let dead = self.device().await;
        let since = self.set(&dead, "present=false").await;
        self.wait("the pod's other variant", since, |reply| {
            reply.text("variant") == "cpu" && reply.flag("degraded")
        })
        .await;
        self.leaves(&dead, since).await;
        self.set(&dead, "present=true").await;
        println!("  a lost device: the other one serves");
    }

    /// Waits until the other device answers, and nothing changes any more.
    async fn leaves(&self, device: &str, since: u64) {
        self.wait("the other device", since, |reply| {
            reply.text("variant") == "npu" && reply.text("device") != device
        })
        .await;
        self.settle("npu").await;
    }

    /// A device throttles for longer than it may.
    async fn hot(&self) {
        let hot = self.device().await;
        let since = self.set(&hot, "temperature=90").await;
        self.leaves(&hot, since).await;
        self.set(&hot, "temperature=40").await;
        println!("  a throttling device: the other one serves");
    }

    /// Its site may no longer draw what the device takes.
    async fn hungry(&self) {
        let planned = self.planned().await;
        let budget = planned.checked_sub(100).expect("a device draws more than that");
        self.power(&format!("{{\"siteMilliwatts\":{budget}}}")).await;
        let since = now();
        self.wait("the variant that draws less", since, |reply| {
            reply.text("variant") == "cpu" && !reply.flag("degraded")
        })
        .await;
        self.settle("cpu").await;
        assert!(self.planned().await <= budget, "the budget is kept");
        self.power("null").await;
        let since = now();
        self.wait("the device again", since, |reply| reply.text("variant") == "npu")
            .await;
        self.settle("npu").await;
        println!("  a budget below what is drawn: the variant that draws less serves");
    }

    /// What the site is planned to draw, in milliwatts.
    async fn planned(&self) -> u64 {
        let sites: Api<EdgeSite> = Api::all(self.world.cluster.client().expect("a client"));
        let sites = &sites;
        let current = until("the site's status", DEADLINE, || async move {
            let site = sites.get(SITE).await.map_err(|error| error.to_string())?;
            let generation = site.metadata.generation;
            let status = site.status.unwrap_or_default();
            if status.observed_generation == generation && status.planned_milliwatts > 0 {
                Ok(status.planned_milliwatts)
            } else {
                Err(format!("{status:?}"))
            }
        });
        current.await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn power(&self, power: &str) {
        let patch = format!("{{\"spec\":{{\"power\":{power}}}}}");
        self.world
            .cluster
            .kubectl(&["patch", "edgesite", SITE, "--type=merge", "-p", &patch])
            .await
            .expect("patched");
    }

    async fn set(&self, device: &str, setting: &str) -> u64 {
        let since = now();
        self.world
            .product
            .emulate(NODE, device, setting)
            .await
            .expect("the device is set");
        since
    }

    async fn settle(&self, variant: &str) {
        self.world
            .status("nothing changes any more", WORKLOAD, |status| {
                settled(status, variant)
            })
            .await;
        self.world.alone(WORKLOAD.0, WORKLOAD.1).await;
    }

    async fn wait(&self, what: &str, since: u64, wanted: impl Fn(&Reply) -> bool) -> Reply {
        self.traffic
            .wait_for(what, since, wanted)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

const DARK_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: dark-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/hostname: DARK}}}}
  power: {typicalMilliwatts: 1000, maxMilliwatts: 2000}
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: bound, namespace: audio}
spec:
  model: {image: \"MODEL\"}
  placement: {mode: PerNode}
  service: {traffic: Local}
  variants: [{name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}]
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: roaming, namespace: audio}
spec:
  model: {image: \"MODEL\"}
  placement: {autonomy: 5s}
  variants:
  - {name: npu, device: {profiles: [dark-emulated]}, artifact: {path: silero_vad.onnx}}
  - {name: cpu, deviceLess: CPU, artifact: {path: silero_vad.onnx}}
";

/// A node that nobody can reach goes on serving what is near it; a replica moves after its autonomy, and on the node's
/// return nothing is started twice.
pub async fn disconnected(world: &World<'_>) {
    let home = world
        .kubectl(&format!(
            "-n {NAMESPACE} get pod -l app.kubernetes.io/name=perwatt-operator -o jsonpath={{.items[0].spec.nodeName}}"
        ))
        .await;
    let dark = if home == "edge-a" { "edge-b" } else { "edge-a" };
    let (bound, roaming) = (("audio", "bound"), ("audio", "roaming"));
    world
        .apply(&DARK_OF.replace("DARK", dark))
        .await
        .expect("it applies");
    world
        .status("both nodes", bound, |status| status.summary.ready == "2/2")
        .await;
    world
        .status("the device serves", roaming, |status| settled(status, "npu"))
        .await;
    let stays = pods(world, bound, dark).await;
    let traffic = traffic(world, bound, dark).await;
    traffic
        .wait_for("an answer", 0, |_| true)
        .await
        .expect("an answer");
    let node = world.cluster.node(dark).expect("a node");

    node.disconnect().expect("unplugged");
    let moved = world.status("the replica moved", roaming, |status| {
        status.summary.serving == "cpu" && status.summary.ready == "1/1"
    });
    let moved = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(moved)).await;
    let heard = traffic.wait_for("answers in the dark", now(), |_| true).await;
    node.reconnect().expect("plugged in");
    let returned = now();
    assert!(moved.is_ok(), "the replica moved");
    heard.expect("an answer");

    world
        .status("both nodes again", bound, |status| {
            status.summary.ready == "2/2" && !demo::changing(status)
        })
        .await;
    world
        .status("the device serves again", roaming, |status| {
            settled(status, "npu")
        })
        .await;
    world.alone(roaming.0, roaming.1).await;
    let answer = traffic.wait_for("an answer", now(), |_| true).await;
    let back = answer.expect("an answer").at;
    let replies = traffic.stop().await.expect("the client ends");
    let lost = |from, to| {
        let between = replies.iter().filter(move |reply| (from..to).contains(&reply.at));
        tally(between).failures
    };
    assert_eq!(lost(0, returned), 0, "served in the dark");
    // The API server called the pod not ready while it could not hear of it, and kube-proxy hears that first.
    println!(
        "  refused by kube-proxy on the node's return: {}",
        lost(returned, back)
    );
    assert_eq!(lost(back, u64::MAX), 0, "served as before");
    assert_eq!(
        pods(world, bound, dark).await,
        stays,
        "the same pod, never restarted"
    );
    world.remove(bound.0, bound.1).await;
    world.remove(roaming.0, roaming.1).await;
    world.kubectl("delete hardwareprofile dark-emulated").await;
}

/// Pods of a workload on a node, with how often their containers were started again.
async fn pods(world: &World<'_>, workload: (&str, &str), node: &str) -> Vec<(String, i32)> {
    let pods = world.pods(workload.0, workload.1).await.into_iter();
    let on_node =
        pods.filter(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node));
    let restarts = |pod: &k8s_openapi::api::core::v1::Pod| {
        let containers = pod.status.iter().flat_map(|status| &status.container_statuses);
        containers
            .flatten()
            .map(|container| container.restart_count)
            .sum()
    };
    on_node
        .map(|pod| (pod.uid().unwrap_or_default(), restarts(&pod)))
        .collect()
}

async fn traffic(world: &World<'_>, workload: (&str, &str), node: &str) -> Traffic {
    let url = service_url(world.cluster, workload.0, workload.1).await;
    let options = StreamOptions {
        url: url.expect("a service"),
        ..demo::stream_options(world.cluster).await.expect("a service")
    };
    Traffic::start(world.cluster.node(node).expect("a node"), &options).expect("the client starts")
}
