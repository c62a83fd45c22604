//! What moves a slot that serves: each trigger with requests flowing, of which none is lost.

use crate::models::Model;
use crate::support::{World, settled};
use kube::api::Api;
use perwatt_crds::EdgeSite;
use perwatt_e2e::demo;
use perwatt_e2e::product::devices::NodeDevices;
use perwatt_e2e::product::samples::{self, Streaming};
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

const QUICK: (&str, &str) = ("audio", "quick");
const UNABLE: (&str, &str) = ("audio", "unable");
/// The slow network takes many times as long as allowed, the other one a hundredth: this is no test of a machine's speed.
const MODELS_OF: &str = "apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: swift-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/hostname: edge-b}}}}
  power: {typicalMilliwatts: 1000, maxMilliwatts: 2000}
---
apiVersion: perwatt.dev/v1alpha1
kind: HardwareProfile
metadata: {name: poor-emulated}
spec:
  class: ASIC
  discovery: {emulated: {count: 1, nodes: {matchLabels: {kubernetes.io/hostname: edge-b}}}}
  power: {typicalMilliwatts: 1000, maxMilliwatts: 2000}
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: quick, namespace: audio}
spec:
  model: {image: \"IMAGE\"}
  placement: {objective: Order, latency: {p99: 30ms}}
  variants:
  - {name: npu, device: {profiles: [swift-emulated]}, artifact: {path: slow.nir}}
  - {name: cpu, deviceLess: CPU, artifact: {path: motion.nir}}
---
apiVersion: perwatt.dev/v1alpha1
kind: InferenceWorkload
metadata: {name: unable, namespace: audio}
spec:
  model: {image: \"IMAGE\"}
  variants:
  - {name: npu, device: {profiles: [poor-emulated]}, artifact: {path: broken.nir}}
  - {name: cpu, deviceLess: CPU, artifact: {path: motion.nir}}
";

/// A model that misses its latency on a device, and one that cannot be loaded there though the device is well.
pub async fn of_models(world: &World<'_>) {
    let model = Model::motion();
    model.add_network("slow.nir", &model.heavier(100_000));
    model.add_network("broken.nir", b"no network");
    let image = model.load(world, "moods").await;
    world
        .apply(&MODELS_OF.replace("IMAGE", &image))
        .await
        .expect("it applies");
    let samples = samples::motion().expect("samples");
    let ask = async |workload| {
        world
            .status("a pod serves", workload, |status| status.ready_slots == 1)
            .await;
        let asked = samples.stream(world.cluster, NODE, workload, 8).await;
        asked.expect("the client starts")
    };
    let (slow, unable) = (ask(QUICK).await, ask(UNABLE).await);
    let answer = async |client: &Streaming, what: &str, wanted: &dyn Fn(&Reply) -> bool| {
        let found = client.traffic.wait_for(what, 0, wanted).await;
        found.unwrap_or_else(|error| panic!("{error}"))
    };
    answer(&slow, "the device's answer", &|reply| {
        reply.text("variant") == "npu"
    })
    .await;
    answer(&unable, "the fallback's answer", &|reply| {
        reply.text("variant") == "cpu" && reply.text("degraded_reason") == "LoadFailed"
    })
    .await;

    answer(&slow, "the quick variant", &|reply| {
        reply.text("variant") == "cpu" && !reply.flag("degraded")
    })
    .await;
    let status = world
        .status("nothing changes any more", QUICK, |status| settled(status, "cpu"))
        .await;
    let slowest = status.figures.iter().find(|figure| figure.variant == "npu");
    let p99 = slowest.and_then(|figure| figure.p99_microseconds);
    assert!(p99 > Some(30_000), "{:?}", status.figures);
    let table = world.perwatt(&["explain", QUICK.1, "--namespace", QUICK.0]).await;
    assert!(table.contains("placement.latency.p99 asks for 30ms"), "{table}");

    let given_up = world
        .status("its slot gave the device up", UNABLE, |status| {
            status.ready_slots == 1
                && !demo::changing(status)
                && status
                    .conditions
                    .iter()
                    .any(|found| found.type_ == "Degraded" && found.reason == "ModelUnavailable")
        })
        .await;
    assert_eq!(given_up.degraded_slots, 1, "{given_up:?}");
    world.alone(UNABLE.0, UNABLE.1).await;
    let free = NodeDevices::new(world.cluster, NODE, "poor-emulated").expect("a client");
    assert_eq!(
        free.given().await.expect("the kubelet answers"),
        [],
        "others may have it"
    );
    answer(&unable, "an answer since then", &|reply| {
        reply.text("degraded_reason") == "ModelUnavailable"
    })
    .await;

    for (client, workload) in [(slow, QUICK), (unable, UNABLE)] {
        let counted = tally(&client.traffic.stop().await.expect("the client ends"));
        assert_eq!(counted.failures, 0, "{workload:?}: {:?}", counted.first_error);
        assert!(counted.rate >= 4.0, "requests flow: {}/s", counted.rate);
        world.remove(workload.0, workload.1).await;
    }
    world
        .kubectl("delete hardwareprofile swift-emulated poor-emulated")
        .await;
}

pub async fn traffic(world: &World<'_>, workload: (&str, &str), node: &str) -> Traffic {
    let url = service_url(world.cluster, workload.0, workload.1).await;
    let options = StreamOptions {
        url: url.expect("a service"),
        ..demo::stream_options(world.cluster).await.expect("a service")
    };
    Traffic::start(world.cluster.node(node).expect("a node"), &options).expect("the client starts")
}
